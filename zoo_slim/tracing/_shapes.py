"""Which shape arguments are constants in the model's code, and which follow the tensors' own sizes.

A slim network runs the same Python code. `x.view(x.shape[0], -1)` still fits it, `x.view(-1, 512)` does not. Sizes
asked of a tensor are therefore given out as `Dim`, an `int` that stays one under integer arithmetic; an argument that
is a plain `int` is a constant, and the channels of that dimension must stay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zoo_slim.tracing._state import ShapeContext, TraceState

__all__ = ["Dim", "ShapeArguments"]


class Dim(int):
    """A size that follows a tensor's own."""

    def __add__(self, other: int) -> "Dim":
        return _dim(int.__add__(self, other))

    def __sub__(self, other: int) -> "Dim":
        return _dim(int.__sub__(self, other))

    def __rsub__(self, other: int) -> "Dim":
        return _dim(int.__rsub__(self, other))

    def __mul__(self, other: Any) -> Any:
        return _dim(int.__mul__(self, other))

    def __floordiv__(self, other: int) -> "Dim":
        return _dim(int.__floordiv__(self, other))

    def __mod__(self, other: int) -> "Dim":
        return _dim(int.__mod__(self, other))

    def __neg__(self) -> "Dim":
        return Dim(int.__neg__(self))

    __radd__ = __add__
    __rmul__ = __mul__


def _dim(value: Any) -> Any:
    return Dim(value) if isinstance(value, int) else value


def _constants(sizes: Sequence[Any], first: int = 0) -> frozenset[int]:
    return frozenset(dim for dim, size in enumerate(sizes, first) if type(size) is int and size != -1)


def _sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any]:
    given = kwargs.get("size", kwargs.get("shape", args[1:]))
    return given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given


def _view(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeContext:
    sizes = _sizes(args, kwargs)
    return ShapeContext(_constants(sizes) if all(isinstance(size, int) for size in sizes) else frozenset())


def _unflatten(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeContext:
    dim = kwargs["dim"] if "dim" in kwargs else args[1]
    sizes = kwargs["sizes"] if "sizes" in kwargs else args[2] if len(args) == 3 else args[2:]
    return ShapeContext(_constants(sizes, dim % args[0].ndim))


def _equal_parts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeContext:
    return ShapeContext(equal_parts=True)


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeContext:
    size = kwargs.get("split_size_or_sections", kwargs.get("split_size", args[1] if len(args) > 1 else 0))
    sizes = size if isinstance(size, (tuple, list)) else [size]
    return ShapeContext(equal_parts=all(isinstance(part, Dim) for part in sizes))


def _all_fixed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeContext:
    return ShapeContext(fixed=None)


_CONTEXTS: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], ShapeContext]] = {
    Tensor.view: _view,
    Tensor.reshape: _view,
    torch.reshape: _view,
    Tensor.expand: _view,
    Tensor.unflatten: _unflatten,
    torch.unflatten: _unflatten,
    Tensor.chunk: _equal_parts,
    torch.chunk: _equal_parts,
    Tensor.split: _split,
    torch.split: _split,
    functional.multi_head_attention_forward: _all_fixed,
}
_SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]


class ShapeArguments(TorchFunctionMode):
    """Tells the rules, through the state, where the shape arguments of the present call come from."""

    def __init__(self, state: TraceState) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _SHAPE:
            return torch.Size([Dim(size) for size in func(*args, **kwargs)])
        if func is Tensor.size:
            size = func(*args, **kwargs)
            return Dim(size) if isinstance(size, int) else torch.Size([Dim(part) for part in size])
        if func in _CONTEXTS:
            with self.state.shapes(_CONTEXTS[func](args, kwargs)):
                return func(*args, **kwargs)
        return func(*args, **kwargs)
