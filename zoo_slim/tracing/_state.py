"""What a trace knows: the label of every tensor, and what the operations said about the channels."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from zoo_slim.tracing._dims import Dim, Term
from zoo_slim.tracing._ids import ChannelIds, Ids
from zoo_slim.tracing._labels import Factor, Label, full_ids, support
from zoo_slim.tracing._sizes import SizeRules

__all__ = ["Convolution", "ShapeContext", "TraceState"]


@dataclass(frozen=True)
class Convolution:
    """A grouped convolution met on the way: ids of its input and output channels, flat.

    ``weight`` is the state-dict name of the weight, or the one that the executed layer's would have if it had one.
    """

    weight: str | None
    groups: int
    inputs: Ids
    outputs: Ids


@dataclass(frozen=True)
class ShapeContext:
    """What the Python call behind the present operations says of its shape arguments.

    Attributes:
        sizes: what was asked of each dimension of the output: an `int` is a constant in the code; None: nothing.
        unknown: the operation was called by code that is not Python's, as in a script function.
        resized: every dimension that a view changes has a constant size.
        parts: sizes of the parts of a split.
        equal_parts: a split into as many parts of equal size, whatever the size of the whole.
        groups: the number of groups of a convolution.
        exact: a slice must be as long as it is.
        ends: first and last position of slices that follow the tensor's own size.
        like: new tensors made on the way belong to this one, as a dropout's mask does.
    """

    sizes: tuple[int | None, ...] = ()
    unknown: bool = False
    resized: bool = False
    parts: tuple[int, ...] = ()
    equal_parts: bool = False
    groups: int = 1
    exact: bool = False
    ends: tuple[tuple[int, int], ...] = ()
    like: Tensor | None = None

    def asked(self, ndim: int) -> Sequence[int | None]:
        """What was asked of each dimension, if that was asked of a tensor of ``ndim`` dimensions."""
        return self.sizes if len(self.sizes) == ndim else [None] * ndim

    def fixed(self, ndim: int) -> set[int]:
        """Dimensions whose size is a constant in the code."""
        if self.unknown or (self.sizes and len(self.sizes) != ndim):
            return set(range(ndim))
        return {dim for dim, size in enumerate(self.sizes) if type(size) is int and size != -1}


def _ids_needed(shape: Sequence[int], groups: int) -> int:
    needed = sum(size for size in shape if size > 1)
    if groups > 1 and shape[0] % groups == 0 and len(shape) > 1 and shape[1] > 1:
        needed += (groups - 1) * shape[1]
    return needed


def _minted(name: str, shape: Sequence[int], groups: int, axes: int | None, ids: Ids) -> Label:
    """The label of a parameter: one factor for each axis. ``ids``: as many as are needed."""
    factors, first = [], 0
    for axis, size in enumerate(shape[:axes]):
        if size == 1:
            continue
        ragged = axis == 1 and groups > 1 and shape[0] % groups == 0
        own = ids[first : first + (groups * size if ragged else size)]
        first += len(own)
        if ragged:
            own = own.reshape(groups, size).repeat(shape[0] // groups, axis=0)
        else:
            own = own.reshape([size if dim == axis else 1 for dim in range(axis + 1)])
        own = own.reshape(*own.shape, *[1] * (len(shape) - own.ndim))
        factors.append(Factor(own, frozenset({(name, axis)})))
    return tuple(factors)


@dataclass
class TraceState:
    """Labels by tensor, and the facts gathered so far."""

    ids: ChannelIds = field(default_factory=ChannelIds)
    convolutions: list[Convolution] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    equal: list[Ids] = field(default_factory=list)
    reads: set[tuple[str, int]] = field(default_factory=set)
    normed: set[tuple[str, int]] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    minted: dict[str, Label] = field(default_factory=dict)
    sizes: dict[str, torch.Size] = field(default_factory=dict)
    context: ShapeContext = field(default_factory=lambda: ShapeContext(unknown=True))
    modules: list[tuple[str, nn.Module]] = field(default_factory=list)
    _labels: dict[int, tuple[Tensor, Label]] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _base: dict[int, int] = field(default_factory=dict)
    _aliases: dict[int, list[int]] = field(default_factory=dict)
    _weights: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rules = SizeRules(self.ids)

    def mint_parameters(self, model: nn.Module) -> None:
        """Give every parameter and buffer one factor per axis; grouped weights get ids per group on axis 1.

        The kernel's axes of convolution layers get none: nothing is removed there.
        """
        found: dict[int, tuple[str, Tensor, int, int | None, bool]] = {}
        for prefix, module in model.named_modules():
            convolution, script = isinstance(module, _ConvNd), isinstance(module, torch.jit.ScriptModule)
            for local, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                kernel = convolution and local == "weight"
                groups, axes = (int(module.groups), 2) if kernel else (1, None)
                name = f"{prefix}.{local}" if prefix else local
                found.setdefault(id(tensor), (name, tensor, groups, axes, script))
        ids = self.ids.mint(
            sum(_ids_needed(tensor.shape[:axes], groups) for _, tensor, groups, axes, _ in found.values())
        )
        first = 0
        for key, (name, tensor, groups, axes, script) in found.items():
            count = _ids_needed(tensor.shape[:axes], groups)
            label = _minted(name, tensor.shape, groups, axes, ids[first : first + count])
            first += count
            self._names[key], self.minted[name], self._labels[key] = name, label, (tensor, label)
            self.sizes[name] = tensor.shape  # a forward may put a buffer of another shape there
            if script:
                for factor in label:
                    self.ids.freeze(factor.ids, f"{name} belongs to a script module, which cannot be taken apart")

    def name(self, tensor: Tensor | None) -> str | None:
        """The state-dict name of a parameter or buffer, `None` for any other tensor."""
        return None if tensor is None else self._names.get(id(tensor))

    def label(self, tensor: Tensor) -> Label:
        if name := self._names.get(id(tensor)):
            self.used.add(name)
        return self.peek(tensor)

    def peek(self, tensor: Tensor) -> Label:
        """The label of a tensor that is not used by this."""
        found = self._labels.get(id(tensor))
        if found is None:
            return ()
        if any(len(support(factor)) > 1 for factor in found[1]):
            found = self._labels[id(tensor)] = (tensor, tuple(map(self._shrunk, found[1])))
        return found[1]

    def _shrunk(self, factor: Factor) -> Factor:
        """The factor without dimensions along which all has been unified, if others are left."""
        if len(support(factor)) < 2:
            return factor
        roots = whole = self.ids.find(factor.ids)
        for dim in support(factor):
            first = roots.take([0], axis=dim)
            if first.size > 1 and (roots == first).all():
                roots = first
        return factor if roots is whole else factor.with_ids(roots)  # the whole of a wide layer's weight is large

    def note_weights(self, tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Note that ``outputs`` were computed from weights alone, if all ``tensors`` were."""
        if self.are_weights(tensors):
            self._weights.update(map(id, outputs))

    def are_weights(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors are parameters or buffers, or were computed from these alone."""
        return all(id(tensor) in self._weights or id(tensor) in self._names for tensor in tensors)

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor is one of the model's, or came from an operation."""
        return id(tensor) in self._labels

    def adopt(self, tensor: Tensor) -> None:
        """Label a tensor that came from no operation: as the one is whose memory it is, as that of a new parameter."""
        memory = tensor.untyped_storage()._cdata
        sources = [held for held, label in self._labels.values() if label and held.untyped_storage()._cdata == memory]
        alike = (self.peek(held) for held in sources if (held.shape, held.stride()) == (tensor.shape, tensor.stride()))
        label = next(alike, None)
        if label is None:
            self.freeze_all(sources, "its memory is another tensor's, too")
        self.set(tensor, [Factor(factor.ids) for factor in label or ()])

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

    def view(self, source: Tensor, out: Tensor) -> None:
        """Note that ``out`` shares its memory with ``source``."""
        base = self._base.get(id(source), id(source))
        self._base[id(out)] = base
        self._aliases.setdefault(base, [base]).append(id(out))

    def written(self, tensor: Tensor) -> None:
        """After a write to ``tensor``, its views and what it is a view of may hold something where masks had zeros."""
        for key in self._aliases.get(self._base.get(id(tensor), id(tensor)), ()):
            if key != id(tensor) and key in self._labels:
                alias, label = self._labels[key]
                self._labels[key] = (alias, tuple(Factor(factor.ids) for factor in label))

    @property
    def where(self) -> str:
        return self.modules[-1][0] if self.modules else "the model"

    @property
    def layer(self) -> str | None:
        """The name of the convolution layer that is being executed."""
        return self.modules[-1][0] if self.modules and isinstance(self.modules[-1][1], _ConvNd) else None

    def freeze(self, factor: Factor, reason: str | None) -> None:
        self.ids.freeze(factor.ids, None if reason is None else f"{reason}, in {self.where}")

    def freeze_all(self, tensors: Iterable[Tensor], reason: str | None) -> None:
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

    def written_by(self, factors: list[Factor]) -> list[Factor]:
        """The factors of a weight that an output gets. Those that its own norm sums over count in what stays."""
        for factor in factors:
            if factor.reads & self.normed:
                self.mark_inexact(factor, "a weight normed over what it writes")
        return factors

    def flat(self, factors: Sequence[Factor], shape: Sequence[int], dim: int) -> list[Ids]:
        return [full_ids(factor, shape, [dim]).ravel() for factor in factors]

    def measure(self, label: Label, dim: int) -> tuple[list[Term], bool]:
        """How the size of a dimension follows from what is kept, and whether it does so linearly."""
        terms = [
            Term(1.0, factor.ids, dim) for factor in label if dim in support(factor) and self.ids.find(factor.ids).any()
        ]
        return terms, len(terms) < 2

    def size(self, tensor: Tensor, dim: int) -> int:
        """The size of a dimension: a `Dim` where some of it may be removed."""
        value = int(tensor.shape[dim])
        terms, linear = self.measure(self.peek(tensor), dim)
        if not terms:
            return value
        axis = terms[0].ids.ravel() if linear and terms[0].ids.size == value else None
        return Dim(value, self.rules, terms, linear=linear, axis=axis)

    def require_size(self, label: Label, dim: int, size: Dim, reason: str) -> None:
        """A dimension must stay of the size that the code gives it. An attribute that holds the size is tied to it."""
        for factor in label:
            if support(factor) == {dim} and len(factor.ids.ravel()) == size:
                size.bind(factor.ids.ravel())
        terms, linear = self.measure(label, dim)
        size.equals(terms, linear, f"{reason}, in {self.where}")

    def hold_size(self, tensor: Tensor, dim: int, reason: str) -> None:
        """A dimension must stay as long as it is: what goes goes from others."""
        for factor in self.label(tensor):
            if dim in support(factor):
                self.keep_size(factor, {dim}, f"{reason}, in {self.where}")

    def require_count(self, tensor: Tensor, dim: int, places: range, count: int) -> None:
        """As many of some positions must stay as ``count`` says, a constant or a `Dim`."""
        label = [
            factor.with_ids(factor.ids.take(places, axis=dim)) for factor in self.peek(tensor) if dim in support(factor)
        ]
        if isinstance(count, Dim):
            self.require_size(tuple(label), dim, count, "the code slices it at a position")
        elif len(places):
            for factor in label:
                self.freeze(factor, "a slice at positions that are constants in the code")

    def grown(self, label: list[Factor], out: Tensor, dims: Iterable[int]) -> None:
        """Label dimensions that did not exist before, or were of size 1, by the size that was asked of them."""
        for dim in dims:
            size = self.context.asked(out.ndim)[dim]
            if isinstance(size, Dim) and size.axis is not None:
                label.append(Factor(size.axis.reshape([-1 if axis == dim else 1 for axis in range(out.ndim)])))
            elif isinstance(size, Dim):
                size.hold()
            elif self.context.unknown:
                self._freeze_width(int(out.shape[dim]))

    def _freeze_width(self, width: int) -> None:
        """Freeze all channel axes of a width that may have been asked for by code that is not seen."""
        for _, label in list(self._labels.values()):
            for factor in label:
                if width in factor.ids.shape:
                    self.freeze(factor, "its size is used by code that is not Python's")

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
