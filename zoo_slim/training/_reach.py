"""How far a proximal penalty can move the scales in a run: known before it begins."""

import torch
from torch import nn

from zoo_slim.sparsity import Penalty, strength_at
from zoo_slim.training._optimise import make_schedule
from zoo_slim.training._settings import Settings

__all__ = ["forecast", "reach"]

SAMPLES = 1000
"""The sum over all steps is taken over about so many of them."""

FEW = 0.1
"""A smaller share of the scales within reach is worth a hint."""


def reach(settings: Settings, steps: int) -> float:
    """Return how far the penalty moves a scale of weight 1 in all: the sum of learning rate times strength.

    Args:
        settings: of the run.
        steps: optimiser steps of an epoch.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = make_schedule(optimizer, settings, steps)
    ramp, total = (settings.sparsity_epochs or settings.epochs) * steps, settings.epochs * steps
    stride, moved = max(1, total // SAMPLES), 0.0
    for step in range(0, total, stride):
        schedule.step_update(step)
        strength = strength_at(settings.sparsity_schedule, settings.sparsity, step, ramp)
        moved += min(stride, total - step) * float(optimizer.param_groups[0]["lr"]) * strength
    return moved


def forecast(penalty: Penalty, settings: Settings, steps: int) -> str:
    """Say how many scales the penalty alone can bring to 0 if nothing holds them."""
    distance = reach(settings, steps)
    share = penalty.within(distance)
    text = f"the penalty moves a scale by at most {distance:.3g} in this run; {share:.0%} of the scales lie within that"
    decayed = settings.decay_norms and settings.weight_decay
    if share < FEW and not decayed:
        text += ": hardly any will become 0. Raise --sparsity, the learning rate or the number of epochs"
    return text
