"""Runs every ATen operation of a forward pass, and its rule after it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_slim._containers import tensors_in
from zoo_slim.tracing import _layers, _views  # noqa: F401  (they register their rules)
from zoo_slim.tracing._pointwise import pointwise
from zoo_slim.tracing._shortcuts import shortcut
from zoo_slim.tracing._state import TraceState
from zoo_slim.tracing._table import RULES, Call, Rule

__all__ = ["Interpreter"]


class Interpreter(TorchDispatchMode):
    """Labels the outputs of all operations executed under it."""

    supports_higher_order_operators = True

    def __init__(self, state: TraceState) -> None:
        super().__init__()
        self.state = state
        self._rules: dict[Any, Rule | None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):  # it runs functions, as torch.cond does: what they do is not seen
            self.state.freeze_all(tensors_in((args, kwargs)), f"{func} has no rule")
            out = func(*args, **kwargs)
            for tensor in tensors_in(out):
                self.state.set(tensor, ())
            return out
        with torch._C.DisableTorchFunction():
            shape = tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ()
            out = shortcut(func, args)(*args, **kwargs)
            self._label(Call(func, args, kwargs, out, shape))
        return out

    def _label(self, call: Call) -> None:
        state, func = self.state, call.op
        if func not in self._rules:
            self._rules[func] = self._find(func)
        found = self._rules[func]
        for tensor in call.tensors:
            if not state.knows(tensor):
                state.adopt(tensor)
        try:
            if found is not None:
                found(state, call)
            elif any(state.label(tensor) for tensor in call.tensors):
                self._give_up(call, "has no rule")
        except Exception as error:  # a rule that does not fit this call must not fail the model
            self._give_up(call, f"is used in a way that its rule does not know ({type(error).__name__}: {error})")
        for tensor in call.outputs:
            if not state.knows(tensor):
                state.set(tensor, ())
        state.note_weights(call.tensors, call.outputs)
        if call.outputs and isinstance(call.first, Tensor):
            if func.is_view:
                for tensor in call.outputs:
                    state.view(call.first, tensor)
            elif func._schema.is_mutable:
                state.written(call.first)

    def _give_up(self, call: Call, reason: str) -> None:
        self.state.freeze_all(call.tensors, f"{call.op._schema.name} {reason}")
        for tensor in call.outputs:
            self.state.set(tensor, ())

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
