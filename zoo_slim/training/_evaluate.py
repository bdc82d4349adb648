"""Accuracy and loss on the test images, always in float32."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_slim.training._data import ALONE, Dataset, Part
from zoo_slim.training._loss import logits_of
from zoo_slim.training._progress import progress

__all__ = ["BATCH_SIZE", "count_correct", "evaluate", "is_of", "protocol", "totals_on"]

BATCH_SIZE = 256
"""Images per forward of recorded accuracies."""

NOTE_SECONDS = 1.0
"""Totals are fetched from the device no more often, to show them."""


def protocol(stored: str, dataset: Dataset, tested: Dataset | None = None) -> dict[str, Any]:
    """Say how a recorded accuracy was measured: on which images, of weights read back from dtype ``stored``.

    ``tested`` is the part of ``dataset`` that was used; default: all of it.
    """
    count, total = (tested or dataset).test_count, dataset.test_count
    which = "every test image" if count == total else f"{count:,} of {total:,} test images"
    return {
        "compute": "float32",
        "batch_size": BATCH_SIZE,
        "images": f"{which} once, {dataset.test_view}",
        "stored": stored,
        "count": count,
        "of": total,
    }


def is_of(training: Mapping[str, Any], tested: Dataset) -> bool:
    """Whether the accuracy that was recorded with a training was measured on as many test images of this data set."""
    evaluation = training.get("evaluation")
    count = evaluation.get("count") if isinstance(evaluation, Mapping) else None
    return (training.get("dataset"), count) == (tested.name, tested.test_count)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str | None = None,
    workers: int = 0,
) -> dict[str, float]:
    """Test a classifier. Its training mode is restored afterwards.

    Args:
        model: any classifier of images ``[N, 3, H, W]`` -> logits ``[N, classes]``.
        dataset: its test images are used, once each.
        batch_size: images per forward; it does not matter but for rounding.
        device: where the images go; default: where the model's parameters are. The model is moved there.
        workers: processes that decode images, for data sets that need it.

    Returns:
        ``accuracy`` in 0..1, ``loss`` (mean cross entropy) and ``count`` of images.
    """
    where = torch.device(device) if device is not None else next(model.parameters()).device
    loss, correct, count = count_correct(model.to(where), dataset, batch_size, where, workers).tolist()
    return {"accuracy": correct / count, "loss": loss / count, "count": int(count)}


def count_correct(
    model: nn.Module, dataset: Dataset, batch_size: int, device: torch.device, workers: int = 0, part: Part = ALONE
) -> Tensor:
    """Test a classifier that is on ``device``, on the batches of one process.

    Returns:
        ``[sum of losses, correct, count]`` on the device. Nothing waits for the device before that is read.
    """
    modes = {module: module.training for module in model.modules()}
    totals, noted = totals_on(device), time.monotonic()
    model.eval()
    try:
        with (
            torch.inference_mode(),
            _full_precision(device),
            progress("test", -(-dataset.test_count // (batch_size * part[1]))) as advance,
        ):
            for images, labels in dataset.test_batches(batch_size, device=device, workers=workers, part=part):
                logits = logits_of(model(images)).float()
                loss = functional.cross_entropy(logits, labels, reduction="none").to(totals.dtype).sum()
                correct = (logits.argmax(1) == labels).sum()
                totals += torch.stack([loss, correct, torch.full_like(correct, len(labels))])
                note = None
                if time.monotonic() - noted > NOTE_SECONDS and advance.shown:
                    note, noted = f"accuracy {float(totals[1] / totals[2]):.4f}", time.monotonic()
                advance(note)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return totals.clone()


def totals_on(device: torch.device) -> Tensor:
    """Return zeros to sum losses, correct ones and counts in, as precise as the device has it."""
    return torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Keep convolutions from rounding their inputs to TF32, as they do by default on NVIDIA's GPUs."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    exact: Any
    backends: tuple[Any, ...]
    if hasattr(cudnn, "conv"):  # reading the older flags raises where these are set
        flag, exact, backends = "fp32_precision", "ieee", (cudnn.conv, cudnn.rnn, matmul)
    else:  # before torch 2.9
        flag, exact, backends = "allow_tf32", False, (cudnn, matmul)
    before = [getattr(backend, flag) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, flag, exact)
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            setattr(backend, flag, value)
