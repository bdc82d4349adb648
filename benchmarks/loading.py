"""What loading a slim network costs, next to other ways to get one: ``python benchmarks/loading.py``.

Every measurement is a process of its own. It imports what all ways need, looks the architecture up, lets the garbage
collector run, and only then takes the time and the peak of resident memory above what there was. Files are in the
system's cache. The ways take turns, so that a busy moment hits all of them. Linux only: it reads ``/proc``.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODELS = {"ResNet-50": ("resnet50", 0.5), "ViT-L": ("timm/vit_large_patch16_224", 0.5)}
"""Name, architecture and the share of channels removed at random: in ViT-L those of the MLPs' hidden layers."""

WAYS = {
    "load": "load_folder, every byte hashed",
    "load verified": "load_folder(verified=True)",
    "delta": "load_folder of a delta, the base hashed",
    "delta verified": "load_folder of a delta, verified=True",
    "pickle": "(a) torch.load of the pickled slim module",
    "base": "(b) build the base, load_state_dict its file",
    "bytes": "(c) read the bytes of the slim file",
    "build": "build on the meta device",
}
_COMMIT = "0" * 40
_MIB = 1 << 20


def prepare(name: str, ratio: float, folder: Path) -> None:
    """Write a base network with random weights, a slim one cut from it, and the latter as a delta and as a pickle."""
    import torch

    import zoo_slim
    from zoo_slim import checkpoint
    from zoo_slim.registry import registry

    torch.manual_seed(0)
    model = registry().find(name).build().eval()
    checkpoint.attach_origin(model, checkpoint.Origin(name))
    slim, _ = zoo_slim.slim(model, ratio=ratio, criterion="random")
    base = checkpoint.save(model, folder / "base") / checkpoint.MODEL
    checkpoint.save(slim, folder / "slim")
    described = checkpoint.describe_base(base, "org/base", _COMMIT)
    checkpoint.save(slim, folder / "delta", base_weights=described, base_file=base)
    torch.save(slim, folder / "slim.pt")


def measure(way: str, name: str, folder: Path) -> dict[str, float]:
    """Do one thing once, in this process; return ``seconds``, ``bytes`` at the peak, ``find`` for the look-up."""
    import safetensors.torch
    import torch

    from zoo_slim import checkpoint
    from zoo_slim.checkpoint._meta import build_on_meta
    from zoo_slim.registry import registry

    began = time.perf_counter()
    architecture = registry().find(name)
    find = time.perf_counter() - began
    if name.startswith("timm/"):
        import timm  # noqa: F401
    else:
        import torchvision.models  # noqa: F401
    base = folder / "base" / checkpoint.MODEL

    def build_base() -> object:
        model = architecture.builder()
        model.load_state_dict(safetensors.torch.load_file(base))
        return model

    ways: dict[str, Callable[[], object]] = {
        "load": lambda: checkpoint.load_folder(folder / "slim"),
        "load verified": lambda: checkpoint.load_folder(folder / "slim", verified=True),
        "delta": lambda: checkpoint.load_folder(folder / "delta", base_file=base),
        "delta verified": lambda: checkpoint.load_folder(folder / "delta", base_file=base, verified=True),
        "pickle": lambda: torch.load(folder / "slim.pt", weights_only=False),  # our own file
        "base": build_base,
        "bytes": lambda: (folder / "slim" / checkpoint.MODEL).read_bytes(),
        "build": lambda: build_on_meta(architecture, {}),
    }
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = _memory("VmRSS")
    began = time.perf_counter()
    result = ways[way]()
    seconds = time.perf_counter() - began
    assert result is not None
    return {"seconds": seconds, "bytes": _memory("VmHWM") - before, "find": find}


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def _child(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(label: str, repeats: int, place: Path) -> dict[str, Any]:
    """Measure all ways for one model; return the medians by way, and the size of its slim weights."""
    from rich.console import Console
    from rich.progress import track

    name, ratio = MODELS[label]
    folder = place / label
    _child("--prepare", name, str(ratio), str(folder))
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    steps = [way for _ in range(repeats + 1) for way in WAYS]
    terminal = Console(stderr=True)
    for number, way in enumerate(track(steps, label, console=terminal, disable=not terminal.is_terminal)):
        found = json.loads(_child("--measure", way, name, str(folder)))
        if number >= len(WAYS):  # the first round fills the caches
            rounds[way].append(found)
    medians = {
        way: {key: statistics.median(found[key] for found in all_) for key in all_[0]} for way, all_ in rounds.items()
    }
    files = {kind: sum(file.stat().st_size for file in (folder / kind).iterdir()) for kind in ("base", "slim", "delta")}
    return {"medians": medians, "weights": (folder / "slim" / "model.safetensors").stat().st_size, "files": files}


def show(label: str, found: dict[str, Any]) -> None:
    """Print one model's table."""
    from rich.console import Console
    from rich.table import Table

    medians, weights, files = found["medians"], found["weights"], found["files"]
    goal = 1.2 * medians["bytes"]["seconds"] + medians["build"]["seconds"]
    sizes = ", ".join(f"{kind} {size / _MIB:.2f} MiB" for kind, size in files.items())
    table = Table(
        title=f"{label}: {sizes}\ngoal: 1.2 x (c) + build = {goal * 1e3:.0f} ms, {weights * 1.2 / _MIB:.1f} MiB"
    )
    for column in ("way", "ms", "of the goal", "peak MiB", "of the slim weights"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, described in WAYS.items():
        seconds, peak = medians[way]["seconds"], medians[way]["bytes"]
        figures = f"{seconds * 1e3:.1f}", f"{seconds / goal:.2f}", f"{peak / _MIB:.1f}", f"{peak / weights:.2f}"
        table.add_row(described, *figures)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(f"looking the architecture up, once a process: {medians['load']['find'] * 1e3:.0f} ms\n")


def main() -> None:
    """Measure, and print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which models")
    parser.add_argument("--repeats", type=int, default=11, help="processes per way and model")
    parser.add_argument("--prepare", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(given.prepare[0], float(given.prepare[1]), Path(given.prepare[2]))
        return
    if given.measure:
        print(json.dumps(measure(given.measure[0], given.measure[1], Path(given.measure[2]))))
        return
    import timm
    import torch
    import torchvision

    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()},"
        f" torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__},"
        f" median of {given.repeats}\n"
    )
    with tempfile.TemporaryDirectory() as place:
        for label in given.models:
            show(label, run(label, given.repeats, Path(place)))


if __name__ == "__main__":
    main()
