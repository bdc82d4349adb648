"""Write the CIFAR-10 table from the networks that were trained, beside the original project's figures. For maintainers.

    python scripts/table.py zoo_slim/zoo docs/cifar10.md
    python scripts/table.py RUNS PAGE

RUNS holds the folders of `zoo-slim run`, and of `zoo-slim finetune` of their networks, or it is ``zoo_slim/zoo``, the
zoo that comes with the package. Of a network that was fine-tuned several times, the last is shown. What was not trained
is said to be missing: no figure comes from anywhere but the checkpoints.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_slim import checkpoint
from zoo_slim.training._after_slimming import WAYS
from zoo_slim.training._history import steps, trainings


@dataclass(frozen=True)
class Theirs:
    """A row of the original project's table: accuracies in per cent, parameters in millions, share removed."""

    net: str
    ratio: float
    accuracy: float
    base: float
    params: float
    reduced: int


ORIGINAL = (
    Theirs("RepVGG-A0-woid", 0.7, 86.87, 87.02, 2.5, 68),
    Theirs("RepVGG-A0-woid", 0.5, 88.02, 87.02, 3.5, 55),
    Theirs("resnet18", 0.75, 94.14, 94.48, 4.5, 59),
    Theirs("resnet18", 0.5, 94.80, 94.48, 3.5, 69),
    Theirs("resnet50", 0.75, 95.29, 94.65, 5.3, 78),
    Theirs("resnet50", 0.5, 95.42, 94.65, 14.8, 37),
    Theirs("vgg11_bn", 0.75, 89.85, 91.70, 28.9, 78),
    Theirs("vgg11_bn", 0.5, 91.46, 91.70, 58.5, 55),
)
"""Sparsity 1e-4, 120 epochs of training and 120 of fine-tuning."""

HEADINGS = (
    "net", "ratio", "base", *(f"slimmed, {way}" for way in WAYS), "fine-tuned", "parameters", "removed", "MACs", "file",
    "epochs, s each: base", "fine-tuning", "on", "theirs: ratio", "base", "fine-tuned", "parameters", "removed",
)  # fmt: skip


@dataclass(frozen=True)
class Ours:
    """A slim network: its config, and how it was made.

    Attributes:
        base: the record of the base's training.
        tunings: those of the fine-tunings, the first one first.
        ratio: what it was slimmed at.
    """

    config: checkpoint.Config
    base: Mapping[str, Any]
    tunings: tuple[Mapping[str, Any], ...]
    ratio: float


def page(runs: Path, dataset: str = "cifar10", count: int = 10_000) -> str:
    """The table, and the commands that made ours; of networks that were tested on ``count`` images of ``dataset``."""
    networks = sorted(_latest(runs, dataset, count), key=lambda ours: (ours.config.architecture.lower(), -ours.ratio))
    rows, taken = [], set()
    for ours in networks:
        theirs = _nearest(ours)
        rows.append([*_ours(ours), *_theirs(theirs)])
        taken.add(theirs)
    empty = [""] * (len(HEADINGS) - 7)
    rows += [[row.net, "not trained", *empty, *_theirs(row)] for row in ORIGINAL if row not in taken]
    ruler = f"|{' --- |' * 2}{' ---: |' * (len(HEADINGS) - 2)}"
    lines = [
        "# CIFAR-10",
        "",
        f"Accuracies in per cent of all {count:,} test images, of the weights as the file holds them. *Slimmed*: right "
        "after slimming, in float32, before fine-tuning: by removal alone, with the constants of removed channels "
        "folded, with BatchNorm recalibrated, and both. *Base*: the sparse network before slimming. *Theirs*: the "
        "original project's row of the nearest ratio, of 120 epochs of sparse training and 120 of fine-tuning.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        ruler,
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "The commands, in the order of the table, what made the base first:",
        "",
        *dict.fromkeys(f"    {command}" for ours in networks for command in _commands(ours)),
    ]
    return "\n".join(lines) + "\n"


def _latest(runs: Path, dataset: str, count: int) -> Iterable[Ours]:
    """Of each slim network the checkpoint that was fine-tuned most often. What lacks a figure is named and left out."""
    found: dict[tuple[str, str, str], Ours] = {}
    for path in sorted([*runs.glob("*/model/**/config.json"), *runs.glob("*/pruned-*/config.json")]):
        config = checkpoint.read_config(path.parent)
        if config.variant is None:
            continue
        try:
            tested = config.training["dataset"], config.training["evaluation"]["count"]
            ours = _made(config)
            _ours(ours), _commands(ours)
        except (KeyError, IndexError) as error:
            print(f"left out: {path.parent} does not say {error}", file=sys.stderr)
            continue
        if tested != (dataset, count):
            print(f"left out: {path.parent} was tested on {tested[1]} images of {tested[0]}", file=sys.stderr)
            continue
        key = config.architecture, config.variant, ours.base["command"]
        if key not in found or len(ours.tunings) > len(found[key].tunings):
            found[key] = ours
    return found.values()


def _made(config: checkpoint.Config) -> Ours:
    tunings = tuple(trainings(config.training)[::-1])
    slimming = steps(config.training)[len(tunings)]
    return Ours(config, config.training["base"], tunings, float(slimming["ratio"]))


def _nearest(ours: Ours) -> Theirs | None:
    same = [row for row in ORIGINAL if row.net == ours.config.architecture]
    return min(same, key=lambda row: abs(row.ratio - ours.ratio), default=None)


def _ours(ours: Ours) -> list[str]:
    config = ours.config
    metrics, base = config.metrics, config.base
    return [
        config.architecture,
        str(config.variant),
        _percent(base["test_accuracy"]),
        *(_percent(metrics["after_slimming"].get(way)) for way in WAYS),
        _percent(metrics["test_accuracy"]),
        f"{metrics['params'] / 1e6:.2f} M of {base['params'] / 1e6:.2f} M",
        f"{1 - metrics['params'] / base['params']:.0%}",
        f"{metrics['macs'] / 1e6:.1f} M of {base['macs'] / 1e6:.1f} M",
        f"{config.files[checkpoint.MODEL].bytes / 1e6:.2f} MB",
        _epochs([ours.base]),
        _epochs(ours.tunings),
        "; ".join(dict.fromkeys(str(record["device"]) for record in (ours.base, *ours.tunings))),
    ]


def _epochs(records: Iterable[Mapping[str, Any]]) -> str:
    return " + ".join(f"{record['epochs']}, {record['seconds_per_epoch']:.0f}" for record in records)


def _theirs(row: Theirs | None) -> list[str]:
    if row is None:
        return [""] * 5
    return [f"{row.ratio:g}", f"{row.base:.2f}", f"{row.accuracy:.2f}", f"{row.params} M", f"{row.reduced}%"]


def _commands(ours: Ours) -> list[str]:
    return [record["command"] for record in (ours.base, *ours.tunings)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(Path(sys.argv[1])), encoding="utf-8")
