"""Measure many models, and keep every record as soon as it is made."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo_slim.coverage._bounded import Bounds, Ended, run_bounded
from zoo_slim.coverage._lines import append_line

__all__ = ["cover"]


def cover(names: Sequence[str], file: Path, bounds: Bounds, workers: int) -> Iterator[dict[str, Any]]:
    """Measure every model in a process of its own, ``workers`` at a time.

    Args:
        names: of registered architectures and of torchvision's detectors.
        file: JSON lines; records are appended. What is cut off loses only the models under way.
        bounds: of each process.
        workers: processes at a time.

    Yields:
        the records, as they are made.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-slim-coverage-") as scratch:
        parts = {name: Path(scratch, f"{number}.jsonl") for number, name in enumerate(names)}
        commands = {
            name: [sys.executable, "-m", "zoo_slim.coverage._measure", name, str(part), str(bounds.memory)]
            for name, part in parts.items()
        }
        for name, ended in run_bounded(commands, bounds, workers):
            record = _record(name, parts[name], ended, bounds)
            append_line(file, record)
            yield record


def _record(name: str, part: Path, ended: Ended, bounds: Bounds) -> dict[str, Any]:
    """What the process knew last, and how it ended."""
    lines = part.read_text("utf-8").split("\n")[:-1] if part.exists() else []
    record: dict[str, Any] = (
        json.loads(lines[-1]) if lines else {"model": name, "stage": "start", "failures": [], "runs": []}
    )
    record |= {"seconds": round(ended.seconds, 1), "peak_mb": round(ended.memory / 1e6)}
    if ended.outcome != "done":
        record["ended"] = ended.outcome
        why = {
            "time": f"not done after {bounds.seconds:.0f} s of processor time",
            "memory": f"takes more than {bounds.memory / 1e9:g} GB",
            "failed": f"the process failed: {' '.join(ended.errors.split())[-300:]}",
        }[ended.outcome]
        record["failures"].append({"stage": record["stage"], "error": why, "where": []})
    return record
