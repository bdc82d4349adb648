"""The command export."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    output: Annotated[Path, typer.Option("--output", "-o", help="File to be written: .onnx or .pt2.")],
    pruned: Pruned = None,
    format: Annotated[
        str | None, typer.Option("--format", help="onnx, or pt2 (torch.export). Default: as the file's ending says.")
    ] = None,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="First merge what only training needs, as RepVGG's branches.")
    ] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Put the normalisation into the file: it takes values from 0 to 1.")
    ] = False,
    int8: Annotated[
        Path | None,
        typer.Option(
            "--int8",
            metavar="FOLDER",
            help="Quantise to 8 bits, calibrated on at most 512 images in and below this folder.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Take batches of this size only. Default: of any size.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", min=18, help="Version of ONNX's operators. Default: as torch has it.")
    ] = None,
) -> None:
    """Export a network to ONNX or torch.export.

    The file takes batches of normalised float32 images; with --normalize, of values from 0 to 1. It holds float32,
    with --int8 8 bits. It is run, and its outputs are compared. Input and classes are noted in it as JSON, in its
    metadata or in an extra file: zoo_slim.
    """
    from zoo_slim._errors import ZooSlimError
    from zoo_slim._files import check_replaceable, replacing_file
    from zoo_slim.checkpoint import origin_of, read_config
    from zoo_slim.loading import load_folder
    from zoo_slim.registry import registry

    if format is not None and format not in FORMATS:
        raise typer.BadParameter(f"--format takes {' or '.join(FORMATS)}, not {format!r}")
    check_replaceable(output)
    ending = output.suffix.removeprefix(".")
    if ending not in FORMATS and format is None:
        raise ZooSlimError(f"--output {output}: the ending must be .onnx or .pt2, or --format must say which it is")
    if ending in FORMATS and format not in (None, ending):
        raise ZooSlimError(f"--output {output} and --format {format} contradict each other; leave out --format")
    format = format or ending
    for option, value in (("--opset", opset), ("--int8", int8)):
        if value is not None and format != "onnx":
            raise ZooSlimError(f"{option} {value} is for ONNX, and {output} is to be {format}; leave it out")
    if not output.absolute().parent.is_dir():
        raise ZooSlimError(f"{output}: there is no folder {output.parent}; make it first")
    if format == "onnx":
        _need_onnx()
    if int8 is not None:
        from zoo_slim.cli._quantised import batches_of, images_in, quantise

        pictures = images_in(int8, batch_size)
    folder = find_folder(name, pruned)
    with status(f"loading {name}"):
        model = load_folder(folder).float()
        config, origin = read_config(folder), origin_of(model)
        assert origin is not None
        images = example_of(registry().find(config.architecture), config, batch_size or 3)
        if deploy:
            merge: Any = getattr(model, "deploy", None)
            if not callable(merge):
                raise ZooSlimError(f"{name}: a {config.architecture} has no deploy() to merge by: leave out --deploy")
            merged = merge()
            if not (difference := _difference(model, images, merged(images))) <= TOLERANCE:
                raise ZooSlimError(
                    f"{name}: merged, its outputs differ by {difference:.1e} of the largest: leave out --deploy"
                )
            model = merged
        note = {key: getattr(config, key) for key in ("architecture", "variant", "input", "classes")}
        if normalize:
            model, note["input"] = _normalised(name, model, config.input)
        if int8 is not None:
            _need_statistics(name, config.input, "--int8")
    batches = [images] if batch_size else [images, images[:1]]
    write = partial(_onnx, opset=opset) if format == "onnx" else _pt2
    hint = "" if batch_size else "; if it takes batches of one size only, add --batch-size"
    with replacing_file(output) as scratch:
        with status(f"exporting {name}"), _told(f"{name}: cannot be exported to {format}", hint):
            difference = write(model, batches, scratch, json.dumps(note))
        if not difference <= TOLERANCE:
            raise ZooSlimError(
                f"{name}: the exported network's outputs differ by {difference:.1e} of the largest, more than "
                f"{TOLERANCE:.0e}; nothing was written"
            )
        said = f"its outputs differ by {difference:.1e} of the largest"
        if int8 is not None:
            with status(f"quantising {name}"), _told(f"{name}: cannot be quantised", "; leave out --int8"):
                said = f"in 8 bits, {quantise(scratch, batches_of(pictures, origin, note['input'], batch_size))}"
    typer.echo(f"saved {output} ({size(output.stat().st_size)}); {said}")


@contextmanager
def _told(what: str, hint: str) -> Iterator[None]:
    """Tell in one line what failed, of whatever kind: it is a library's, or the network's own code. Warn of nothing."""
    from zoo_slim._errors import ZooSlimError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (OSError, ZooSlimError):
            raise
        except Exception as error:
            raise ZooSlimError(f"{what}: {_reason(error)}{hint}") from error


def _normalised(name: str, model: "nn.Module", expected: dict[str, Any] | None) -> "tuple[nn.Module, dict[str, Any]]":
    """Return a network that normalises its images itself, and what it expects of them."""
    from zoo_slim.cli._normalised import Normalised

    expected = _need_statistics(name, expected, "--normalize")
    channels = len(expected["mean"])
    unchanged = {"mean": [0.0] * channels, "std": [1.0] * channels}
    return Normalised(model, expected["mean"], expected["std"]), expected | unchanged


def _need_statistics(name: str, expected: dict[str, Any] | None, option: str) -> dict[str, Any]:
    from zoo_slim._errors import ZooSlimError

    if expected is None or not {"mean", "std"} <= expected.keys():
        raise ZooSlimError(
            f"{name}: its checkpoint records no mean and std of its images: leave out {option}, or save it "
            "with the right input="
        )
    return expected


def _reason(error: BaseException) -> str:
    """What the exporter stumbled over first, without the colours and advice that it is wrapped in."""
    from rich.text import Text

    from zoo_slim.hub._errors import first_line

    while (cause := error.__cause__) is not None:
        error = cause
    return Text.from_ansi(first_line(error)).plain


def _need_onnx() -> None:
    from importlib.util import find_spec

    from zoo_slim._errors import ZooSlimError

    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise ZooSlimError(f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _onnx(model: "nn.Module", batches: "list[Tensor]", file: Path, note: str, opset: int | None) -> float:
    """Write an ONNX file with a note, run it, and return the largest relative difference of its outputs.

    Args:
        model: in evaluation mode.
        batches: what it must take; of two sizes: it is to take any.
        file: to be written.
        note: kept in the file's metadata.
        opset: the version of the operators; None: torch's default.
    """
    import logging

    import onnx
    import onnxruntime
    import torch

    from zoo_slim._errors import ZooSlimError

    for package in ("torch.onnx", "onnxscript", "onnx_ir"):  # what fails is told in one line
        logging.getLogger(package).setLevel(logging.CRITICAL)
    torch.onnx.export(
        model,
        (batches[0],),
        str(file),
        input_names=["images"],
        output_names=_names(model, batches[0]),
        opset_version=opset,
        dynamo=True,
        dynamic_shapes=_dynamic(batches),
        external_data=False,
        verbose=False,
    )
    written = onnx.load(str(file))
    if opset not in (None, found := next(kind.version for kind in written.opset_import if not kind.domain)):
        raise ZooSlimError(
            f"the network could not be written for opset {opset}; it can be for {found}: leave out --opset, or give "
            "another one"
        )
    onnx.helper.set_model_props(written, {"zoo_slim": note})
    onnx.save(written, str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return max(
        _difference(model, batch, [torch.from_numpy(found) for found in session.run(None, {"images": batch.numpy()})])
        for batch in batches
    )


def _dynamic(batches: "list[Tensor]") -> tuple[dict[int, Any]] | None:
    """Return the shapes that may vary: the number of images, where there are batches of several sizes."""
    import torch

    return ({0: torch.export.Dim("batch", min=1)},) if len(batches) > 1 else None


def _names(model: "nn.Module", images: "Tensor") -> list[str] | None:
    """Return the names of a network's outputs: a dict's keys, ``logits`` for a single tensor; None: it has none."""
    import torch

    with torch.no_grad():
        outputs = model(images)
    if isinstance(outputs, torch.Tensor):
        return ["logits"]
    if isinstance(outputs, Mapping) and all(isinstance(value, torch.Tensor) for value in outputs.values()):
        return [str(key) for key in outputs]
    return None


def _pt2(model: "nn.Module", batches: "list[Tensor]", file: Path, note: str) -> float:
    """Write a program of ``torch.export`` with a note, run it, and return the largest relative difference.

    The arguments are those of `_onnx`.
    """
    import torch

    program = torch.export.export(model, (batches[0],), dynamic_shapes=_dynamic(batches))
    torch.export.save(program, str(file), extra_files={"zoo_slim": note})
    loaded = torch.export.load(str(file)).module()
    return max(_difference(model, batch, loaded(batch)) for batch in batches)


def _difference(model: "nn.Module", images: "Tensor", outputs: Any) -> float:
    """Return the largest difference of outputs from the model's, relative to the largest value of the same tensor."""
    import torch

    from zoo_slim._containers import tensors_in

    with torch.inference_mode():
        expected = tensors_in(model(images))
    found = tensors_in(outputs)
    if not expected or [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    return max(_relative(*pair) for pair in zip(found, expected, strict=True))


def _relative(found: "Tensor", expected: "Tensor") -> float:
    if not expected.numel():
        return 0.0
    found, expected = found.detach().double(), expected.double()
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return float(difference.nan_to_num(float("inf")))
