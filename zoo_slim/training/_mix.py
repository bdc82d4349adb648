"""What happens to a normalised batch before a step: a square cut out, and images mixed by timm's Mixup."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from zoo_slim.training._augment import cut_out, draw_places
from zoo_slim.training._data import Batch, Dataset, Part, rows_of
from zoo_slim.training._randomness import derived_seed, generator_of
from zoo_slim.training._settings import Settings

__all__ = ["Mixer"]


class Mixer:
    """Cuts out and mixes the batches of one epoch; what it draws depends on the seed, the epoch and the batch only.

    ``size`` is that of a batch over all processes; even, if images are mixed.
    """

    def __init__(
        self, settings: Settings, dataset: Dataset, size: int, epoch: int, device: torch.device, part: Part
    ) -> None:
        self._settings, self._epoch, self._size = settings, epoch, size
        self._rows = rows_of(size, part).to(device)
        self._mixup = None
        if settings.cutout:
            _, height, width = dataset.input_size
            generator = generator_of(settings.seed, "cutout", epoch)
            self._places = draw_places(dataset.train_count, height, width, generator).to(device)
        if settings.mixup or settings.cutmix:
            from timm.data.mixup import Mixup

            self._mixup = Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=len(dataset.classes))

    def __call__(self, images: Tensor, labels: Tensor, number: int) -> Batch:
        """Change batch ``number`` of the epoch; mixed labels become probabilities, float32 ``[N, classes]``."""
        if self._settings.cutout:
            places = self._places[number * self._size + self._rows]
            images = cut_out(images, places, self._settings.cutout)
        if self._mixup is None:
            return images, labels
        with _numpy_seeded(derived_seed(self._settings.seed, "mix", self._epoch, number)):
            mixed, targets = self._mixup(images, labels)
        return mixed, targets


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, from which timm draws, and put it back."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
