"""Which channels of the original network each tensor of the slim network keeps, and which blocks are gone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim._networks import copy_of, unwrap
from zoo_slim._replacement import conflict, is_within, replacement

__all__ = ["Attribute", "PruningResult", "apply_result", "set_attributes", "slice_tensor"]

Attribute = int | tuple[int, ...]


@dataclass(frozen=True)
class PruningResult:
    """What to keep of a model, and what to set on its modules. Needs no schema to be applied.

    Attributes:
        kept: ``{state-dict name: {axis: indices}}``. ``indices`` is int64 and ascending: shape ``[n]``, or ``[g, n]``
            on axis 1 of a convolution of ``g`` groups, where row ``r`` belongs to the ``r``-th block of the outputs
            kept. Axes that keep everything are absent.
        attributes: ``{module name: {attribute: value}}``: the integers (or tuples of integers) that ``forward`` or
            ``repr`` read and that differ from the original's. The root module's name is ``""``. A module that has a
            list of integers there gets a list.
        removed: ``{module name: what takes its place}``: residual blocks taken out whole. Their tensors and attributes
            are in neither of the others; all other names stay as they were. What takes their place is a name in
            `zoo_slim._replacement.REPLACEMENTS`: ``Identity``, an activation (``ReLU``), or ``Zeros`` for a branch.
    """

    kept: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Attribute]] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)

    def removing(self, blocks: Mapping[str, str]) -> "PruningResult":
        """The same result, with ``blocks`` taken out too."""

        def stays(name: str) -> bool:
            return not any(is_within(name, block) for block in blocks)

        return PruningResult(
            {name: axes for name, axes in self.kept.items() if stays(name)},
            {name: values for name, values in self.attributes.items() if stays(name)},
            {**{name: becomes for name, becomes in self.removed.items() if stays(name)}, **blocks},
        )

    def then(self, later: "PruningResult") -> "PruningResult":
        """The result of slimming twice: what ``later`` keeps of the network that this result gave.

        Raises:
            SlimmingError: the two do not fit each other.
        """
        if (inside := conflict((*later.kept, *later.attributes, *later.removed), self.removed)) is not None:
            raise SlimmingError(f"the second result names {inside[0]!r}, but the first removes {inside[1]!r}")
        kept = {name: dict(axes) for name, axes in self.kept.items()}
        for name, axes in later.kept.items():
            mine = kept.setdefault(name, {})
            if 0 in axes and 1 in mine and mine[1].ndim == 2:
                mine[1] = _rows_left(mine[1], axes[0], _groups_of(name, later))
            for axis, index in axes.items():
                before = mine.get(axis)
                if before is None:
                    mine[axis] = index
                elif before.ndim == index.ndim and int(index.max()) < before.shape[-1]:
                    mine[axis] = before.gather(-1, index)
                else:
                    raise SlimmingError(f"{name}: the second result does not fit what the first keeps of axis {axis}")
        names = {**self.attributes, **later.attributes}
        both = {name: {**self.attributes.get(name, {}), **later.attributes.get(name, {})} for name in names}
        return PruningResult(kept, both, self.removed).removing(later.removed)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PruningResult):
            return NotImplemented
        return (
            dict(self.attributes) == dict(other.attributes)
            and dict(self.removed) == dict(other.removed)
            and self.kept.keys() == other.kept.keys()
            and all(
                axes.keys() == other.kept[name].keys()
                and all(torch.equal(index, other.kept[name][axis]) for axis, index in axes.items())
                for name, axes in self.kept.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]


def _groups_of(tensor: str, result: PruningResult) -> int | None:
    """The number of groups that a result gives the convolution of a weight, where it is another than before."""
    for module, values in result.attributes.items():
        if "groups" in values and is_within(tensor, module):
            groups = values["groups"]
            return groups if isinstance(groups, int) else None
    return None


def _rows_left(index: Tensor, outputs: Tensor, groups: int | None) -> Tensor:
    """What is left of ``[g, n]`` indices when whole groups of a convolution go: ``[groups, n]``, or ``[n]`` of one.

    Args:
        index: int64 ``[g, n]``, see `PruningResult.kept`.
        outputs: int64 ``[m]``: the outputs that stay.
        groups: how many groups stay; None: all.
    """
    if groups is None or groups == len(index) or len(outputs) % groups:
        return index
    rows = index[torch.unique(outputs // (len(outputs) // groups))]
    return rows[0] if len(rows) == 1 else rows


def slice_tensor(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """Return the kept part of ``tensor``: a new tensor of the same dtype and device.

    Args:
        tensor: any shape.
        axes: ``{axis: indices}`` as in `PruningResult.kept`.

    Raises:
        SlimmingError: an axis or an index that the tensor does not have, or rows that do not divide axis 0.
    """
    for axis, index in axes.items():
        if not 0 <= axis < tensor.ndim:
            raise SlimmingError(f"axis {axis} of a tensor of shape {list(tensor.shape)} does not exist")
        size = tensor.shape[axis]
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise SlimmingError(f"axis {axis} has {size} positions, but {int(index.max())} was to be kept")
    for axis, index in sorted(axes.items()):
        index = index.to(tensor.device)
        if index.ndim == 1:
            tensor = tensor.index_select(axis, index)
        elif index.ndim == 2 and axis == 1 and tensor.shape[0] % index.shape[0] == 0:
            rows = index.repeat_interleave(tensor.shape[0] // index.shape[0], dim=0)
            rows = rows.reshape(*rows.shape, *(1,) * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
            tensor = tensor.gather(1, rows)
        else:
            raise SlimmingError(f"indices of shape {list(index.shape)} do not fit axis {axis} of {list(tensor.shape)}")
    return tensor.clone() if not axes else tensor.contiguous()


def apply_result(model: nn.Module, result: PruningResult) -> nn.Module:
    """Return the slim network. ``model`` stays as it is and shares no memory with it; of one in DataParallel or
    `torch.compile`, the network inside is slimmed.

    Shared parameters stay shared, gradients stay behind. Works on meta tensors, without allocating anything.

    Raises:
        SlimmingError: the result names a tensor, module or attribute that the model does not have, or that lies in a
            block that it removes.
    """
    model = unwrap(model)
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name in result.kept:
        if name not in tensors:
            raise SlimmingError(f"the pruning result names {name!r}, which this {type(model).__name__} does not have")
    modules = dict(model.named_modules())
    memo: dict[int, Any] = {}
    if (inside := conflict((*result.kept, *result.attributes), result.removed)) is not None:
        raise SlimmingError(f"the pruning result names {inside[0]!r}, which lies in {inside[1]!r}, which it removes")
    for name, becomes in result.removed.items():
        if name not in modules or not name:
            raise SlimmingError(f"the pruning result removes module {name!r}, which does not exist")
        try:
            memo[id(modules[name])] = replacement(modules[name], becomes)
        except SlimmingError as error:
            raise SlimmingError(f"the pruning result removes module {name!r}: {error}") from None
    for name, values in result.attributes.items():
        if name not in modules:
            raise SlimmingError(f"the pruning result sets attributes of module {name!r}, which does not exist")
        for attribute in values:
            if not isinstance(vars(modules[name]).get(attribute), (int, tuple, list)):
                raise SlimmingError(f"module {name!r} has no integer attribute {attribute!r} to set")
    for name, tensor in tensors.items():
        if id(tensor) in memo or name not in result.kept:
            continue
        try:
            part = slice_tensor(tensor.detach(), result.kept[name])
        except SlimmingError as error:
            raise SlimmingError(f"{name}: {error}") from None
        memo[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part
    slim = copy_of(model, memo)
    slim.zero_grad()
    set_attributes(slim, result)
    return slim


def set_attributes(model: nn.Module, result: PruningResult) -> None:
    """Set the result's attributes, in place. They must exist; a list stays one."""
    modules = dict(model.named_modules())
    for name, values in result.attributes.items():
        for attribute, value in values.items():
            is_list = isinstance(vars(modules[name])[attribute], list)
            setattr(modules[name], attribute, list(value) if is_list and isinstance(value, tuple) else value)
