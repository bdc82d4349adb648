"""Data sets: what a training needs of one, small ones held in memory, and finding one by name."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from zoo_slim._errors import DataError
from zoo_slim.training._augment import crop_and_flip, normalise
from zoo_slim.training._settings import derived_seed

__all__ = ["DATASETS", "Batch", "Dataset", "ImageTensors", "load_dataset"]

Batch = tuple[Tensor, Tensor]
"""Normalised images, float32 ``[N, 3, H, W]``, and labels, int64 ``[N]``, on the device asked for."""

DATASETS = ("cifar10", "mnist", "fashion-mnist", "image-folder")


class Dataset(Protocol):
    """Labelled images, split into training and test. Batches depend on the arguments only, never on what ran before."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input_size(self) -> tuple[int, int, int]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def train_count(self) -> int: ...
    @property
    def test_count(self) -> int: ...

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, first: int = 0, device: torch.device, workers: int = 0
    ) -> Iterator[Batch]:
        """Yield the augmented batches of ``epoch`` from step ``first`` on; an incomplete last one is left out."""
        ...

    def test_batches(self, batch_size: int, *, device: torch.device, workers: int = 0) -> Iterator[Batch]:
        """Yield the test images once, in order."""
        ...

    def limited(self, count: int) -> "Dataset":
        """Return the same data set with at most ``count`` images in each split."""
        ...


@dataclass(frozen=True, eq=False)
class ImageTensors:
    """A data set held in memory.

    Attributes:
        name: how it is recorded in checkpoints.
        classes: names of the classes, in the order of their labels.
        train_images, test_images: uint8 ``[N, 3, H, W]`` (an expanded grey channel is fine).
        train_labels, test_labels: int64 ``[N]``.
        mean, std: per channel, of pixels between 0 and 1.
        flip: whether mirrored images keep their meaning.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
                raise DataError(
                    f"{self.name}: {split} images must be uint8 [N, channels, height, width] with N > 0, "
                    f"not {images.dtype} {list(images.shape)}"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{self.name}: {split} labels must be int64 [{len(images)}], "
                    f"not {labels.dtype} {list(labels.shape)}"
                )
            if not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise DataError(f"{self.name}: {split} labels must lie in 0..{len(self.classes) - 1}")

    @property
    def input_size(self) -> tuple[int, int, int]:
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def train_count(self) -> int:
        return len(self.train_images)

    @property
    def test_count(self) -> int:
        return len(self.test_images)

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, first: int = 0, device: torch.device, workers: int = 0
    ) -> Iterator[Batch]:
        order = shuffled(self.train_count, seed, epoch)
        images, labels = self.train_images.to(device), self.train_labels.to(device)
        for step in range(first, steps_per_epoch(self.train_count, batch_size)):
            index = order[step * batch_size : (step + 1) * batch_size].to(device)
            generator = torch.Generator().manual_seed(derived_seed(seed, "augment", epoch, step))
            batch = crop_and_flip(images[index], generator, flip=self.flip)
            yield normalise(batch, self.mean, self.std), labels[index]

    def test_batches(self, batch_size: int, *, device: torch.device, workers: int = 0) -> Iterator[Batch]:
        for images, labels in zip(self.test_images.split(batch_size), self.test_labels.split(batch_size), strict=True):
            yield normalise(images.to(device), self.mean, self.std), labels.to(device)

    def limited(self, count: int) -> "ImageTensors":
        train, test = spread(self.train_count, count), spread(self.test_count, count)
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of full batches, or 1 where all images fit into less than one."""
    return max(count // batch_size, 1)


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the training images in ``epoch``: a permutation, int64 ``[count]``."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "shuffle", epoch)))


def spread(count: int, limit: int) -> Tensor:
    """Return at most ``limit`` of ``count`` positions, evenly spread and ascending."""
    kept = min(count, limit)
    return torch.arange(kept) * count // max(kept, 1)


def load_dataset(name: str, root: str | Path, size: int | None = None, *, download: bool = False) -> Dataset:
    """Read a data set from the folder it lies in.

    Args:
        name: ``cifar10``, ``mnist``, ``fashion-mnist`` or ``image-folder``; case, dashes and underscores do not matter.
        root: where the files lie. CIFAR-10: the binary version (``data_batch_1.bin`` …), lossless WebP mosaics
            (``train-0.webp`` …) or an ``.npz``. MNIST and Fashion-MNIST: idx files, compressed or not, also in
            ``raw/``. image-folder: ``train/CLASS/*`` and ``val/CLASS/*`` or ``test/CLASS/*``.
        size: height and width of the images for ``image-folder`` (default 224); the others are 32 x 32.
        download: fetch MNIST or Fashion-MNIST with torchvision where they are not in ``root`` yet. Otherwise nothing
            is ever downloaded.

    Raises:
        DataError: an unknown name, or files that are missing or damaged.
    """
    if size is not None and size < 1:
        raise DataError(f"the height and width of the images must be at least 1, not {size}")
    plain = name.lower().replace("_", "").replace("-", "")
    known = {known_name.replace("-", ""): known_name for known_name in DATASETS}
    if plain not in known:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    root = Path(root).expanduser()
    if known[plain] == "image-folder":
        from zoo_slim.training._folder import read_folder

        return read_folder(root, size or 224)
    if size not in (None, 32):
        raise DataError(f"the images of {known[plain]} are 32 x 32; size={size} is for image-folder only")
    if known[plain] == "cifar10":
        from zoo_slim.training._cifar import read_cifar10

        return read_cifar10(root)
    from zoo_slim.training._idx import read_idx

    return read_idx(known[plain], root, download=download)


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels between 0 and 1, for uint8 ``[N, C, H, W]``."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].reshape(-1), minlength=256).double()
        share = counts / counts.sum()
        mean = (share * values).sum()
        means.append(round(float(mean), 6))
        deviations.append(max(round(float((share * (values - mean) ** 2).sum().sqrt()), 6), 1e-3))
    return tuple(means), tuple(deviations)
