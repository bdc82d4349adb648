"""Accuracy and loss on the test images."""

import torch
from torch import nn
from torch.nn import functional

from zoo_slim.training._data import Dataset
from zoo_slim.training._loss import logits_of
from zoo_slim.training._progress import progress

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    workers: int = 0,
) -> dict[str, float]:
    """Test a classifier. Its training mode is restored afterwards.

    Args:
        model: any classifier of images ``[N, 3, H, W]`` -> logits ``[N, classes]``.
        dataset: its test images are used, once each.
        batch_size: images per forward.
        device: where the images go; default: where the model's parameters are. The model is moved there.
        workers: processes that decode images, for data sets that need it.

    Returns:
        ``accuracy`` in 0..1, ``loss`` (mean cross entropy) and ``count`` of images.
    """
    where = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(where)
    modes = {module: module.training for module in model.modules()}
    correct, loss, count = 0, 0.0, 0
    model.eval()
    try:
        with torch.inference_mode(), progress("test", -(-dataset.test_count // batch_size)) as advance:
            for images, labels in dataset.test_batches(batch_size, device=where, workers=workers):
                logits = logits_of(model(images)).float()
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(functional.cross_entropy(logits, labels, reduction="sum").double())
                count += len(labels)
                advance(f"accuracy {correct / count:.4f}")
    finally:
        for module, mode in modes.items():
            module.training = mode
    return {"accuracy": correct / count, "loss": loss / count, "count": count}
