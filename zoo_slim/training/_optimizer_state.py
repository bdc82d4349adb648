"""What an optimiser keeps, as tensors and JSON, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_slim.training._settings import TrainingError

__all__ = ["pack_optimizer", "restore_optimizer"]

NUMBERS = (bool, int, float, type(None))
TEXTS = (*NUMBERS, str)
"""Not for what is kept by parameter: there torch's ``load_state_dict`` takes texts apart."""


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what an optimiser keeps.

    Returns:
        The tensors, as ``optimizer.<parameter>.<key>`` and ``group.<group>.<key>``, those in lists and tuples as
        ``listed.…`` with their places; and the rest, ready for JSON: ``state`` by parameter, ``groups``, and ``whole``
        for what belongs to neither. The dtypes in groups are left out: they are settings and never change.

    Raises:
        TrainingError: it keeps something else than tensors, numbers, and lists and tuples of them.
    """
    described = dict(optimizer.state_dict())
    state, groups = described.pop("state"), described.pop("param_groups")
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, name: str, plain: tuple[type, ...]) -> Any:
        if isinstance(value, plain):
            return value
        if isinstance(value, Tensor):
            tensors[f"listed.{name}"] = value
            return {"tensor": f"listed.{name}"}
        if type(value) in (list, tuple):
            items = [pack(item, f"{name}.{place}", plain) for place, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        raise TrainingError(
            f"the optimiser {type(optimizer).__name__} keeps {name} of type {type(value).__name__}, which cannot be "
            "saved to go on from; choose another one (--opt)"
        )

    def pack_all(values: Mapping[Any, Any], place: str, plain: tuple[type, ...]) -> dict[str, Any]:
        rest = {}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{place}.{key}"] = value
            else:
                rest[str(key)] = pack(value, f"{place}.{key}", plain)
        return rest

    changing = [{key: value for key, value in group.items() if not isinstance(value, torch.dtype)} for group in groups]
    rest = {
        "groups": [pack_all(group, f"group.{index}", TEXTS) for index, group in enumerate(changing)],
        "state": {str(index): pack_all(kept, f"optimizer.{index}", NUMBERS) for index, kept in state.items()},
        "whole": {key: pack(value, key, TEXTS) for key, value in described.items()},
    }
    return tensors, rest


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any] | None
) -> None:
    """Undo `pack_optimizer`. Tensors of a parameter's shape also take its memory format.

    What older versions saved has no ``whole`` and no lists, or no ``rest`` at all.
    """
    rest = rest or {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    described = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}

    def unpack(value: Any) -> Any:
        if isinstance(value, list):
            return [unpack(item) for item in value]
        if isinstance(value, dict):
            return tensors[value["tensor"]] if "tensor" in value else tuple(unpack(value["tuple"]))
        return value

    def unpack_all(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: unpack(value) for key, value in values.items()}

    for name, value in tensors.items():
        kind, _, place = name.partition(".")
        index, _, key = place.partition(".")
        if kind == "group":
            described["param_groups"][int(index)][key] = value
        if kind != "optimizer":
            continue
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
        state.setdefault(int(index), {})[key] = value
    for index, kept in rest.get("state", {}).items():
        state.setdefault(int(index), {}).update(unpack_all(kept))
    for group, kept in zip(described["param_groups"], rest.get("groups", []), strict=False):
        group.update(unpack_all(kept))
    optimizer.load_state_dict({**described, **unpack_all(rest.get("whole", {})), "state": state})
