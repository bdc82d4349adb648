"""What can be known to fail before a run begins."""

import copy
import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from zoo_slim.training._data import Dataset
from zoo_slim.training._loss import logits_of
from zoo_slim.training._settings import DEVICES, Settings, TrainingError

__all__ = [
    "check_device", "check_forward", "check_ratio", "check_scales", "check_schema", "check_teacher", "part_size",
]  # fmt: skip


def check_ratio(ratio: float | Literal["auto"]) -> None:
    """Compare with what slimming takes.

    Raises:
        TrainingError: neither ``0 <= ratio < 1`` nor ``auto``.
    """
    if ratio == "auto":
        return
    if not (math.isfinite(ratio) and 0 <= ratio < 1):
        hint = f"; for {ratio:g} % write {ratio / 100:g}" if 1 < ratio < 100 else ""
        raise TrainingError(
            f"the prune ratio is the share of the channels to remove, 0 <= ratio < 1 (or auto), not {ratio!r}{hint}"
        )


def check_scales(model: nn.Module) -> None:
    """Look for BatchNorm scales, which a run slims by.

    Raises:
        TrainingError: there are none.
    """
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    if not any(norm.affine for norm in norms):
        raise TrainingError(
            f"this {type(model).__name__} has no BatchNorm scales to slim by: once trained (zoo-slim train), slim it "
            "by weights (zoo-slim slim --criterion l2), and train the slim one further (zoo-slim finetune)"
        )


def check_schema(file: str | Path, model: nn.Module) -> None:
    """Read a schema file of either format and compare it with the model, whose weights may be on the meta device.

    Raises:
        SchemaError: it cannot be read, or was made for another model.
    """
    from zoo_slim.schema import OriginalSchema, as_schema, convert_original

    schema = as_schema(file)
    if isinstance(schema, OriginalSchema):
        convert_original(schema, model)
    else:
        schema.check(model)


def check_device(device: str, amp: str = "no") -> str:
    """Return what ``auto`` stands for here, and any other device as it is: ``cpu``, ``cuda`` or ``mps``.

    Raises:
        TrainingError: it is unknown or not available, or cannot do mixed precision of the kind ``amp``.
    """
    if device not in DEVICES:
        raise TrainingError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name in available if available[name])
    if not available[device]:
        raise TrainingError(f"device {device} is not available here; use --device auto or cpu")
    if amp == "fp16" and device == "cpu":
        raise TrainingError("amp fp16 has no effect on the CPU; use --amp bf16 or no, or --device cuda")
    return device


def part_size(dataset: Dataset, settings: Settings) -> int:
    """Return how many images are computed at once, over all processes: those of a step, in ``accumulate`` parts.

    Raises:
        TrainingError: the parts cannot be equal, or mixup or cutmix find no pairs in them.
    """
    batch = min(settings.batch_size, dataset.train_count)
    said = f"{batch} images a step (--batch-size)" + ("" if batch == settings.batch_size else ", all that there are,")
    if batch % settings.accumulate:
        raise TrainingError(f"{said} cannot be cut into {settings.accumulate} equal parts (--accumulate)")
    size = batch // settings.accumulate
    if size % 2 and (settings.mixup or settings.cutmix):
        raise TrainingError(
            f"{said} in {settings.accumulate} parts (--accumulate) are {size} in each, "
            "but mixup and cutmix need an even number; change one of the two"
        )
    return size


def check_forward(model: nn.Module, dataset: Dataset, architecture: str, settings: Settings | None = None) -> None:
    """Run a copy of the model in training mode on two images of the data set's size, or on one.

    One where the settings say that not more are computed at once.

    Raises:
        TrainingError: the model does not take them, or does not return logits for all classes; or the batch cannot be
            shared out as the settings say.
    """
    count, size = 2, "x".join(map(str, dataset.input_size))
    if settings is not None:
        count = min(2, part_size(dataset.limited(settings.limit) if settings.limit else dataset, settings))
    try:
        outputs = _forward(model, (count, *dataset.input_size))
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        if settings is not None and count == 1 and _takes(model, (2, *dataset.input_size)):
            raise TrainingError(_alone(architecture, dataset, settings, said)) from error
        raise TrainingError(
            f"{architecture} does not take batches of {count} images of size {size} ({dataset.name}): {said}. "
            "Choose other options, another architecture, or for image-folder another --image-size"
        ) from error
    try:
        logits = logits_of(outputs)
    except TrainingError as error:
        raise TrainingError(
            f"the training commands cannot take {architecture}: {error}. Train it in Python, and slim it there with "
            "zoo_slim.slim"
        ) from error
    if logits.shape[0] != count or logits.shape[1] < len(dataset.classes):
        raise TrainingError(
            f"{architecture} returns logits of shape {list(logits.shape)} for {count} images of size {size}, "
            f"but {dataset.name} has {len(dataset.classes)} classes"
        )


def check_teacher(teacher: nn.Module, model: nn.Module, dataset: Dataset) -> None:
    """Compare the numbers of logits of a teacher and of the network that is to imitate it.

    Raises:
        TrainingError: they differ.
    """
    shape = (2, *dataset.input_size)
    taught, own = (logits_of(_forward(network, shape, training=False)).shape[1] for network in (teacher, model))
    if taught != own:
        raise TrainingError(
            f"the teacher returns {taught} logits, the network that is to imitate it {own}; "
            "choose a teacher of the same classes"
        )


def _takes(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        _forward(model, shape)
    except Exception:
        return False
    return True


def _alone(architecture: str, dataset: Dataset, settings: Settings, said: str) -> str:
    """Say that a network cannot be trained on one image at a time, and how there are more."""
    batch = min(settings.batch_size, dataset.train_count, settings.limit or dataset.train_count)
    if batch == 1 < settings.batch_size:
        why = f"{dataset.name} has 1 training image; take more (--limit)"
    else:
        parts = f"in {settings.accumulate} parts (--accumulate) " if settings.accumulate > 1 else ""
        why = f"{batch} images a step (--batch-size) {parts}leave no more; change this"
    return f"{architecture} cannot be trained on 1 image at a time ({said}), and {why}"


def _forward(model: nn.Module, shape: tuple[int, ...], training: bool = True) -> Any:
    from zoo_slim.tracing import meta_copy

    with torch.no_grad():
        try:
            return meta_copy(model).train(training)(torch.empty(shape, device="meta"))
        except Exception:  # perhaps only meta tensors are at fault
            probe = copy.deepcopy(model).cpu().train(training)
            with torch.random.fork_rng(devices=[]):
                return probe(torch.rand(shape))
