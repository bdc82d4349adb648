"""Pruning results in the original tool's form, a list of one dict per layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult
from zoo_slim.slimming._keep import slim_attributes

__all__ = ["from_original", "to_original"]

_NORM = nn.modules.batchnorm._BatchNorm
_VECTORS = ("weight", "bias", "running_mean", "running_var")
_CONV = nn.modules.conv._ConvNd


def to_original(result: PruningResult, model: nn.Module) -> list[dict[str, Any]]:
    """The indices kept, as a list of dicts: one for every BatchNorm, convolution and Linear of ``model``.

    Raises:
        SlimmingError: something was slimmed that the original's form has no words for.
    """
    entries: list[dict[str, Any]] = []
    for name, module in model.named_modules():

        def indices(axis: int, size: int, name: str = name, locals: Sequence[str] = ("weight",)) -> list[int]:
            held = (result.kept[full] for local in locals if (full := f"{name}.{local}") in result.kept)
            found = next(held, {}).get(axis)
            if found is not None and found.ndim != 1:
                raise _wordless(f"{name}.weight: its groups keep channels of their own")
            return list(range(size)) if found is None else found.tolist()

        if isinstance(module, _NORM):
            entries.append({"name": name, "keep_idxes": indices(0, module.num_features, locals=_VECTORS)})
        elif isinstance(module, _CONV):
            after, before = _axes(module)
            outputs = indices(after, module.weight.shape[after])
            inputs = outputs if _depthwise(module) else indices(before, module.weight.shape[before])
            entries.append({"name": name, "in_channels_keep_idxes": inputs, "out_channels_keep_idxes": outputs})
        elif isinstance(module, nn.Linear):
            entry: dict[str, Any] = {"name": name, "in_features_keep_idxes": indices(1, module.in_features)}
            if 0 in result.kept.get(f"{name}.weight", {}):
                entry["out_features_keep_idxes"] = indices(0, module.out_features)
            entries.append(entry)
    _check_said(result, from_original(entries, model), model)
    return entries


def _check_said(result: PruningResult, said: PruningResult, model: nn.Module) -> None:
    """Check that what entries say is all of a result."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tensors: dict[str, Tensor] = dict(named)
    for block in result.removed:
        raise _wordless(f"{block!r} was removed")
    for tensor, axes in result.kept.items():
        for axis, index in axes.items():
            found = said.kept.get(tensor, {}).get(axis, torch.arange(tensors[tensor].shape[axis]))
            if not torch.equal(found, index):
                raise _wordless(f"axis {axis} of {tensor} was slimmed")
    for module, values in result.attributes.items():
        for key, value in values.items():
            if said.attributes.get(module, {}).get(key) != value:
                raise _wordless(f"{key} of {module or 'the network'} became {value}")


def _wordless(what: str) -> SlimmingError:
    return SlimmingError(
        f"{what}, which the original's form has no words for: use zoo_slim.slim(model, schema=…), whose PruningResult "
        "says everything"
    )


def _axes(module: nn.modules.conv._ConvNd) -> tuple[int, int]:
    """The axes of the weight for output and input channels."""
    return (1, 0) if module.transposed and not _depthwise(module) else (0, 1)


def _depthwise(module: nn.modules.conv._ConvNd) -> bool:
    several = module.transposed and module.out_channels != module.groups
    return module.groups == module.in_channels > 1 and not several


def from_original(entries: Sequence[dict[str, Any]], model: nn.Module, prefix: str = "") -> PruningResult:
    """Read a result of the original's form.

    Args:
        entries: as the original writes them.
        model: the network that they are of.
        prefix: what their names may begin with beside those of the model.

    Raises:
        SlimmingError: an entry that names no layer of the model, or indices that do not fit it.
    """
    modules = dict(model.named_modules())
    kept: dict[str, dict[int, Tensor]] = {}
    groups: dict[str, int] = {}

    def put(name: str, axis: int, entry: dict[str, Any], key: str, size: int) -> None:
        given = entry.get(key)
        if isinstance(given, (Tensor, np.ndarray)):
            given = given.tolist()
        whole = isinstance(given, (list, tuple)) and all(
            isinstance(index, (int, np.integer)) and not isinstance(index, bool) for index in given
        )
        if not whole or not given or list(given) != sorted(set(given)) or not 0 <= given[0] <= given[-1] < size:
            raise SlimmingError(f"{entry['name']}: {key} must be ascending indices below {size}, not {str(given)[:80]}")
        if len(given) < size:
            kept.setdefault(name, {})[axis] = torch.tensor(given, dtype=torch.int64)

    for number, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        name = name.removeprefix(prefix) if isinstance(name, str) else name
        module = modules.get(name) if isinstance(name, str) else None
        if isinstance(module, _NORM):
            for local in _VECTORS:
                if isinstance(getattr(module, local), Tensor):
                    put(f"{name}.{local}", 0, entry, "keep_idxes", module.num_features)
        elif isinstance(module, _CONV):
            after, before = _axes(module)
            put(f"{name}.weight", after, entry, "out_channels_keep_idxes", module.weight.shape[after])
            if isinstance(module.bias, Tensor) and module.weight.shape[after] == module.out_channels:
                put(f"{name}.bias", 0, entry, "out_channels_keep_idxes", module.out_channels)
            if _depthwise(module):
                groups[str(name)] = len(entry["out_channels_keep_idxes"]) * module.groups // module.out_channels
            else:
                put(f"{name}.weight", before, entry, "in_channels_keep_idxes", module.weight.shape[before])
        elif isinstance(module, nn.Linear):
            put(f"{name}.weight", 1, entry, "in_features_keep_idxes", module.in_features)
            if "out_features_keep_idxes" in entry:
                put(f"{name}.weight", 0, entry, "out_features_keep_idxes", module.out_features)
                if isinstance(module.bias, Tensor):
                    put(f"{name}.bias", 0, entry, "out_features_keep_idxes", module.out_features)
        else:
            raise SlimmingError(
                f"entry {number} of the pruning result names {name!r}, which is no BatchNorm, convolution or Linear of "
                f"this {type(model).__name__}: was it made for another network, or one with a prefix such as 'module.'?"
            )
    return PruningResult(kept, slim_attributes(model, kept, groups))
