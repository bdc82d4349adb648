"""How long a trace takes, and how much memory: every model in a fresh process, built without weights.

    python benchmarks/tracing.py RECORDS.jsonl TABLE.md [NAME ...]

RECORDS is appended to; models that it holds are skipped. Without names: those of ``comparison-models.txt``, and the
largest ViT and ConvNeXt that people use.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from zoo_slim.coverage import Bounds, read_lines
from zoo_slim.coverage._bounded import run_bounded
from zoo_slim.coverage._lines import append_line

MODELS = Path(__file__).with_name("comparison-models.txt")
LARGE = ("vit_h_14", "timm/vit_huge_patch14_224", "timm/convnext_xxlarge")


def run(names: list[str], records: Path) -> None:
    """Trace what has no record yet, one model at a time."""
    held = read_lines(records)
    todo = [name for name in names if name not in held]
    with tempfile.TemporaryDirectory() as scratch:
        parts = {name: Path(scratch, f"{number}.json") for number, name in enumerate(todo)}
        commands = {name: [sys.executable, __file__, "one", name, str(part)] for name, part in parts.items()}
        for number, (name, ended) in enumerate(run_bounded(commands, Bounds()), 1):
            record = json.loads(parts[name].read_text()) if parts[name].exists() else {"model": name}
            if ended.outcome != "done":
                record["error"] = f"{ended.outcome}: {ended.errors.strip()[-300:]}"
            append_line(records, record)
            print(f"{number}/{len(todo)} {record}", flush=True)


def one(name: str, file: Path) -> None:
    """Trace one model in this process."""
    import timm  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    from zoo_slim.coverage._memory import peak_memory
    from zoo_slim.coverage._names import find
    from zoo_slim.tracing import run_trace

    architecture = find(name)
    with peak_memory() as peak:
        with torch.device("meta"):
            model = architecture.build()
        example = architecture.example_input(device="meta")
        start, processor = time.perf_counter(), time.process_time()
        trace = run_trace(model, example)
        record = {
            "model": name,
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "channels": trace.classes,
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - processor,
            "mb": (peak() or 0) / 1e6,
            "versions": ", ".join(
                f"{package} {metadata.version(package).split('+')[0]}"
                for package in ("zoo_slim", "torch", "torchvision", "timm")
            ),
        }
    file.write_text(json.dumps(record))


def table(records: Path) -> str:
    """A page of Markdown."""
    rows = sorted(read_lines(records).values(), key=lambda record: -record.get("seconds", 0))
    traced = [record for record in rows if "seconds" in record]
    seconds = [record["seconds"] for record in traced]
    mb = [record["mb"] for record in traced]
    slow = sum(value > 5 for value in seconds)
    lines = [
        "# Time and memory of a trace",
        "",
        f"{len(traced)} models, each in a fresh process, built on the meta device; a batch of two images of its "
        "own size. The trace covers evaluation and training mode. Memory: the largest resident memory above that after "
        "importing torch, torchvision and timm; the model itself is included.",
        "",
        f"- time: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s "
        f"({traced[0]['model']}), {slow} above 5 s",
        f"- memory: median {statistics.median(mb):.0f} MB, largest {max(mb):.0f} MB "
        f"({max(traced, key=lambda record: record['mb'])['model']})",
        "",
        f"    OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', os.cpu_count())} python benchmarks/tracing.py "
        f"{records.name} TABLE.md",
        "",
        f"{'; '.join(sorted({record['versions'] for record in traced}))}; {os.cpu_count()} cores.",
        "",
        "| model | parameters | channels | seconds | processor seconds | MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {record['model']} | {record['params']:,} | {record['channels']:,} | {record['seconds']:.2f} | "
            f"{record['processor_seconds']:.2f} | {record['mb']:.0f} |"
            for record in traced
        ),
        *(f"| {record['model']} | {record['error'][:100]} | | | | |" for record in rows if "error" in record),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one(sys.argv[2], Path(sys.argv[3]))
    else:
        run(sys.argv[3:] or [*MODELS.read_text().split(), *LARGE], Path(sys.argv[1]))
        Path(sys.argv[2]).write_text(table(Path(sys.argv[1])))
