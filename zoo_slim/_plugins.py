"""What installed packages offer through entry points, and how it is named in messages."""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from zoo_slim._errors import RegistryError

__all__ = ["IMPORTS", "Package", "entry_points", "import_modules", "label", "names", "package_of", "reason"]

IMPORTS = "ZOO_SLIM_IMPORT"
"""Environment variable: modules that the command imports, with blanks between them."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,98}")


@dataclass(frozen=True)
class Package:
    """An installed package as ``pip`` names it, and its version.

    Raises:
        ValueError: they are not of the form that packages have.
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        for text, form in ((self.name, _NAME), (self.version, _VERSION)):
            if not isinstance(text, str) or not form.fullmatch(text):
                raise ValueError(f"{text!r} is not of the form that packages have")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def installed(self) -> str | None:
        """Return the version of the package that is installed here, if one is."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return None


def import_modules(modules: Sequence[str]) -> None:
    """Import modules that register architectures; the present folder is searched, too, as by ``python -m``.

    Raises:
        RegistryError: naming the one that cannot be imported.
    """
    if modules:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise RegistryError(f"--import {name}: it needs the module {error.name!r}, which is missing") from error
            raise RegistryError(f"--import {name}: there is no such module, here or installed") from error
        except Exception as error:
            raise RegistryError(f"--import {name}: {reason(error)}") from error


def entry_points(group: str) -> list[metadata.EntryPoint]:
    """The entry points of a group, none of them loaded."""
    return list(metadata.entry_points(group=group))


def names(group: str) -> list[str]:
    """The names in a group, sorted, without importing what they stand for."""
    return sorted({point.name for point in entry_points(group)})


def label(point: metadata.EntryPoint) -> str:
    """``name = value (distribution version)``."""
    dist = getattr(point, "dist", None)
    return f"{point.name} = {point.value}" + (f" ({dist.name} {dist.version})" if dist is not None else "")


def package_of(point: metadata.EntryPoint) -> Package | None:
    """The package that an entry point belongs to; None where its name or version is none that could be installed."""
    dist = getattr(point, "dist", None)
    try:
        return None if dist is None else Package(dist.name, dist.version)
    except ValueError:
        return None


def reason(error: Exception) -> str:
    """What went wrong, with the kind of error."""
    return f"{type(error).__name__}: {error}"
