"""What installed packages offer through entry points, and how it is named in messages."""

from importlib import metadata

__all__ = ["entry_points", "label", "names", "reason"]


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


def reason(error: Exception) -> str:
    """What went wrong, with the kind of error."""
    return f"{type(error).__name__}: {error}"
