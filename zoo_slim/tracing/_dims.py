"""Sizes that follow from how many channels are kept, and what the model's code demands of them.

A slim network runs the same Python code. `x.view(x.shape[0], -1)` still fits it, `x.view(-1, 512)` does not, and
`x.view(-1, y.shape[1])` does when as many channels of `x` go as of `y`. Sizes asked of a tensor are therefore given out
as `Dim`, an `int` that remembers which channels it counts.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_slim.tracing._ids import FROZEN, ChannelIds, Ids

__all__ = ["Dim", "SizeRules", "Term"]

Term = tuple[float, Ids]
"""A share, and ids: that share of how many of them are kept, each counted as often as it occurs."""
_EPSILON = 1e-6


class SizeRules:
    """What must stay constant, or divisible, whatever is removed. Settled when the trace is complete."""

    def __init__(self, ids: ChannelIds) -> None:
        self.ids = ids
        self._constant: list[tuple[Sequence[Term], str]] = []
        self._divisible: list[tuple[Sequence[Term], int, str]] = []

    def constant(self, terms: Sequence[Term], reason: str) -> None:
        """The sum of ``terms`` must not change."""
        if terms:
            self._constant.append((terms, reason))

    def divisible(self, terms: Sequence[Term], by: int, reason: str) -> None:
        """The sum of ``terms`` is a multiple of ``by`` and must stay one."""
        if by > 1:
            self._divisible.append((terms, by, reason))

    def total(self, terms: Sequence[Term]) -> tuple[Ids, NDArray[np.float64]]:
        """How much the sum of ``terms`` loses with each class that may go: roots, ascending, and amounts, none 0."""
        if not terms:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        flat = np.concatenate([self.ids.find(ids).ravel() for _, ids in terms])
        shares = np.concatenate([np.full(ids.size, share) for share, ids in terms])
        roots, inverse = np.unique(flat, return_inverse=True)
        amounts = np.bincount(inverse, weights=shares, minlength=len(roots))
        live = (roots != FROZEN) & (np.abs(amounts) > _EPSILON)
        return roots[live], amounts[live]

    def settle(self, equal: Sequence[Ids]) -> None:
        """Freeze what would break a demand, until nothing does.

        Args:
            equal: arrays ``[rows, n]`` of ids; all rows keep equally many.
        """
        changed = True
        while changed:
            changed = False
            for terms, reason in self._constant:
                roots, amounts = self.total(terms)
                if len(roots) and not self._follows(roots, amounts, equal):
                    self.ids.freeze(roots, reason)
                    changed = True
            for terms, by, reason in self._divisible:
                roots, amounts = self.total(terms)
                odd = np.abs(amounts / by - np.round(amounts / by)) > _EPSILON
                if odd.any() and not self._rows_of(terms, by, equal):
                    self.ids.freeze(roots[odd], reason)
                    changed = True

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
                        relation = self.total([(1.0, row), (-1.0, rows[0])])
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
        return any(len(rows) % by == 0 and not len(self.total([*terms, (-1.0, rows)])[0]) for rows in equal)


class Dim(int):
    """A size that follows a tensor's own.

    It stays a `Dim` under sums, and products and quotients with constants. Any other use of its value, in a comparison
    or as a number, holds it: the channels that it counts must then stay as many as they are.

    Attributes:
        terms: the size is a constant plus the sum of these.
        linear: whether it is; otherwise it depends on the ids of the terms in some way.
        ids: the ids of the axis that was asked for its size, flat; None for what was computed from that.
    """

    rules: SizeRules
    terms: tuple[Term, ...]
    linear: bool
    ids: Ids | None

    def __new__(
        cls, value: int, rules: SizeRules, terms: Sequence[Term], *, linear: bool = True, ids: Ids | None = None
    ) -> "Dim":
        dim = super().__new__(cls, value)
        dim.rules, dim.terms, dim.linear, dim.ids = rules, tuple(terms), linear, ids
        return dim

    def hold(self, reason: str = "its size is used as a number") -> None:
        """Forbid that this size changes."""
        if self.linear:
            self.rules.constant(self.terms, reason)
        else:
            for _, ids in self.terms:
                self.rules.ids.freeze(ids, reason)

    def _scaled(self, share: float) -> tuple[Term, ...]:
        return tuple((share * part, ids) for part, ids in self.terms)

    def _sum(self, other: Any, mine: int, theirs: int) -> Any:
        if not isinstance(other, int):
            self.hold()
            return NotImplemented
        value = int.__add__(int.__mul__(self, mine), int.__mul__(other, theirs))
        terms = self._scaled(mine) + (other._scaled(theirs) if isinstance(other, Dim) else ())
        return Dim(value, self.rules, terms, linear=self.linear and getattr(other, "linear", True))

    def __add__(self, other: Any) -> Any:
        return self._sum(other, 1, 1)

    def __sub__(self, other: Any) -> Any:
        return self._sum(other, 1, -1)

    def __rsub__(self, other: Any) -> Any:
        return self._sum(other, -1, 1)

    def __neg__(self) -> "Dim":
        return Dim(int.__neg__(self), self.rules, self._scaled(-1), linear=self.linear)

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            self.hold()
            return NotImplemented
        value = int.__mul__(self, other)
        if isinstance(other, Dim):
            return Dim(value, self.rules, self.terms + other.terms, linear=False)
        return Dim(value, self.rules, self._scaled(other), linear=self.linear)

    def __floordiv__(self, other: Any) -> Any:
        if self._divides(other):
            return Dim(int.__floordiv__(self, other), self.rules, self._scaled(1 / other))
        return int.__floordiv__(self, other)

    def __mod__(self, other: Any) -> Any:
        self._divides(other)
        return int.__mod__(self, other)

    def _divides(self, other: Any) -> bool:
        """Whether it is a multiple of a constant, and is asked to stay one. Otherwise it is held."""
        if type(other) is int and other > 0 and self.linear and int.__mod__(self, other) == 0:
            self.rules.divisible(self.terms, other, "its size must be a multiple of a constant")
            return True
        self.hold()
        if isinstance(other, Dim):
            other.hold()
        return False

    __radd__ = __add__
    __rmul__ = __mul__
    __hash__ = int.__hash__


def _number(name: str) -> Callable[..., Any]:
    """An operation that uses the value as a number."""

    def method(self: Dim, *others: Any) -> Any:
        for part in (self, *others):
            if isinstance(part, Dim):
                part.hold()
        return getattr(int, name)(self, *others)

    return method


def _comparison(name: str) -> Callable[[Dim, Any], Any]:
    def method(self: Dim, other: Any) -> Any:
        # torch's own layers compare with attributes that slimming sets; 0 and 1 are asked about for empty tensors.
        trusted = sys._getframe(1).f_globals.get("__name__", "").startswith("torch.")
        if not trusted and not (type(other) is int and other in (0, 1)):
            difference = self._sum(other, 1, -1)
            if isinstance(difference, Dim):
                difference.hold("the code compares its size")
        return getattr(int, name)(self, other)

    return method


for _name in ("truediv", "rtruediv", "rfloordiv", "rmod", "divmod", "rdivmod", "pow", "rpow", "abs", "int", "float",
              "round", "trunc", "ceil", "floor", "lshift", "rshift", "and", "or", "xor"):  # fmt: skip
    setattr(Dim, f"__{_name}__", _number(f"__{_name}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Dim, f"__{_name}__", _comparison(f"__{_name}__"))
