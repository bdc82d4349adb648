"""MNIST and Fashion-MNIST from their idx files."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo_slim._errors import DataError
from zoo_slim.training._data import ImageTensors, pixel_statistics

__all__ = ["read_idx"]

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
STEMS = {"train": "train", "test": "t10k"}
UNSIGNED_BYTES = 0x08
SIDE = 28
MOST_IMAGES = 1_000_000


def read_idx(name: str, root: Path, *, download: bool = False) -> ImageTensors:
    """Read ``mnist`` or ``fashion-mnist``; 28 x 28 grey images become 32 x 32 with a black border and three channels.

    Raises:
        DataError: files are missing or damaged.
    """
    folder = _find_folder(name, root)
    if folder is None and download:
        _download(name, root)
        folder = _find_folder(name, root)
    if folder is None:
        files = ", ".join(_names(split, part)[0] for split in STEMS for part in ("images", "labels"))
        raise DataError(
            f"no {name} in {root}: looked for {files} (each with or without .gz), also in raw/ and "
            f"{TORCHVISION[name]}/raw/; name the folder that holds them, or allow the download (download=True, "
            "--download)"
        )
    train_images, train_labels = _split(folder, "train")
    mean, std = pixel_statistics(train_images[:, :1])
    return ImageTensors(
        name,
        CLASSES[name],
        train_images,
        train_labels,
        *_split(folder, "test"),
        mean=mean * 3,
        std=std * 3,
        flip=name != "mnist",
    )


def _split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    images = _read(_file(folder, split, "images"), (SIDE, SIDE))
    labels = _read(_file(folder, split, "labels"), ())
    if len(images) != len(labels):
        raise DataError(f"{folder} holds {len(images)} {split} images and {len(labels)} labels; fetch the files again")
    return torch.nn.functional.pad(images, (2, 2, 2, 2)).unsqueeze(1).expand(-1, 3, -1, -1), labels.long()


def _names(split: str, part: str) -> list[str]:
    kind = "idx3" if part == "images" else "idx1"
    plain = [f"{STEMS[split]}-{part}-{kind}-ubyte", f"{STEMS[split]}-{part}.{kind}-ubyte"]
    return [*plain, *(f"{file}.gz" for file in plain)]


def _file(folder: Path, split: str, part: str) -> Path:
    return next(folder / file for file in _names(split, part) if (folder / file).is_file())


def _find_folder(name: str, root: Path) -> Path | None:
    for folder in (root, root / "raw", root / TORCHVISION[name] / "raw"):
        if all(
            any((folder / file).is_file() for file in _names(split, part))
            for split in STEMS
            for part in ("images", "labels")
        ):
            return folder
    return None


def _read(file: Path, item: tuple[int, ...]) -> Tensor:
    """Return uint8 ``[N, *item]``; nothing is allocated before the header has been checked."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(4)
            if header != bytes((0, 0, UNSIGNED_BYTES, 1 + len(item))):
                raise DataError(f"{file} is no idx file of bytes with {1 + len(item)} axes: it starts with {header!r}")
            shape = struct.unpack(f">{1 + len(item)}I", stream.read(4 * (1 + len(item))))
            if shape[1:] != item or not 0 < shape[0] <= MOST_IMAGES:
                raise DataError(f"{file} holds an array of shape {list(shape)}, expected {['N', *item]}")
            data = stream.read(math.prod(shape) + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}; fetch the file again") from error
    if len(data) != math.prod(shape):
        raise DataError(f"{file} holds {len(data)} bytes of data or more, its header promises {math.prod(shape)}")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(shape).copy())


def _download(name: str, root: Path) -> None:
    from torchvision import datasets

    try:
        for train in (True, False):
            getattr(datasets, TORCHVISION[name])(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name} could not be downloaded to {root}: {error}") from error
