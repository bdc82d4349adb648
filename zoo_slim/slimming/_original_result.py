"""Pruning results in the original tool's form, a list of one dict per layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult
from zoo_slim.slimming._keep import slim_attributes

__all__ = ["from_original", "to_original"]

_NORM = nn.modules.batchnorm._BatchNorm
_CONV = nn.modules.conv._ConvNd


def to_original(result: PruningResult, model: nn.Module) -> list[dict[str, Any]]:
    """The indices kept, as a list of dicts: one for every BatchNorm, convolution and Linear of ``model``.

    Raises:
        SlimmingError: something was slimmed that the original's form has no words for.
    """
    for block in result.removed:
        raise SlimmingError(f"{block!r} was removed, which the original's form has no words for")
    said: set[tuple[str, int]] = set()

    def indices(name: str, axis: int, size: int) -> list[int]:
        said.add((name, axis))
        found = result.kept.get(name, {}).get(axis)
        if found is not None and found.ndim != 1:
            raise SlimmingError(f"{name}: groups that keep different channels have no place in the original's form")
        return list(range(size)) if found is None else found.tolist()

    entries: list[dict[str, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, _NORM):
            entries.append({"name": name, "keep_idxes": indices(f"{name}.weight", 0, module.num_features)})
            said |= {(f"{name}.{local}", 0) for local in ("bias", "running_mean", "running_var")}
        elif isinstance(module, _CONV):
            outputs = indices(f"{name}.weight", 0, module.out_channels)
            depthwise = module.groups == module.in_channels > 1
            inputs = outputs if depthwise else indices(f"{name}.weight", 1, module.weight.shape[1])
            entries.append({"name": name, "in_channels_keep_idxes": inputs, "out_channels_keep_idxes": outputs})
            said.add((f"{name}.bias", 0))
        elif isinstance(module, nn.Linear):
            entry: dict[str, Any] = {"name": name}
            entry["in_features_keep_idxes"] = indices(f"{name}.weight", 1, module.in_features)
            if 0 in result.kept.get(f"{name}.weight", {}):
                entry["out_features_keep_idxes"] = indices(f"{name}.weight", 0, module.out_features)
            said.add((f"{name}.bias", 0))
            entries.append(entry)
    for tensor, axes in result.kept.items():
        for axis in axes:
            if (tensor, axis) not in said:
                raise SlimmingError(f"axis {axis} of {tensor} was slimmed, which the original's form has no words for")
    return entries


def from_original(entries: Sequence[dict[str, Any]], model: nn.Module) -> PruningResult:
    """Read a result of the original's form.

    Raises:
        SlimmingError: an entry that names no layer of the model, or indices that do not fit it.
    """
    modules = dict(model.named_modules())
    kept: dict[str, dict[int, Tensor]] = {}
    groups: dict[str, int] = {}

    def put(name: str, axis: int, entry: dict[str, Any], key: str, size: int) -> None:
        given = entry.get(key)
        ok = isinstance(given, (list, tuple)) and all(isinstance(i, int) and not isinstance(i, bool) for i in given)
        if not ok or not given or list(given) != sorted(set(given)) or not 0 <= given[0] <= given[-1] < size:
            raise SlimmingError(f"{entry['name']}: {key} must be ascending indices below {size}, not {str(given)[:80]}")
        if len(given) < size:
            kept.setdefault(name, {})[axis] = torch.tensor(given, dtype=torch.int64)

    for number, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        module = modules.get(name) if isinstance(name, str) else None
        if isinstance(module, _NORM):
            for local in ("weight", "bias", "running_mean", "running_var"):
                if isinstance(getattr(module, local), Tensor):
                    put(f"{name}.{local}", 0, entry, "keep_idxes", module.num_features)
        elif isinstance(module, _CONV):
            put(f"{name}.weight", 0, entry, "out_channels_keep_idxes", module.out_channels)
            if isinstance(module.bias, Tensor):
                put(f"{name}.bias", 0, entry, "out_channels_keep_idxes", module.out_channels)
            if module.groups == module.in_channels > 1:
                groups[str(name)] = len(entry["out_channels_keep_idxes"]) * module.groups // module.out_channels
            else:
                put(f"{name}.weight", 1, entry, "in_channels_keep_idxes", module.weight.shape[1])
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
