"""The command list."""

from typing import TYPE_CHECKING, Annotated

import typer

from zoo_slim._amount import amount
from zoo_slim.cli._options import example
from zoo_slim.cli._output import accuracy, console, printable, size, status, table

if TYPE_CHECKING:
    from zoo_slim.checkpoint import Config
    from zoo_slim.hub import HubModel

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``list`` to the command line."""
    app.command("list", epilog=example("list 'vgg*_bn'"))(list_names)


def list_names(
    pattern: Annotated[str | None, typer.Argument(help="Shell pattern, 'timm/resnet*' for instance.")] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="Only those of which zoo_slim brings variants.")] = False,
    hub: Annotated[bool, typer.Option("--hub", help="Models on the Hugging Face Hub, with their variants.")] = False,
    author: Annotated[str | None, typer.Option("--author", help="User or organisation, with --hub.")] = None,
) -> None:
    """List architectures by name, or the models on the Hub."""
    if author is not None and not hub:
        raise typer.BadParameter("--author needs --hub")
    if hub:
        if bundled:
            raise typer.BadParameter("--bundled and --hub exclude each other")
        _show_models(pattern, author)
        return
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
            try:
                architecture = registry().find(name)
            except RegistryError as error:
                shown.add_row(name, printable(str(error).splitlines()[0]), "—", "—")
                continue
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
    from zoo_slim.listing import list_models

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


def _show_models(pattern: str | None, author: str | None) -> None:
    from zoo_slim.listing import list_models

    wanted = pattern or "*"
    with status("asking the Hub"):
        models = list_models(wanted if set(wanted) & set("*?[") else f"*{wanted}*", hub=True, author=author)
    numbers = ("parameters", "MACs", "weights", "test accuracy")
    shown = table("model", "variant", "architecture", *numbers, numbers=numbers)
    for model in models:
        for first, row in enumerate(_rows(model)):
            shown.add_row("" if first else model.name, *row)
    if models:
        console().print(shown)
    console().print(f"{len(models)} model{'' if len(models) == 1 else 's'} on the Hub")


def _rows(model: "HubModel") -> list[tuple[str, ...]]:
    """One row for each checkpoint: base first, then the variants, then what cannot be read."""
    configs = {"base": model.base} if model.base else {}
    rows = [(tag, *_row(config)) for tag, config in {**configs, **model.variants}.items()]
    wrong = [(tag or "base", printable(text), *("—",) * 4) for tag, text in model.unreadable.items()]
    return [*rows, *wrong] or [("—",) * 6]


def _row(config: "Config") -> tuple[str, ...]:
    from zoo_slim.checkpoint import MODEL, BaseWeights
    from zoo_slim.checkpoint._origin import part_tested

    weights, metrics, base = config.files.get(MODEL), config.metrics, config.base_weights
    elsewhere = f"cut from {base.repo}" if isinstance(base, BaseWeights) else "the base's"
    return (
        config.architecture,
        amount(metrics.get("params")),
        amount(metrics.get("macs")),
        size(weights.bytes) if weights else elsewhere,
        accuracy(metrics.get("test_accuracy"), part_tested(config.training)),
    )
