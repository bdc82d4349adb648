"""The command load: what a checkpoint is worth, seen with one's own eyes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_slim._amount import amount
from zoo_slim._images import read_image
from zoo_slim.cli._checkpoints import example_of, find_folder, running
from zoo_slim.cli._images import class_name, classify, prepare
from zoo_slim.cli._latency import latencies
from zoo_slim.cli._options import AsJson, Name, Pruned, example
from zoo_slim.cli._output import console, percent, printable, size, status, table
from zoo_slim.cli._samples import Answer, read_samples, show_answers

if TYPE_CHECKING:
    from torch import nn

    from zoo_slim.checkpoint import Config
    from zoo_slim.registry import Architecture

__all__ = ["add_commands", "epochs_of"]


def add_commands(app: typer.Typer) -> None:
    """Add ``load`` to the command line."""
    app.command(epilog=example("load resnet18 --pruned 0.75"))(load)


def load(
    name: Name,
    pruned: Pruned = None,
    demo: Annotated[bool, typer.Option(help="Classify the pictures that come with the model.")] = True,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Forward passes whose median is the latency.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Load a network, try it, and compare it with its original.

    It classifies the pictures that come with it. Its original is the network that it was slimmed from.
    """
    from zoo_slim.checkpoint import PRUNING
    from zoo_slim.checkpoint._load import read_skeleton
    from zoo_slim.loading import load_folder

    folder = find_folder(name, pruned)
    with status(f"loading {name}"):
        skeleton = read_skeleton(folder)  # before the clock runs, because it imports what the builder needs
        config, architecture = skeleton.config, skeleton.architecture
        base = architecture.build(**skeleton.options).eval() if PRUNING in config.files else skeleton.original
        start = time.perf_counter()
        model = load_folder(folder)
        seconds = time.perf_counter() - start
    with running(name):
        answers, source = _answers(folder, model, architecture) if demo else ([], "")
    with status("measuring"), running(name):
        report = _report(model, base, config, architecture, seconds, repeats)
    report = {"name": name, "variant": config.variant, "architecture": config.architecture, **report}
    if as_json:
        import json

        said = [
            {
                "file": one.sample.file.name,
                "label": one.sample.label,
                "prediction": one.predicted,
                "probability": one.probability,
            }
            for one in answers
        ]
        typer.echo(json.dumps({**report, "samples": said}))
        return
    out = console()
    if answers:
        show_answers(out, answers)
        right = sum(answer.right for answer in answers)
        origin = f"; pictures: {printable(source)}" if source else ""
        out.print(f"{right} of {len(answers)} right{origin}", style="dim")
        out.print()
    _show(report, config)


def _answers(folder: Path, model: "nn.Module", architecture: "Architecture") -> tuple[list[Answer], str]:
    import torch

    from zoo_slim.checkpoint import origin_of

    origin = origin_of(model)
    assert origin is not None
    samples, source = read_samples(folder)
    if not samples:
        return [], ""
    pictures = [read_image(sample.file) for sample in samples]
    batch = torch.cat([prepare(picture, origin, architecture.input_size_of(origin.options)) for picture in pictures])
    best = classify(model, batch).max(1)
    answers = [
        Answer(sample, picture, class_name(origin, index), probability)
        for sample, picture, index, probability in zip(
            samples, pictures, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
    return answers, source


def _report(
    model: "nn.Module", base: "nn.Module", config: "Config", architecture: "Architecture", seconds: float, repeats: int
) -> dict[str, Any]:
    """What is recorded and measured of the network, and of the base if it is slim."""
    import torch

    from zoo_slim.checkpoint import MODEL, PRUNING
    from zoo_slim.checkpoint._origin import part_tested, trained_on
    from zoo_slim.slimming import count_macs, count_params

    slim, earlier = PRUNING in config.files, config.training.get("base")
    earlier = earlier if isinstance(earlier, Mapping) else {}
    image = example_of(architecture, config)
    models = {"base": base, "slim": model} if slim else {"slim": model}
    took = latencies(models, image, repeats)
    weights = config.files.get(MODEL)
    report: dict[str, Any] = {
        "params": count_params(model),
        "macs": count_macs(model, image),
        "file_bytes": weights.bytes if weights else None,
        "file_dtype": config.stored_dtype,
        "test_accuracy": config.metrics.get("test_accuracy"),
        "part_tested": part_tested(config.training),
        "dataset": trained_on(config.training),
        "epochs": epochs_of(config.training),
        "load_seconds": seconds,
        "latency_ms": 1e3 * took["slim"],
        "threads": torch.get_num_threads(),
        "input": list(image.shape[1:]),
        "repeats": repeats,
    }
    if slim:
        report["base"] = {
            "params": count_params(base),
            "macs": count_macs(base, image),
            **{key: config.base.get(key) for key in ("file_bytes", "file_dtype", "test_accuracy")},
            "part_tested": part_tested(earlier),
            "epochs": earlier.get("epochs"),
            "latency_ms": 1e3 * took["base"],
        }
    return report


def epochs_of(training: Mapping[str, Any]) -> int | None:
    """Add up the epochs of a training and of those before it, back to the slimming or to random weights."""
    from zoo_slim.training._history import trainings

    return sum(record["epochs"] for record in trainings(training)) or None


def _show(report: dict[str, Any], config: "Config") -> None:
    base = report.get("base")
    own = f"{config.architecture} {'slim' if base else ''} {config.variant or ''}".strip()
    columns = [own] if base is None else [config.architecture, own, "of the base"]
    shown = table("", *columns, numbers=columns)
    for label, key, write in (
        ("parameters", "params", amount),
        ("MACs per image", "macs", amount),
        ("weights file", "file_bytes", size),
        ("test accuracy", "test_accuracy", percent),
        ("load time", "load_seconds", lambda value: "—" if value is None else f"{1e3 * value:.0f} ms"),
        ("latency, 1 image", "latency_ms", lambda value: f"{value:.2f} ms"),
    ):
        before, after = (base or {}).get(key), report.get(key)
        if base is None:
            shown.add_row(label, write(after))
        else:
            alike = key != "test_accuracy" or base["part_tested"] == report["part_tested"]
            shown.add_row(label, write(before), write(after), _ratio(key, before, after) if alike else "")
    out = console()
    out.print(shown)
    out.print()
    for note in _notes(report):
        out.print(note, style="dim")


def _ratio(key: str, before: Any, after: Any) -> str:
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)) or not before:
        return ""
    return f"{100 * (after - before):+.2f} points" if key == "test_accuracy" else percent(after / before, 1)


def _images(report: dict[str, Any], whole: str) -> str:
    part = report["part_tested"]
    return whole if part is None else f"{part[0]:,} of {part[1]:,} test images"


def _notes(report: dict[str, Any]) -> list[str]:
    """What one must know to read the table."""
    base = report.get("base") or {}
    notes = []
    if report["test_accuracy"] is not None:
        data = f" of {printable(str(report['dataset']))}" if report["dataset"] else ""
        images = _images(report, "the test images" if data else "its test images")
        notes.append(f"test accuracy: recorded when the network was made, on {images}{data}")
        if base.get("test_accuracy") is not None and base["part_tested"] != report["part_tested"]:
            notes[-1] += f"; the base's on {_images(base, 'the test images')}"
    if isinstance(report["epochs"], int) and isinstance(base.get("epochs"), int):
        notes.append(
            f"the base was trained for {base['epochs']} epochs; the slim network comes from it and was trained for "
            f"{report['epochs']} more, so their accuracies differ by the training, too"
        )
    if base.get("file_bytes") and base.get("file_dtype") != report["file_dtype"]:
        other = printable(str(base.get("file_dtype") or "another type"))
        notes.append(f"weights file: {report['file_dtype']}, the base's {other}")
    side = "x".join(map(str, report["input"]))
    passes = "one pass" if report["repeats"] == 1 else f"median of {report['repeats']} passes"
    notes.append(
        f"latency: {passes} of one {side} image, threads: {report['threads']}, "
        "measured here" + ("; the base has random weights for it" if base else "")
    )
    return notes
