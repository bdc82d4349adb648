"""Which run a folder belongs to: ``run.json`` says what was asked, and resuming must ask for the same.

While a run lasts, its process holds a lock of ``state/``. It is not that of the run's folder, which savers of
checkpoints in it wait for.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from zoo_slim.training._data import Dataset
from zoo_slim.training._folder import IMAGENET_MEAN, IMAGENET_STD, FolderImages
from zoo_slim.training._settings import FREE_TO_CHANGE, Settings, TrainingError
from zoo_slim.training._state import read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_unclaimed", "claim", "describe"]

RECORDED_LATER = frozenset({"input_size", "mean", "std", "architecture", "options", "source_sha256"})
"""A ``run.json`` without these is resumed without comparing them."""


def describe(model: nn.Module, dataset: Dataset, settings: Settings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells this run from others, ready for JSON."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "settings": settings.as_dict(),
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "input_size": list(dataset.input_size),
            "mean": [float(number) for number in dataset.mean],
            "std": [float(number) for number in dataset.std],
            "train_count": dataset.train_count,
            "test_count": dataset.test_count,
        },
        "model": {
            **identity,
            "class": type(model).__name__,
            "shapes_sha256": hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest(),
        },
    }


def check_unclaimed(checkpoint: Path, run: Path) -> None:
    """Refuse to replace a checkpoint that a run in the folder ``run`` did not make.

    Raises:
        TrainingError: naming it.
    """
    if checkpoint.exists() and not (run / "run.json").exists():
        raise TrainingError(
            f"{checkpoint} exists already, and is of no run in {run}: choose another folder (--output), or remove it"
        )


@contextmanager
def claim(folder: Path, description: dict[str, Any], resume: bool) -> Iterator[None]:
    """Make the folder this run's, or see that it is, and keep other processes out of it until the block ends.

    Raises:
        TrainingError: another process trains in it, it holds a run and ``resume`` is false, or another run than the one
            described, or a state that nothing is known of.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file; name a folder for the run")
    (folder / "state").mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _enter(folder, description, resume)
        yield


def _enter(folder: Path, description: dict[str, Any], resume: bool) -> None:
    file = folder / "run.json"
    if not file.exists():
        if (folder / "state" / "state.json").exists():
            raise TrainingError(
                f"{folder / 'state'} holds the state of a run, but {file}, which says of which, is missing: "
                "put it back, or choose another folder"
            )
        write_json(file, description)
        return
    if not resume:
        raise TrainingError(f"{folder} already holds a run: resume it (--resume), or choose another folder")
    recorded = read_json(file)
    for part, values in description.items():
        before = recorded.get(part)
        before = before if isinstance(before, dict) else {}
        if part == "settings":
            before = {**_DEFAULTS, **before}
        elif before.get("name") == FolderImages.name:
            before = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), **before}
        for name in {**values, **before}:
            value, old = values.get(name), before.get(name)
            unknown = name in RECORDED_LATER and name not in before
            if value != old and name not in FREE_TO_CHANGE and not unknown:
                same = "resume with the same"
                if name == "input_size":
                    same += " (image_size, --image-size)"
                elif name in ("mean", "std"):
                    same = "images are now normalised as the network's checkpoint says; begin a new run"
                raise TrainingError(
                    f"{folder} holds a run with {part} {name} = {old!r}, now it is {value!r}: "
                    f"{same}, or choose another folder"
                )


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}
"""What a run was started with whose record is older than a setting."""


_held: set[int] = set()
"""Descriptors of locks. A forked child would go on holding them when this process is killed."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run; where the file system has no locks, do without."""
    if not fcntl:
        yield
        return
    descriptor = os.open(folder / "state", os.O_RDONLY)
    _held.add(descriptor)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TrainingError(
                    f"another process trains in {folder}; wait for it, or choose another folder"
                ) from error
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """Close the locks in a forked child."""
    while _held:
        os.close(_held.pop())


if fcntl:
    os.register_at_fork(after_in_child=_let_go)
