"""CIFAR-10 from its binary version, from lossless WebP mosaics or from an .npz. Pickles are not read."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from zoo_slim._errors import DataError
from zoo_slim.training._data import ImageTensors, pixel_statistics
from zoo_slim.training._progress import progress

__all__ = ["CLASSES", "read_cifar10"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
GRID = 100
RECORD = 1 + 3 * SIDE * SIDE
PER_FILE = 10_000

BINARY = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
MOSAIC = {"train": [f"train-{k}.webp" for k in range(5)], "test": ["test-0.webp"]}
ARCHIVE = "cifar10.npz"

Split = tuple[np.ndarray, np.ndarray]
"""Images, uint8 ``[N, 3, 32, 32]``, and labels, int64 ``[N]``."""


def read_cifar10(root: Path) -> ImageTensors:
    """Read CIFAR-10 from whichever layout ``root`` holds.

    Raises:
        DataError: no layout is complete, or a file is damaged.
    """
    splits = _read_any(root)
    tensors = {name: (torch.from_numpy(images), torch.from_numpy(labels)) for name, (images, labels) in splits.items()}
    mean, std = pixel_statistics(tensors["train"][0])
    return ImageTensors("cifar10", CLASSES, *tensors["train"], *tensors["test"], mean, std)


def _read_any(root: Path) -> dict[str, Split]:
    if root.suffix == ".npz" and root.is_file():
        return _read_npz(root)
    for folder in (root, root / "cifar-10-batches-bin"):
        if _complete(folder, BINARY):
            return {split: _join([_read_binary(folder / file) for file in BINARY[split]]) for split in BINARY}
    if _complete(root, MOSAIC):
        parts: dict[str, list[Split]] = {split: [] for split in MOSAIC}
        with progress("decode CIFAR-10", sum(map(len, MOSAIC.values()))) as advance:
            for split, files in MOSAIC.items():
                for file in files:
                    parts[split].append(_read_mosaic(root / file))
                    advance(file)
        return {split: _join(parts[split]) for split in parts}
    if (root / ARCHIVE).is_file():
        return _read_npz(root / ARCHIVE)
    raise DataError(_not_found(root))


def _complete(folder: Path, layout: dict[str, list[str]]) -> bool:
    return all((folder / file).is_file() for files in layout.values() for file in files)


def _not_found(root: Path) -> str:
    if not root.is_dir():
        return f"no CIFAR-10 in {root}: there is no such folder; name the folder that holds it"
    message = (
        f"no complete CIFAR-10 in {root}; looked for data_batch_1.bin … data_batch_5.bin and test_batch.bin (the "
        f"binary version, also in cifar-10-batches-bin/), train-0.webp … train-4.webp and test-0.webp, or {ARCHIVE}"
    )
    layouts = [(BINARY, root), (BINARY, root / "cifar-10-batches-bin"), (MOSAIC, root)]
    for layout, folder in layouts:
        files = [file for split in layout.values() for file in split]
        missing = [file for file in files if not (folder / file).is_file()]
        if len(missing) < len(files):
            return f"{message}; in {folder} only {', '.join(missing)} missing"
    if any((folder / "data_batch_1").is_file() for folder in (root, root / "cifar-10-batches-py")):
        return (
            f"{message}; what lies there is the Python version, whose files are pickles and are not read: fetch the "
            "binary version (cifar-10-binary.tar.gz) from the same page and unpack it there"
        )
    return f"{message}; fetch the binary version (cifar-10-binary.tar.gz) and unpack it there"


def _join(parts: list[Split]) -> Split:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _read_binary(file: Path) -> Split:
    size = file.stat().st_size
    if size != PER_FILE * RECORD:
        raise DataError(f"{file} has {size} bytes, expected {PER_FILE * RECORD}: fetch the file again")
    records = np.fromfile(file, dtype=np.uint8).reshape(PER_FILE, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{file} holds label {labels.max()}, expected 0..9: is it CIFAR-100?")
    return records[:, 1:].reshape(PER_FILE, 3, SIDE, SIDE), labels


def _read_mosaic(file: Path) -> Split:
    from PIL import Image

    try:
        with Image.open(file) as mosaic:
            if mosaic.size != (GRID * SIDE, GRID * SIDE):
                raise DataError(f"{file} is {mosaic.size[0]} x {mosaic.size[1]} pixels, expected 3200 x 3200")
            pixels = np.asarray(mosaic.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{file} cannot be decoded: {error}") from error
    tiles = pixels.reshape(GRID, SIDE, GRID, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(PER_FILE, 3, SIDE, SIDE)
    return np.ascontiguousarray(tiles), np.arange(PER_FILE, dtype=np.int64) % len(CLASSES)


def _read_npz(file: Path) -> dict[str, Split]:
    splits = {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            for split in ("train", "test"):
                images, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
                if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
                    raise DataError(
                        f"{file}: {split}_images must be uint8 [N, 32, 32, 3], not {images.dtype} {list(images.shape)}"
                    )
                if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
                    raise DataError(
                        f"{file}: {split}_labels must be integers [{len(images)}], "
                        f"not {labels.dtype} {list(labels.shape)}"
                    )
                splits[split] = (np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} cannot be read: {error}; expected the arrays train_images, train_labels, test_images, test_labels"
        ) from error
    return splits
