"""The models that can be covered: all registered ones, and torchvision's detectors."""

import fnmatch
from collections.abc import Sequence

from zoo_slim._errors import RegistryError
from zoo_slim.coverage._detectors import detector_names, find_detector
from zoo_slim.registry import Architecture, registry

__all__ = ["find", "matching"]


def find(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        RegistryError: there is none.
    """
    return find_detector(name) or registry().find(name)


def matching(patterns: Sequence[str]) -> list[str]:
    """The names that match any of the shell patterns, each once; all names if there are no patterns.

    Raises:
        RegistryError: a name or pattern that matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns or ["*"]:
        if set(pattern) & set("*?["):
            names = [*registry().names(pattern), *fnmatch.filter(detector_names(), pattern)]
        else:
            names = [find(pattern).name]
        if not names:
            raise RegistryError(f"no model matches {pattern!r}; `zoo-slim list` shows their names")
        found.update(dict.fromkeys(names))
    return list(found)
