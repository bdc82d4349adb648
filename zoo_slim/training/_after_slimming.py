"""A network right after slimming, in each way of making up for what was removed, before it is fine-tuned."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult
from zoo_slim.training._data import Dataset
from zoo_slim.training._preflight import check_device
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._sources import example_of

__all__ = ["WAYS", "Slimmed", "check_way", "each_way"]

WAYS = ("plain", "folded", "recalibrated", "both")
"""Removal alone; constants folded into the readers; BatchNorm recalibrated; first folded, then recalibrated."""

BATCHES, BATCH_SIZE = 40, 128
"""Training images that BatchNorm is recalibrated on."""


@dataclass(frozen=True)
class Slimmed:
    """A network right after slimming, one way.

    Attributes:
        way: one of `WAYS`.
        network: on the CPU; None where it cannot be had this way.
        steps: what was done to it after removal, for the checkpoint's config.
        reason: why there is no network.
    """

    way: str
    network: nn.Module | None
    steps: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def check_way(way: str) -> None:
    """Compare with the ways that there are.

    Raises:
        TrainingError: it is another one.
    """
    if way not in WAYS:
        raise TrainingError(f"a network can be used {', '.join(WAYS)} after slimming, not {way!r}")


def each_way(
    whole: nn.Module, plain: nn.Module, result: PruningResult, dataset: Dataset, settings: Settings
) -> Iterator[Slimmed]:
    """Yield the slim network each way; a way that it cannot be had says why.

    Args:
        whole: the network before slimming.
        plain: what is left of it.
        result: what was kept.
        dataset: its training images are used, augmented as in training.
        settings: of the fine-tuning: seed and device.
    """
    from zoo_slim.slimming import fold_constants

    yield Slimmed("plain", plain)
    try:
        network, folding = fold_constants(whole, result, example_of(dataset))
        folded = Slimmed("folded", network, {"folded": folding.record()})
    except SlimmingError as error:
        folded = Slimmed("folded", None, reason=str(error))
    yield folded
    yield _recalibrated("recalibrated", Slimmed("plain", plain), dataset, settings)
    yield _recalibrated("both", folded, dataset, settings)


def _recalibrated(way: str, before: Slimmed, dataset: Dataset, settings: Settings) -> Slimmed:
    from zoo_slim.slimming import recalibrate

    if before.network is None:
        return Slimmed(way, None, reason=before.reason)
    device, size = torch.device(check_device(settings.device)), min(BATCH_SIZE, dataset.train_count)
    network = copy.deepcopy(before.network).to(device)
    try:
        count = recalibrate(network, _images(dataset, settings, device, size))
    except SlimmingError as error:
        return Slimmed(way, None, reason=str(error))
    record = {"dataset": dataset.name, "batches": count, "batch_size": size, "seed": settings.seed}
    return Slimmed(way, network.cpu(), {**before.steps, "recalibrated": record})


def _images(dataset: Dataset, settings: Settings, device: torch.device, size: int) -> Iterator[Tensor]:
    batches = dataset.train_batches(size, seed=settings.seed, epoch=0, device=device, workers=settings.workers)
    return (images for images, _ in islice(batches, BATCHES))
