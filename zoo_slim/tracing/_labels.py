"""Labels: which channel each element of a tensor belongs to.

A label is a tuple of factors. A factor is an integer array with as many dimensions as the tensor, each of full size or
of size 1, that gives every element an id; an element is removed when any of its factors' ids is. A tensor without
factors is kept whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo_slim.tracing._ids import Ids

__all__ = ["Factor", "Label", "dim_groups", "drop_dims", "full_ids", "reshape_factor", "support"]


@dataclass(frozen=True)
class Factor:
    """One factor of a label.

    Attributes:
        ids: one id per element, dimensions of full size or 1.
        reads: parameters and axes ``(name, axis)``; where these are masked with zeros at the positions of the ids
            removed, so is this tensor. Empty: nothing is known to be zero.
    """

    ids: Ids
    reads: frozenset[tuple[str, int]] = frozenset()

    def with_ids(self, ids: Ids) -> "Factor":
        return replace(self, ids=ids)


Label = tuple[Factor, ...]


def support(factor: Factor) -> frozenset[int]:
    """The dimensions along which the factor's ids vary."""
    return frozenset(dim for dim, size in enumerate(factor.ids.shape) if size > 1)


def drop_dims(factor: Factor, dims: Iterable[int]) -> Factor:
    """Remove dimensions of size 1."""
    return factor.with_ids(factor.ids.squeeze(tuple(dims)))


def dim_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Match the dimensions of a view: runs of old dimensions that hold the same elements as runs of new ones."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        size_i = size_j = 1
        if i < len(old):
            size_i, i = old[i], i + 1
        if j < len(new):
            size_j, j = new[j], j + 1
        while size_i != size_j:
            if size_i < size_j and i < len(old):
                size_i, i = size_i * old[i], i + 1
            elif j < len(new):
                size_j, j = size_j * new[j], j + 1
            else:
                size_i, i = size_i * old[i], i + 1
        groups.append((range(first_i, i), range(first_j, j)))
    return groups


def reshape_factor(factor: Factor, old: Sequence[int], new: Sequence[int]) -> Factor:
    """The factor of a tensor of shape ``old`` after it was viewed as ``new``."""
    ids = factor.ids
    target: list[int] = []
    for before, after in dim_groups(old, new):
        if any(ids.shape[dim] > 1 for dim in before):
            ids = np.broadcast_to(ids, [old[dim] if dim in before else size for dim, size in enumerate(ids.shape)])
            target += [new[dim] for dim in after]
        else:
            target += [1] * len(after)
    ids = ids.reshape(target)
    for dim, size in enumerate(ids.shape):
        if size > 1:
            first = ids.take([0], axis=dim)
            if (ids == first).all():
                ids = first
    return factor.with_ids(ids)


def full_ids(factor: Factor, shape: Sequence[int], dims: Iterable[int]) -> Ids:
    """The factor's ids, expanded to the full size along ``dims``."""
    return np.broadcast_to(
        factor.ids, [shape[dim] if dim in set(dims) else size for dim, size in enumerate(factor.ids.shape)]
    )
