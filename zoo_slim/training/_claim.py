"""Which run a folder belongs to: ``run.json`` says what was asked, and resuming must ask for the same."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo_slim.training._data import Dataset
from zoo_slim.training._settings import FREE_TO_CHANGE, Settings, TrainingError
from zoo_slim.training._state import read_json, write_json

__all__ = ["claim", "describe"]

RECORDED_LATER = frozenset({"input_size", "architecture", "options", "source_sha256"})
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
            "train_count": dataset.train_count,
            "test_count": dataset.test_count,
        },
        "model": {
            **identity,
            "class": type(model).__name__,
            "shapes_sha256": hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest(),
        },
    }


def claim(folder: Path, description: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's, or see that it is.

    Raises:
        TrainingError: it holds a run and ``resume`` is false, or another run than the one described.
    """
    file = folder / "run.json"
    if not file.exists():
        if folder.exists() and not folder.is_dir():
            raise TrainingError(f"{folder} is a file; name a folder for the run")
        folder.mkdir(parents=True, exist_ok=True)
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
        for name in {**values, **before}:
            value, old = values.get(name), before.get(name)
            unknown = name in RECORDED_LATER and name not in before
            if value != old and name not in FREE_TO_CHANGE and not unknown:
                raise TrainingError(
                    f"{folder} holds a run with {part} {name} = {old!r}, now it is {value!r}: "
                    "resume with the same, or choose another folder"
                )


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}
"""What a run was started with whose record is older than a setting."""
