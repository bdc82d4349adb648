"""Training from a name to a slim checkpoint: what the commands do."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo_slim.training._data import Dataset, load_dataset
from zoo_slim.training._evaluate import evaluate
from zoo_slim.training._loop import fit
from zoo_slim.training._preflight import check_device, check_forward, check_ratio, check_schema
from zoo_slim.training._progress import announce
from zoo_slim.training._randomness import seed_everything
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._state import digest_of, write_json

__all__ = ["Data", "finetune", "measure", "run_all", "train"]

MODEL = "model"
"""Name of the slim checkpoint's folder inside a run's folder."""

HISTORY = 4
"""Earlier trainings and slimmings that a checkpoint's config records, the latest first."""


@dataclass(frozen=True)
class Data:
    """Which data set to use, as `zoo_slim.training.load_dataset` takes it."""

    name: str
    root: str | Path
    size: int | None = None
    download: bool = False

    def load(self) -> Dataset:
        """Read it."""
        return load_dataset(self.name, self.root, self.size, download=self.download)


def train(
    architecture: str,
    data: Data | Dataset,
    settings: Settings,
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    command: str | None = None,
) -> Path:
    """Train an architecture from random weights, or from those of a slim checkpoint.

    Args:
        architecture: a registered name.
        data: what to train on; a data set that is read already is fine too.
        settings: with ``sparsity`` above 0 it is sparsity training.
        folder: of the run; the slim checkpoint lies in ``model/`` in it.
        options: for the builder; ``num_classes`` comes from the data where the architecture has it and it is not given.
        start: slim checkpoint (folder or name) to start from instead of random weights.
        resume: go on with the run in ``folder``.
        command: recorded in the checkpoint.

    Returns:
        The folder of the slim checkpoint.
    """
    from zoo_slim import checkpoint
    from zoo_slim.registry import registry

    dataset = _dataset(data)
    found = registry().find(architecture)
    options = _with_classes(found, dict(options or {}), dataset)
    seed_everything(settings.seed)
    model = found.build(**options)
    identity: dict[str, Any] = {"architecture": found.name, "options": options, "source_sha256": None}
    if start is not None:
        source = _load(start)
        _check_architecture(source, architecture, start)
        identity["source_sha256"] = digest_of(source.state_dict())
        _check_classes(source, dataset)
        try:
            model.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise TrainingError(f"the weights of {start} do not fit {architecture}: {error}") from error
    check_forward(model, dataset, architecture, settings.batch_size)
    last = fit(model, dataset, settings, folder, resume, identity=identity)
    target = Path(folder) / MODEL
    checkpoint.save(
        model,
        target,
        architecture=architecture,
        options=options,
        classes=dataset.classes,
        input=_input(dataset),
        metrics=_metrics(model, dataset, last["test_accuracy"]),
        training=_provenance(dataset, settings, command),
    )
    return target


def finetune(
    source: str | Path,
    data: Data | Dataset,
    settings: Settings,
    folder: str | Path,
    *,
    resume: bool = False,
    command: str | None = None,
) -> Path:
    """Train the network of a slim checkpoint further.

    Args:
        source: its folder, or a name with ``hf-hub:`` or ``local-dir:``, or a registered one.
        data: as in `train`.
        settings: as in `train`.
        folder: as in `train`.
        resume: as in `train`.
        command: as in `train`.

    Returns:
        The folder of the fine-tuned slim checkpoint, ``model/`` in ``folder``.
    """
    from zoo_slim import checkpoint

    dataset = _dataset(data)
    model = _load(source)
    _check_classes(model, dataset)
    before = _training_of(model)
    check_forward(model, dataset, str(source), settings.batch_size)
    last = fit(model, dataset, settings, folder, resume, identity=_identity(model))
    target = Path(folder) / MODEL
    checkpoint.save(
        model,
        target,
        classes=dataset.classes,
        input=_input(dataset),
        metrics=_metrics(model, dataset, last["test_accuracy"]),
        training=_provenance(dataset, settings, command) | _history(before),
    )
    return target


def measure(
    source: str | Path,
    data: Data | Dataset,
    *,
    batch_size: int = 256,
    device: str = "auto",
    limit: int = 0,
    workers: int = 0,
    architecture: str | None = None,
) -> dict[str, Any]:
    """Evaluate the network of a slim checkpoint; if ``architecture`` is given, it must be one of these.

    Returns:
        What `zoo_slim.training.evaluate` returns, and ``params`` and ``macs`` of one image.

    Raises:
        TrainingError: the device is not available, or the network does not fit the data set.
    """
    device = check_device(device)
    dataset = _dataset(data)
    model = _load(source)
    _check_classes(model, dataset)
    _check_architecture(model, architecture, source)
    check_forward(model, dataset, str(source))
    if limit:
        dataset = dataset.limited(limit)
    measured = evaluate(model, dataset, batch_size, device, workers)
    return {**measured, **_size(model.cpu(), dataset)}


def run_all(
    architecture: str | None,
    data: Data | Dataset,
    settings: Settings,
    tuning: Settings | None,
    ratio: float,
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    base: str | Path | None = None,
    schema: str | Path | None = None,
    resume: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Train sparsely, slim, and fine-tune.

    ``folder`` gets the training run, its slim checkpoint in ``model/`` with the slim variant in
    ``model/pruned-<ratio>/``, the fine-tuning run in ``finetune-<ratio>/`` and ``summary.json``.

    Args:
        architecture: as in `train`.
        data: as in `train`.
        settings: of the sparsity training.
        tuning: of the fine-tuning; None = train only.
        ratio: share of the BatchNorm scales below the threshold, between 0 and 1.
        folder: of this run and all its parts.
        options: as in `train`.
        start: as in `train`.
        base: slim checkpoint of a trained network; nothing is trained before slimming then.
        schema: file of a pruning schema, or of the original tool's, whose rules are then followed; default: the
            architecture's own schema, or a traced one.
        resume: go on where the last run in ``folder`` stopped.
        command: recorded in the checkpoints.

    Returns:
        The summary: ``base`` and ``slim``, each with ``test_accuracy``, ``params`` and ``macs``, ``slim`` also with
        ``test_accuracy_before_finetuning``; ``saved``, the folder of the last checkpoint.

    Raises:
        TrainingError: neither an architecture nor ``base`` is given, the ratio is out of range, or a run cannot go on.
        SchemaError: the schema cannot be read, or does not fit. Like the ratio, it is checked before anything is
            trained.
    """
    from zoo_slim import SlimPruner, checkpoint, slim

    check_ratio(ratio)
    check_device(settings.device, settings.amp)
    if architecture is None and base is None:
        raise TrainingError("nothing to train: name an architecture, or a trained checkpoint to slim")
    folder, dataset = Path(folder), _dataset(data)
    if schema is not None:
        check_schema(schema, _load(base) if base is not None else _structure(str(architecture), options, dataset))
    if base is not None:
        _check_architecture(_load(base), architecture, base)
    trained = base
    if trained is None:
        assert architecture is not None
        trained = train(
            architecture, dataset, settings, folder, options=options, start=start, resume=resume, command=command
        )
    whole = _load(trained)
    _check_classes(whole, dataset)
    tested = dataset.limited(settings.limit) if settings.limit else dataset
    origin = checkpoint.origin_of(whole)
    base_metrics = dict(origin.metrics) if origin is not None else {}
    if "test_accuracy" not in base_metrics:
        base_metrics |= _metrics(whole, dataset, _accuracy(whole, tested, settings))
    summary: dict[str, Any] = {"architecture": architecture, "base": base_metrics, "saved": str(trained)}
    if tuning is not None:
        if schema is None:
            slimmed, _ = slim(whole, ratio=ratio, example_input=_example(dataset))
        else:
            pruner = SlimPruner(whole, schema)
            pruner.run(prune_ratio=ratio)
            slimmed = pruner.pruned_model
        before = _accuracy(slimmed, tested, settings)
        announce(f"slimmed at ratio {ratio:g}: test accuracy {before:.4f} before fine-tuning")
        variant = f"{ratio:g}"
        slimming = {
            **({"command": command} if command else {}),
            "criterion": "bn_scale",
            "ratio": ratio,
            **({"schema": Path(schema).name} if schema is not None else {}),
            "base": _training_of(whole),
        }
        run = folder / f"finetune-{variant}"
        last = fit(slimmed, dataset, tuning, run, resume, identity=_identity(slimmed))
        metrics = {
            **_metrics(slimmed, dataset, last["test_accuracy"]),
            "test_accuracy_before_finetuning": before,
        }
        target = folder / MODEL / f"pruned-{variant}"
        checkpoint.save(
            slimmed,
            target,
            variant=variant,
            classes=dataset.classes,
            input=_input(dataset),
            metrics=metrics,
            training=_provenance(dataset, tuning, command) | _history(slimming),
            base=base_metrics,
        )
        summary |= {"ratio": ratio, "slim": metrics, "saved": str(target)}
    write_json(folder / "summary.json", summary)
    return summary


def _dataset(data: Data | Dataset) -> Dataset:
    return data.load() if isinstance(data, Data) else data


def _accuracy(model: nn.Module, dataset: Dataset, settings: Settings) -> float:
    return evaluate(model, dataset, device=check_device(settings.device), workers=settings.workers)["accuracy"]


def _load(source: str | Path) -> nn.Module:
    """Load a checkpoint: a path is a folder, and so is the name of one unless it is a registered name."""
    from zoo_slim._errors import RegistryError
    from zoo_slim.loading import load
    from zoo_slim.registry import registry

    text = str(source)
    if isinstance(source, Path):
        return load(f"local-dir:{text}")
    if ":" not in text and Path(text).expanduser().is_dir():
        try:
            registry().find(text)
        except RegistryError:
            text = f"local-dir:{text}"
    return load(text)


def _structure(name: str, options: Mapping[str, Any] | None, dataset: Dataset) -> nn.Module:
    """The network that `train` builds, without weights."""
    from zoo_slim.checkpoint._meta import build_on_meta
    from zoo_slim.registry import registry

    found = registry().find(name)
    return build_on_meta(found, _with_classes(found, dict(options or {}), dataset))


def _with_classes(architecture: Any, options: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    from zoo_slim import ZooSlimError

    count = len(dataset.classes)
    if "num_classes" in options:
        if options["num_classes"] != count:
            raise TrainingError(f"num_classes is {options['num_classes']}, but {dataset.name} has {count} classes")
        return architecture.check(options)
    try:
        return architecture.check({**options, "num_classes": count})
    except ZooSlimError:
        return architecture.check(options)


def _check_classes(model: nn.Module, dataset: Dataset) -> None:
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(model)
    if origin is not None and origin.classes and len(origin.classes) != len(dataset.classes):
        raise TrainingError(
            f"the model tells {len(origin.classes)} classes apart, {dataset.name} has {len(dataset.classes)}; "
            "choose the data set that it was trained for"
        )


def _check_architecture(model: nn.Module, asked: str | None, source: str | Path) -> None:
    from zoo_slim.checkpoint import origin_of
    from zoo_slim.registry import registry

    origin = origin_of(model)
    if asked is None or origin is None:
        return
    if registry().find(asked).name != registry().find(origin.architecture).name:
        raise TrainingError(
            f"{source} holds a {origin.architecture}, but {asked} was asked for; leave the name out, "
            "or name the checkpoint of another network"
        )


def _example(dataset: Dataset) -> torch.Tensor:
    return torch.rand(2, *dataset.input_size, generator=torch.Generator().manual_seed(0))


def _size(model: nn.Module, dataset: Dataset) -> dict[str, int]:
    from zoo_slim.slimming import count_macs, count_params

    return {"params": count_params(model), "macs": count_macs(model, _example(dataset)[:1])}


def _metrics(model: nn.Module, dataset: Dataset, accuracy: float) -> dict[str, Any]:
    return {"test_accuracy": accuracy, **_size(model.cpu(), dataset)}


def _input(dataset: Dataset) -> dict[str, Any]:
    return {"size": list(dataset.input_size), "mean": list(dataset.mean), "std": list(dataset.std)}


def _provenance(dataset: Dataset, settings: Settings, command: str | None) -> dict[str, Any]:
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
        "versions": versions,
    }


def _identity(source: nn.Module) -> dict[str, Any]:
    """What tells the network of a checkpoint from others."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(source)
    built = {"architecture": origin.architecture, "options": origin.options} if origin is not None else {}
    return {**built, "source_sha256": digest_of(source.state_dict())}


def _training_of(model: nn.Module) -> dict[str, Any]:
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(model)
    return dict(origin.training) if origin is not None else {}


def _history(before: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of how the network came to be before this training: ``before``, and the base's ``base``."""
    if not before:
        return {}
    kept = _shortened(before, HISTORY)
    return {"before": kept, **({"base": kept["base"]} if "base" in kept else {})}


def _shortened(training: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """The record without what is nested more than ``levels`` deep, which a checkpoint's config does not take."""
    return {
        key: _shortened(value, levels - 1) if key in ("before", "base") and isinstance(value, Mapping) else value
        for key, value in training.items()
        if levels > 1 or key not in ("before", "base")
    }
