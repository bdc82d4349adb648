"""The first-party criteria: a score for every channel of a schema. The lowest go first.

They are found as anybody's are: by entry points of the group ``zoo_slim.criteria``.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo_slim._errors import SlimmingError
from zoo_slim.schema import PruningSchema, model_tensors

__all__ = ["Criterion", "Scores", "bn_scale", "check_finite", "l1", "l2", "random", "taylor"]

Scores = NDArray[np.float64]
Criterion = Callable[[nn.Module, PruningSchema], Scores]
"""``(model, schema)`` to float64 ``[schema.channels]``; NaN where it has nothing to say: such channels stay.

A criterion that reads ``.grad`` of the parameters says so in an attribute ``needs_gradients = True`` of the function;
the command line then gives it the gradients of batches, see `over_batches`.
"""


def bn_scale(model: nn.Module, schema: PruningSchema) -> Scores:
    """|gamma| of the channel's BatchNorms (Liu et al., ICCV 2017, section 3).

    Where several norms share a channel, a group merged by ``or`` takes the largest, one merged by ``and`` the smallest.
    """
    modules = dict(model.named_modules())
    largest = np.full(schema.channels, -np.inf)
    smallest = np.full(schema.channels, np.inf)
    for name, channels in schema.norms.items():
        module = modules[name]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(module.weight, torch.Tensor):
            gamma = module.weight.detach().abs().cpu().double().numpy()
            present = channels >= 0
            check_finite(name, gamma[present])
            np.maximum.at(largest, channels[present], gamma[present])
            np.minimum.at(smallest, channels[present], gamma[present])
    for members, group in zip(schema.members().values(), schema.groups.values(), strict=True):
        if group.merge == "and":
            largest[members] = smallest[members]
    return np.where(np.isfinite(largest), largest, np.nan)


def check_finite(layer: str, values: Scores) -> None:
    """Refuse weights that nothing can be concluded from.

    Raises:
        SlimmingError: one is infinite or NaN.
    """
    if wrong := int((~np.isfinite(values)).sum()):
        raise SlimmingError(
            f"{layer}: {wrong} of {len(values)} channels have weights that are not finite: the training diverged. Take "
            "an earlier state of the network, or train again with a lower learning rate"
        )


def _weight_norm(model: nn.Module, schema: PruningSchema, order: float) -> Scores:
    """Root mean power of all weights that write a channel, so that layers of different fan-in can be compared."""
    tensors = model_tensors(model)
    total, count = np.zeros(schema.channels), np.zeros(schema.channels)
    for name, layer in schema.layers.items():
        if layer.outputs is None:
            continue
        weight = tensors[f"{name}.weight"].detach().cpu().double()
        power = weight.movedim(layer.writes, 0).abs().pow(order).flatten(1).mean(1).numpy()
        present = layer.outputs >= 0
        check_finite(name, power[present])
        np.add.at(total, layer.outputs[present], power[present])
        np.add.at(count, layer.outputs[present], 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, (total / count) ** (1 / order), np.nan)


def l1(model: nn.Module, schema: PruningSchema) -> Scores:
    """Mean absolute weight of the filters that write the channel (Li et al., ICLR 2017, as a mean, not a sum)."""
    return _weight_norm(model, schema, 1.0)


def l2(model: nn.Module, schema: PruningSchema) -> Scores:
    """Root mean square weight of the filters that write the channel."""
    return _weight_norm(model, schema, 2.0)


def random(model: nn.Module, schema: PruningSchema) -> Scores:
    """Uniform random scores, from torch's global generator."""
    return torch.rand(schema.channels, dtype=torch.float64, device="cpu").numpy()


def taylor(model: nn.Module, schema: PruningSchema) -> Scores:
    """Square of the loss change that masking the channel would cause, to first order.

    ``(sum of gradient * weight)²`` over all weights that read the channel, which is the squared derivative of the loss
    by a gate in front of them (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, section
    3). Behind a ReLU this is their gate behind the BatchNorm. The gradients are those in ``.grad``: of one batch, or
    summed over several; `over_batches` averages the squares over batches, as the paper does.

    Raises:
        SlimmingError: no weight that reads channels has a gradient.
    """
    axes, tensors = schema.axes(model), model_tensors(model)
    total = np.zeros(schema.channels)
    read, unknown = np.zeros(schema.channels, dtype=bool), np.zeros(schema.channels, dtype=bool)
    any_gradient = False
    for name, layer in schema.layers.items():
        axis = layer.reads
        channels = axes.get(f"{name}.weight", {}).get(axis)
        if channels is None:
            continue
        weight, present = tensors[f"{name}.weight"], channels >= 0
        read[channels[present]] = True
        if weight.grad is None:  # of a weight that the loss does not depend on, the derivative is 0
            unknown[channels[present]] |= not weight.requires_grad
            continue
        any_gradient = True
        change = (weight.grad.cpu().double() * weight.detach().cpu().double()).movedim(axis, 0).flatten(1)
        rows = len(channels) if channels.ndim == 2 else 1  # of a grouped convolution, by blocks of its outputs
        sums = change.reshape(len(change), rows, -1).sum(2).T.reshape(channels.shape).numpy()
        np.add.at(total, channels[present], sums[present])
    if read.any() and not any_gradient:
        raise SlimmingError(
            "taylor needs gradients, and no weight has one: call loss.backward() first, or pass "
            "criterion=zoo_slim.slimming.over_batches('taylor', batches); on the command line, add --dataset and --data"
        )
    return np.where(read & ~unknown, total**2, np.nan)


taylor.needs_gradients = True  # type: ignore[attr-defined]
