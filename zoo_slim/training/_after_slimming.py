"""A network right after slimming, in each way of making up for what was removed, before it is fine-tuned."""

import copy
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult
from zoo_slim.training._data import Dataset
from zoo_slim.training._preflight import check_device
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._sources import example_of

__all__ = ["WAYS", "check_way", "each_way"]

WAYS = ("plain", "folded", "recalibrated", "both")
"""Removal alone; constants folded into the readers; BatchNorm recalibrated; first folded, then recalibrated."""

BATCHES, BATCH_SIZE = 40, 128
"""Training images that BatchNorm is recalibrated on."""


def check_way(way: str) -> None:
    """Compare with the ways that there are.

    Raises:
        TrainingError: it is another one.
    """
    if way not in WAYS:
        raise TrainingError(f"a network can be used {', '.join(WAYS)} after slimming, not {way!r}")


def each_way(
    whole: nn.Module, plain: nn.Module, result: PruningResult, dataset: Dataset, settings: Settings
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the slim network each way, by name, on the CPU; without BatchNorm some ways are left out.

    Args:
        whole: the network before slimming.
        plain: what is left of it.
        result: what was kept.
        dataset: its training images are used, augmented as in training.
        settings: of the fine-tuning: seed and device.
    """
    from zoo_slim.slimming import fold_constants

    yield "plain", plain
    networks = {"recalibrated": plain}
    try:
        folded, _ = fold_constants(whole, result, example_of(dataset))
        yield "folded", folded
        networks["both"] = folded
    except SlimmingError:
        pass
    for way, network in networks.items():
        try:
            yield way, _recalibrated(network, dataset, settings)
        except SlimmingError:
            continue


def _recalibrated(network: nn.Module, dataset: Dataset, settings: Settings) -> nn.Module:
    from zoo_slim.slimming import recalibrate

    device = torch.device(check_device(settings.device))
    network = copy.deepcopy(network).to(device)
    recalibrate(network, _images(dataset, settings, device))
    return network.cpu()


def _images(dataset: Dataset, settings: Settings, device: torch.device) -> Iterator[Tensor]:
    size = min(BATCH_SIZE, dataset.train_count)
    batches = dataset.train_batches(size, seed=settings.seed, epoch=0, device=device, workers=settings.workers)
    return (images for images, _ in islice(batches, BATCHES))
