"""The command predict."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_slim._images import read_image
from zoo_slim.cli._checkpoints import find_folder, running
from zoo_slim.cli._images import class_name, classify, prepare
from zoo_slim.cli._options import Name, Pruned, example
from zoo_slim.cli._output import console, percent, printable, status, table

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``predict`` to the command line."""
    app.command(epilog=example("predict resnet18 shoe.png --pruned 0.75"))(predict)


def predict(
    name: Name,
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")],
    pruned: Pruned = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per image.")] = False,
) -> None:
    """Classify image files."""
    import json

    from zoo_slim.checkpoint import origin_of
    from zoo_slim.loading import load_folder
    from zoo_slim.registry import registry

    pictures = [read_image(file) for file in images]
    folder = find_folder(name, pruned)
    with status(f"loading {name}"):
        model = load_folder(folder)
    origin = origin_of(model)
    assert origin is not None
    if not {"mean", "std"} <= (origin.input or {}).keys():
        typer.echo(
            f"zoo-slim: {name} does not record how its images were normalised; pixels go in as they are, from 0 to 1",
            err=True,
        )
    size = registry().find(origin.architecture).input_size_of(origin.options)
    out, shown = console(), table("image", "class", "probability", numbers=("probability",))
    for file, picture in zip(images, pictures, strict=True):
        with running(name):
            probabilities = classify(model, prepare(picture, origin, size))[0]
        best = probabilities.topk(min(top, len(probabilities)))
        found = [
            {"class": class_name(origin, index), "probability": value}
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        if as_json:
            typer.echo(json.dumps({"image": str(file), "predictions": found}))
        for row, entry in enumerate(found):
            shown.add_row("" if row else str(file), printable(entry["class"]), percent(entry["probability"], 1))
        shown.add_section()
    if not as_json:
        out.print(shown)
