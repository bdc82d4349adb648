"""The command coverage."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_slim._amount import amount
from zoo_slim.cli._options import example
from zoo_slim.cli._output import console, percent, printable, table
from zoo_slim.cli._verify import _progress

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``coverage`` to the command line."""
    app.command(epilog=example("coverage 'resnet*' 'timm/vit_tiny*' --markdown coverage.md"))(coverage)


def coverage(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Names or shell patterns, torchvision's detectors among them.", metavar="[PATTERN]..."),
    ] = None,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Of names with a prefix (timm/), the smallest of each structure only.")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Print the names, and do no more.")] = False,
    jsonl: Annotated[Path, typer.Option("--jsonl", help="A line of JSON for each model is appended here.")] = Path(
        "coverage.jsonl"
    ),
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write all that --jsonl holds as a table.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also models that --jsonl holds.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Models at a time.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Bound on a model's processor time.")] = 300,
    memory: Annotated[float, typer.Option("--memory", min=1, help="Bound on its resident memory, GB.")] = 6,
) -> None:
    """Trace, slim and verify many models, each in a process of its own.

    Each is slimmed at random (40 %) and by criterion (50 %), compared with the masked original in float64, and trained
    a step. What was interrupted goes on where it stopped.

    Without patterns and without --distinct, only the table is written.

    Ends with exit code 1 if a model is not exact, or fails.
    """
    from zoo_slim._files import check_replaceable
    from zoo_slim.coverage import BAD, Bounds, cover, read_lines, verdict

    if markdown is not None:
        check_replaceable(markdown)
    if not patterns and not distinct and markdown is None:
        raise typer.BadParameter(
            "give names or patterns, or --distinct, or --markdown for a table of what --jsonl holds"
        )
    names = _names(patterns or [], distinct) if patterns or distinct else []
    if list_only:
        for name in names:
            typer.echo(name)
        return
    held = read_lines(jsonl)
    todo = names if again else [name for name in names if name not in held]
    with _progress(len(todo)) as advance:
        advance("")
        for record in cover(todo, jsonl, Bounds(seconds, memory * 1e9), jobs):
            held[record["model"]] = record
            advance(record["model"])
    shown = [held[name] for name in names] or list(held.values())
    if markdown is not None:
        _write(markdown, list(held.values()))
    _show(shown)
    if any(verdict(record) in BAD for record in shown):
        raise typer.Exit(1)


def _names(patterns: list[str], distinct: bool) -> list[str]:
    from zoo_slim.coverage._names import matching

    names = matching(patterns)
    if not distinct:
        return names
    from zoo_slim.coverage._structure import smallest_of_each_structure

    prefixed = [name for name in names if "/" in name]
    kept: list[str] = []
    with _progress(len(prefixed)) as advance:
        advance("")
        for name, smallest in smallest_of_each_structure(prefixed):
            advance(f"structure of {name}")
            kept = list(smallest.values())
    return [name for name in names if "/" not in name] + sorted(kept)


def _write(file: Path, records: list[dict[str, Any]]) -> None:
    """Write the page; whoever reads it meanwhile sees the old one."""
    from zoo_slim._files import replacing_file
    from zoo_slim.coverage import markdown

    page = markdown(records, "zoo-slim coverage", f"{os.cpu_count()} cores")
    with replacing_file(file) as scratch:
        scratch.write_text(page, encoding="utf-8")


def _show(records: list[dict[str, Any]]) -> None:
    from zoo_slim.coverage import BAD, summary, verdict, why

    numbers = "parameters", "removable", "inexact", "share", "difference", "trace"
    shown = table("model", *numbers, "", numbers=numbers)
    for record in records:
        differences = [run["difference"] for run in record["runs"]]
        shown.add_row(
            record["model"],
            amount(record.get("params")),
            amount(record.get("removable")),
            amount(record.get("inexact")),
            percent(record.get("share"), 0),
            f"{max(differences):.1e}" if differences else "",
            f"{record['trace_seconds']:.2f} s" if "trace_seconds" in record else "",
            verdict(record),
            style="red" if verdict(record) in BAD else None,
        )
    out = console()
    out.print(shown)
    for record in records:
        if record["failures"]:
            out.print(f"{record['model']}: {printable(why(record))}", style="red")
    out.print(f"{summary(records)} (exact: relative difference below 1e-9 in float64)")
