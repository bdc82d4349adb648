"""The packages that a network is from: which they were where it was saved, and which are installed here."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from importlib import metadata

from torch import nn

from zoo_slim._errors import CheckpointError, RegistryError
from zoo_slim._plugins import Package
from zoo_slim.checkpoint._config import Config

__all__ = ["libraries_of", "where_it_was", "with_what_changed"]

_OURS = {"torch", "zoo_slim"}
_SHOWN = 5


def libraries_of(model: nn.Module, besides: Package | None = None) -> tuple[Package, ...]:
    """Return the installed packages that define the model's classes, sorted; neither torch nor zoo_slim.

    A package is found by its import name, if that is its name for ``pip`` too, as timm's and torchvision's are.

    Args:
        model: the network.
        besides: a package that is left out.
    """
    found = []
    for name in sorted({type(part).__module__.partition(".")[0] for part in model.modules()} - _OURS):
        if besides is not None and _for_pip(name) == _for_pip(besides.name):
            continue
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            found.append(Package(name, metadata.version(name)))
    return tuple(found)


def _for_pip(name: str) -> str:
    """Spell a package's name as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def where_it_was(config: Config) -> str:
    """Say which package offered the architecture where the network was saved, if that is recorded, and what changed."""
    if (package := config.package) is None:
        return _changed(config.libraries)
    here = package.installed()
    return (
        f"\nwhere it was saved, the package {package} offered it; "
        + (f"{here} is installed here" if here else "it is not installed here: install it, if you trust it")
        + _changed(config.libraries)
    )


@contextlib.contextmanager
def with_what_changed(config: Config) -> Iterator[None]:
    """Say in errors which packages have other versions than where the network was saved: what they build may differ."""
    try:
        yield
    except (CheckpointError, RegistryError) as error:
        said = _changed((*([config.package] if config.package else ()), *config.libraries))
        if not said:
            raise
        raise type(error)(f"{error}{said}") from error


def _changed(packages: Iterable[Package]) -> str:
    """Name the packages with another version here. What follows a plus, such as CUDA's version, does not count."""
    changes = [
        f"\nwhere it was saved, {package.name} was {package.version}; "
        + (f"here it is {here}" if here else "it is not installed here: install it, if you trust it")
        for package in packages
        if (here := package.installed()) is None or _release(here) != _release(package.version)
    ]
    more = [f"\nand {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
    return "".join(changes[:_SHOWN] + more)


def _release(version: str) -> str:
    return version.partition("+")[0]
