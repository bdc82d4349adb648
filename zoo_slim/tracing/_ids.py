"""Channel ids: classes of channels that go together, and why some may not go."""

import sys

import numpy as np
from numpy.typing import NDArray

from zoo_slim._union_find import Ids, UnionFind

__all__ = ["FROZEN", "ChannelIds", "Ids"]

FROZEN = 0
"""The id of everything that may not be removed. It is the root of its class because it is the smallest id."""


class ChannelIds(UnionFind):
    """Classes of channels that can only be removed together. Id 0 is `FROZEN`."""

    def __init__(self) -> None:
        super().__init__(1)
        self._inexact: NDArray[np.bool_] = np.zeros(1, dtype=bool)
        self.reasons: list[tuple[str, int]] = []
        self.attributes_from = sys.maxsize
        """The first id of attributes. A class whose root, its smallest id, is not below has no position in a tensor."""

    def mint(self, count: int) -> Ids:
        self._inexact = np.concatenate([self._inexact, np.zeros(count, dtype=bool)])
        return super().mint(count)

    def freeze(self, ids: Ids, reason: str | None) -> None:
        """Forbid removal of ``ids``, for ``reason``; None where they are no channels."""
        roots = np.unique(self.find(ids))
        roots = roots[roots != FROZEN]
        if len(roots):
            if reason is not None:
                self._note(roots, reason)
            self._parent[roots] = FROZEN

    def mark_inexact(self, ids: Ids, reason: str) -> None:
        """Note that removing ``ids`` cannot equal masking them, for ``reason``."""
        fresh = np.unique(ids[~self._inexact[ids]])
        fresh = fresh[self.find(fresh) != FROZEN]
        if len(fresh):
            self._note(fresh, reason)
            self._inexact[fresh] = True

    def _note(self, ids: Ids, reason: str) -> None:
        if count := int((ids < self.attributes_from).sum()):
            self.reasons.append((reason, count))

    def inexact_roots(self) -> Ids:
        """The roots of all classes with an inexact member."""
        roots = np.unique(self.find(np.flatnonzero(self._inexact)))
        return roots[roots != FROZEN]
