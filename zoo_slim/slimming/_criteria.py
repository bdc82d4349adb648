"""Criteria: a score for every channel of a schema. The lowest go first."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo_slim._errors import SlimmingError
from zoo_slim.schema import PruningSchema, model_tensors

__all__ = ["CRITERIA", "Criterion", "Scores", "score"]

Scores = NDArray[np.float64]
Criterion = Callable[[nn.Module, PruningSchema], Scores]
"""Float64 ``[channels]``; NaN where the criterion has nothing to say: such channels stay."""


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
            gamma = module.weight.detach().abs().double().cpu().numpy()
            present = channels >= 0
            np.maximum.at(largest, channels[present], gamma[present])
            np.minimum.at(smallest, channels[present], gamma[present])
    for members, group in zip(schema.members().values(), schema.groups.values(), strict=True):
        if group.merge == "and":
            largest[members] = smallest[members]
    return np.where(np.isfinite(largest), largest, np.nan)


def _weight_norm(model: nn.Module, schema: PruningSchema, order: float) -> Scores:
    """Root mean power of all weights that write a channel, so that layers of different fan-in can be compared."""
    tensors = model_tensors(model)
    total, count = np.zeros(schema.channels), np.zeros(schema.channels)
    for name, layer in schema.layers.items():
        if layer.outputs is None:
            continue
        weight = tensors[f"{name}.weight"].detach().double()
        weight = weight.movedim(1, 0) if layer.transposed else weight
        power = weight.abs().pow(order).flatten(1).mean(1).cpu().numpy()
        present = layer.outputs >= 0
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
    return torch.rand(schema.channels, dtype=torch.float64).numpy()


CRITERIA: dict[str, Criterion] = {"bn_scale": bn_scale, "l1": l1, "l2": l2, "random": random}


def score(model: nn.Module, schema: PruningSchema, criterion: str | Criterion) -> Scores:
    """Score all channels.

    Raises:
        SlimmingError: a criterion that does not exist, gives scores of another shape, or scores nothing.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise SlimmingError(f"there is no criterion {criterion!r}; choose one of {', '.join(sorted(CRITERIA))}")
        criterion = CRITERIA[criterion]
    scores = np.asarray(criterion(model, schema), dtype=np.float64)
    if scores.shape != (schema.channels,):
        raise SlimmingError(f"the criterion gave scores of shape {scores.shape} for {schema.channels} channels")
    if schema.channels and np.isnan(scores).all():
        raise SlimmingError(
            f"the criterion scores none of the {schema.channels} channels of this {type(model).__name__}, so that "
            "nothing could be removed. bn_scale needs BatchNorm scales; l1 and l2 score any layer's weights."
        )
    return scores
