"""Families that are a table of names, and the pruning schemas that come with zoo_slim."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib.resources import files
from typing import Any

from torch import nn

from zoo_slim import Architecture


def schema_of(name: str) -> Any:
    """Return the bundled schema file of an architecture (a ``Traversable``), or None."""
    file = files("zoo_slim.schemas") / f"{name.replace('/', '__')}.json"
    return file if file.is_file() else None


class NamedFamily:
    """A family of fixed names that share one builder.

    Args:
        names: all names.
        builder: called as ``builder(name, **options)``; its keywords are the options.
    """

    def __init__(self, names: Iterable[str], builder: Callable[..., nn.Module]) -> None:
        self._names = tuple(names)
        self._builder = builder

    def names(self) -> tuple[str, ...]:
        """All names."""
        return self._names

    def find(self, name: str) -> Architecture | None:
        """The architecture of that name, or None."""
        if name not in self._names:
            return None
        return Architecture(name, partial(self._builder, name), schema=schema_of(name))
