"""Sizes that remember which channels they count.

Sizes asked of a tensor, and integers that modules hold as attributes, are given out as `Dim`, an `int`: what the code
computes from them, and where it uses them, says how sizes of the slim network must follow each other.
"""

import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo_slim.tracing._ids import Ids

if TYPE_CHECKING:
    from zoo_slim.tracing._sizes import SizeRules

__all__ = ["Dim", "Term", "held_by_readers"]


class Term(NamedTuple):
    """A share of how many of some ids are kept, each counted as often as it occurs.

    With ``dim``, ``ids`` belong to the dimensions of a tensor, and the size of that one is meant: where whole rows
    across it go, nothing is lost; where ids vary along it alone, each is counted once.
    """

    share: float
    ids: Ids
    dim: int | None = None


def _collected(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The same sum with one term for each array of ids, none 0."""
    found: dict[tuple[int, int | None], Term] = {}
    for term in terms:
        key = id(term.ids), term.dim
        found[key] = term._replace(share=term.share + (found[key].share if key in found else 0.0))
    return tuple(term for term in found.values() if term.share)


class Dim(int):
    """A size that follows a tensor's own, or that an attribute holds.

    It stays a `Dim` under sums, products and exact quotients. Any other use of its value, in a comparison or as a
    number, holds it: the channels that it counts must then stay as many as they are.

    Attributes:
        terms: the size is a constant plus the sum of these, if it is ``linear``.
        axis: the ids of an axis of this size, or of minus this size, flat; None where there is none.
        free: the axis is an attribute's. It becomes that of the tensors that are given its size.
        form: ``("*", a, b)`` or ``("/", a, b)`` where the size is not linear but a product or quotient of sizes
            that are. Without terms and form it depends on the ids of the terms in some way.
    """

    rules: "SizeRules"
    terms: tuple[Term, ...]
    linear: bool
    axis: Ids | None
    free: bool
    form: "tuple[str, Dim, Dim] | None"

    def __new__(
        cls,
        value: int,
        rules: "SizeRules",
        terms: Sequence[Term],
        *,
        linear: bool = True,
        axis: Ids | None = None,
        free: bool = False,
        form: "tuple[str, Dim, Dim] | None" = None,
    ) -> "Dim":
        dim = super().__new__(cls, value)
        dim.rules, dim.terms, dim.linear, dim.axis = rules, tuple(terms), linear, axis
        dim.free, dim.form = free and axis is not None, form
        return dim

    def __deepcopy__(self, memo: object) -> "Dim":
        return self

    def hold(self, reason: str = "its size is used as a number") -> None:
        """Forbid that this size changes."""
        if self.linear:
            self.rules.constant(self.terms, reason)
        else:
            for term in self.terms:
                self.rules.ids.freeze(term.ids, reason)

    def bind(self, axis: Ids) -> None:
        """Tie an attribute to the axis that is given its size, ids flat. Other sizes are left as they are."""
        if self.free and self.axis is not None and axis.shape == self.axis.shape:
            self.rules.ids.unify(self.axis, axis)

    def equals(self, terms: Sequence[Term], linear: bool, reason: str) -> None:
        """Demand that this stays equal to the sum of ``terms``."""
        if linear and self.linear:
            self.rules.constant([*terms, *self.scaled(-1)], reason)
        elif linear and self.form is not None:
            kind, left, right = self.form
            if kind == "*":
                self.rules.product(left, right, terms, reason)
            else:
                value = int.__floordiv__(left, right)
                self.rules.product(right, Dim(value, self.rules, terms), left.terms, reason)
        else:
            for term in (*terms, *self.terms):
                self.rules.ids.freeze(term.ids, reason)

    def scaled(self, share: float) -> tuple[Term, ...]:
        """The terms of a multiple of this size."""
        return tuple(term._replace(share=share * term.share) for term in self.terms)

    def _sum(self, other: Any, mine: int, theirs: int) -> Any:
        if not isinstance(other, int):
            self.hold()
            return NotImplemented
        value = int.__add__(int.__mul__(self, mine), int.__mul__(other, theirs))
        if not isinstance(other, Dim):
            same = value == self and mine == 1
            return self if same else Dim(value, self.rules, self.scaled(mine), linear=self.linear)
        axis, free = None, False
        if mine == theirs == 1 and self.axis is not None and other.axis is not None:
            axis, free = np.concatenate([self.axis, other.axis]), self.free or other.free
        terms = _collected(self.scaled(mine) + other.scaled(theirs))
        linear = self.linear and other.linear
        if axis is None and linear and len(terms) == 1 and terms[0].share == 1 and terms[0].ids.size == value:
            # Parts of an attribute that add up to the whole of it.
            axis, free = terms[0].ids, bool((terms[0].ids >= self.rules.ids.attributes_from).all())
        return Dim(value, self.rules, terms, linear=linear, axis=axis, free=free)

    def __add__(self, other: Any) -> Any:
        return self._sum(other, 1, 1)

    def __sub__(self, other: Any) -> Any:
        return self._sum(other, 1, -1)

    def __rsub__(self, other: Any) -> Any:
        return self._sum(other, -1, 1)

    def __neg__(self) -> "Dim":
        minus = self.scaled(-1)
        return Dim(int.__neg__(self), self.rules, minus, linear=self.linear, axis=self.axis, free=self.free)

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            self.hold()
            return NotImplemented
        value = int.__mul__(self, other)
        if isinstance(other, Dim):
            for one, two in ((self, other), (other, self)):
                kind, whole, part = one.form or ("", one, one)
                same = kind == "/" and two.linear and int.__eq__(part, two)
                if same and not len(self.rules.total([*part.terms, *two.scaled(-1)])[0]):
                    return whole
            form = ("*", self, other) if self.linear and other.linear else None
            return Dim(value, self.rules, self.terms + other.terms, linear=False, form=form)
        if self.form is not None and self.form[0] == "*":
            return Dim(value, self.rules, self.terms, linear=False, form=("*", self.form[1] * other, self.form[2]))
        axis = np.tile(self.axis, other) if self.axis is not None and 0 < other < 1 << 12 else None
        return Dim(value, self.rules, self.scaled(other), linear=self.linear, axis=axis, free=self.free)

    def __floordiv__(self, other: Any) -> Any:
        value = int.__floordiv__(self, other)
        if self._is_multiple(other):
            return Dim(value, self.rules, self.terms + other.terms, linear=False, form=("/", self, other))
        if self._divides(other):
            return Dim(value, self.rules, self.scaled(1 / other))
        return value

    def __mod__(self, other: Any) -> Any:
        if self._is_multiple(other):
            self.rules.ratio(self, other)
        else:
            self._divides(other)
        return int.__mod__(self, other)

    def _is_multiple(self, other: Any) -> bool:
        if not isinstance(other, Dim) or not (self.linear and other.linear and int.__bool__(other)):
            return False
        return int.__mod__(self, other) == 0

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
        if name in ("__eq__", "__ne__") and isinstance(other, Dim) and other.rules is not self.rules:
            return name == "__ne__"  # of another trace: a cache must not give it out again
        # torch's own layers compare with attributes that slimming sets; 0 and 1 are asked about for empty tensors.
        trusted = sys._getframe(1).f_globals.get("__name__", "").startswith(("torch.", "zoo_slim.tracing."))
        if not trusted and not (type(other) is int and other in (0, 1)):
            if name in ("__eq__", "__ne__") and isinstance(other, Dim) and int.__eq__(self, other):
                _bind_equal(self, other)
            difference = self._sum(other, 1, -1)
            if isinstance(difference, Dim):
                difference.hold("the code compares its size")
        return getattr(int, name)(self, other)

    return method


def _bind_equal(one: Dim, other: Dim) -> None:
    """An attribute that the code expects to equal a size belongs to that axis."""
    for attribute, size in ((one, other), (other, one)):
        if size.axis is not None:
            attribute.bind(size.axis)


for _name in ("truediv", "rtruediv", "rfloordiv", "rmod", "divmod", "rdivmod", "pow", "rpow", "abs", "int", "float",
              "round", "trunc", "ceil", "floor", "invert", "lshift", "rshift", "and", "or", "xor",
              "rlshift", "rrshift", "rand", "ror", "rxor"):  # fmt: skip
    setattr(Dim, f"__{_name}__", _number(f"__{_name}__"))
for _name in ("bit_length", "bit_count", "as_integer_ratio", "to_bytes", "conjugate"):
    setattr(Dim, _name, _number(_name))
for _name in ("numerator", "real"):
    setattr(Dim, _name, property(_number("__int__")))
_READERS = (
    *((math, name) for name in ("log", "log2", "log10", "isqrt", "gcd", "lcm", "comb", "perm", "factorial")),
    (operator, "index"),
)
"""Functions in C that read an int's digits without asking it."""


@contextmanager
def held_by_readers() -> Iterator[None]:
    """Let these functions hold the sizes they are given."""

    def asking(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values: function(*(int(value) if isinstance(value, Dim) else value for value in values))

    before = [(module, name, getattr(module, name)) for module, name in _READERS]
    try:
        for module, name, function in before:
            setattr(module, name, asking(function))
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Dim, f"__{_name}__", _comparison(f"__{_name}__"))
