"""A union-find over flat integer arrays, with every operation vectorised."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "UnionFind"]

Ids = NDArray[np.int64]


class UnionFind:
    """Disjoint classes of the integers ``0 … size - 1``. The root of a class is its smallest member."""

    def __init__(self, size: int = 0) -> None:
        self._parent: Ids = np.arange(size, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._parent)

    def mint(self, count: int) -> Ids:
        """Return ``count`` new integers, each a class of its own."""
        fresh = np.arange(len(self._parent), len(self._parent) + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, fresh])
        return fresh

    def find(self, ids: Ids) -> Ids:
        """Return the roots of ``ids``, in an array of the same shape."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[ids] = roots
        return roots

    def unify(self, left: Ids, right: Ids) -> None:
        """Join the classes of ``left`` and ``right`` position by position; the shapes broadcast."""
        a, b = (part.ravel() for part in np.broadcast_arrays(left, right))
        a, b = self.find(a), self.find(b)
        while (differ := a != b).any():
            a, b = a[differ], b[differ]
            self._parent[np.maximum(a, b)] = np.minimum(a, b)
            # Of several hooks on one root the last wins: what lost is still unequal, and is tried again.
            a, b = self.find(a), self.find(b)
