"""Data sets: what a training needs of one, small ones held in memory, and finding one by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from zoo_slim._errors import DataError
from zoo_slim.training._augment import Normaliser, crop_and_flip, draw_crops
from zoo_slim.training._randomness import generator_of
from zoo_slim.training._settings import TrainingError

__all__ = ["ALONE", "DATASETS", "Batch", "Dataset", "ImageTensors", "Part", "load_dataset", "rows_of"]

Batch = tuple[Tensor, Tensor]
"""Normalised images, float32 ``[N, 3, H, W]``, and labels, int64 ``[N]``, on the device asked for."""

Part = tuple[int, int]
"""Which of several processes this is, and how many there are."""

ALONE: Part = (0, 1)

DATASETS = ("cifar10", "mnist", "fashion-mnist", "image-folder")
DOWNLOADABLE = ("mnist", "fashion-mnist")


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
    @property
    def test_view(self) -> str:
        """What is seen of a test image, in words: it is recorded beside accuracies."""
        ...

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        first: int = 0,
        device: torch.device,
        workers: int = 0,
        part: Part = ALONE,
    ) -> Iterator[Batch]:
        """Yield the augmented batches of ``epoch`` from number ``first`` on; an incomplete last one is left out.

        Of several processes each gets its rows of the same batches, see `rows_of`.
        """
        ...

    def test_batches(
        self, batch_size: int, *, device: torch.device, workers: int = 0, part: Part = ALONE
    ) -> Iterator[Batch]:
        """Yield the test images once, in order; of several processes each gets every so many-th batch."""
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
    _copies: dict[torch.device, tuple[Tensor, ...]] = field(init=False, repr=False, default_factory=dict)

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

    @property
    def test_view(self) -> str:
        return "whole and unmirrored"

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        first: int = 0,
        device: torch.device,
        workers: int = 0,
        part: Part = ALONE,
    ) -> Iterator[Batch]:
        images, labels, *_ = self._on(device)
        normalise = Normaliser(self.mean, self.std, device)
        order = shuffled(self.train_count, seed, epoch).to(device)
        crops = draw_crops(self.train_count, generator_of(seed, "crops", epoch), flip=self.flip).to(device)
        rows = rows_of(min(batch_size, self.train_count), part).to(device)
        for step in range(first, steps_per_epoch(self.train_count, batch_size)):
            places = step * batch_size + rows
            index = order[places]
            yield normalise(crop_and_flip(images[index], crops[places])), labels[index]

    def test_batches(
        self, batch_size: int, *, device: torch.device, workers: int = 0, part: Part = ALONE
    ) -> Iterator[Batch]:
        *_, images, labels = self._on(device)
        normalise = Normaliser(self.mean, self.std, device)
        process, processes = part
        for start in range(process * batch_size, self.test_count, processes * batch_size):
            stop = start + batch_size
            yield normalise(images[start:stop]), labels[start:stop]

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return all images and labels on the device; they are copied there once, and stay."""
        if device not in self._copies:
            tensors = (self.train_images, self.train_labels, self.test_images, self.test_labels)
            self._copies[device] = tuple(tensor.to(device) for tensor in tensors)
        return self._copies[device]

    def limited(self, count: int) -> "ImageTensors":
        train, test = some(self.train_count, count), some(self.test_count, count)
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


def rows_of(size: int, part: Part) -> Tensor:
    """Return the rows of a batch of ``size`` that are this process's: int64 ``[size / processes]``, ascending.

    Half of them lie as far from the end as the other half from the start, so that images which are mixed with those in
    the reverse order find their partners in the same process.

    Raises:
        TrainingError: the batch cannot be shared out evenly.
    """
    process, processes = part
    if processes == 1:
        return torch.arange(size)
    half, rest = divmod(size, 2 * processes)
    if rest:
        raise TrainingError(
            f"{size} images cannot be shared out among {processes} processes: "
            f"batch_size / accumulate must be a multiple of {2 * processes}"
        )
    first = torch.arange(process * half, (process + 1) * half)
    return torch.cat([first, size - 1 - first.flip(0)])


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the training images in ``epoch``: a permutation, int64 ``[count]``."""
    return torch.randperm(count, generator=generator_of(seed, "shuffle", epoch))


def some(count: int, limit: int) -> Tensor:
    """Return at most ``limit`` of ``count`` positions, ascending: always the same ones, drawn at random.

    Evenly spread ones would miss classes where the labels follow each other in turn.
    """
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit]
    return drawn.sort().values


def load_dataset(
    name: str, root: str | Path, size: int | None = None, *, default_size: int = 224, download: bool = False
) -> Dataset:
    """Read a data set from the folder it lies in.

    Args:
        name: ``cifar10``, ``mnist``, ``fashion-mnist`` or ``image-folder``; case, dashes and underscores do not matter.
        root: where the files lie. CIFAR-10: the binary version (``data_batch_1.bin`` …), lossless WebP mosaics
            (``train-0.webp`` …) or an ``.npz``. MNIST and Fashion-MNIST: idx files, compressed or not, also in
            ``raw/``. image-folder: ``train/CLASS/*`` and ``val/CLASS/*`` or ``test/CLASS/*``.
        size: height and width of the images for ``image-folder``; the others are 32 x 32.
        default_size: what it is for ``image-folder`` where it is not given.
        download: fetch MNIST or Fashion-MNIST with torchvision where they are not in ``root`` yet. Otherwise nothing
            is ever downloaded.

    Raises:
        DataError: an unknown name, a download of what cannot be downloaded, or files that are missing or damaged.
    """
    if size is not None and size < 1:
        raise DataError(f"the height and width of the images must be at least 1, not {size}")
    plain = name.lower().replace("_", "").replace("-", "")
    known = {known_name.replace("-", ""): known_name for known_name in DATASETS}
    if plain not in known:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    root = Path(root).expanduser()
    if download and known[plain] not in DOWNLOADABLE:
        raise DataError(
            f"only {' and '.join(DOWNLOADABLE)} can be downloaded, not {known[plain]}: leave the download out "
            f"(download=True, --download), and put the files into {root} yourself"
        )
    if known[plain] == "image-folder":
        from zoo_slim.training._folder import read_folder

        return read_folder(root, size or default_size)
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
