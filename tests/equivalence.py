"""Checks of slim networks that know nothing of what the tracer thinks reads a channel."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim import PruningResult, PruningSchema
from zoo_slim._containers import tensors_in
from zoo_slim.tracing import call_model

__all__ = ["difference", "doubled", "drawn", "outputs", "zeroed"]


def doubled(value: Any) -> Any:
    """The same example in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: doubled(item) for key, item in value.items()}
    return type(value)(doubled(item) for item in value) if isinstance(value, (list, tuple)) else value


def drawn(seed: int):
    """A criterion: random scores for all channels."""

    def criterion(model: nn.Module, schema: PruningSchema) -> np.ndarray:
        return np.random.default_rng(seed).random(schema.channels)

    return criterion


@torch.no_grad()
def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """All tensors that the model returns, computed on a copy of it."""
    return tensors_in(call_model(copy.deepcopy(model), example))


@torch.no_grad()
def zeroed(
    model: nn.Module, result: PruningResult, reads: Mapping[str, int | tuple[int, ...]] | None = None
) -> nn.Module:
    """A copy of the model in which the slices that read removed channels are zero, layer by layer.

    These are the slices along axis 1 of every weight of two or more dimensions, axis 0 for transposed convolutions.

    Args:
        model: the original network.
        result: what was kept of it.
        reads: ``{parameter: axis or axes}`` for those that read along others.
    """
    masked = copy.deepcopy(model)
    modules = dict(masked.named_modules())
    for name, parameter in masked.named_parameters():
        transposed = bool(getattr(modules[name.rpartition(".")[0]], "transposed", False))
        axes = (reads or {}).get(name, 0 if transposed else 1)
        for axis in axes if isinstance(axes, tuple) else (axes,):
            if (index := result.kept.get(name, {}).get(axis)) is not None:
                outputs = result.kept[name].get(0) if index.ndim == 2 else None
                parameter.masked_fill_(~_mask(parameter, axis, index, outputs), 0.0)
    return masked


def _mask(parameter: Tensor, axis: int, index: Tensor, outputs: Tensor | None) -> Tensor:
    """Where a parameter is kept: bool, of its shape. Rows of a mask belong to the outputs that stay, block by block."""
    rows = index.reshape(-1, index.shape[-1])
    mask = torch.zeros(len(rows), parameter.shape[axis], dtype=torch.bool).scatter_(1, rows, True)
    if len(rows) == 1:
        return mask.reshape([-1 if dim == axis else 1 for dim in range(parameter.ndim)]).expand_as(parameter)
    outputs = torch.arange(len(parameter)) if outputs is None else outputs
    whole = torch.ones(parameter.shape[:2], dtype=torch.bool)
    whole[outputs] = mask.repeat_interleave(len(outputs) // len(rows), 0)
    return whole.reshape(*whole.shape, *[1] * (parameter.ndim - 2)).expand_as(parameter)


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference between outputs, over the largest of these; infinite where shapes differ."""
    if [out.shape for out in found] != [out.shape for out in expected]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            gap = float((one.double() - other.double()).abs().max()) / (float(other.abs().max()) or 1.0)
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst
