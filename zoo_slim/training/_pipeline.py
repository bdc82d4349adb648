"""Training from a name to a slim checkpoint: what the commands train, finetune and eval do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo_slim.training._claim import check_unclaimed
from zoo_slim.training._data import Dataset, Part
from zoo_slim.training._evaluate import evaluate, is_of
from zoo_slim.training._history import history
from zoo_slim.training._keep import check_dtype, keep, provenance, size_of, tested_part
from zoo_slim.training._loop import fit
from zoo_slim.training._preflight import check_device, check_forward
from zoo_slim.training._processes import join
from zoo_slim.training._randomness import seed_everything
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._sources import (
    Data,
    check_architecture,
    check_classes,
    check_outputs,
    load_network,
    read,
    training_of,
    warn_of_normalisation,
    with_classes,
)
from zoo_slim.training._state import digest_of

__all__ = ["MODEL", "Data", "enter", "finetune", "identity_of", "measure", "train"]

MODEL = "model"
"""Name of the slim checkpoint's folder inside a run's folder."""

AFTER_SLIMMING = ("after_slimming", "test_accuracy_before_finetuning")
"""What `run` measured right after slimming: it stays with a network, however often it is fine-tuned."""


def train(
    architecture: str,
    data: Data | Dataset,
    settings: Settings,
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    teacher: str | Path | None = None,
    resume: bool = False,
    dtype: str | None = None,
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
        teacher: slim checkpoint of a network to imitate.
        resume: go on with the run in ``folder``.
        dtype: ``float16``, ``bfloat16`` or ``float32``: what the weights are saved as; default: as they were trained.
        command: recorded in the checkpoint.

    Returns:
        The folder of the slim checkpoint.
    """
    from zoo_slim.registry import registry

    enter(settings, dtype)
    target = _target(folder)
    source = load_network(start) if start is not None else None
    dataset = read(data, source)
    found = registry().find(architecture)
    options = with_classes(found, dict(options or {}), dataset)
    seed_everything(settings.seed)
    model = found.build(**options)
    identity: dict[str, Any] = {"architecture": found.name, "options": options, "source_sha256": None}
    if source is not None and start is not None:
        check_architecture(source, architecture, start)
        identity["source_sha256"] = digest_of(source.state_dict())
        check_classes(source, dataset)
        try:
            model.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise TrainingError(f"the weights of {start} do not fit {architecture}: {error}") from error
    guide, guide_sha256 = _teacher(teacher, dataset)
    check_forward(model, dataset, architecture, settings)
    lines = fit(model, dataset, settings, folder, resume, identity=identity, teacher=guide)
    before = training_of(source) if source is not None else {}
    training = provenance(dataset, settings, lines, command, guide_sha256) | history(before)
    keep(model, target, dataset, settings, training, dtype=dtype, architecture=architecture, options=options)
    return target


def finetune(
    source: str | Path,
    data: Data | Dataset,
    settings: Settings,
    folder: str | Path,
    *,
    new_head: bool = False,
    teacher: str | Path | None = None,
    resume: bool = False,
    dtype: str | None = None,
    command: str | None = None,
) -> Path:
    """Train the network of a slim checkpoint further.

    Args:
        source: its folder, or a name with ``hf-hub:`` or ``local-dir:``, or a registered one.
        data: as in `train`.
        settings: as in `train`.
        folder: as in `train`.
        new_head: begin with random weights for the classes of the data set, see `zoo_slim.new_head`.
        teacher: as in `train`; the sparse parent of a slim network for instance.
        resume: as in `train`.
        dtype: as in `train`.
        command: as in `train`.

    Returns:
        The folder of the fine-tuned slim checkpoint, ``model/`` in ``folder``.
    """
    from zoo_slim import checkpoint

    enter(settings, dtype)
    target = _target(folder)
    model = load_network(source)
    dataset = read(data, model)
    if new_head:
        seed_everything(settings.seed)
        model = checkpoint.new_head(model, dataset.classes)
    check_classes(model, dataset)
    check_outputs(model, dataset, source)
    before = training_of(model)
    guide, guide_sha256 = _teacher(teacher, dataset)
    check_forward(model, dataset, str(source), settings)
    lines = fit(model, dataset, settings, folder, resume, identity=identity_of(model), teacher=guide)
    training = provenance(dataset, settings, lines, command, guide_sha256) | history(before)
    keep(model, target, dataset, settings, training, dtype=dtype, metrics=_after_slimming(model, dataset, settings))
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
    model = load_network(source)
    dataset = read(data, model)
    check_classes(model, dataset)
    check_architecture(model, architecture, source)
    check_forward(model, dataset, str(source))
    if limit:
        dataset = dataset.limited(limit)
    measured = evaluate(model, dataset, batch_size, device, workers)
    return {**measured, **size_of(model, dataset)}


def enter(settings: Settings, dtype: str | None) -> Part:
    """Join the other processes, if there are any, before anything is read or written; say which one this is.

    Raises:
        TrainingError: the device is not available, or weights cannot be saved as ``dtype``.
    """
    check_dtype(dtype)
    check_device(settings.device, settings.amp)
    accelerator = join(settings)
    return accelerator.process_index, accelerator.num_processes


def identity_of(source: nn.Module) -> dict[str, Any]:
    """Return what tells the network of a checkpoint from others."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(source)
    built = {"architecture": origin.architecture, "options": origin.options} if origin is not None else {}
    return {**built, "source_sha256": digest_of(source.state_dict())}


def _after_slimming(model: nn.Module, dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """Return what was measured right after slimming, on the test images that are used now."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(model)
    if origin is None or not is_of(origin.training, tested_part(dataset, settings)):
        return {}
    return {name: origin.metrics[name] for name in AFTER_SLIMMING if name in origin.metrics}


def _target(folder: str | Path) -> Path:
    """Return where a run's checkpoint goes; what is there must be its own."""
    target = Path(folder) / MODEL
    check_unclaimed(target, Path(folder))
    return target


def _teacher(source: str | Path | None, dataset: Dataset) -> tuple[nn.Module | None, str | None]:
    """Load the teacher, and return it with the sha256 of its state."""
    if source is None:
        return None, None
    teacher = load_network(source)
    check_classes(teacher, dataset, "teacher")
    warn_of_normalisation(teacher, dataset)
    check_forward(teacher, dataset, f"the teacher {source}")
    return teacher, digest_of(teacher.state_dict())
