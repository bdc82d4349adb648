"""Kill a run in the middle of both its trainings, resume it, and compare it with one that nobody touched.

    python scripts/kill_and_resume.py docs/resume.md resnet18 --dataset cifar10 --data DIR --sparsity-train …

Everything behind the page's name goes to ``zoo-slim run``, once for each of the two runs; a ratio is among it, and at
least two epochs of six steps for each training. The run that is killed (SIGKILL) dies inside an epoch.
"""

import json
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from zoo_slim import checkpoint

RUN = (sys.executable, "-m", "zoo_slim.cli", "run")
LEAST = 5
"""Steps of an epoch before a run is killed."""

EVERY = "0"
"""Seconds between the states of the run that is killed: one after each step, so that short epochs have some, too."""

TIMES = ("seconds", "images_per_second")
"""What differs between two runs of any kind."""

LIMIT = 3600.0
"""Seconds within which a run must reach the place where it is killed."""


def main() -> None:
    """Make both runs, compare them, and write the page."""
    page, words = Path(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch:
        text, same = compare(words, Path(scratch))
    page.write_text(text, encoding="utf-8")
    sys.exit(0 if same else 1)


def compare(words: list[str], scratch: Path) -> tuple[str, bool]:
    """Make both runs in ``scratch``; return the page, and whether all their figures and weights are the same."""
    whole, killed = scratch / "whole", scratch / "killed"
    subprocess.run([*RUN, *words, "--output", str(whole)], check=True)
    command = [*RUN, *words, "--output", str(killed), "--checkpoint-seconds", EVERY, "--resume"]
    trainings = {"model": "."}
    for variant in json.loads((whole / "summary.json").read_bytes())["variants"]:  # in the order they are made in
        trainings[f"model/{checkpoint.VARIANT_PREFIX}{variant}"] = f"finetune-{variant}"
    places = {folder: kill(command, killed / training) for folder, training in trainings.items()}
    subprocess.run(command, check=True)

    rows, same = [], True
    for folder, training in trainings.items():
        ends = [_end(run / folder, run / training) for run in (whole, killed)]
        same &= ends[0] == ends[1]
        accuracies = [f"{100 * end['test_accuracy']:.2f} %" for end in ends]
        digests = [f"`{end['sha256'][:12]}…`" for end in ends]
        epochs = "same" if ends[0]["epochs"] == ends[1]["epochs"] else "different"
        rows.append([f"`{folder}`", places[folder], *accuracies, *digests, epochs])
    return _page(words, rows), same


def kill(command: list[str], training: Path) -> str:
    """Start or resume the run of ``training``, and kill it in the middle of an epoch of that; return the place."""
    before = _position(training)
    process = subprocess.Popen(command)
    start = time.monotonic()
    while process.poll() is None and time.monotonic() - start < LIMIT:
        position = _position(training)
        if position is not None and position != before and position[0] > 0 and position[1] >= LEAST:
            process.send_signal(signal.SIGKILL)
            process.wait()
            epoch, step = _position(training) or position
            return f"epoch {epoch + 1}, after step {step}"
        time.sleep(0.01)
    process.kill()
    raise SystemExit(f"{training}: the run ended before the middle of an epoch was seen")


def _position(training: Path) -> tuple[int, int] | None:
    """The epoch and the step of the state that a run would go on from."""
    try:
        state = json.loads((training / "state" / "state.json").read_bytes())
    except FileNotFoundError:
        return None
    return state["epoch"], state["step"]


def _end(folder: Path, training: Path) -> dict[str, Any]:
    config = checkpoint.read_config(folder)
    lines = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    return {
        **config.metrics,
        "sha256": config.files[checkpoint.MODEL].sha256,
        "epochs": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
    }


def _page(words: list[str], rows: list[list[str]]) -> str:
    shown = ["DIR" if before == "--data" else word for before, word in zip(["", *words], words, strict=False)]
    headings = ("checkpoint", "killed in", "accuracy", "after the kill", "sha256", "after the kill", "metrics.jsonl")
    lines = [
        "# Killed and resumed",
        "",
        "One run was left alone, the other killed with SIGKILL inside an epoch of every training, and resumed. "
        "Compared are the test accuracy, the SHA-256 of the weights, and all figures of all epochs but the times.",
        "",
        f"    python scripts/kill_and_resume.py docs/resume.md {shlex.join(shown)}",
        "",
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * 2}{' ---: |' * 2}{' --- |' * 3}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
