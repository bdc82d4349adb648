"""Operations that move elements without changing them: the ids move along."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zoo_slim.tracing._dims import Dim, Term
from zoo_slim.tracing._labels import Factor, dim_groups, full_ids, reshape_factor, support
from zoo_slim.tracing._pointwise import join
from zoo_slim.tracing._state import TraceState
from zoo_slim.tracing._table import Call, rule

__all__: list[str] = []

_FIXED = "its size is a constant in the code"
_MASKS = (torch.bool, torch.uint8)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "unflatten")
def reshape(state: TraceState, call: Call) -> None:
    out, before = call.out, call.shape
    fixed = set(_resized(before, out.shape)) if state.context.resized else state.context.fixed(out.ndim)
    label = []
    for factor in state.label(call.first):
        moved: Factor | None = reshape_factor(factor, before, out.shape)
        assert moved is not None
        if held := fixed & support(moved):
            moved = state.keep_size(moved, held, _FIXED)
        if moved is not None:
            label.append(moved)
            if len(support(moved)) > 1:
                state.rules.grid(moved.ids, list(state.context.asked(out.ndim)))
    _finish(state, out, label)


def _finish(state: TraceState, out: Tensor, label: list[Factor]) -> None:
    state.set(out, label)
    for dim, size in enumerate(state.context.asked(out.ndim)):
        if isinstance(size, Dim):
            state.require_size(state.label(out), dim, size, "the code gives it another size")


@rule("expand")
def expand(state: TraceState, call: Call) -> None:
    source, out = call.first, call.out
    lead = out.ndim - source.ndim
    fixed = state.context.fixed(out.ndim)
    label = []
    for factor in state.label(source):
        moved: Factor | None = factor.with_ids(factor.ids.reshape([1] * lead + list(factor.ids.shape)))
        assert moved is not None
        if held := fixed & support(moved):
            moved = state.keep_size(moved, held, _FIXED)
        if moved is not None:
            label.append(moved)
    before = [1] * lead + list(source.shape)
    state.grown(label, out, [dim for dim, size in enumerate(out.shape) if size != before[dim]])
    _finish(state, out, label)


def _resized(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Dimensions of a view that are not one dimension of the original."""
    return [dim for before, after in dim_groups(old, new) if len(before) != 1 or len(after) != 1 for dim in after]


@rule("permute", "transpose", "t", "numpy_T")
def permute(state: TraceState, call: Call) -> None:
    source, out = call.first, call.out
    order = list(range(source.ndim))
    if "dims" in call.arguments:
        order = [dim % source.ndim for dim in call["dims"]]
    elif "dim0" in call.arguments:
        one, other = call["dim0"] % source.ndim, call["dim1"] % source.ndim
        order[one], order[other] = other, one
    else:
        order.reverse()
    label = []
    for factor in state.label(source):
        dims = [dim for dim in order if dim in support(factor)]
        if dims != sorted(dims):
            # Kept channels would come out in another order than in the original: the rows must keep the same ones.
            widest = max(dims, key=lambda dim: source.shape[dim])
            factor = state.collapse(factor, set(dims) - {widest})
        label.append(factor.with_ids(factor.ids.transpose(order)))
    state.set(out, label)


@rule("cat", "concat", "concatenate")
def cat(state: TraceState, call: Call) -> None:
    tensors = [tensor for tensor in call["tensors"] if tensor.numel() or tensor.ndim > 1]
    dim = call["dim"] % call.out.ndim
    columns = [state.along(tensor, dim) for tensor in tensors]
    depth = max((len(column) for column in columns), default=0)
    label: list[Factor] = []
    shape = [1] * call.out.ndim
    shape[dim] = call.out.shape[dim]
    for level in range(depth):
        parts = [
            state.flat([column[level]], tensor.shape, dim)[0]
            if level < len(column)
            else np.zeros(tensor.shape[dim], dtype=np.int64)
            for column, tensor in zip(columns, tensors, strict=True)
        ]
        shared = [column[level].reads for column in columns if level < len(column)]
        reads = frozenset().union(*shared) if all(shared) and len(shared) == len(tensors) else frozenset()
        label.append(Factor(np.concatenate(parts).reshape(shape), reads))
    others = [[factor for factor in state.label(tensor) if dim not in support(factor)] for tensor in tensors]
    shapes = [[1 if axis == dim else size for axis, size in enumerate(tensor.shape)] for tensor in tensors]
    label += join(state, [tuple(column) for column in others], shapes, "cat")
    state.set(call.out, label)


@rule("stack")
def stack(state: TraceState, call: Call) -> None:
    tensors = call["tensors"]
    dim = call["dim"] % call.out.ndim
    joined = join(state, [state.label(tensor) for tensor in tensors], [tensor.shape for tensor in tensors], "stack")
    state.set(call.out, [factor.with_ids(np.expand_dims(factor.ids, dim)) for factor in joined])


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
def split(state: TraceState, call: Call) -> None:
    source, dim = call.first, call["dim"] % call.first.ndim
    sizes = [part.shape[dim] for part in call.outputs]
    parts = [_share(part, len(sizes)) for part in state.context.parts]
    asked = parts * len(sizes) if len(parts) == 1 else parts
    whole = sum(asked)
    for factor in state.label(source):
        if dim not in support(factor):
            continue
        if isinstance(whole, Dim) and support(factor) == {dim}:
            whole.bind(factor.ids.ravel())
        if _in_equal_parts(state, factor, dim, sizes, parts):
            state.require_equal(full_ids(factor, source.shape, [dim]).reshape(len(sizes), sizes[0]))
            continue
        if len(support(factor)) > 1:
            state.keep_size(factor, {dim}, "a split")
            continue
        start = 0
        for size, given in itertools.zip_longest(sizes, asked):
            narrow = _narrow(factor, dim, start, start + (size or 0))
            start += size or 0
            if isinstance(given, Dim) and given == size:
                state.require_size((narrow,), dim, given, "the code splits it by another size")
            else:
                state.freeze(narrow, "a split at positions that are constants in the code")
    start = 0
    for part, size in zip(call.outputs, sizes, strict=True):
        state.set(part, [_narrow(factor, dim, start, start + size) for factor in state.label(source)])
        start += size
    for given in parts:
        if isinstance(given, Dim) and not any(dim in support(factor) for factor in state.label(source)):
            given.hold("the code splits something else by it")


def _share(part: int, count: int) -> int:
    """The size of a part; linear where it is a size over another one that is the number of parts."""
    if not isinstance(part, Dim) or part.form is None or part.form[0] != "/" or int.__ne__(part.form[2], count):
        return part
    whole, parts = part.form[1:]
    parts.hold("the number of parts of a split")
    return Dim(int.__add__(part, 0), part.rules, whole.scaled(1 / count))


def _in_equal_parts(state: TraceState, factor: Factor, dim: int, sizes: Sequence[int], parts: Sequence[int]) -> bool:
    """Whether a split follows the size of the whole: into as many parts, all of its size over their number."""
    if len(set(sizes)) != 1 or support(factor) != {dim}:
        return False
    asked = [part for part in parts if isinstance(part, Dim) and part.linear]
    if state.context.equal_parts or not asked or len(asked) != len(parts):
        return state.context.equal_parts
    share = Term(-1.0 / len(sizes), factor.ids, dim)
    return len(asked) in (1, len(sizes)) and all(not len(state.rules.total([*part.terms, share])[0]) for part in asked)


def _narrow(factor: Factor, dim: int, start: int, stop: int) -> Factor:
    return factor if factor.ids.shape[dim] == 1 else factor.with_ids(factor.ids.take(range(start, stop), axis=dim))


@rule("slice", "narrow")
def slice_(state: TraceState, call: Call) -> None:
    source, dim = call.first, call["dim"] % call.first.ndim
    whole = source.shape[dim] == call.out.shape[dim] and not state.context.exact and not state.context.unknown
    start = call.arguments.get("start") or 0
    start += source.shape[dim] if start < 0 else 0
    ends = (start, start + call.out.shape[dim]) if call.arguments.get("step", 1) == 1 else None
    label = []
    for factor in state.label(source):
        if dim not in support(factor) or whole:
            label.append(factor)
        elif ends is not None and ends in state.context.ends:
            label.append(_narrow(factor, dim, *ends))
        elif moved := state.keep_size(factor, {dim}, "a slice at positions that are constants in the code"):
            label.append(moved)
    state.set(call.out, label)


@rule("select", "unbind")
def select(state: TraceState, call: Call) -> None:
    source, dim = call.first, call["dim"] % call.first.ndim
    label = []
    for factor in state.label(source):
        kept = state.keep_size(factor, {dim}, "one channel picked by its number") if dim in support(factor) else factor
        if kept is not None:
            label.append(kept.with_ids(kept.ids.squeeze(dim)))
    for out in call.outputs:
        state.set(out, label)


@rule("index", "_unsafe_index")
def index(state: TraceState, call: Call) -> None:
    """Positions picked by tensors of integers, of dimensions without channels."""
    source, out, indices = call.first, call.out, call["indices"]
    dims = [dim for dim, given in enumerate(indices) if given is not None]
    given = [indices[dim] for dim in dims]
    if any(tensor.dtype in _MASKS for tensor in given):
        state.freeze_all(call.tensors, "picked by a mask")
        state.set(out, ())
        return
    state.freeze_all(given, None)  # positions of a table of numbers: nobody misses them
    new = out.ndim - source.ndim + len(dims)
    place = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    label = []
    for factor in state.label(source):
        if set(dims) & support(factor):
            state.freeze(factor, "channels picked by their numbers")
        else:
            shape = [size for dim, size in enumerate(factor.ids.shape) if dim not in dims]
            label.append(factor.with_ids(factor.ids.reshape([*shape[:place], *[1] * new, *shape[place:]])))
    state.set(out, label)


@rule("index_select")
def index_select(state: TraceState, call: Call) -> None:
    source, dim = call.first, call["dim"] % call.first.ndim
    state.freeze_all([call["index"]], None)
    for factor in state.label(source):
        if dim in support(factor):
            state.freeze(factor, "channels picked by their numbers")
    state.set(call.out, [factor for factor in state.label(source) if dim not in support(factor)])


@rule("flip", "roll")
def reorder(state: TraceState, call: Call) -> None:
    dims = {dim % call.first.ndim for dim in call["dims"]} or set(range(call.first.ndim))
    label = []
    for factor in state.label(call.first):
        moved = dims & support(factor)
        kept = state.keep_size(factor, moved, "channels moved by a constant distance") if moved else factor
        if kept is not None:
            label.append(kept)
    state.set(call.out, label)


@rule("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
      "replication_pad2d", "replication_pad3d")  # fmt: skip
def pad(state: TraceState, call: Call) -> None:
    source, out = call.first, call.out
    constant = call.op._schema.name == "aten::constant_pad_nd"
    given = [int(size) for size in call["pad" if constant else "padding"]]  # (lead, tail), of the last dimension first
    given += [0] * (2 * source.ndim - len(given))
    pads = [(given[2 * place], given[2 * place + 1]) for place in reversed(range(source.ndim))]
    label = []
    for factor in state.label(source):
        own = [pads[dim] if size > 1 else (0, 0) for dim, size in enumerate(factor.ids.shape)]
        if min(map(min, own)) < 0 or (any(map(any, own)) and not constant):
            state.freeze(factor, "padding that mixes channels")
        else:
            zeros = constant and not call["value"]
            label.append(Factor(np.pad(factor.ids, own), factor.reads if zeros else frozenset()))
    state.set(out, label)


@rule("repeat")
def repeat(state: TraceState, call: Call) -> None:
    source, out = call.first, call.out
    lead = out.ndim - source.ndim
    label = []
    for factor in state.label(source):
        ids = factor.ids.reshape([1] * lead + list(factor.ids.shape))
        times = [count if ids.shape[dim] > 1 else 1 for dim, count in enumerate(call["repeats"])]
        label.append(factor.with_ids(np.tile(ids, times)))
    before = [1] * lead + list(source.shape)
    state.grown(label, out, [dim for dim, size in enumerate(before) if size == 1 and out.shape[dim] > 1])
    for size, width in zip(state.context.asked(out.ndim), before, strict=True):
        if isinstance(size, Dim) and width > 1:
            size.hold()
    state.set(out, label)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def shuffle(state: TraceState, call: Call) -> None:
    """Blocks of channels that swap with space, or with each other: each block goes or stays as a whole."""
    source, out, name = call.first, call.out, call.op._schema.name.removeprefix("aten::")
    pixels = name.startswith("pixel")
    dim = source.ndim - 3 if pixels else 1
    label = []
    for factor in state.along(source, dim):
        ids = full_ids(factor, source.shape, [dim]).ravel()
        if name == "pixel_unshuffle":
            ids = ids.repeat(out.shape[dim] // source.shape[dim])
        else:
            if name == "pixel_shuffle":
                rows = ids.reshape(out.shape[dim], -1)
                state.ids.unify(rows, rows[:, :1])
                ids = rows[:, 0]
            else:
                rows = ids.reshape(call["groups"], -1)
                state.ids.unify(rows, rows[:1])
                ids = rows.T.ravel()
        label.append(Factor(ids.reshape([-1 if axis == dim else 1 for axis in range(out.ndim)])))
    for factor in state.label(source):
        if pixels and support(factor) & {dim + 1, dim + 2}:
            state.freeze(factor, name)
        elif dim not in support(factor):
            label.append(Factor(factor.ids))
    state.set(out, label)


@rule("unfold")
def unfold(state: TraceState, call: Call) -> None:
    """Windows along a dimension, as a new last one."""
    source, dim = call.first, call["dimension"] % call.first.ndim
    label = []
    for factor in state.label(source):
        kept = state.keep_size(factor, {dim}, "windows over channels") if dim in support(factor) else factor
        if kept is not None:
            label.append(kept.with_ids(kept.ids[..., None]))
    state.set(call.out, label)


@rule("im2col", "col2im")
def columns(state: TraceState, call: Call) -> None:
    """Windows of ``size`` pixels as channels, each channel's side by side, and back."""
    source, out, pixels = call.first, call.out, math.prod(call["kernel_size"])
    dim = source.ndim - 2 if call.op._schema.name == "aten::col2im" else source.ndim - 3
    to = out.ndim - 3 if call.op._schema.name == "aten::col2im" else out.ndim - 2
    label = []
    for factor in state.label(source):
        if support(factor) == {dim}:
            ids = factor.ids.ravel()
            if to == out.ndim - 2:
                ids = ids.repeat(pixels)
            else:
                rows = ids.reshape(-1, pixels)
                state.ids.unify(rows, rows[:, :1])
                ids = rows[:, 0]
            label.append(Factor(ids.reshape([-1 if axis == to else 1 for axis in range(out.ndim)])))
        else:
            state.freeze(factor, "windows over positions that may go")
    state.set(out, label)


@rule("glu")
def glu(state: TraceState, call: Call) -> None:
    """One half of a dimension gates the other: their channels go in pairs."""
    source, dim = call.first, call["dim"] % call.first.ndim
    label = []
    for factor in state.label(source):
        if dim in support(factor):
            size = call.out.shape[dim]
            first, second = _narrow(factor, dim, 0, size), _narrow(factor, dim, size, 2 * size)
            state.ids.unify(first.ids, second.ids)
            factor = first
        label.append(Factor(factor.ids))
    state.set(call.out, label)
