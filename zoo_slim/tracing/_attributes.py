"""Integers that modules hold as attributes: heads, widths, sizes of splits.

Where `forward` gives one to a tensor as a size, the attribute is that axis of the tensor: removing channels there
changes it. Each is therefore replaced by a `Dim` with an axis of its own, which is tied to the tensors that it sizes.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from zoo_slim.tracing._dims import Dim, Term
from zoo_slim.tracing._ids import Ids
from zoo_slim.tracing._labels import support
from zoo_slim.tracing._state import TraceState

__all__ = ["follow_attributes"]

_KINDS = frozenset({int, list, tuple, torch.Size})
_LARGEST = 1 << 15
"""No network has that many channels; what is larger counts something else."""

_MOST = 1 << 18
"""Nor has a list of widths that many together, as a list of positions may."""


def follow_attributes(model: nn.Module, state: TraceState) -> dict[str, dict[str, Ids]]:
    """Replace the integers among the attributes of all modules, in place, by `Dim`.

    Returns:
        ``{module name: {attribute: ids of its axis}}``, items of lists and tuples as ``name[i]``. Attributes of torch's
        own layers are not among them: theirs follow from their weights.
    """
    for module in model.modules():
        _follow_layer(module, state)
    found = [
        (name, module, attribute, value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if type(value) in _KINDS
        and attribute not in _known(module.__class__)
        and 0 < sum(filter(_counts, _items(value))) <= _MOST
    ]
    state.ids.attributes_from = len(state.ids)
    ids = state.ids.mint(sum(item for _, _, _, value in found for item in _items(value) if _counts(item)))
    first = 0
    attributes: dict[str, dict[str, Ids]] = {}
    shared: dict[int, tuple[object, dict[str, Ids]]] = {}
    for name, module, attribute, value in found:
        if id(value) not in shared or isinstance(value, int):
            axes: dict[str, Ids] = {}
            items: list[Any] = []
            for place, item in enumerate(_items(value)):
                if not _counts(item):
                    items.append(item)
                    continue
                axis = ids[first : first + item]
                first += item
                axes["" if isinstance(value, int) else f"[{place}]"] = axis
                items.append(Dim(item, state.rules, [Term(1.0, axis)], axis=axis, free=True))
            # A list that several modules hold stays one list.
            shared[id(value)] = (items[0] if isinstance(value, int) else type(value)(items), axes)
        replaced, axes = shared[id(value)]
        vars(module)[attribute] = replaced
        attributes.setdefault(name, {}).update({attribute + place: axis for place, axis in axes.items()})
    return attributes


def _items(value: object) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        yield from value
    else:
        yield value


def _counts(item: object) -> bool:
    """Whether an attribute may be the size of an axis that can lose something."""
    return type(item) is int and 1 < item <= _LARGEST


@functools.cache
def _known(kind: type) -> set[str]:
    """The attributes that torch's own classes, among those that ``kind`` derives from, declare."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules")]
    return {
        name for base in own for name in (*vars(base).get("__annotations__", ()), *getattr(base, "__constants__", ()))
    }


def _follow_layer(module: nn.Module, state: TraceState) -> None:
    """The widths that torch's layers know, which follow from their weights."""
    if isinstance(module, _ConvNd):
        writes = int(module.transposed and module.groups == 1)
        places = {"out_channels": writes}
        if module.groups == 1 or module.transposed:
            places["in_channels"] = int(not module.transposed)
    elif isinstance(module, nn.Linear):
        places = {"out_features": 0, "in_features": 1}
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        _follow_recurrent(module, state)
        places = {}
    else:
        places = {"num_features": 0} if isinstance(module, nn.modules.batchnorm._NormBase) else {}
    tensor = module._parameters.get("weight") if places else None
    if tensor is None or state.name(tensor) is None:
        return
    for attribute, axis in places.items():
        if vars(module).get(attribute) == tensor.shape[axis]:
            setattr(module, attribute, state.size(tensor, axis))


def _follow_recurrent(module: nn.Module, state: TraceState) -> None:
    """All layers and directions of a recurrent network have one hidden size."""
    hidden = [
        tensor for name, tensor in module._parameters.items() if name.startswith("weight_hh") and tensor is not None
    ]
    if not hidden or vars(module).get("proj_size"):
        return
    axes = [factor.ids for tensor in hidden for factor in state.peek(tensor) if support(factor) == {1}]
    for axis in axes[1:]:
        state.ids.unify(axes[0], axis)
    vars(module)["hidden_size"] = state.size(hidden[0], 1)
