"""Operations that work position by position: the channels that meet at a position go together."""

from collections.abc import Sequence

from torch import Tensor

from zoo_slim.tracing._dims import Dim, Term
from zoo_slim.tracing._labels import Factor, Label, support
from zoo_slim.tracing._state import TraceState
from zoo_slim.tracing._table import Call, rule

__all__ = ["join", "pointwise"]

_KEEPS_ZERO = {"clone", "_to_copy", "detach", "alias", "neg", "relu", "lift_fresh", "contiguous"}
_PRODUCT = {"mul"}
_SUM = {"add", "sub"}


def _aligned(factor: Factor, ndim: int) -> Factor:
    return factor.with_ids(factor.ids.reshape([1] * (ndim - factor.ids.ndim) + list(factor.ids.shape)))


def _components(supports: list[frozenset[int]]) -> list[frozenset[int]]:
    """Sets of dimensions that some factor ties together."""
    parts: list[frozenset[int]] = []
    for dims in supports:
        touched = [part for part in parts if part & dims]
        parts = [part for part in parts if not part & dims]
        parts.append(dims.union(*touched))
    return parts


def join(state: TraceState, labels: Sequence[Label], shapes: Sequence[Sequence[int]], reason: str) -> Label:
    """Unify the labels of tensors that broadcast against each other. Returns the label of the result."""
    ndim = max((len(shape) for shape in shapes), default=0)
    labels = [tuple(_aligned(factor, ndim) for factor in label) for label in labels]
    full = [frozenset(dim + ndim - len(shape) for dim, size in enumerate(shape) if size > 1) for shape in shapes]
    if any(len(support(factor)) > 1 for label in labels for factor in label):
        labels = _settled(state, labels, full, ndim)
    result: list[Factor] = []
    for dims in _components([support(factor) for label in labels for factor in label]):
        if (matched := _matched(state, labels, full, dims)) is not None:
            result += matched
            continue
        columns: list[list[Factor]] = []
        common = dims
        for label, dims_full in zip(labels, full, strict=True):
            if dims & dims_full:
                column = [factor for factor in label if support(factor) <= dims]
                columns.append(column)
                common &= dims_full.intersection(frozenset().union(*map(support, column)) if column else dims)
        shaped = [[support(factor) for factor in column] for column in columns]
        if len(dims) > 1 and (common != dims or any(part != shaped[0] for part in shaped)):
            columns = [[state.collapse(factor, dims - common) for factor in column] for column in columns]
            shaped = [[support(factor) for factor in column] for column in columns]
        if any(part != shaped[0] for part in shaped) or not all(shaped[0]):
            for column in columns:
                for factor in column:
                    state.freeze(factor, f"{reason}: one of its operands has channels that stay")
            continue
        for row in zip(*columns, strict=True):
            for factor in row[1:]:
                state.ids.unify(row[0].ids, factor.ids)
            reads = row[0].reads if len(row) == 1 else frozenset()
            result.append(Factor(row[0].ids, reads))
    return tuple(result)


def _settled(state: TraceState, labels: Sequence[Label], full: Sequence[frozenset[int]], ndim: int) -> list[Label]:
    """The labels, in which no factor differs along dimensions where another tensor loses something else, or nothing.

    Where heads of several channels each meet a vector that has those channels, whole heads can go, or the same channels
    of every head and of the vector: that is left to the rest of the network.
    """
    found = [list(label) for label in labels]
    for mine, label in enumerate(found):
        for place, factor in enumerate(label):
            for other, dims in zip(found, full, strict=True):
                part = support(factor) & dims
                if not part or part == support(factor):
                    continue
                theirs = [each for each in other if support(each) & part]
                if not theirs:
                    label[place] = factor = state.collapse(factor, part)
                elif (
                    len(part) == len(theirs) == 1
                    and support(theirs[0]) == part
                    and not any(support(each) <= part for each in found[mine])
                ):
                    (dim,) = part
                    axis = theirs[0].ids.ravel()
                    size = Dim(len(axis), state.rules, [Term(1.0, axis)], axis=axis, free=True)
                    state.rules.grid(factor.ids, [size if each == dim else None for each in range(ndim)])
                    size.equals([Term(1.0, factor.ids, dim)], True, f"channels of every head, in {state.where}")
                    other[:] = [each for each in other if each is not theirs[0]]
    return [tuple(label) for label in found]


def _matched(
    state: TraceState, labels: Sequence[Label], full: Sequence[frozenset[int]], dims: frozenset[int]
) -> list[Factor] | None:
    """Unify factors of one support with each other, if every tensor has as many that is full along all of it.

    A tensor that is full along a part of it only is the same for all that is removed and all that stays.
    """
    rows: list[list[Factor]] = []
    for part in dict.fromkeys(support(factor) for label in labels for factor in label if support(factor) <= dims):
        columns = [[factor for factor in label if support(factor) == part] for label in labels]
        inside = [column for column, have in zip(columns, full, strict=True) if part <= have]
        if len({len(column) for column in inside}) != 1 or sum(map(len, inside)) != sum(map(len, columns)):
            return None
        rows += [list(row) for row in zip(*inside, strict=True)]
    for row in rows:
        for factor in row[1:]:
            state.ids.unify(row[0].ids, factor.ids)
    return [Factor(row[0].ids, row[0].reads if len(row) == 1 else frozenset()) for row in rows]


def _reads(name: str, call: Call, labels: Sequence[Label], factor: Factor) -> frozenset[tuple[str, int]]:
    """The masks under which the result is zero at the positions of ``factor``."""
    if name in _KEEPS_ZERO:
        return factor.reads
    candidates = [
        other.reads for label in labels for other in label if other.reads and support(other) == support(factor)
    ]
    if name in _PRODUCT and candidates:
        return candidates[0]
    if name in _SUM and len(candidates) == len(call.tensors) == 2:
        return candidates[0] | candidates[1]
    return frozenset()


@rule(
    "_prelu_kernel", "_to_copy", "alias", "bernoulli", "clone", "contiguous", "copy", "detach", "empty_like",
    "exponential", "fill", "floor_divide", "full_like", "hardswish", "lift_fresh", "log_sigmoid_forward",
    "native_dropout", "normal", "ones_like", "rand_like", "randn_like", "rrelu_with_noise", "uniform", "zero",
    "zeros_like",
)  # fmt: skip
def pointwise(state: TraceState, call: Call) -> None:
    """Any operation tagged pointwise, and those above."""
    tensors = [tensor for tensor in call.tensors if tensor.numel() > 0]
    name = call.op._schema.name.removeprefix("aten::").rstrip("_")
    labels = [state.label(tensor) for tensor in tensors]
    joined = join(state, labels, [tensor.shape for tensor in tensors], name)
    label = tuple(Factor(factor.ids, _reads(name, call, _canonical(labels, tensors), factor)) for factor in joined)
    for out in call.outputs:
        if out.ndim == max((tensor.ndim for tensor in tensors), default=0):
            state.set(out, label)


def _canonical(labels: Sequence[Label], tensors: Sequence[Tensor]) -> list[Label]:
    ndim = max((tensor.ndim for tensor in tensors), default=0)
    return [tuple(_aligned(factor, ndim) for factor in label) for label in labels]


@rule("zeros", "ones", "full", "empty", "arange", "rand", "randn", "scalar_tensor", "eye", "linspace", "new_zeros",
      "new_ones", "new_full", "new_empty", "empty_strided", "new_empty_strided", "randperm", "randint")  # fmt: skip
def factory(state: TraceState, call: Call) -> None:
    """A new tensor has channels only where its size was asked to be theirs, or where it is made for another."""
    for out in call.outputs:
        label: list[Factor] = []
        like = state.context.like
        if like is not None and like.ndim == out.ndim:
            same = {dim for dim, size in enumerate(out.shape) if size == like.shape[dim]}
            label = [Factor(factor.ids) for factor in state.label(like) if support(factor) <= same]
        state.grown(label, out, [dim for dim, size in enumerate(out.shape) if size > 1])
        state.set(out, label)
