"""The command convert."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_slim.cli._options import Options, example, parse_options
from zoo_slim.cli._training import Stem

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``convert`` to the command line."""
    app.command(epilog=example("convert timm/resnet18.a1_in1k --output start"))(convert)


def convert(
    name: Annotated[str, typer.Argument(help="A registered name; `zoo-slim list` shows them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to be made.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="A state dict, .safetensors or .pth. Default: what timm or torchvision publish."
        ),
    ] = None,
    stem: Stem = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", help="Classes that the weights tell apart.")
    ] = None,
    option: Options = None,
) -> None:
    """Make a checkpoint of published weights, or of a file.

    What is saved can be slimmed, trained further and pushed: zoo-slim slim, finetune, push. A .pth file is a pickle; it
    is read with weights_only=True, so that nothing in it is executed.
    """
    from zoo_slim._errors import CheckpointError
    from zoo_slim.converting import convert as convert_weights

    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another folder, or remove it")
    saved = convert_weights(name, output, weights=weights, options=parse_options(option, stem, num_classes))
    typer.echo(f"saved {saved}")
