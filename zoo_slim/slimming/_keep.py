"""From the channels kept to the pruning result: indices for every tensor, attributes for every module."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import Attribute, PruningResult
from zoo_slim.schema import PruningSchema, attribute_value, model_tensors
from zoo_slim.slimming._select import Keep

__all__ = ["result_from_keep", "slim_attributes"]


def result_from_keep(model: nn.Module, schema: PruningSchema, keep: Keep) -> PruningResult:
    """What each tensor of ``model`` keeps when the channels ``keep``, bool ``[channels]``, do.

    Raises:
        SchemaError: the schema does not fit the model.
        SlimmingError: rows that must keep equally many do not, or a tensor would lose all of an axis.
    """
    present = np.append(keep, True)  # -1, what stays, looks up the last entry
    kept: dict[str, dict[int, Tensor]] = {}
    for name, places in schema.axes(model).items():
        for axis, channels in places.items():
            mask = present[channels]
            if mask.all():
                continue
            counts = np.unique(mask.sum(axis=-1))
            _check_equal(name, counts)
            if counts[0] == 0:
                raise SlimmingError(f"{name}: nothing of its axis {axis} would be kept")
            indices = np.nonzero(mask)[-1].reshape(*mask.shape[:-1], -1)
            kept.setdefault(name, {})[axis] = torch.from_numpy(indices.astype(np.int64))
    groups = {}
    for name, layer in schema.layers.items():
        if layer.depthwise:
            groups[name] = int(present[layer.inputs].sum())
        elif layer.groups > 1 and layer.outputs is not None:
            _check_equal(f"{name}.weight", np.unique(present[layer.outputs.reshape(layer.groups, -1)].sum(axis=1)))
    attributes = slim_attributes(model, kept, groups)
    for name, own in _sizes(model, schema, present).items():
        attributes.setdefault(name, {}).update(own)
    return PruningResult(kept, attributes)


def _check_equal(name: str, counts: NDArray[np.int64]) -> None:
    if len(counts) != 1:
        raise SlimmingError(
            f"{name}: its groups would keep {counts.tolist()} channels, but must keep equally many. The original's "
            "rules do not see to that; zoo_slim.slim does, with a schema of zoo_slim.trace"
        )


def _sizes(model: nn.Module, schema: PruningSchema, present: Keep) -> dict[str, dict[str, Attribute]]:
    """The attributes that the schema calls sizes of axes, where they change."""
    changed: dict[str, dict[str, Attribute]] = {}
    for name, own in schema.attributes.items():
        for key, channels in own.items():
            attribute, place, value = attribute_value(model, name, key, len(channels))
            if (size := int(present[channels].sum())) != len(channels):
                now = changed.setdefault(name, {})
                value = now.get(attribute, value)
                now[attribute] = size if isinstance(value, int) else (*value[:place], size, *value[place + 1 :])
    return changed


def slim_attributes(
    model: nn.Module, kept: dict[str, dict[int, Tensor]], groups: dict[str, int]
) -> dict[str, dict[str, Attribute]]:
    """The attributes by which torch's layers know their own widths, where they change.

    Args:
        model: the original.
        kept: as in `PruningResult.kept`.
        groups: the new number of groups of depthwise convolutions.
    """
    attributes: dict[str, dict[str, Attribute]] = {}
    first = {id(tensor): name for name, tensor in model_tensors(model).items()}
    for name, module in model.named_modules():
        before, after = {}, {}
        for local, tensor in _own_tensors(module):
            axes = kept.get(first[id(tensor)], {})
            before[local] = list(tensor.shape)
            after[local] = [axes[axis].shape[-1] if axis in axes else size for axis, size in enumerate(tensor.shape)]
        was = _widths(module, before, getattr(module, "groups", 1))
        now = _widths(module, after, groups.get(name, getattr(module, "groups", 1)))
        # what did not follow from the tensors before does not now: a subclass may hold others
        held = {key: value for key, value in now.items() if vars(module).get(key) == was[key]}
        changed = {key: value for key, value in held.items() if value != was[key]}
        if changed:
            attributes[name] = changed
    return attributes


def _widths(module: nn.Module, shapes: Mapping[str, Sequence[int]], count: int) -> dict[str, Attribute]:
    """What a layer of torch's calls its widths, by the shapes of its tensors and its number of groups."""
    now: dict[str, Attribute] = {}
    if isinstance(module, nn.modules.conv._ConvNd) and "weight" in shapes:
        rows, columns = shapes["weight"][:2]
        now = {"groups": count, "in_channels": columns * count, "out_channels": rows}
        if module.transposed:
            now = {"groups": count, "in_channels": rows, "out_channels": columns * count}
    elif isinstance(module, nn.Linear) and "weight" in shapes:
        now = {"in_features": shapes["weight"][1], "out_features": shapes["weight"][0]}
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        vector = shapes.get("weight") or shapes.get("running_mean")
        now = {"num_features": vector[0]} if vector else {}
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and "weight" in shapes:
        now = {"normalized_shape": tuple(shapes["weight"])}
    elif isinstance(module, nn.GroupNorm) and "weight" in shapes:
        now = {"num_channels": shapes["weight"][0]}
    elif isinstance(module, nn.PReLU) and "weight" in shapes:
        now = {"num_parameters": shapes["weight"][0]}
    elif isinstance(module, nn.Embedding) and "weight" in shapes:
        now = {"embedding_dim": shapes["weight"][1]}
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        suffix = "_l0" if "weight_ih_l0" in shapes else ""
        names = {"input_size": f"weight_ih{suffix}"}
        if not getattr(module, "proj_size", 0):
            names["hidden_size"] = f"weight_hh{suffix}"
        now = {key: shapes[weight][1] for key, weight in names.items() if weight in shapes}
    return now


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module by name; a parametrised one by the part of it that has its shape."""
    for local, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield local, tensor
        for suffix, partner in (("_orig", ""), ("_v", "_g")):  # of spectral_norm and pruning, of weight_norm
            base = local.removesuffix(suffix)
            if base != local and (not partner or hasattr(module, base + partner)):
                yield base, tensor
    for local, parts in getattr(module, "parametrizations", {}).items():
        yield local, max(parts.parameters(recurse=False), key=lambda part: part.numel())
