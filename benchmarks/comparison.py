"""Run torch-pruning over a list of models, and write what it and zoo_slim made of them as a table.

    python benchmarks/comparison.py run benchmarks/comparison-models.txt benchmarks/results/torch_pruning.jsonl
    python benchmarks/comparison.py table benchmarks/results/torch_pruning.jsonl OURS.jsonl docs/comparison.md

`run` needs an environment with torch-pruning; models that RECORDS holds are skipped. OURS is what `zoo-slim coverage`
wrote. Every model is pruned by ``prune_one.py`` in a process of its own.
"""

import json
import sys
import tempfile
from pathlib import Path

from zoo_slim.coverage._bounded import Bounds, Ended, run_bounded
from zoo_slim.coverage._lines import append_line, read_lines

BOUNDS = Bounds()
SCRIPT = Path(__file__).with_name("prune_one.py")


def run(names: Path, records: Path) -> None:
    """Prune every model of the list that has no record yet."""
    done = read_lines(records)
    todo = [name for name in names.read_text().split() if name not in done]
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch, f"{number}.jsonl") for number, name in enumerate(todo)}
        commands = {name: [sys.executable, str(SCRIPT), name, str(file)] for name, file in files.items()}
        for number, (name, ended) in enumerate(run_bounded(commands, BOUNDS), 1):
            record = outcome(name, files[name], ended)
            append_line(records, record)
            print(f"{number}/{len(todo)} {name}: {verdict(record)} {record.get('error', '')}", flush=True)


def outcome(name: str, file: Path, ended: Ended) -> dict:
    """The last that the process knew, and how it ended."""
    lines = file.read_text().splitlines() if file.exists() else []
    record = json.loads(lines[-1]) if lines else {"model": name, "stage": "start"}
    record |= {"seconds": round(ended.seconds, 2), "peak_mb": round(ended.memory / 1e6)}
    if ended.outcome != "done":
        bound = {"time": f"not done after {BOUNDS.seconds:.0f} s of processor time", "memory": "needs more than 6 GB"}
        record["error"] = bound.get(ended.outcome) or ended.errors.strip()[-300:]
        record["ended"] = ended.outcome
    return record


def verdict(record: dict) -> str:
    """``exact``, ``inexact``, ``nothing removed`` or ``fails``."""
    if record.get("exact") is not None and not record.get("removed"):
        return "nothing removed"
    if record.get("exact") is not None:
        return "exact" if record["exact"] else "inexact"
    return "fails"


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]), Path(sys.argv[3]))
