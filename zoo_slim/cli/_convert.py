"""The command convert."""

from pathlib import Path
from typing import Annotated, Any

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
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean", help="What is subtracted from images of 0 to 1, per channel (0.485,0.456,0.406) or for all."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="What they are then divided by, likewise.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, help="Height and width. Default: as published, or the architecture's."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Text file with the name of a class on each line, in order.")
    ] = None,
    option: Options = None,
) -> None:
    """Make a checkpoint of published weights, or of a file.

    What is saved can be slimmed, trained further and pushed: zoo-slim slim, finetune, push. A .pth file is a pickle; it
    is read with weights_only=True, so that nothing in it is executed. Published weights say what they expect of images;
    of those of a file, --mean, --std, --image-size and --classes say it.
    """
    from zoo_slim._errors import CheckpointError
    from zoo_slim.converting import convert as convert_weights
    from zoo_slim.registry import registry

    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another folder, or remove it")
    known = registry().find(name)
    options = known.check(parse_options(option, stem, num_classes))
    channels = known.input_size_of(options)[0]
    expected: dict[str, Any] = {
        key: _numbers(text, channels, f"--{key}") for key, text in (("mean", mean), ("std", std)) if text is not None
    }
    if image_size is not None:
        expected["size"] = [channels, image_size, image_size]
    names = None if classes is None else _lines(classes)
    saved = convert_weights(name, output, weights=weights, options=options, input=expected, classes=names)
    typer.echo(f"saved {saved}")


def _lines(file: Path) -> list[str]:
    """Read the names of classes. Empty lines at the end do not count."""
    from zoo_slim._errors import CheckpointError

    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows begins files with a mark
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: is no text in UTF-8 ({error.reason}); put one name on each line") from None
    names = [line.strip() for line in text.rstrip().split("\n")]
    if "" in names:
        raise CheckpointError(f"{file}: line {names.index('') + 1} is empty; put one name on each line")
    return names


def _numbers(text: str, channels: int, option: str) -> list[float]:
    """Read one number per channel, or one for all."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, channels):
        several = f"{channels} numbers with commas between them, or " if channels > 1 else ""
        raise typer.BadParameter(f"{option} takes {several}one number, not {text!r}")
    return numbers * (channels // len(numbers))
