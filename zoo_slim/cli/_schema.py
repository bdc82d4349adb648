"""The command schema."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_slim.cli._options import Options, example, parse_options
from zoo_slim.cli._output import console, size, status

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``schema`` to the command line."""
    app.command(epilog=example("schema resnet50 --output resnet50.json"))(schema)


def schema(
    name: Annotated[str, typer.Argument(help="A registered name.")],
    option: Options = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file, not to stdout.")] = None,
    from_original: Annotated[
        Path | None, typer.Option("--from-original", help="Convert this schema of the original tool's format.")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Trace, even if a schema is bundled.")] = False,
) -> None:
    """Print the pruning schema of an architecture.

    The bundled one where there is one, else a traced one.
    """
    from zoo_slim._files import check_replaceable
    from zoo_slim.checkpoint._meta import build_on_meta
    from zoo_slim.registry import registry
    from zoo_slim.schema import convert_original, dumps, read_original, read_schema, write_schema
    from zoo_slim.tracing import trace as trace_model

    if trace and from_original is not None:
        raise typer.BadParameter("--trace and --from-original contradict each other; give one of them")
    if output is not None:
        check_replaceable(output)
    architecture = registry().find(name)
    options = architecture.check(parse_options(option, None, None))
    if from_original is not None:
        original = read_original(from_original)
        with status(f"building {name}"):
            found, how = convert_original(original, build_on_meta(architecture, options)), "converted"
    elif architecture.schema is not None and not options and not trace:
        found, how = read_schema(architecture.schema), "bundled"
    else:
        with status(f"tracing {name}"):
            model = build_on_meta(architecture, options)
            found, how = trace_model(model, architecture.example_input(options=options), architecture=name), "traced"
    text = dumps(found)
    counts = f"{len(found.groups)} groups, {found.channels:,} channels, {size(len(text.encode()))}"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_schema(found, output)
    console(stderr=True).print(f"{name}: {how}, {counts}" + (f", saved {output}" if output else ""))
