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
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODELS = {
    "ResNet-50 at 0.5": ("resnet50", 0.5),
    "ResNet-50 at 0.75": ("resnet50", 0.75),
    "ViT-L at 0.5": ("timm/vit_large_patch16_224", 0.5),
}
"""Name, architecture and the share of channels removed at random: in ViT-L those of the MLPs' hidden layers."""

WAYS = {
    "hub": "zoo_slim.load of a Hub model in the cache",
    "local": "zoo_slim.load of a local folder",
    "hub delta": "zoo_slim.load of a delta, it and its base in the cache",
    "pickle": "(a) torch.load of the pickled slim module",
    "base": "(b) build the base, load_state_dict its file",
    "bytes": "(c) read the bytes of the slim file",
    "build": "build on the meta device",
}
"""A Hub model was hashed when it was fetched, which is remembered. A folder that lies about is hashed as it is read."""

VARIANT = "slim"
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
    checkpoint.save(slim, folder / "slim", variant=VARIANT)
    described = checkpoint.describe_base(base, "org/base", _COMMIT)
    checkpoint.save(slim, folder / "delta", variant=VARIANT, base_weights=described, base_file=base)
    torch.save(slim, folder / "slim.pt")
    for repo, home in (("base", ""), ("slim", f"pruned-{VARIANT}"), ("delta", f"pruned-{VARIANT}")):
        _into_cache(folder / repo, folder / "hub" / f"models--org--{repo}", home)
    for repo in ("slim", "delta"):  # the first load notes that the files are what they should be
        zoo_slim.load(f"hf-hub:org/{repo}", VARIANT)


def _into_cache(source: Path, target: Path, home: str) -> None:
    """Put a checkpoint where the Hub's client would, had it downloaded it."""
    from zoo_slim.hub._verify import read_digests

    snapshot = target / "snapshots" / _COMMIT / home
    for place in (snapshot, target / "blobs", target / "refs"):
        place.mkdir(parents=True, exist_ok=True)
    (target / "refs" / "main").write_text(_COMMIT)
    for file in source.iterdir():
        digests = read_digests(file)
        blob = target / "blobs" / (digests.sha256 if file.suffix == ".safetensors" else digests.git)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


def measure(way: str, name: str, folder: Path) -> dict[str, float]:
    """Do one thing once, in this process; return ``seconds``, ``bytes`` at the peak, ``find`` for the look-up."""
    import safetensors.torch
    import torch
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache  # noqa: F401

    from zoo_slim import checkpoint, load
    from zoo_slim.checkpoint._meta import build_on_meta
    from zoo_slim.registry import registry

    began = time.perf_counter()
    architecture = registry().find(name)
    find = time.perf_counter() - began
    if name.startswith("timm/"):
        import timm  # noqa: F401
    else:
        import torchvision.models  # noqa: F401

    def build_base() -> object:
        model = architecture.builder()
        model.load_state_dict(safetensors.torch.load_file(folder / "base" / checkpoint.MODEL))
        return model

    ways: dict[str, Callable[[], object]] = {
        "hub": lambda: load("hf-hub:org/slim", VARIANT),
        "local": lambda: load(f"local-dir:{folder / 'slim'}"),
        "hub delta": lambda: load("hf-hub:org/delta", VARIANT),
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


def _child(folder: Path, *arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    offline = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **offline}).stdout


def run(label: str, repeats: int, place: Path) -> dict[str, Any]:
    """Measure all ways for one model; return the medians by way, and the lengths of files in bytes."""
    from rich.console import Console
    from rich.progress import track

    name, ratio = MODELS[label]
    folder = place / label
    _child(folder, "--prepare", name, str(ratio), str(folder))
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    steps = [way for _ in range(repeats + 1) for way in WAYS]
    terminal = Console(stderr=True)
    for number, way in enumerate(track(steps, label, console=terminal, disable=not terminal.is_terminal)):
        found = json.loads(_child(folder, "--measure", way, name, str(folder)))
        if number >= len(WAYS):  # the first round fills the caches
            rounds[way].append(found)
    medians = {
        way: {key: statistics.median(found[key] for found in all_) for key in all_[0]} for way, all_ in rounds.items()
    }
    files = {
        "base model.safetensors": folder / "base" / "model.safetensors",
        "slim model.safetensors": folder / "slim" / "model.safetensors",
        "delta pruning.safetensors": folder / "delta" / "pruning.safetensors",
        "delta config.json": folder / "delta" / "config.json",
    }
    return {"medians": medians, "files": {kind: file.stat().st_size for kind, file in files.items()}}


def table_of(found: dict[str, Any]) -> list[list[str]]:
    """Return a row for each way, under a row of titles."""
    medians, weights = found["medians"], found["files"]["slim model.safetensors"]
    goal = 1.2 * medians["bytes"]["seconds"] + medians["build"]["seconds"]
    rows = [["way", "ms", "of the goal", "peak MiB", "of the slim weights"]]
    for way, described in WAYS.items():
        seconds, peak = medians[way]["seconds"], medians[way]["bytes"]
        rows.append([described, f"{seconds * 1e3:.1f}", f"{seconds / goal:.2f}", f"{peak / _MIB:.1f}",
                     f"{peak / weights:.2f}"])  # fmt: skip
    return rows


def notes_of(found: dict[str, Any]) -> list[str]:
    """Return what a table does not say."""
    medians, files = found["medians"], found["files"]
    goal = 1.2 * medians["bytes"]["seconds"] + medians["build"]["seconds"]
    return [
        "Bytes: " + ", ".join(f"{kind} {size:,}" for kind, size in files.items()) + ".",
        f"Goal: 1.2 x (c) + build = {goal * 1e3:.0f} ms, slim weights + 20 % ="
        f" {files['slim model.safetensors'] * 1.2 / _MIB:.1f} MiB."
        f" To look the architecture up, once a process: {medians['hub']['find'] * 1e3:.0f} ms.",
    ]


def show(label: str, found: dict[str, Any]) -> None:
    """Print one model's table."""
    from rich.console import Console
    from rich.table import Table

    titles, *rows = table_of(found)
    table = Table(title=label)
    for column in titles:
        table.add_column(column, justify="left" if column == "way" else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print("\n".join(notes_of(found)) + "\n", highlight=False)


def write(machine: str, found: dict[str, dict[str, Any]], file: Path) -> None:
    """Put the tables between their markers in a document."""
    parts = [machine]
    for label, of_model in found.items():
        titles, *rows = table_of(of_model)
        lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
        parts += [f"### {label}", "\n".join("| " + " | ".join(line) + " |" for line in lines), *notes_of(of_model)]
    begin, end = "<!-- tables: written by benchmarks/loading.py -->", "<!-- tables: end -->"
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    text = "\n\n".join(parts)
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Measure, and print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which models")
    parser.add_argument("--repeats", type=int, default=5, help="processes per way and model")
    parser.add_argument("--write", type=Path, help="a document, docs/loading.md, whose tables are to be replaced")
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

    machine = (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()},"
        f" torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__},"
        f" medians of {given.repeats} processes each."
    )
    print(f"{machine}\n")
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for label in given.models:
            found[label] = run(label, given.repeats, Path(place))
            show(label, found[label])
    if given.write is not None:
        write(machine, found, given.write)


if __name__ == "__main__":
    main()
