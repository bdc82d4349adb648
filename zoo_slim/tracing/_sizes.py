"""What the model's code demands of the sizes of a slim network.

A slim network runs the same Python code. `x.view(x.shape[0], -1)` still fits it, `x.view(-1, 512)` does not, and
`x.view(-1, y.shape[1])` does when as many channels of `x` go as of `y`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo_slim.tracing._dims import Dim, Term
from zoo_slim.tracing._ids import FROZEN, ChannelIds, Ids

__all__ = ["SizeRules"]

_EPSILON = 1e-6


class Product(NamedTuple):
    """A demand: ``left * right == whole``, all sums of terms; the values are those of the original."""

    left: Dim
    right: Dim
    whole: Sequence[Term]
    reason: str


class Grid(NamedTuple):
    """Ids over several dimensions of a view, and the sizes that were asked of these."""

    ids: Ids
    sizes: Sequence[int | None]


def lines(ids: Ids) -> dict[int, Ids]:
    """The dimensions along which ids vary, each with the ids of its first line."""
    found = {}
    for dim, size in enumerate(ids.shape):
        if size > 1 and (ids != ids.take([0], axis=dim)).any():
            found[dim] = ids[tuple(slice(None) if axis == dim else 0 for axis in range(ids.ndim))]
    return found


class SizeRules:
    """What must stay constant, or divisible, whatever is removed. Settled when the trace is complete."""

    def __init__(self, ids: ChannelIds) -> None:
        self.ids = ids
        self._constant: list[tuple[Sequence[Term], str]] = []
        self._divisible: list[tuple[Sequence[Term], int, str]] = []
        self._products: list[Product] = []
        self._ratios: list[tuple[Dim, Dim]] = []
        self._grids: list[Grid] = []

    def constant(self, terms: Sequence[Term], reason: str) -> None:
        """The sum of ``terms`` must not change."""
        if terms:
            self._constant.append((terms, reason))

    def divisible(self, terms: Sequence[Term], by: int, reason: str) -> None:
        """The sum of ``terms`` is a multiple of ``by`` and must stay one."""
        if by > 1:
            self._divisible.append((terms, by, reason))

    def product(self, left: Dim, right: Dim, whole: Sequence[Term], reason: str) -> None:
        """``left * right`` must stay equal to the sum of ``whole``."""
        self._products.append(Product(left, right, whole, reason))

    def ratio(self, whole: Dim, part: Dim) -> None:
        """``whole`` is a multiple of ``part`` and must stay one."""
        self._ratios.append((whole, part))

    def grid(self, ids: Ids, sizes: Sequence[int | None]) -> None:
        """Only whole rows of ``ids`` may go, across all dimensions but one. ``sizes``: what was asked of each."""
        self._grids.append(Grid(ids, sizes))

    def total(self, terms: Sequence[Term]) -> tuple[Ids, NDArray[np.float64]]:
        """How much the sum of ``terms`` loses with each class that may go: roots, ascending, and amounts, none 0."""
        counted = [self._counted(term) for term in terms]
        if not counted:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        flat = np.concatenate([roots for roots, _ in counted])
        shares = np.concatenate([np.full(roots.size, share) for roots, share in counted])
        roots, inverse = np.unique(flat, return_inverse=True)
        amounts = np.bincount(inverse, weights=shares, minlength=len(roots))
        live = (roots != FROZEN) & (np.abs(amounts) > _EPSILON)
        return roots[live], amounts[live]

    def _counted(self, term: Term) -> tuple[Ids, float]:
        """The roots that a term counts, and what each counts for."""
        roots = self.ids.find(term.ids)
        if term.dim is None:
            return roots.ravel(), term.share
        varying = lines(roots)
        if term.dim not in varying:
            return np.zeros(0, dtype=np.int64), 0.0
        if len(varying) == 1:
            return varying[term.dim], term.share
        return roots.ravel(), term.share * roots.shape[term.dim] / roots.size

    def settle(self, equal: Sequence[Ids]) -> None:
        """Freeze what would break a demand, until nothing does.

        Args:
            equal: arrays ``[rows, n]`` of ids; all rows keep equally many.
        """
        while True:
            self._settle_grids()
            # What is settled as constant by the first demands decides what the later ones come down to.
            if not (
                self._freeze_sums(self._constant, equal)
                or self._freeze_sums(self._linear_products(), equal)
                or self._freeze_odd([*self._divisible, *self._constant_ratios()], equal)
            ):
                return

    def _freeze_sums(self, demands: Sequence[tuple[Sequence[Term], str]], equal: Sequence[Ids]) -> bool:
        """Freeze what changes a sum that must stay. Returns whether anything does."""
        changed = False
        for terms, reason in demands:
            roots, amounts = self.total(terms)
            if len(roots) and not self._follows(roots, amounts, equal):
                self.ids.freeze(roots, reason)
                changed = True
        return changed

    def _freeze_odd(self, demands: Sequence[tuple[Sequence[Term], int, str]], equal: Sequence[Ids]) -> bool:
        """Freeze what changes a sum by less than the number that it must stay a multiple of."""
        changed = False
        for terms, by, reason in demands:
            roots, amounts = self.total(terms)
            odd = np.abs(amounts / by - np.round(amounts / by)) > _EPSILON
            if odd.any() and not self._rows_of(terms, by, equal):
                self.ids.freeze(roots[odd], reason)
                changed = True
        return changed

    def _settle_grids(self) -> None:
        """Choose the dimension of each grid from which rows go, and tie the size that was asked of it to them.

        What the rest of the network has decided comes first. A grid that is still open loses rows along a dimension of
        which others lose some, or else along the widest.
        """
        opened, pending = False, list(self._grids)
        while pending:
            left = []
            progress = False
            for grid in pending:
                roots = self.ids.find(grid.ids)
                varying = lines(roots)
                if len(varying) > 1 and opened:
                    chosen = max(varying, key=lambda dim: (self._in_use(grid.sizes[dim]), roots.shape[dim]))
                    for dim in varying:
                        if dim != chosen:
                            self.ids.unify(roots, roots.take([0], axis=dim))
                    varying = lines(self.ids.find(grid.ids))
                if len(varying) > 1:
                    left.append(grid)
                    continue
                progress = True
                for dim, line in varying.items():
                    size = grid.sizes[dim]
                    if isinstance(size, Dim):
                        size.bind(line)
            opened = not progress
            pending = left

    def _in_use(self, size: int | None) -> bool:
        """Whether a size is that of an axis of tensors of which something may go."""
        if not isinstance(size, Dim) or size.axis is None:
            return False
        roots = self.ids.find(size.axis)
        return bool(((roots != FROZEN) & (roots < self.ids.attributes_from)).any())

    def _linear_products(self) -> list[tuple[Sequence[Term], str]]:
        """What products, and quotients, come down to where one of their sides is settled as constant."""
        found: list[tuple[Sequence[Term], str]] = []
        for left, right, whole, reason in self._products:
            moving, other = left, right
            roots, others = self.total(left.terms)[0], self.total(right.terms)[0]
            if not len(roots) or (len(others) and (roots >= self.ids.attributes_from).all()):
                moving, other, roots, others = right, left, others, roots
            if len(roots) and len(others):
                self.ids.freeze(others, f"{reason}: it is one of two factors of a size")
            times = int.__add__(other, 0)
            found.append(([*moving.scaled(times), *(term._replace(share=-term.share) for term in whole)], reason))
        for whole_size, part in self._ratios:
            if len(self.total(part.terms)[0]):
                times = int.__floordiv__(whole_size, part)
                found.append(([*whole_size.terms, *part.scaled(-times)], "its size must be a multiple of another"))
        return found

    def _constant_ratios(self) -> list[tuple[Sequence[Term], int, str]]:
        return [
            (whole.terms, int.__add__(part, 0), "its size must be a multiple of another")
            for whole, part in self._ratios
            if not len(self.total(part.terms)[0])
        ]

    def _follows(self, roots: Ids, amounts: NDArray[np.float64], equal: Sequence[Ids]) -> bool:
        """Whether the sum is constant because rows keep equally many: a combination of differences of such rows."""
        known = set(roots.tolist())
        pending = [self.ids.find(rows) for rows in equal]
        relations: list[tuple[Ids, NDArray[np.float64]]] = []
        grown = True
        while grown:
            grown = False
            for rows in list(pending):
                if not known.isdisjoint(rows.ravel().tolist()):
                    pending = [other for other in pending if other is not rows]
                    grown = True
                    for row in rows[1:]:
                        relation = self.total([Term(1.0, row), Term(-1.0, rows[0])])
                        relations.append(relation)
                        known.update(relation[0].tolist())
        if not relations:
            return False
        order = np.asarray(sorted(known), dtype=np.int64)
        matrix, target = np.zeros((len(order), len(relations))), np.zeros(len(order))
        for column, (where, values) in enumerate(relations):
            matrix[np.searchsorted(order, where), column] = values
        target[np.searchsorted(order, roots)] = amounts
        solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
        return bool(np.abs(matrix @ solution - target).max() < _EPSILON)

    def _rows_of(self, terms: Sequence[Term], by: int, equal: Sequence[Ids]) -> bool:
        """Whether the sum is that of rows that keep equally many, and the number of rows is a multiple of ``by``."""
        return any(len(rows) % by == 0 and not len(self.total([*terms, Term(-1.0, rows)])[0]) for rows in equal)
