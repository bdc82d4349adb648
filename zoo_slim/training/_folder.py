"""Images in one folder per class."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_slim._errors import DataError
from zoo_slim._images import image_endings, image_files, read_image
from zoo_slim.training._data import ALONE, Batch, Part, rows_of, shuffled, some, steps_per_epoch
from zoo_slim.training._randomness import derived_seed

__all__ = ["FolderImages", "read_folder"]

TEST_NAMES = ("val", "test", "validation")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SHORT_SIDE = 256 / 224
"""Test images are resized so that their short side exceeds the crop by this factor, as torchvision's models expect."""


def read_folder(root: Path, size: int) -> "FolderImages":
    """Read ``root/train/CLASS/*`` and ``root/val/CLASS/*`` (or ``test``, ``validation``).

    Raises:
        DataError: a folder is missing or empty, or the two have different classes.
    """
    from torchvision.datasets import ImageFolder

    test_name = next((name for name in TEST_NAMES if (root / name).is_dir()), None)
    if test_name is None or not (root / "train").is_dir():
        tests = ", ".join(f"{name}/CLASS/*" for name in TEST_NAMES)
        raise DataError(f"{root} is no image folder: expected train/CLASS/* and one of {tests}")
    found = {}
    for split in ("train", test_name):
        try:
            found[split] = ImageFolder(str(root / split))
        except FileNotFoundError:
            raise DataError(_lack(root / split, test_name)) from None
    train, test = found["train"], found[test_name]
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"{root}: train and {test_name} have different classes; only one of them has {', '.join(odd)}")
    return FolderImages(tuple(train.classes), tuple(train.samples), tuple(test.samples), size)


def _lack(folder: Path, test_name: str) -> str:
    """Say what torchvision finds missing in the folder of a split."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    empty = [entry for entry in classes if not any(image_files(entry))]
    if not empty:
        return f"{folder} must hold one folder of images per class, but has no folder"
    holds = "hold no images" if len(empty) > 1 else "holds no image"
    return (
        f"{', '.join(map(str, empty))} {holds} ({', '.join(image_endings())}); put images there, "
        f"or remove the class from train and {test_name}"
    )


@dataclass(frozen=True, eq=False)
class FolderImages:
    """A data set whose images are decoded when they are needed.

    Attributes:
        classes: names of the class folders, in the order of their labels.
        train_files, test_files: ``(path, label)`` of each image.
        size: height and width of the batches, in pixels.
    """

    classes: tuple[str, ...]
    train_files: Sequence[tuple[str, int]]
    test_files: Sequence[tuple[str, int]]
    size: int
    name: str = "image-folder"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    @property
    def train_count(self) -> int:
        return len(self.train_files)

    @property
    def test_count(self) -> int:
        return len(self.test_files)

    @property
    def test_view(self) -> str:
        return f"its shorter side resized to {self._short_side} pixels, the {self.size} x {self.size} in the centre"

    @property
    def _short_side(self) -> int:
        return round(self.size * SHORT_SIDE)

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
        order = shuffled(self.train_count, seed, epoch)
        rows = rows_of(min(batch_size, self.train_count), part)
        steps = range(first, steps_per_epoch(self.train_count, batch_size))
        batches = [order[step * batch_size + rows].tolist() for step in steps]
        view = _View(self.train_files, self._transforms(train=True), (seed, epoch))
        yield from _load(view, batches, device, workers)

    def test_batches(
        self, batch_size: int, *, device: torch.device, workers: int = 0, part: Part = ALONE
    ) -> Iterator[Batch]:
        process, processes = part
        starts = range(process * batch_size, self.test_count, processes * batch_size)
        batches = [list(range(start, min(start + batch_size, self.test_count))) for start in starts]
        yield from _load(_View(self.test_files, self._transforms(train=False), None), batches, device, workers)

    def limited(self, count: int) -> "FolderImages":
        return replace(
            self,
            train_files=[self.train_files[i] for i in some(self.train_count, count).tolist()],
            test_files=[self.test_files[i] for i in some(self.test_count, count).tolist()],
        )

    def _transforms(self, *, train: bool) -> Any:
        from torchvision import transforms

        if train:
            first = [transforms.RandomResizedCrop(self.size), transforms.RandomHorizontalFlip()]
        else:
            first = [transforms.Resize(self._short_side), transforms.CenterCrop(self.size)]
        return transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(self.mean, self.std)])


@dataclass
class _View(torch.utils.data.Dataset):
    files: Sequence[tuple[str, int]]
    transform: Any
    seed: tuple[int, int] | None

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        path, label = self.files[index]
        try:
            image = read_image(path, "RGB")
        except DataError as error:
            # Not raised: what a worker raises comes with its traceback as the message.
            return DataError(f"{error}; with fewer images a run cannot go on: begin a new one")
        if self.seed is None:
            return self.transform(image), label
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which would seed the GPU as well, whose state is not put back.
            torch.default_generator.manual_seed(derived_seed(self.seed[0], "augment", self.seed[1], index))
            return self.transform(image), label


def _collate(samples: list[tuple[Tensor, int] | DataError]) -> Any:
    broken = next((sample for sample in samples if isinstance(sample, DataError)), None)
    return broken or torch.utils.data.default_collate(samples)


def _outlive_a_sigterm(worker: int) -> None:
    """One to all processes of a job is for the main one, which needs its workers to the end of the step."""
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _load(view: _View, batches: list[list[int]], device: torch.device, workers: int) -> Iterator[Batch]:
    loader = torch.utils.data.DataLoader(
        view,
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_outlive_a_sigterm,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        images, labels = batch
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
