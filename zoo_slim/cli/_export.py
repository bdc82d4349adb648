"""The command export."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_slim.cli._checkpoints import example_of, find_folder
from zoo_slim.cli._options import Name, Pruned, example
from zoo_slim.cli._output import size, status

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["add_commands"]

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-3
"""Largest difference of float32 outputs, relative to the largest output, that counts as the same network."""


def add_commands(app: typer.Typer) -> None:
    """Add ``export`` to the command line."""
    app.command(epilog=example("export resnet18 --pruned 0.75 --output resnet18.onnx"))(export)


def export(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to be written.")],
    pruned: Pruned = None,
    format: Annotated[str, typer.Option("--format", help="onnx, or pt2 (torch.export).")] = "onnx",
) -> None:
    """Export a network to ONNX or torch.export.

    The file takes batches of any size. It is run, and its outputs are compared.
    """
    from zoo_slim._errors import ZooSlimError
    from zoo_slim.checkpoint import read_config
    from zoo_slim.loading import load_folder
    from zoo_slim.registry import registry

    if format not in FORMATS:
        raise typer.BadParameter(f"--format takes {' or '.join(FORMATS)}, not {format!r}")
    if not output.absolute().parent.is_dir():
        raise ZooSlimError(f"{output}: there is no folder {output.parent}; make it first")
    if format == "onnx":
        _need_onnx()
    folder = find_folder(name, pruned)
    with status(f"loading {name}"):
        model = load_folder(folder).float()
        config = read_config(folder)
        images = example_of(registry().find(config.architecture), config, 3)
    scratch = output.with_name(f".{output.name}.tmp{output.suffix}")
    try:
        with status(f"exporting {name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            difference = (_onnx if format == "onnx" else _pt2)(model, images, scratch)
        if not difference <= TOLERANCE:
            raise ZooSlimError(
                f"{name}: the exported network's outputs differ by {difference:.1e} of the largest, more than "
                f"{TOLERANCE:.0e}; nothing was written"
            )
        scratch.replace(output)
    finally:
        scratch.unlink(missing_ok=True)
    typer.echo(f"saved {output} ({size(output.stat().st_size)}); its outputs differ by {difference:.1e} of the largest")


def _need_onnx() -> None:
    from importlib.util import find_spec

    from zoo_slim._errors import ZooSlimError

    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise ZooSlimError(f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _onnx(model: "nn.Module", images: "Tensor", file: Path) -> float:
    """Write an ONNX file, run it, and return the largest relative difference of its outputs."""
    import logging

    import onnxruntime
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        model,
        (images,),
        str(file),
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return max(
        _difference(model, batch, torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]))
        for batch in (images, images[:1])
    )


def _pt2(model: "nn.Module", images: "Tensor", file: Path) -> float:
    """Write a program of ``torch.export``, load it, and return the largest relative difference of its outputs."""
    import torch

    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(program, str(file))
    loaded = torch.export.load(str(file)).module()
    return max(_difference(model, batch, loaded(batch)) for batch in (images, images[:1]))


def _difference(model: "nn.Module", images: "Tensor", found: "Tensor") -> float:
    import torch

    with torch.inference_mode():
        expected = model(images)
    difference = (found.detach() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return float(difference.nan_to_num(float("inf")))
