"""The command list."""

from typing import Annotated

import typer

from zoo_slim.cli._options import example
from zoo_slim.cli._output import console, status, table

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``list`` to the command line."""
    app.command("list", epilog=example("list 'vgg*_bn'"))(list_names)


def list_names(
    pattern: Annotated[str | None, typer.Argument(help="Shell pattern, 'timm/resnet*' for instance.")] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="Only those of which zoo_slim brings variants.")] = False,
) -> None:
    """List architectures by name."""
    from zoo_slim._errors import RegistryError
    from zoo_slim.registry import registry

    with status("looking for architectures"):
        names = _bundled_names(pattern or "*") if bundled else _matching(pattern or "*")
        counted: dict[str, int] = {}
        if pattern is None and not bundled:
            names, counted = _summarised(names)
        if not names and pattern is not None:
            if not bundled and not set(pattern) & set("*?["):
                registry().find(pattern)
            raise RegistryError(f"no {'bundled model' if bundled else 'architecture'} matches {pattern!r}")
        shown = table("name", "input", "schema", "bundled variants")
        for name in names:
            architecture = registry().find(name)
            side = "x".join(map(str, architecture.input_size))
            variants = ", ".join(_variants(name))
            shown.add_row(name, side, "yes" if architecture.schema is not None else "traced", variants or "—")
    out = console()
    if names:
        out.print(shown)
    for prefix, count in counted.items():
        out.print(f"{prefix}…  {count:,} more names, try: zoo-slim list '{prefix}resnet*'")
    out.print(f"{len(names) + sum(counted.values()):,} architectures")


def _matching(pattern: str) -> list[str]:
    """The names that match. Without wildcards: the name itself, else what begins so, else what it stands in."""
    from zoo_slim.registry import list_models

    tries = [pattern] if set(pattern) & set("*?[") else [pattern, f"{pattern}*", f"*{pattern}*"]
    return next((names for tried in tries if (names := list_models(tried))), [])


def _summarised(names: list[str]) -> tuple[list[str], dict[str, int]]:
    """Names without a prefix, and how many there are with each: ``{"timm/": 1371}``."""
    plain = [name for name in names if "/" not in name]
    counted: dict[str, int] = {}
    for name in names:
        prefix, slash, _ = name.partition("/")
        if slash:
            counted[f"{prefix}/"] = counted.get(f"{prefix}/", 0) + 1
    return plain, counted


def _bundled_names(pattern: str) -> list[str]:
    import fnmatch

    from zoo_slim import loading

    zoo = loading.bundled_zoo()
    parents = {folder.parent for folder in zoo.glob("**/pruned-*") if folder.is_dir()}
    names = sorted(folder.relative_to(zoo).as_posix() for folder in parents)
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _variants(name: str) -> list[str]:
    from zoo_slim import checkpoint, loading

    return checkpoint.variants(loading.bundled_zoo() / name)
