"""Which shape arguments are constants in the model's code, and which follow the tensors' own sizes.

A plain `int` among the shape arguments of a call is a constant, and the channels of that dimension must stay. A `Dim`
is as good as the channels that it counts. What leaves torch's sight, as NumPy arrays do, must stay as well.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zoo_slim.tracing._dims import Dim
from zoo_slim.tracing._state import ShapeContext, TraceState

__all__ = ["ShapeArguments"]

Arguments = tuple[Any, ...]
Options = dict[str, Any]


def dims_in(value: Any) -> Iterator[Dim]:
    """All `Dim` in nested arguments."""
    if isinstance(value, Dim):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from dims_in(item)
    elif isinstance(value, dict):
        yield from dims_in(list(value.values()))
    elif isinstance(value, slice):
        yield from dims_in((value.start, value.stop, value.step))


def tensors_among(value: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_among(item)
    elif isinstance(value, dict):
        yield from tensors_among(list(value.values()))


def _given(given: Sequence[Any]) -> tuple[int, ...]:
    """Sizes given as one sequence, or one by one. NumPy's integers, and tensors', are constants."""
    sizes = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    if any(isinstance(size, torch.dtype) for size in sizes):
        return ()
    return tuple(size if isinstance(size, Dim) else int(size) for size in sizes)


def _view(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    given: Any = kwargs.get("size", kwargs.get("shape", args[1:]))
    return ShapeContext(sizes=_given(given))


def _view_as(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    other = args[1] if len(args) > 1 else next(iter(kwargs.values()))
    return ShapeContext(sizes=mode.sizes(other))


def _broadcast(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    """The shape that all tensors are expanded to; of several sizes the first that has channels."""
    shape: list[int] = []
    for tensor in tensors_among(args):
        sizes = mode.sizes(tensor)
        shape = [1] * (len(sizes) - len(shape)) + shape
        for dim, size in enumerate(reversed(sizes), 1):
            if not isinstance(shape[-dim], Dim) and (isinstance(size, Dim) or size != 1):
                shape[-dim] = size
    return ShapeContext(sizes=tuple(shape))


def _unflatten(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    dim = kwargs["dim"] if "dim" in kwargs else args[1]
    sizes = kwargs["sizes"] if "sizes" in kwargs else _given(args[2:])
    ndim = (args[0] if args else kwargs["input"]).ndim
    return ShapeContext(sizes=(*[None] * (dim % ndim), *sizes, *[None] * (ndim - 1 - dim % ndim)))


def _chunk(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    for dim in dims_in((args, kwargs)):
        dim.hold()
    return ShapeContext(equal_parts=True)


def _split(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    size: Any = kwargs.get("split_size_or_sections", kwargs.get("split_size", args[1] if len(args) > 1 else 0))
    return ShapeContext(parts=tuple(size) if isinstance(size, (tuple, list)) else (size,))


def _slices(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    """Slices whose ends are sizes: as many positions lie before each end as the code computes."""
    tensor, items = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    for item in items:
        for size in dims_in(item if not isinstance(item, slice) or item.step not in (None, 1) else ()):
            size.hold("a position")
    middle = next((place for place, item in enumerate(items) if item is ...), len(items))
    before, after = ([item for item in part if item is not None] for part in (items[:middle], items[middle + 1 :]))
    simple = all(isinstance(item, slice) or type(item) is int for item in (*before, *after))
    ends = []
    for dim, item in [*enumerate(before), *enumerate(after, tensor.ndim - len(after))]:
        if not isinstance(item, slice) or next(dims_in(item), None) is None:
            continue
        if simple and item.step in (None, 1):
            ends.append(_bounds(mode, tensor, dim, item))
        else:
            for size in dims_in(item):
                size.hold("a position")
    return ShapeContext(ends=tuple(ends))


def _bounds(mode: "ShapeArguments", tensor: Tensor, dim: int, item: slice) -> tuple[int, int]:
    """Demand that the ends of a slice stay where they are among what is kept. Returns them as plain numbers."""
    size: int = tensor.shape[dim]
    found: list[int] = []
    for end, default in ((item.start, 0), (item.stop, size)):
        place = default if end is None else int.__add__(end, 0) if isinstance(end, int) else int(end)
        if end is not None and place < 0:
            place = max(size + place, 0)
            mode.state.require_count(tensor, dim, range(place, size), -end)
        elif end is not None:
            place = min(place, size)
            mode.state.require_count(tensor, dim, range(place), end)
        found.append(place)
    return found[0], found[1]


def _factory(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    given = tuple(arg for arg in args if not isinstance(arg, Tensor))
    sizes, rest = given, kwargs.get("fill_value")
    if "size" in kwargs:
        sizes, rest = tuple(kwargs["size"]), (rest, given)
    elif given and isinstance(given[0], (tuple, list)):
        sizes, rest = tuple(given[0]), (rest, given[1:])
    for dim in (*dims_in(rest), *(dim for dim in dims_in(sizes) if dim.axis is None)):
        dim.hold()
    return ShapeContext(sizes=_given([sizes]))


def _convolution(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    for dim in dims_in(args[:6]):
        dim.hold()
    groups: Any = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    return ShapeContext(groups=groups)


def _narrow(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    names = ("input", "dim", "start", "length")
    tensor, dim, start, length = [*args, *(kwargs[name] for name in names if name in kwargs)]
    if next(dims_in((start, length)), None) is None:
        return ShapeContext(exact=True)
    return ShapeContext(ends=(_bounds(mode, tensor, dim % tensor.ndim, slice(start, start + length)),))


def _normalised(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    tensor = args[0] if args else kwargs["input"]
    shape: Any = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    for dim, size in enumerate(shape, tensor.ndim - len(shape)):
        if isinstance(size, Dim):
            mode.state.require_size(mode.state.label(tensor), dim, size, "normalised over as many channels")
    return ShapeContext()


def _like_input(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    for dim in dims_in((args[1:], kwargs)):
        dim.hold()
    return ShapeContext(like=args[0] if args else kwargs["input"])


def _scaled(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    """Scaled by the width of the queries, unless a scale is given."""
    if kwargs.get("scale", args[6] if len(args) > 6 else None) is None:
        query = args[0] if args else kwargs["query"]
        mode.state.hold_size(query, query.ndim - 1, "the width of the queries scales the products")
    return ShapeContext()


def _gates(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    """What a recurrent network computes at once for its gates is split into equal parts."""
    return ShapeContext(equal_parts=True)


def _attention(mode: "ShapeArguments", args: Arguments, kwargs: Options) -> ShapeContext:
    tensors = [*args[:3], *(kwargs.get(name) for name in ("query", "key", "value"))]
    mode.state.freeze_all(tensors_among(tensors), "multi-head attention of a width that is an attribute")
    return ShapeContext(resized=True)


_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_CONTEXTS: dict[Any, Callable[["ShapeArguments", Arguments, Options], ShapeContext]] = {
    **dict.fromkeys(
        [Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand, Tensor.broadcast_to, torch.broadcast_to,
         Tensor.repeat], _view),
    **dict.fromkeys([Tensor.view_as, Tensor.reshape_as, Tensor.expand_as], _view_as),
    **dict.fromkeys([Tensor.unflatten, torch.unflatten], _unflatten),
    **dict.fromkeys([Tensor.chunk, torch.chunk], _chunk),
    **dict.fromkeys([Tensor.split, torch.split], _split),
    **dict.fromkeys([Tensor.narrow, torch.narrow], _narrow),
    **dict.fromkeys(
        [torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn, Tensor.new_zeros, Tensor.new_ones,
         Tensor.new_full, Tensor.new_empty], _factory),
    **dict.fromkeys(
        [torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d,
         torch.conv_transpose3d], _convolution),
    **dict.fromkeys(
        [functional.dropout1d, functional.dropout2d, functional.dropout3d, functional.alpha_dropout,
         functional.feature_alpha_dropout, functional.pad, torch.feature_dropout, torch.alpha_dropout,
         torch.feature_alpha_dropout], _like_input),
    torch.broadcast_tensors: _broadcast,
    **dict.fromkeys([functional.layer_norm, functional.rms_norm], _normalised),
    Tensor.__getitem__: _slices,
    **dict.fromkeys(
        [*_RECURRENT, torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell], _gates),
    functional.scaled_dot_product_attention: _scaled,
    functional.multi_head_attention_forward: _attention,
}  # fmt: skip
_SHAPE, _DATA = Tensor.shape.__get__, Tensor.data.__get__  # type: ignore[attr-defined]
_BYTES = Tensor.nbytes.__get__  # type: ignore[attr-defined]
_LEAVES = frozenset(
    {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.untyped_storage, Tensor.__dlpack__,
     Tensor.__len__, Tensor.stride}
)  # fmt: skip
"""What gives a tensor's values or layout to code that torch does not see. `len` gives no `Dim`, only an `int`."""


class ShapeArguments(TorchFunctionMode):
    """Tells the rules, through the state, where the shape arguments of the present call come from."""

    def __init__(self, state: TraceState) -> None:
        super().__init__()
        self.state = state

    def sizes(self, tensor: Tensor) -> tuple[int, ...]:
        """The sizes of a tensor, `Dim` where it has channels."""
        return tuple(self.state.size(tensor, dim) for dim in range(tensor.ndim))

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Arguments = (), kwargs: Options | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _SHAPE:
            return torch.Size(self.sizes(args[0]))
        if func is Tensor.size:
            sizes = self.sizes(args[0])
            given = args[1] if len(args) > 1 else kwargs.get("dim")
            return torch.Size(sizes) if given is None else sizes[given]
        if func in (Tensor.numel, Tensor.nelement, torch.numel):
            return _product(self.sizes(args[0] if args else kwargs["input"]))
        if func == _BYTES:
            return _product(self.sizes(args[0])) * args[0].element_size()
        if func in _LEAVES:
            self._leave(func, args[0])
        if func in _CONTEXTS:
            context = _CONTEXTS[func](self, args, kwargs)
        else:
            for dim in dims_in((args, kwargs)):
                dim.hold()
            context = ShapeContext(unknown=isinstance(func, (OpOverload, OpOverloadPacket)))
        with self.state.shapes(context):
            out = _first_steps(func, args, kwargs) if func in _RECURRENT else func(*args, **kwargs)
        for tensor in tensors_among(out):
            if not self.state.knows(tensor):
                self._adopt(func, args, kwargs, tensor)
        return out

    def _leave(self, func: Any, tensor: Tensor) -> None:
        for factor in self.state.peek(tensor):
            if func is not Tensor.__len__ or factor.ids.shape[0] > 1:
                self.state.freeze(factor, f"given to code that is not torch's, by {func.__name__}")

    def _adopt(self, func: Any, args: Arguments, kwargs: Options, tensor: Tensor) -> None:
        """Label a tensor that came from no operation."""
        given = list(tensors_among((args, kwargs)))
        if func == _DATA:
            self.state.set(tensor, self.state.label(given[0]))
        else:
            self.state.freeze_all(given, f"{getattr(func, '__name__', func)} is no operation that can be followed")


def _first_steps(func: Any, args: Arguments, kwargs: Options) -> Any:
    """Run two steps of a recurrent network for all: what channels do is the same in each, values there are none."""
    source, unpacked = args[0], isinstance(args[2], (list, tuple)) and not kwargs
    time = int(bool(args[-1])) if unpacked and source.ndim == 3 else 0
    if not (unpacked and source.is_meta and source.shape[time] > 2):
        return func(*args, **kwargs)
    first, *states = func(source.narrow(time, 0, 2), *args[1:])
    steps = first.narrow(time, 1, 1)
    return torch.cat([steps] * source.shape[time], time), *states


def _product(sizes: Sequence[int]) -> int:
    value = 1
    for size in sizes:
        value = size * value
    return value
