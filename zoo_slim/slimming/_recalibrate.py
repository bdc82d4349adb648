"""Measure the statistics of BatchNorms anew."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo_slim._containers import tensors_in
from zoo_slim._errors import SlimmingError
from zoo_slim.tracing import call_model

__all__ = ["recalibrate"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


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
            (a mapping gives keyword arguments). Those without a sample are passed over. Training images, without
            labels; a few thousand are enough.

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
            if norm.num_batches_tracked is None:  # without it torch keeps no cumulative average
                norm.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=norm.running_mean.device)  # type: ignore
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        count = _run(model, batches)
        for name, norm in norms.items():
            if not int(norm.num_batches_tracked):  # type: ignore[arg-type]
                _restore(norm, before[norm])
            elif not all(bool(norm.get_buffer(key).isfinite().all()) for key in ("running_mean", "running_var")):
                raise SlimmingError(
                    f"BatchNorm {name!r}: the statistics measured are not finite; look at the batches' values"
                )
        done = True
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
            if not done:
                _restore(norm, before[norm])
        for module, mode in modes.items():
            module.training = mode
    for norm in norms.values():  # the count is of training steps, and goes on where it was
        _restore(norm, {"num_batches_tracked": before[norm]["num_batches_tracked"]})
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
        first = next(iter(tensors_in(inputs)), None)
        if first is not None and first.ndim and not len(first):
            continue
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


def _statistics(norm: _BatchNorm) -> dict[str, Tensor | None]:
    statistics = {name: getattr(norm, name) for name in _STATISTICS}
    return {name: None if tensor is None else tensor.clone() for name, tensor in statistics.items()}


def _restore(norm: _BatchNorm, statistics: dict[str, Tensor | None]) -> None:
    for name, value in statistics.items():
        if value is None:
            setattr(norm, name, None)
        else:
            getattr(norm, name).copy_(value)
