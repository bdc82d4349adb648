"""Runs every ATen operation of a forward pass, and its rule after it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_slim.tracing import _layers, _views  # noqa: F401  (they register their rules)
from zoo_slim.tracing._pointwise import pointwise
from zoo_slim.tracing._shortcuts import shortcut
from zoo_slim.tracing._state import TraceState
from zoo_slim.tracing._table import RULES, Call, Rule

__all__ = ["Interpreter"]


class Interpreter(TorchDispatchMode):
    """Labels the outputs of all operations executed under it."""

    def __init__(self, state: TraceState) -> None:
        super().__init__()
        self.state = state
        self._rules: dict[Any, Rule | None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = shortcut(func, args)(*args, **kwargs)
        if func not in self._rules:
            self._rules[func] = self._find(func)
        call = Call(func, args, kwargs, out)
        found = self._rules[func]
        if found is not None:
            found(self.state, call)
        elif any(self.state.label(tensor) for tensor in call.tensors):
            self.state.freeze_all(call.tensors, f"{func._schema.name} has no rule")
            for tensor in call.outputs:
                self.state.set(tensor, ())
        return out

    @staticmethod
    def _find(func: Any) -> Rule | None:
        name: str = func._schema.name
        for candidate in (name, name.rstrip("_")):
            if candidate in RULES:
                return RULES[candidate]
        # An in-place operation does to positions what its functional twin does, whose tags are more complete.
        twin = getattr(torch.ops.aten, name.removeprefix("aten::").rstrip("_"), None)
        overloads = [func, *(getattr(twin, overload) for overload in (twin.overloads() if twin else ()))]
        return pointwise if any(torch.Tag.pointwise in overload.tags for overload in overloads) else None


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested containers, named tuples and dataclass-like outputs included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (list, tuple, set)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return (
        [tensor for item in vars(value).values() for tensor in tensors_in(item)] if hasattr(value, "__dict__") else []
    )
