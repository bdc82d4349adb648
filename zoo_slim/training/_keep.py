"""What is kept of a training: the slim checkpoint, with figures of what the file holds, and how it was made."""

import copy
import importlib.metadata
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo_slim.training._data import Dataset
from zoo_slim.training._evaluate import evaluate, protocol
from zoo_slim.training._preflight import check_device
from zoo_slim.training._processes import by_main
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._sources import example_of

__all__ = [
    "STORED",
    "accuracy_of",
    "as_stored",
    "check_dtype",
    "keep",
    "provenance",
    "size_of",
    "tested_part",
]

STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Floating dtypes that weights can be saved as."""


def check_dtype(name: str | None) -> None:
    """Compare with the dtypes that weights can be saved as; None is that of the network.

    Raises:
        TrainingError: it is another one.
    """
    if name is not None and name not in STORED:
        raise TrainingError(f"weights can be saved as {', '.join(STORED)}, not {name!r}")


def keep(
    model: nn.Module,
    folder: Path,
    dataset: Dataset,
    settings: Settings,
    training: Mapping[str, Any],
    *,
    dtype: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Save a trained network; the main process does it, the others wait.

    The accuracy recorded is that of the network as it will be loaded: cast to ``dtype`` and back, computed in float32.

    Args:
        model: the network, on any device.
        folder: of the checkpoint.
        dataset: what it was trained on.
        settings: of the training; with ``limit`` only that many test images count.
        training: how it was made.
        dtype: name of the dtype to store, one of ``STORED``; None = that of the network.
        metrics: what else was measured.
        **fields: what else `zoo_slim.save` takes.
    """
    from zoo_slim import checkpoint

    def save() -> None:
        stored = as_stored(model, dtype)
        tested = tested_part(dataset, settings)
        accuracy = accuracy_of(stored, tested, settings)
        checkpoint.save(
            model,
            folder,
            classes=dataset.classes,
            input={"size": list(dataset.input_size), "mean": list(dataset.mean), "std": list(dataset.std)},
            metrics={"test_accuracy": accuracy, **size_of(stored, dataset), **(metrics or {})},
            training={**training, "evaluation": protocol(dtype or "as trained", dataset, tested)},
            dtype=STORED[dtype] if dtype is not None else None,
            **fields,
        )

    model.cpu()
    by_main(save)


def as_stored(model: nn.Module, dtype: str | None) -> nn.Module:
    """Return a copy whose floating tensors hold the values that a file of ``dtype`` gives back."""
    stored = copy.deepcopy(model)
    if dtype is not None:
        with torch.no_grad():
            for tensor in stored.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.to(STORED[dtype]))
    return stored


def tested_part(dataset: Dataset, settings: Settings) -> Dataset:
    """Return the images that recorded accuracies are measured on: all, or as many as the settings' ``limit``."""
    return dataset.limited(settings.limit) if settings.limit else dataset


def accuracy_of(model: nn.Module, dataset: Dataset, settings: Settings) -> float:
    """Test a network on the device that the settings name."""
    return evaluate(model, dataset, device=check_device(settings.device), workers=settings.workers)["accuracy"]


def size_of(model: nn.Module, dataset: Dataset) -> dict[str, int]:
    """Return ``params`` and, for one image, ``macs`` of a network, which is moved to the CPU."""
    from zoo_slim.slimming import count_macs, count_params

    return {"params": count_params(model), "macs": count_macs(model.cpu(), example_of(dataset)[:1])}


def provenance(
    dataset: Dataset,
    settings: Settings,
    lines: Sequence[Mapping[str, Any]],
    command: str | None,
    teacher: str | None,
) -> dict[str, Any]:
    """Return how a network was trained, for the checkpoint's config.

    Args:
        dataset: what on.
        settings: how.
        lines: what `fit` returned; the median time of an epoch, its test included, is recorded.
        command: what was typed.
        teacher: sha256 of the state of the network that it imitated.
    """
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "accelerate", "zoo_slim"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        **({"command": command} if command else {}),
        "dataset": dataset.name,
        "seed": settings.seed,
        "epochs": settings.epochs,
        "settings": settings.as_dict(),
        "device": _device_name(settings),
        "seconds_per_epoch": round(statistics.median(line["seconds"] for line in lines), 1),
        **({"teacher_sha256": teacher} if teacher else {}),
        "versions": versions,
    }


def _device_name(settings: Settings) -> str:
    device = check_device(settings.device)
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device.upper()
