"""Write the CIFAR-10 table from the networks that were trained, beside the original project's figures. For maintainers.

    python scripts/table.py RUNS docs/cifar10.md

RUNS holds a folder for each `zoo-slim run` and `zoo-slim finetune`; of a network that was fine-tuned several times, the
last is shown. What was not trained is said to be missing: no figure comes from anywhere but the checkpoints.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle import without_paths

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
    "epochs, s each: base", "fine-tuning", "on", "theirs: ratio", "base", "fine-tuned", "parameters", "removed",
)  # fmt: skip


def page(runs: Path) -> str:
    """The table, and the commands that made ours."""
    configs = sorted(_latest(runs), key=lambda config: (config.architecture.lower(), config.metrics["params"]))
    rows, left = [], list(ORIGINAL)
    for config in configs:
        theirs = _nearest(left, config)
        rows.append([*_ours(config), *_theirs(theirs)])
        if theirs is not None:
            left.remove(theirs)
    rows += [[row.net, "not trained", *[""] * (len(HEADINGS) - 7), *_theirs(row)] for row in left]
    ruler = f"|{' --- |' * 2}{' ---: |' * (len(HEADINGS) - 2)}"
    lines = [
        "# CIFAR-10",
        "",
        "Accuracies in per cent of all 10,000 test images, of the weights as the file holds them. *Slimmed*: right "
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
        *dict.fromkeys(f"    {command}" for config in configs for command in _commands(config)),
    ]
    return "\n".join(lines) + "\n"


def _latest(runs: Path) -> Iterable[checkpoint.Config]:
    """Of each slim network the checkpoint that was fine-tuned most often."""
    found: dict[tuple[str, str], checkpoint.Config] = {}
    for path in sorted(runs.glob("*/model/**/config.json")):
        config = checkpoint.read_config(path.parent)
        if config.variant is None:
            continue
        known = found.setdefault((config.architecture, config.variant), config)
        if len(_tunings(config)) > len(_tunings(known)):
            found[config.architecture, config.variant] = config
    return found.values()


def _tunings(config: checkpoint.Config) -> list[Mapping[str, Any]]:
    """The records of the fine-tunings, the first one first."""
    records, record = [], config.training
    while "ratio" not in record:
        records.append(record)
        record = record["before"]
    return records[::-1]


def _ratio(config: checkpoint.Config) -> float:
    return float(_tunings(config)[0]["before"]["ratio"])


def _nearest(rows: list[Theirs], config: checkpoint.Config) -> Theirs | None:
    same = [row for row in rows if row.net == config.architecture]
    return min(same, key=lambda row: abs(row.ratio - _ratio(config)), default=None)


def _ours(config: checkpoint.Config) -> list[str]:
    metrics, base, training = config.metrics, config.base, config.training
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
        *(_epochs(records) for records in ([training["base"]], _tunings(config))),
        str(training["device"]),
    ]


def _epochs(records: Iterable[Mapping[str, Any]]) -> str:
    return " + ".join(f"{record['epochs']}, {record['seconds_per_epoch']:.0f}" for record in records)


def _theirs(row: Theirs | None) -> list[str]:
    if row is None:
        return [""] * 5
    return [f"{row.ratio:g}", f"{row.base:.2f}", f"{row.accuracy:.2f}", f"{row.params} M", f"{row.reduced}%"]


def _commands(config: checkpoint.Config) -> list[str]:
    records = (config.training["base"], *_tunings(config))
    return [without_paths({"command": record["command"]})["command"] for record in records]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(Path(sys.argv[1])), encoding="utf-8")
