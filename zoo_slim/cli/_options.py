"""Options that several commands share, and how their texts become values."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_slim.cli._training import Options
from zoo_slim.cli._training import _options as parse_options

__all__ = ["AsJson", "Name", "Options", "Pruned", "example", "parse_count", "parse_options", "parse_share", "place"]

Name = Annotated[str, typer.Argument(help="A registered name, hf-hub:org/name[@revision], or a checkpoint's folder.")]
Pruned = Annotated[str | None, typer.Option("--pruned", help="Variant, 0.75 for instance.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def example(command: str) -> str:
    """The line that ends a command's help."""
    return f"Example: zoo-slim {command}"


def place(name: str) -> str:
    """Return the name as `zoo_slim.load` takes it: the path of a folder gets its prefix, unless it is a known name."""
    if ":" in name or not Path(name).expanduser().is_dir():
        return name
    from zoo_slim._errors import RegistryError
    from zoo_slim.registry import registry

    try:
        registry().find(name)
    except RegistryError:
        return f"local-dir:{name}"
    return name


def parse_share(text: str, option: str) -> int | float:
    """Read ``8`` as a number of channels and ``0.1`` as a share."""
    try:
        value = int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        value = -1.0
    if isinstance(value, float) and not 0 <= value <= 1:
        raise typer.BadParameter(f"{option} takes a number of channels or a share of them, not {text!r}")
    return value


def parse_count(text: str, option: str) -> int | float:
    """Read a budget: ``2500000``, ``2.5M`` or ``300k`` is a number, ``0.25`` (below 1) a share."""
    suffix = _SUFFIXES.get(text[-1:].lower())
    try:
        value = float(text[:-1] if suffix else text) * (suffix or 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e18:
        raise typer.BadParameter(f"{option} takes a number such as 2.5M, or a share such as 0.25, not {text!r}")
    return value if value < 1 else round(value)
