"""From the channels kept to the pruning result: indices for every tensor, attributes for every module."""

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import Attribute, PruningResult
from zoo_slim.schema import PruningSchema
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
            if len(counts) != 1:
                raise SlimmingError(
                    f"{name}: its groups would keep {counts.tolist()} channels, but must keep equally many"
                )
            if counts[0] == 0:
                raise SlimmingError(f"{name}: nothing of its axis {axis} would be kept")
            indices = np.nonzero(mask)[-1].reshape(*mask.shape[:-1], -1)
            kept.setdefault(name, {})[axis] = torch.from_numpy(indices.astype(np.int64))
    groups = {}
    for name, layer in schema.layers.items():
        if layer.groups > 1 and layer.inputs is not None and len(layer.inputs) == layer.groups:
            groups[name] = int(present[layer.inputs].sum())
    return PruningResult(kept, slim_attributes(model, kept, groups))


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
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        shapes = {}
        for local, parameter in module.named_parameters(recurse=False):
            axes = kept.get(prefix + local, {})
            shapes[local] = [
                axes[axis].shape[-1] if axis in axes else size for axis, size in enumerate(parameter.shape)
            ]
        for local, buffer in module.named_buffers(recurse=False):
            axes = kept.get(prefix + local, {})
            shapes[local] = [axes[axis].shape[-1] if axis in axes else size for axis, size in enumerate(buffer.shape)]
        now: dict[str, Attribute] = {}
        if isinstance(module, nn.modules.conv._ConvNd):
            count = groups.get(name, module.groups)
            first, second = shapes["weight"][:2]
            now = {"groups": count, "in_channels": second * count, "out_channels": first}
            if module.transposed:
                now = {"groups": count, "in_channels": first, "out_channels": second * count}
        elif isinstance(module, nn.Linear):
            now = {"in_features": shapes["weight"][1], "out_features": shapes["weight"][0]}
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            vector = shapes.get("weight") or shapes.get("running_mean")
            now = {"num_features": vector[0]} if vector else {}
        elif isinstance(module, nn.LayerNorm) and "weight" in shapes:
            now = {"normalized_shape": tuple(shapes["weight"])}
        elif isinstance(module, nn.GroupNorm) and "weight" in shapes:
            now = {"num_channels": shapes["weight"][0]}
        changed = {key: value for key, value in now.items() if key in vars(module) and vars(module)[key] != value}
        if changed:
            attributes[name] = changed
    return attributes
