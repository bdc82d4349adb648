"""What an optimiser keeps, as tensors and JSON, and back."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["optimizer_numbers", "optimizer_tensors", "restore_optimizer"]

Number = (bool, int, float)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors that an optimiser keeps, as ``optimizer.<parameter>.<key>`` and ``group.<group>.<key>``."""
    described = optimizer.state_dict()
    kept = {"optimizer": described["state"], "group": dict(enumerate(described["param_groups"]))}
    return {
        f"{kind}.{index}.{key}": value
        for kind, parts in kept.items()
        for index, part in parts.items()
        for key, value in part.items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the plain numbers that an optimiser keeps: ``groups``, and ``state`` by parameter. Some count there."""
    described = optimizer.state_dict()
    return {
        "groups": [_numbers(group) for group in described["param_groups"]],
        "state": {str(index): numbers for index, kept in described["state"].items() if (numbers := _numbers(kept))},
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any] | None
) -> None:
    """Undo `optimizer_tensors` and `optimizer_numbers`. Values of a parameter's shape also take its memory format."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    described = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        index, _, key = rest.partition(".")
        if kind == "group":
            described["param_groups"][int(index)][key] = value
        if kind != "optimizer":
            continue
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
        state.setdefault(int(index), {})[key] = value
    for index, kept in (numbers or {}).get("state", {}).items():
        state.setdefault(int(index), {}).update(kept)
    for group, kept in zip(described["param_groups"], (numbers or {}).get("groups", []), strict=False):
        group.update(kept)
    described["state"] = state
    optimizer.load_state_dict(described)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in values.items() if isinstance(value, Number)}
