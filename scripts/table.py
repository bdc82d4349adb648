"""Write the CIFAR-10 table from the runs that were made, beside the original project's figures. For maintainers.

    python scripts/table.py RUNS docs/cifar10.md

RUNS holds a folder for each network, as `zoo-slim run NET --output RUNS/NET` makes it. What was not trained is said to
be missing: no figure comes from anywhere but the runs.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_slim import checkpoint


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

WAYS = ("plain", "folded", "recalibrated", "both")
HEADINGS = (
    "net", "ratio", "base", *(f"slimmed, {way}" for way in WAYS), "fine-tuned", "parameters", "removed", "MACs", "file",
    "s per epoch", "on", "theirs: base", "fine-tuned", "parameters", "removed",
)  # fmt: skip


def page(runs: Path) -> str:
    """The table, and the commands that made it."""
    theirs = {(row.net, f"{row.ratio:g}"): row for row in ORIGINAL}
    rows, commands = [], []
    for folder in sorted(path for path in runs.iterdir() if (path / "summary.json").is_file()):
        found = list(_rows(folder, theirs))
        rows += found
        training = checkpoint.read_config(folder / "model").training
        commands.append(f"    {training.get('command', 'not recorded')}")
    missing = [f"{net} at {ratio}" for net, ratio in theirs]
    lines = [
        "# CIFAR-10",
        "",
        "Accuracies in per cent of all 10,000 test images, of the weights as the file holds them. *Slimmed*: right "
        "after slimming, before fine-tuning, by removal alone, with the constants of removed channels folded, with "
        "BatchNorm recalibrated, and both.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * 2}{' ---: |' * (len(HEADINGS) - 2)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(["Not trained: " + ", ".join(missing) + ".", ""] if missing else []),
        *commands,
    ]
    return "\n".join(lines) + "\n"


def _rows(folder: Path, theirs: dict[tuple[str, str], Theirs]) -> Iterator[list[str]]:
    """One row for each variant; the original's rows that it answers are taken out of ``theirs``."""
    summary = json.loads((folder / "summary.json").read_text())
    base, net = summary["base"], summary["architecture"]
    for ratio, metrics in summary.get("variants", {}).items():
        variant = folder / "model" / f"{checkpoint.VARIANT_PREFIX}{ratio}"
        config = checkpoint.read_config(variant)
        after, row = metrics["after_slimming"], theirs.pop((net, ratio), None)
        yield [
            net,
            ratio,
            _percent(base["test_accuracy"]),
            *(_percent(after.get(way)) for way in WAYS),
            _percent(metrics["test_accuracy"]),
            f"{metrics['params'] / 1e6:.2f} M",
            f"{1 - metrics['params'] / base['params']:.0%}",
            f"{metrics['macs'] / 1e6:.0f} M of {base['macs'] / 1e6:.0f} M",
            f"{config.files[checkpoint.MODEL].bytes / 1e6:.2f} MB",
            f"{_seconds(folder):.1f}, {_seconds(folder / f'finetune-{ratio}'):.1f}",
            str(config.training.get("device", "")),
            *_cells(row),
        ]


def _cells(row: Theirs | None) -> list[str]:
    if row is None:
        return [""] * 4
    return [f"{row.base:.2f}", f"{row.accuracy:.2f}", f"{row.params} M", f"{row.reduced}%"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _seconds(run: Path) -> float:
    """The median time of an epoch, its test included."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["seconds"] for line in lines)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(Path(sys.argv[1])), encoding="utf-8")
