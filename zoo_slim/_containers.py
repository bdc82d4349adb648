"""Tensors inside whatever a model takes and returns."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = ["tensors_in", "with_tensors"]

_LEAVES = (str, bytes, int, float, complex, range, type, np.ndarray, FunctionType, ModuleType, nn.Module)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in containers and attributes of objects, nested in any way. Iterators are used up.

    A tensor comes as often as it is held, a container once.
    """
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # with the objects, whose ids would be given to others if they were gone

    def visit(part: Any) -> None:
        if isinstance(part, Tensor):
            found.append(part)
            return
        if id(part) in seen or isinstance(part, _LEAVES):
            return
        seen[id(part)] = part
        items = list(_items(part))
        held = set(map(id, items))  # an object may hold its items as attributes, too
        for item in (*items, *(value for value in _attributes(part) if id(value) not in held)):
            visit(item)

    visit(value)
    return found


def _items(part: Any) -> Iterator[Any]:
    if isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, Iterable):
        yield from part


def _attributes(part: Any) -> Iterator[Any]:
    yield from getattr(part, "__dict__", {}).values()
    for kind in type(part).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(part, name, None)


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same containers with changed tensors: mappings, lists, tuples, named tuples and dataclasses, nested.

    What is no tensor in one of these stays as it is.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        changed = {key: with_tensors(item, change) for key, item in value.items()}
        return type(value)(changed) if isinstance(value, dict) and type(value).__init__ is dict.__init__ else changed
    if isinstance(value, (list, tuple)):
        items = [with_tensors(item, change) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return type(value)(items) if type(value) in (list, tuple) else items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(twin, field.name, with_tensors(getattr(value, field.name), change))
        return twin
    return value
