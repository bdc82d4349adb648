"""The command verify."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_slim._amount import amount
from zoo_slim.cli._options import Options, example, parse_options
from zoo_slim.cli._output import console, printable, table
from zoo_slim.cli._settings import given_options
from zoo_slim.cli._slim import CRITERIA

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``verify`` to the command line."""
    app.command(epilog=example("verify resnet18 'vgg*_bn'"))(verify)


def verify(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Registered names or shell patterns.", metavar="NAME...")],
    option: Options = None,
    ratio: Annotated[float, typer.Option("--ratio", help="Share of the channels to remove.")] = 0.5,
    criterion: Annotated[
        str, typer.Option("--criterion", help=f"Verify with this one besides random: {CRITERIA}")
    ] = "random",
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Side of the images. Default: 96, or the network's own.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the weights and the channels.")] = 0,
    pruned: Annotated[
        str | None, typer.Option("--pruned", help="Verify the channels of this variant, instead of random ones.")
    ] = None,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", help="Write a line of JSON per network.")] = None,
) -> None:
    """Check that slimming networks is exact, and that they train.

    The slim network must compute what the masked original does, in float64 and with random weights.

    Ends with exit code 1 if one does not, or cannot be checked.
    """
    from zoo_slim.cli._check import check_checkpoint, check_network
    from zoo_slim.registry import registry

    options = parse_options(option, None, None)
    if not 0 <= ratio < 1:
        raise typer.BadParameter(f"--ratio is a share of the channels, from 0 up to but not 1; it is {ratio}")
    if pruned is not None and (said := given_options(context, ("option", "ratio", "criterion"))):
        raise typer.BadParameter(f"--pruned contradicts {' and '.join(said)}: a checkpoint has its own")
    targets = names if pruned is not None else _expand(names)
    for name in targets if pruned is None else ():
        registry().find(name).check(options)
    criteria = list(dict.fromkeys(["random", criterion]))
    reports = []
    with _lines(jsonl) as write, _progress(len(targets)) as advance:
        for name in targets:
            advance(name)
            if pruned is not None:
                report = check_checkpoint(name, pruned, size, seed)
            else:
                report = check_network(name, options, ratio, criteria, size, seed)
            write(report)
            reports.append(report)
        advance("")
    _show(reports)
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


def _expand(names: list[str]) -> list[str]:
    from zoo_slim._errors import RegistryError
    from zoo_slim.listing import list_models

    found: dict[str, None] = {}
    for name in names:
        matches = list_models(name) if set(name) & set("*?[") else [name]
        if not matches:
            raise RegistryError(f"no architecture matches {name!r}; `zoo-slim list` shows their names")
        found.update(dict.fromkeys(matches))
    return list(found)


@contextmanager
def _lines(file: Path | None) -> "Iterator[Callable[[dict[str, Any]], None]]":
    """Yield a function that writes one line of JSON at once, or does nothing."""
    if file is None:
        yield lambda report: None
        return
    with file.open("w", encoding="utf-8") as stream:

        def write(report: dict[str, Any]) -> None:
            stream.write(json.dumps(report) + "\n")
            stream.flush()

        yield write


@contextmanager
def _progress(total: int) -> "Iterator[Callable[[str], None]]":
    """Show a bar on stderr, if that is a terminal; yields what is to be called before each network and at the end."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda name: None
        return
    from rich import progress as bars

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.description}"),
    )
    with bars.Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)
        yield lambda name: bar.update(task, advance=1, description=name)


def _show(reports: list[dict[str, Any]]) -> None:
    numbers = "input", "difference", "trace", "channels", "removed", "parameters", "after"
    shown = table("network", *numbers, "trains", "", numbers=numbers)
    for report in reports:
        if "error" in report:
            shown.add_row(report["name"], *[""] * 8, style="red")
            continue
        shown.add_row(
            report["name"],
            "x".join(map(str, report["input"])),
            f"{report['max_relative_difference']:.1e}",
            f"{report['trace_seconds']:.2f} s",
            f"{report['removable']:,}",
            f"{report['removed']:,}",
            amount(report["params"]),
            amount(report["slim_params"]),
            report["training_step"],
            "exact" if report["ok"] else "NOT EXACT" if not report["exact"] else "NOT TRAINABLE",
            style=None if report["ok"] else "red",
        )
    out = console()
    out.print(shown)
    for report in reports:
        if "error" in report:
            out.print(f"{report['name']}: {printable(report['error'])}", style="red")
    exact = sum(report["ok"] for report in reports)
    out.print(f"{exact} of {len(reports)} exact (relative difference below 1e-9 in float64)")
