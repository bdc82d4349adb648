"""Measure the statistics of BatchNorms anew."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo_slim._errors import SlimmingError
from zoo_slim.tracing import call_model

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> int:
    """Replace the running statistics of all BatchNorms, in place, by those of some batches. Nothing else changes.

    Means and variances are those of the network as it is now: each batch passes with its own statistics, as in training
    (a cumulative average, ``momentum=None``), everything else in evaluation mode. That is why
    `torch.optim.swa_utils.update_bn` is not used: it also turns dropout and stochastic depth on. BatchNorms that the
    forward pass does not reach keep what they had, and so do all of them, and every mode, where anything fails.

    Args:
        model: any network, slim or not, on any device.
        batches: what the model is called with, on its device; of a tuple or list, as a loader gives, the first item
            (a mapping gives keyword arguments). Training images, without labels; a few thousand are enough.

    Returns:
        how many batches there were.

    Raises:
        SlimmingError: there is no BatchNorm with running statistics, or no batch; the model fails on one; or what was
            measured is not finite.

    Example:
        >>> zoo_slim.recalibrate(slim_model, (images for images, _ in itertools.islice(loader, 50)))
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        raise SlimmingError(f"this {type(model).__name__} has no BatchNorm with running statistics to measure anew")
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms.values()}
    before = {norm: _statistics(norm) for norm in norms.values()}
    done = False
    try:
        model.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        count = _run(model, batches)
        for name, norm in norms.items():
            if not int(norm.num_batches_tracked):  # type: ignore[arg-type]
                _restore(norm, before[norm])
            elif not all(bool(tensor.isfinite().all()) for tensor in _statistics(norm)):
                raise SlimmingError(f"{name}: the statistics measured are not finite; look at the batches' values")
        done = True
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
            if not done:
                _restore(norm, before[norm])
        for module, mode in modes.items():
            module.training = mode
    for norm in norms.values():  # the count is of training steps, and goes on where it was
        norm.num_batches_tracked.copy_(before[norm][-1])  # type: ignore[union-attr]
    return count


def _run(model: nn.Module, batches: Iterable[Any]) -> int:
    count = 0
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(inputs, (Tensor, Mapping)):
            raise SlimmingError(
                f"batch {count} is a {type(batch).__name__} that begins with a {type(inputs).__name__}; a tensor or a "
                "mapping was expected, or a tuple or list that begins with one"
            )
        try:
            call_model(model, inputs)
        except Exception as error:
            raise SlimmingError(
                f"batch {count}: this {type(model).__name__} fails on it with the statistics of the batch: {error}. "
                "Give batches of what it is called with, on its device, of several samples each."
            ) from error
        count += 1
    if not count:
        raise SlimmingError("there is no batch to measure statistics of: the batches are empty, or used up already")
    return count


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [tensor.clone() for tensor in norm.buffers(recurse=False)]


def _restore(norm: _BatchNorm, statistics: list[Tensor]) -> None:
    for tensor, value in zip(norm.buffers(recurse=False), statistics, strict=True):
        tensor.copy_(value)
