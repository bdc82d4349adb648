"""The command ``zoo-slim``. Heavy libraries are imported inside the commands."""

import sys

import typer

from zoo_slim._errors import ZooSlimError
from zoo_slim.cli import _training

__all__ = ["app", "main"]

app = typer.Typer(
    name="zoo-slim",
    help="A model zoo of slim networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_training.add_commands(app)


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit status 1."""
    try:
        app()
    except ZooSlimError as error:
        typer.secho(f"zoo-slim: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
