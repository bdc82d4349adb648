"""How far a network can be slimmed before what goes is more than nothing."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim._networks import unwrap
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming._criteria import Scores
from zoo_slim.slimming._defaults import schema_for
from zoo_slim.slimming._score import score
from zoo_slim.slimming._select import Keep, select
from zoo_slim.tracing import Example

__all__ = ["FAINT", "Cliff", "before_cliff", "find_cliff"]

_TOLERANCE = 0.05
"""Variance that may go. Chosen on small networks trained on CIFAR-10, see docs/lossless.md."""

FAINT = 1e-2
"""A scale below this share of its group's root mean square carries less than 1e-4 of the mean channel's variance."""

_CURVE = 101


class Loss(NamedTuple):
    """What a ratio takes: the largest share of a group's variance, with the group's name, and how many channels.

    Groups with a ratio of their own do not count.
    """

    share: float
    group: str
    channels: int


@dataclass(frozen=True)
class Cliff:
    """Where slimming by |gamma| begins to cost something, said before anything is removed.

    What a channel emits behind its BatchNorm has the variance ``gamma ** 2`` around the constant ``beta``. Folded
    constants and recalibrated means keep the constant, so that the variance is what removal loses.

    Attributes:
        ratio: the largest ratio that loses at most ``tolerance``, 0 where none does: what ``ratio="auto"`` takes.
        tolerance: see `lost`.
        scales: |gamma| of all channels that may be removed, the largest of each channel's BatchNorms, ascending; those
            of groups with a ratio of their own are left out.
        dead: how many are exactly 0: they emit constants, which can be folded.
        faint: how many are below `FAINT` of the root mean square of their group, the dead ones included.
        ratios: float64 ``[n]``: 0, 0.01, 0.02, …
        lost: for each of `ratios`, the share of the variance that goes in the group that loses the largest share;
            with what ``minimum`` and rounding keep.
        groups: for each of `ratios`, the name of that group.
        at: the `Loss` at any other ratio.
    """

    ratio: float
    tolerance: float
    scales: Scores = field(repr=False)
    dead: int
    faint: int
    ratios: NDArray[np.float64] = field(repr=False)
    lost: NDArray[np.float64] = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)
    at: Callable[[float], Loss] = field(repr=False, compare=False)


def find_cliff(
    model: nn.Module,
    *,
    example_input: Example | None = None,
    schema: PruningSchema | None = None,
    minimum: int | float = 0.02,
    rounding: str | None = None,
    allow_inexact: bool = False,
    tolerance: float = _TOLERANCE,
) -> Cliff:
    """Say how many scales of a network are dead, and how far it can be slimmed before something is lost.

    The ratio is the largest for which no channel group loses more than ``tolerance`` of its variance, the sum of
    ``gamma ** 2``. A layer that loses nearly all of its channels, as one global threshold does to some, is what a
    network falls off the cliff by: that is why the worst group counts, and not the mean. No data is looked at. Groups
    with a ratio of their own do not count, as the one sought says nothing of them.

    It is taken for granted that what a channel emits has passed its BatchNorms. A channel to which a layer without
    BatchNorm adds, or that something reads in front of the BatchNorm (pre-activation), carries more than gamma says.

    Args:
        model: the network, after sparsity training. It is not changed.
        example_input: as for `slim`.
        schema: as for `slim`.
        minimum: as for `slim`.
        rounding: as for `slim`.
        allow_inexact: as for `slim`.
        tolerance: the share that may go.

    Raises:
        SlimmingError: a tolerance that is no share, or a model that cannot be traced or has no BatchNorm scales.
        SchemaError: the schema does not fit the model.
    """
    if not 0 <= tolerance < 1:
        raise SlimmingError(f"tolerance {tolerance} is no share of the variance: give 0 <= tolerance < 1")
    model = unwrap(model)
    schema = schema_for(model, schema, example_input)
    scores = score(model, schema, "bn_scale")
    energy = _energy(model, schema)
    members = schema.members()
    scored = np.isfinite(scores) & ~schema.untouched(allow_inexact) & ~schema.own_ratio()
    faint = np.zeros(len(scores), dtype=bool)
    for channels in members.values():
        faint[channels] = np.sqrt(energy[channels]) < FAINT * np.sqrt(energy[channels].mean())
    faint |= scores == 0

    keep_at = partial(select, schema, scores, minimum=minimum, rounding=rounding, allow_inexact=allow_inexact)
    global_ones = {name: members[name] for name, group in schema.groups.items() if group.ratio is None}
    lost_at = partial(_lost, energy, global_ones, keep_at)
    ratios = np.arange(_CURVE - 1) / (_CURVE - 1)
    curve = [lost_at(float(ratio)) for ratio in ratios]
    count = max(int(scored.sum()), 1)
    beyond = bisect_left(range(1, count), True, key=lambda n: lost_at(n / count).share > tolerance) + 1
    most = keep_at((beyond - 1) / count).sum()
    same = bisect_left(range(beyond), True, key=lambda n: keep_at(n / count).sum() <= most)  # minima hold the rest back
    return Cliff(
        ratio=same / count,
        tolerance=tolerance,
        scales=np.sort(scores[scored]),
        dead=int((scores[scored] == 0).sum()),
        faint=int(faint[scored].sum()),
        ratios=ratios,
        lost=np.asarray([loss.share for loss in curve]),
        groups=tuple(loss.group for loss in curve),
        at=lost_at,
    )


def before_cliff(model: nn.Module, schema: PruningSchema, **bounds: Any) -> float:
    """The ratio of the cliff, within `find_cliff`'s bounds.

    Raises:
        SlimmingError: it is 0.
    """
    cliff = find_cliff(model, schema=schema, **bounds)
    if not cliff.ratio:
        which = " without a ratio of their own" if schema.own_ratio().any() else ""
        raise SlimmingError(
            f"ratio='auto': not one of {len(cliff.scales)} channels{which} can go before the cliff; {cliff.dead} are 0."
            " Train with sparsity first (a proximal penalty gives exact zeros), or give a ratio and fine-tune"
        )
    return cliff.ratio


def _energy(model: nn.Module, schema: PruningSchema) -> NDArray[np.float64]:
    """The variance of each channel: ``gamma ** 2``, summed over the BatchNorms whose outputs meet in it."""
    modules = dict(model.named_modules())
    energy = np.zeros(schema.channels)
    for name, channels in schema.norms.items():
        module = modules[name]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(module.weight, Tensor):
            present = channels >= 0
            np.add.at(energy, channels[present], module.weight.detach().cpu().double().numpy()[present] ** 2)
    return energy


def _lost(
    energy: NDArray[np.float64], members: dict[str, NDArray[np.int64]], keep_at: Callable[[float], Keep], ratio: float
) -> Loss:
    keep = keep_at(ratio)
    shares = [
        (float(energy[channels][~keep[channels]].sum() / total) if (total := energy[channels].sum()) else 0.0, name)
        for name, channels in members.items()
    ]
    gone = sum(int((~keep[channels]).sum()) for channels in members.values())
    return Loss(*max(shares, default=(0.0, "")), gone)
