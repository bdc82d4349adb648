"""How much of a model can be slimmed, and what keeps the rest."""

import re
from collections import Counter

import numpy as np
from torch import nn

from zoo_slim.tracing import Trace

__all__ = ["reasons", "removable_share"]

_OUTPUT = "it is an output of the model"


def removable_share(model: nn.Module, trace: Trace) -> float:
    """The share of weight-axis positions that can be removed with masked equivalence.

    A weight-axis position is an index along an axis of a parameter: a linear layer ``[out, in]`` has ``out + in``. All
    axes of all parameters count but those of size 1 and the kernel axes of convolutions (2 and on); axis 1 of a
    convolution of ``g`` groups counts ``g`` times, once for each group that it reads. A parameter that several modules
    share counts once. Never 1: the channels of the images and the classes are among the positions.
    """
    kernels, groups = set(), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            weight = f"{name}.weight" if name else "weight"
            kernels.add(weight)
            groups[weight] = 1 if module.transposed else module.groups
    total = removable = 0
    for name, parameter in model.named_parameters():
        axes = trace.axes.get(name, {})
        for axis, size in enumerate(parameter.shape):
            if size == 1 or (axis >= 2 and name in kernels):
                continue
            times = groups.get(name, 1) if axis == 1 else 1
            total += size * times
            if axis in axes:
                classes = axes[axis][axes[axis] >= 0]
                exact = int(np.count_nonzero(~trace.inexact[classes]))
                removable += exact * times // (len(axes[axis]) if axes[axis].ndim == 2 else 1)
    return removable / total if total else 0.0


def reasons(trace: Trace, most: int = 5) -> list[tuple[str, int]]:
    """What keeps channels, and how many, the largest first.

    Numbers of channels as they were met: one that is kept twice counts twice. The model's outputs are no reason.
    """
    counts: Counter[str] = Counter()
    for reason, channels in trace.reasons:
        what = re.sub(r", in [^,]*$", "", reason)
        if what != _OUTPUT:
            counts[what] += channels
    return counts.most_common(most)
