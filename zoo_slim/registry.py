"""Architectures by name: what packages offer through entry points, and what a program registers itself."""

import difflib
import fnmatch
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from zoo_slim import _plugins
from zoo_slim._architecture import Architecture, Option
from zoo_slim._errors import RegistryError, UnknownNameError
from zoo_slim._plugins import Package

__all__ = ["GROUP", "Architecture", "Family", "Option", "Registry", "register", "registry"]

GROUP = "zoo_slim.architectures"
"""The entry-point group that plugins use."""

_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])


@runtime_checkable
class Family(Protocol):
    """Many architectures behind one entry point.

    A family whose names all begin alike may say so in an attribute ``prefix``: it is then asked only for such names.
    """

    def names(self) -> Iterable[str]:
        """All names of the family. May import heavy libraries."""

    def find(self, name: str) -> Architecture | None:
        """The architecture of that name, or None. Must be cheap for names that are not the family's own."""


class Registry:
    """Finds architectures by name.

    Plugins are imported when a name is first asked for. One that fails is noted in `failures` and harms no other.

    Args:
        entry_points: where plugins come from; None reads the installed packages' entry points of the group `GROUP`.
            Each loads to an `Architecture`, a `Family`, or a builder (its name is then the entry point's).
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        self._entry_points = None if entry_points is None else list(entry_points)
        self._plugins: dict[str, Architecture | Family] | None = None
        self._packages: dict[str, Package | None] = {}
        self._registered: dict[str, Architecture] = {}
        self._failures: dict[str, str] = {}
        self._lock = threading.RLock()

    @property
    def failures(self) -> dict[str, str]:
        """What went wrong with plugins so far: ``{"entry point = value (distribution version)": reason}``."""
        self._load()
        return dict(self._failures)

    def register(
        self, name: str, builder: Callable[..., nn.Module] | None = None, **fields: Any
    ) -> Callable[[_Builder], _Builder]:
        """Register a builder under ``name``: as a decorator, or at once when ``builder`` is given.

        Args:
            name: letters, digits and ``_ . + -``, in parts joined by ``/``.
            builder: returns the model with random weights.
            fields: the other fields of `Architecture`, such as ``input_size=(3, 32, 32)``.

        Raises:
            RegistryError: the name or a field is malformed, or another builder already has the name. The same
                function again (a reloaded module, a notebook cell run twice) replaces the earlier one.
        """

        def add(build: _Builder) -> _Builder:
            try:
                architecture = Architecture(name, build, **fields)
            except TypeError as error:
                given = ", ".join(f"{field}={value!r}" for field, value in fields.items())
                raise RegistryError(
                    f"architecture {name!r} cannot be registered with {given}: {error}; the fields are "
                    "input_size=(channels, height, width), options={name: kind} and schema=file"
                ) from None
            with self._lock:
                earlier = self._registered.get(name)
                if earlier is not None and not _same(earlier.builder, build):
                    raise RegistryError(
                        f"architecture {name!r} is already registered by {_describe(earlier.builder)}; "
                        f"choose another name for {_describe(build)}"
                    )
                self._registered[name] = architecture
            return build

        if builder is not None:
            add(builder)
        return add

    def find(self, name: str) -> Architecture:
        """Return the architecture of that name.

        Raises:
            UnknownNameError: nothing has the name (the message offers close matches and lists plugins that failed).
            RegistryError: more than one plugin claims it (the message names them).
        """
        return self._find(name)[1]

    def package(self, name: str) -> Package | None:
        """Return the installed package that offers the architecture of that name; None: the program registered it.

        Raises:
            RegistryError: as `find`.
        """
        return self._packages.get(self._find(name)[0])

    def _find(self, name: str) -> tuple[str, Architecture]:
        found = {label: architecture for label, architecture in self._claims(name) if architecture is not None}
        if len(found) == 1:
            return next(iter(found.items()))
        if found:
            raise RegistryError(
                f"architecture {name!r} is claimed by {len(found)} plugins: {'; '.join(sorted(found))}. "
                "Uninstall one of them, or ask its authors to rename the architecture"
            )
        raise self._unknown(name)

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names that match a shell pattern, sorted. Warns about plugins that failed.

        ``"*"`` includes everything, timm's thousand names too; a pattern without a wildcard in front, such as
        ``"resnet*"``, asks only the families that can have such names.
        """
        start = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        names = self._names(lambda prefix: start.startswith(prefix) or prefix.startswith(start))
        found = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        for plugin, reason in self.failures.items():
            warnings.warn(f"the architecture plugin {plugin} failed and is left out: {reason}", stacklevel=2)
        return sorted(found)

    def _load(self) -> dict[str, Architecture | Family]:
        with self._lock:
            if self._plugins is None:
                points = _plugins.entry_points(GROUP) if self._entry_points is None else self._entry_points
                plugins: dict[str, Architecture | Family] = {}
                for point in points:
                    label = f"{point.name} = {point.value}"
                    try:
                        label = _plugins.label(point)
                        self._packages[label] = _plugins.package_of(point)
                        plugins[label] = _as_plugin(point.name, point.load())
                    except Exception as error:
                        self._failures[label] = _plugins.reason(error)
                self._plugins = plugins
            return self._plugins

    def _claims(self, name: str) -> Iterator[tuple[str, Architecture | None]]:
        for label, plugin in self._load().items():
            if isinstance(plugin, Architecture):
                yield label, plugin if plugin.name == name else None
            elif name.startswith(_prefix(plugin)):
                try:
                    yield label, plugin.find(name)
                except Exception as error:
                    self._failures[label] = _plugins.reason(error)
        if name in self._registered:
            yield _describe(self._registered[name].builder), self._registered[name]

    def _names(self, wanted: Callable[[str], bool]) -> Iterator[str]:
        yield from self._registered
        for label, plugin in self._load().items():
            if isinstance(plugin, Architecture):
                yield plugin.name
            elif wanted(_prefix(plugin)):
                try:
                    yield from list(plugin.names())
                except Exception as error:
                    self._failures[label] = _plugins.reason(error)

    def _unknown(self, name: str) -> UnknownNameError:
        families = [plugin for plugin in self._load().values() if not isinstance(plugin, Architecture)]
        prefixed = {_prefix(family) + name for family in families if not name.startswith(_prefix(family))}
        close = sorted(full for full in prefixed if any(found for _, found in self._claims(full)))
        home = name[: name.find("/") + 1]  # what has none of the family's names, a repository's, is like none of ours
        known = {known.lower(): known for known in self._names(name.startswith) if known.startswith(home)}
        close += [known[match] for match in difflib.get_close_matches(name.lower(), list(known), n=3)]
        message = f"no architecture is called {name!r}"
        if close:
            message += f"; did you mean {' or '.join(map(repr, close))}?"
        else:
            message += "; `zoo_slim.list_models()` and `zoo-slim list` list all, `zoo_slim.register` adds your own"
        failed = self._failures.items()
        failures = (
            f"\nthe plugin {plugin} failed, its architectures are missing: {reason}" for plugin, reason in failed
        )
        return UnknownNameError(message, close, "".join(failures))


def _prefix(family: Family) -> str:
    return str(getattr(family, "prefix", ""))


def _describe(builder: Callable[..., nn.Module]) -> str:
    name = getattr(builder, "__qualname__", None)
    return f"{builder.__module__}.{name}" if name else repr(builder)


def _same(one: Callable[..., nn.Module], other: Callable[..., nn.Module]) -> bool:
    name = getattr(one, "__qualname__", None)
    if name is None or "<" in name:
        return one is other
    return (one.__module__, name) == (other.__module__, getattr(other, "__qualname__", None))


def _as_plugin(name: str, loaded: object) -> Architecture | Family:
    if isinstance(loaded, Architecture):
        return loaded
    if isinstance(loaded, type):
        if issubclass(loaded, nn.Module):
            return Architecture(name, loaded)
    elif isinstance(loaded, Family):
        return loaded
    elif callable(loaded):
        return Architecture(name, loaded)
    raise RegistryError(f"it loads to {loaded!r}; an Architecture, a Family or a builder function was expected")


_registry: Registry | None = None
_registry_lock = threading.Lock()


def registry() -> Registry:
    """Return the process's registry of installed plugins, made on first use."""
    global _registry
    with _registry_lock:
        if _registry is None:
            _registry = Registry()
        return _registry


def register(
    name: str, builder: Callable[..., nn.Module] | None = None, **fields: Any
) -> Callable[[_Builder], _Builder]:
    """Register a builder with the process's registry, see `Registry.register`.

    Example:
        >>> @zoo_slim.register("my_net", input_size=(3, 32, 32))
        ... def my_net(num_classes: int = 10) -> nn.Module: ...
    """
    return registry().register(name, builder, **fields)
