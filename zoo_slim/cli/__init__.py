"""The command ``zoo-slim``. Heavy libraries are imported inside the commands."""

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from zoo_slim._errors import ZooSlimError
from zoo_slim._plugins import IMPORTS, import_modules
from zoo_slim.cli import (
    _convert,
    _coverage,
    _export,
    _info,
    _list,
    _load,
    _predict,
    _push,
    _report,
    _schema,
    _slim,
    _training,
    _verify,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="zoo-slim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help would import rich's markdown, a third of the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    _list, _info, _load, _predict, _convert, _training, _slim, _schema, _verify, _coverage, _push, _report, _export,
):  # fmt: skip
    module.add_commands(app)


def _version(wanted: bool) -> None:
    if wanted:
        from zoo_slim import __version__

        typer.echo(f"zoo-slim {__version__}")
        raise typer.Exit()


def _import(modules: list[str]) -> None:
    import_modules(modules)
    if modules:
        os.environ[IMPORTS] = " ".join(modules)  # for the processes that some commands start


@app.callback()
def _start(
    modules: Annotated[
        list[str],
        typer.Option(
            "--import",
            metavar="MODULE",
            envvar=IMPORTS,
            callback=_import,
            help="Import a module that registers architectures of yours; may be repeated (variable: with blanks).",
        ),
    ] = [],  # noqa: B006  # typer copies it
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A model zoo of slim networks."""


def _complain(message: str) -> None:
    typer.secho(f"zoo-slim: {message}", fg=None if os.environ.get("NO_COLOR") else typer.colors.RED, err=True)


def main() -> None:
    """Run the command line; a user's mistake ends in a message on stderr and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":  # None where it is closed
        sys.stdout.reconfigure(errors="replace")
    usual, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"zoo-slim: {message}\n"
    try:
        app()
    except (ZooSlimError, OSError) as error:
        named = isinstance(error, OSError) and error.filename is not None
        message = f"{error.filename}: {error.strerror}" if named else str(error)  # type: ignore[union-attr]
        _complain(message)
        sys.exit(1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; it may not be imported
            raise
        advice = "Where the command has them, a smaller --batch-size or --device cpu helps; in training --amp, too"
        _complain(f"{str(error).splitlines()[0]} {advice}")
        sys.exit(1)
    finally:
        warnings.formatwarning = usual
