"""Outputs on the meta device, made directly, of operations whose own meta kernels take milliseconds in Python."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["shortcut"]

_SAME = frozenset(
    f"aten::{name}"
    for name in ("elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "sigmoid", "silu")
)
"""One floating tensor in, one of the same shape and dtype out."""
_SUMS = frozenset({"aten::add", "aten::mul", "aten::sub", "aten::div"})
"""Two tensors of one floating dtype in, one out, of the shape to which both broadcast."""
_NORMS = frozenset(
    {
        "aten::native_batch_norm",
        "aten::_native_batch_norm_legit",
        "aten::_native_batch_norm_legit_no_training",
        "aten::native_layer_norm",
    }
)
"""The output has the shape of the input; the statistics beside it are not used in a forward pass."""


def _same(source: Tensor, *_: Any, **__: Any) -> Tensor:
    if source.is_contiguous() or 0 in source.stride():
        return torch.empty(source.shape, dtype=source.dtype, device="meta")
    return torch.empty_strided(source.shape, source.stride(), dtype=source.dtype, device="meta")


def _itself(source: Tensor, *_: Any, **__: Any) -> Tensor:
    return source


def _normalised(source: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    nothing = torch.empty(0, dtype=source.dtype, device="meta")
    return _same(source), nothing, nothing


def _broadcast(one: Tensor, other: Tensor, *_: Any, **__: Any) -> Tensor:
    if one.shape == other.shape:
        return _same(one)
    return torch.empty(torch.broadcast_shapes(one.shape, other.shape), dtype=one.dtype, device="meta")


def shortcut(func: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
    """What to call in place of ``func``: a shortcut, or ``func`` itself where there is none."""
    source = args[0] if args else None
    if not isinstance(source, Tensor) or not source.is_meta or not source.is_floating_point():
        return func
    name: str = func._schema.name
    if name in _SAME and func._overloadname == "default":
        return _same
    if name.endswith("_") and name[:-1] in _SAME and func._overloadname == "default":
        return _itself
    if name in _SUMS and func._overloadname == "Tensor" and len(args) == 2:
        other = args[1]
        if isinstance(other, Tensor) and other.is_meta and other.dtype == source.dtype and source.ndim and other.ndim:
            return _broadcast
    return _normalised if name in _NORMS else func
