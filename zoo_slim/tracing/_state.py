"""What a trace knows: the label of every tensor, and what the operations said about the channels."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from zoo_slim.tracing._ids import ChannelIds, Ids
from zoo_slim.tracing._labels import Factor, Label, full_ids, support

__all__ = ["Convolution", "ShapeContext", "TraceState"]


@dataclass(frozen=True)
class Convolution:
    """A grouped convolution met on the way: ids of its input and output channels, flat."""

    weight: str | None
    groups: int
    inputs: Ids
    outputs: Ids


@dataclass(frozen=True)
class ShapeContext:
    """What the Python call behind the present operations says of its shape arguments.

    Attributes:
        fixed: output dimensions whose size is a constant in the code; `None` means all of them.
        equal_parts: a split into as many parts of equal size, whatever the size of the whole.
    """

    fixed: frozenset[int] | None = frozenset()
    equal_parts: bool = False

    def fixes(self, dim: int) -> bool:
        return self.fixed is None or dim in self.fixed


@dataclass
class TraceState:
    """Labels by tensor, and the facts gathered so far."""

    ids: ChannelIds = field(default_factory=ChannelIds)
    convolutions: list[Convolution] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    equal: list[Ids] = field(default_factory=list)
    reads: set[tuple[str, int]] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    minted: dict[str, Label] = field(default_factory=dict)
    context: ShapeContext = field(default_factory=ShapeContext)
    modules: list[str] = field(default_factory=list)
    _labels: dict[int, tuple[Tensor, Label]] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def mint_parameters(self, model: nn.Module) -> None:
        """Give every parameter and buffer one factor per axis; grouped weights get ids per group on axis 1."""
        for prefix, module in model.named_modules():
            groups = getattr(module, "groups", 1)
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for local, tensor in own:
                name = f"{prefix}.{local}" if prefix else local
                if id(tensor) not in self._names:
                    ragged = groups if local == "weight" and tensor.ndim >= 3 and isinstance(groups, int) else 1
                    self._names[id(tensor)] = name
                    self.minted[name] = self._mint(name, tensor.shape, ragged)
                    self._labels[id(tensor)] = (tensor, self.minted[name])

    def _mint(self, name: str, shape: Sequence[int], groups: int) -> Label:
        factors = []
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            if axis == 1 and groups > 1 and shape[0] % groups == 0:
                ids = self.ids.mint(groups * size).reshape(groups, size).repeat(shape[0] // groups, axis=0)
            else:
                ids = self.ids.mint(size).reshape([size if dim == axis else 1 for dim in range(axis + 1)])
            ids = ids.reshape(*ids.shape, *[1] * (len(shape) - ids.ndim))
            factors.append(Factor(ids, frozenset({(name, axis)})))
        return tuple(factors)

    def name(self, tensor: Tensor | None) -> str | None:
        """The state-dict name of a parameter or buffer, `None` for any other tensor."""
        return None if tensor is None else self._names.get(id(tensor))

    def label(self, tensor: Tensor) -> Label:
        if name := self._names.get(id(tensor)):
            self.used.add(name)
        found = self._labels.get(id(tensor))
        return found[1] if found else ()

    def set(self, tensor: Tensor, label: Iterable[Factor]) -> None:
        """Label a tensor. Ids are made canonical; factors that are frozen throughout are dropped."""
        if id(tensor) in self._names:
            return
        factors = []
        for factor in label:
            roots = self.ids.find(factor.ids)
            if roots.any():
                if roots.size == 1:
                    self.freeze(factor, "a channel axis shrunk to size 1")
                else:
                    factors.append(factor.with_ids(roots))
        self._labels[id(tensor)] = (tensor, tuple(factors))

    @property
    def where(self) -> str:
        return self.modules[-1] if self.modules else "the model"

    def freeze(self, factor: Factor, reason: str) -> None:
        self.ids.freeze(factor.ids, f"{reason}, in {self.where}")

    def freeze_all(self, tensors: Iterable[Tensor], reason: str) -> None:
        for tensor in tensors:
            for factor in self.label(tensor):
                self.freeze(factor, reason)

    def mark_inexact(self, factor: Factor, reason: str) -> None:
        self.ids.mark_inexact(factor.ids, f"{reason}, in {self.where}")

    def collapse(self, factor: Factor, dims: Iterable[int]) -> Factor:
        """Unify the factor's ids along ``dims``, which become of size 1."""
        for dim in sorted(set(dims) & support(factor)):
            first = factor.ids.take([0], axis=dim)
            self.ids.unify(factor.ids, first)
            factor = factor.with_ids(first)
        return factor

    def keep_size(self, factor: Factor, dims: Iterable[int], reason: str) -> Factor | None:
        """Forbid that ``dims`` get shorter: whole rows across them go, or, where that leaves no row, nothing."""
        factor = self.collapse(factor, dims) if support(factor) - set(dims) else factor
        if not support(factor) or support(factor) <= set(dims):
            self.freeze(factor, reason)
            return None
        return factor

    def along(self, tensor: Tensor, dim: int) -> list[Factor]:
        """The factors that vary along ``dim`` alone. Those that vary along others too are frozen."""
        chosen = []
        for factor in self.label(tensor):
            if support(factor) == {dim}:
                chosen.append(factor)
            elif dim in support(factor):
                self.freeze(factor, "channels that differ along several dimensions")
        return chosen

    def flat(self, factors: Sequence[Factor], shape: Sequence[int], dim: int) -> list[Ids]:
        return [full_ids(factor, shape, [dim]).ravel() for factor in factors]

    def require_equal(self, ids: Ids) -> None:
        """Rows of ``ids``, shape ``[rows, n]``, must keep equally many."""
        if np.any(self.ids.find(ids)):
            self.equal.append(ids)

    @contextmanager
    def shapes(self, context: ShapeContext) -> Iterator[None]:
        before, self.context = self.context, context
        try:
            yield
        finally:
            self.context = before
