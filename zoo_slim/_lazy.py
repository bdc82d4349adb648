"""Public names of a package that are loaded on first use (PEP 562)."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["on_first_use"]


def on_first_use(
    package: str, homes: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: its full name.
        homes: for each public name the module of the package that holds it.
        modules: public modules of the package.
    """
    modules = frozenset(modules)
    names = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        names[name] = value = getattr(import_module(f"{package}.{homes[name]}"), name)
        return value

    def known() -> list[str]:
        return sorted({*names, *homes, *modules})

    return load, known
