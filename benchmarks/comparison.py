"""Run torch-pruning over a list of models, and write what it and zoo_slim made of them as a table.

    python benchmarks/comparison.py run benchmarks/comparison-models.txt benchmarks/results/torch_pruning.jsonl
    python benchmarks/comparison.py table benchmarks/results/torch_pruning.jsonl OURS.jsonl docs/comparison.md

`run` needs an environment with torch-pruning; models that RECORDS holds are skipped. OURS is what `zoo-slim coverage`
wrote. Every model is pruned by ``prune_one.py`` in a process of its own.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from zoo_slim.coverage import Bounds, read_lines, why
from zoo_slim.coverage import verdict as own_verdict
from zoo_slim.coverage._bounded import Ended, run_bounded
from zoo_slim.coverage._lines import append_line

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


def ranks_by_scale(record: dict) -> bool:
    """Whether half of the channels were removed by BatchNorm scales."""
    names = [record.get("importance"), *(run["criterion"] for run in record.get("runs", [])[-1:])]
    return "BNScaleImportance" in names or "bn_scale" in names


def page(theirs: dict[str, dict], ours: dict[str, dict]) -> str:
    """Both, side by side, for the models that both were given."""
    names = [name for name in theirs if name in ours]
    rows = [(name, theirs[name], ours[name]) for name in names]
    counts = Counter(verdict(record) for _, record, _ in rows)
    own = Counter(own_verdict(record) for _, _, record in rows)
    steps = [record for _, record, _ in rows if record.get("exact") is not None and not record.get("training_step")]
    made_with = sorted({record["made_with"] for _, _, record in rows if "made_with" in record})
    library = sorted({record["torch_pruning"] for _, record, _ in rows if "torch_pruning" in record})
    graphs = sorted(record["graph_seconds"] for _, record, _ in rows if "graph_seconds" in record)
    totals = sorted(record["prune_seconds"] for _, record, _ in rows if "prune_seconds" in record)
    traces = sorted(record["trace_seconds"] for _, _, record in rows if "trace_seconds" in record)
    wholes = sorted(whole for _, _, record in rows if (whole := own_seconds(record)) is not None)
    inexact = [record for _, record, _ in rows if verdict(record) == "inexact"]
    normed = sum(bool(record.get("norms")) for record in inexact)
    unlike = [
        name for name, their, our in rows if "importance" in their and ranks_by_scale(their) != ranks_by_scale(our)
    ]
    smaller = sum(our.get("side", 0) < their.get("side", 0) for _, their, our in rows)
    beyond = [name for name, _, record in rows if record.get("peak_mb", 0) > BOUNDS.memory / 1e6]
    lines = [
        "# Comparison with torch-pruning",
        "",
        INTRODUCTION.rstrip(),
        "",
        f"| of {len(rows)} models | torch-pruning {', '.join(library)} | zoo_slim |",
        "| --- | ---: | ---: |",
        f"| exact | {counts['exact']} | {own['exact']} |",
        f"| inexact | {counts['inexact']} | {own['NOT EXACT']} |",
        f"| nothing removed | {counts['nothing removed']} | {own['nothing to remove']} |",
        f"| fails | {counts['fails']} | {own['FAILS']} |",
        f"| not compared within the bounds | | {own['too large']} |",
        f"| pruned, but not trainable | {len(steps)} | "
        f"{sum('training step' in why(record) for _, _, record in rows)} |",
        f"| graph or trace, median | {middle(graphs):.2f} s | {middle(traces):.2f} s |",
        f"| graph or trace, longest | {graphs[-1]:.2f} s | {traces[-1]:.2f} s |",
        f"| all of pruning, median | {middle(totals):.2f} s | {middle(wholes):.2f} s |",
        f"| all of pruning, longest | {totals[-1]:.2f} s | {wholes[-1]:.2f} s |",
        "",
        f"In {normed} of the {len(inexact)} models where torch-pruning is inexact it removes channels that a "
        "normalisation over channels (LayerNorm, GroupNorm) reads, which cannot be exact: a choice, not an error. "
        "zoo_slim leaves these alone unless asked. Times are processor seconds of what finished.",
        "",
        f"Not alike: {len(unlike)} models have scales for the smaller part of their channels; torch-pruning ranked "
        f"them by these, zoo_slim by weights, so what is left cannot be compared ({', '.join(unlike)}). zoo_slim "
        f"traces {smaller} of the models with smaller images. {', '.join(beyond) or 'None'} took zoo_slim more than "
        "the bound of memory; such second runs were not made of torch-pruning's failures.",
        "",
        "    cd benchmarks",
        "    python comparison.py run comparison-models.txt results/torch_pruning.jsonl",
        "    zoo-slim coverage $(cat comparison-models.txt) --jsonl ours.jsonl",
        "    python comparison.py table results/torch_pruning.jsonl ours.jsonl ../docs/comparison.md",
        "",
        f"{'; '.join(made_with)}; torch-pruning {', '.join(library)}; {os.cpu_count()} cores, one thread.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"| {' | '.join('---' if heading in WORDS else '---:' for heading in HEADINGS)} |",
        *(f"| {' | '.join(cells(*row))} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


INTRODUCTION = """
The same models, the same definition of exact, the same machine. Half of the channels are removed, ranked over the
whole network: in torch-pruning by BatchNorm scale where the model has any, in zoo_slim where most channels have one,
else by weight magnitude. *Exact*: the pruned network computes what the original does with the slices zeroed that read a
removed channel, to a relative difference below 1e-9 in float64, with random weights.

[torch-pruning](https://github.com/VainF/Torch-Pruning) (Fang et al., DepGraph, CVPR 2023) is a fine library, and does
far more than what is compared here: language and diffusion models, Taylor and Hessian criteria, sparse training. It is
used as its documentation shows: autograd on, one image of the model's own size, `BasePruner` with
`global_pruning=True` and `pruning_ratio=0.5`, `BNScaleImportance` or `GroupMagnitudeImportance`, the layers that give
the output in `ignored_layers`, `num_heads` for attention projections (and, where that fails, without) and the
attributes `num_heads` and `head_dim` set afterwards, timm's fused attention off. What it removed is read from the
weights, all entries of which differ. Its documentation says that attributes which a forward reads must be set by hand:
models that fail for want of that are counted as failing, since the list is run without per-model code; with such code
more of them would run. A process may take 300 s of processor time and 6 GB.
"""

HEADINGS = (
    "model", "parameters", "torch-pruning", "difference", "graph", "all", "left", "training step", "why",
    "zoo_slim", "difference", "trace", "all", "left", "training step",
)  # fmt: skip
WORDS = {"model", "torch-pruning", "why", "zoo_slim", "training step"}


def cells(name: str, theirs: dict, ours: dict) -> list[str]:
    """One row."""
    run = ours["runs"][-1] if ours["runs"] else {}
    reason = theirs.get("error", "")
    if verdict(theirs) == "inexact" and theirs.get("norms"):
        reason = f"removes channels of {', '.join(theirs['norms'])}"
    elif theirs.get("exact") is not None and reason:
        reason = f"training step: {reason}"
    elif reason:
        reason = f"{theirs['stage']}: {reason}"
    params = theirs.get("params") or ours.get("params")
    return [
        name,
        form(params, ","),
        verdict(theirs),
        form(theirs.get("difference"), ".1e"),
        form(theirs.get("graph_seconds"), ".2f", " s"),
        form(theirs.get("prune_seconds"), ".2f", " s"),
        form(theirs["slim_params"] / params if theirs.get("exact") is not None else None, ".0%"),
        "ok" if theirs.get("training_step") else "fails" if theirs.get("exact") is not None else "",
        reason.replace("|", "\\|").replace("<", "&lt;")[:140],
        own_verdict(ours),
        form(max((part["difference"] for part in ours["runs"]), default=None), ".1e"),
        form(ours.get("trace_seconds"), ".2f", " s"),
        form(own_seconds(ours), ".2f", " s"),
        form(run["slim_params"] / ours["params"] if run else None, ".0%"),
        run.get("training_step", ""),
    ]


def own_seconds(record: dict) -> float | None:
    """Tracing and slimming by criterion."""
    if len(record["runs"]) < 2:
        return None
    return record["trace_seconds"] + record["runs"][-1]["slim_seconds"]


def middle(values: list[float]) -> float:
    """The median of sorted values."""
    return values[len(values) // 2]


def form(value: float | None, how: str, unit: str = "") -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:{how}}{unit}"


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        Path(sys.argv[4]).write_text(page(read_lines(Path(sys.argv[2])), read_lines(Path(sys.argv[3]))))
