import gzip
import multiprocessing
import os
import shutil
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps

from zoo_slim._errors import DataError
from zoo_slim.training import ImageTensors, TrainingError, load_dataset
from zoo_slim.training import _cifar as cifar
from zoo_slim.training._augment import Normaliser, crop_and_flip, cut_out, draw_crops, draw_places
from zoo_slim.training._data import pixel_statistics, rows_of, some, steps_per_epoch

CPU = torch.device("cpu")


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write_idx(file: Path, array: np.ndarray) -> None:
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if file.suffix == ".gz":
        data = gzip.compress(data)
    file.write_bytes(data)


def write_fashion(folder: Path, suffix: str = ".gz", *, train: int = 6, test: int = 4) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (train + test, 28, 28), dtype=np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    for stem, part in (("train", slice(train)), ("t10k", slice(train, None))):
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", images[part])
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels[part])
    return images


@pytest.fixture
def four_per_file(monkeypatch):
    monkeypatch.setattr(cifar, "PER_FILE", 4)
    monkeypatch.setattr(cifar, "GRID", 2)


@pytest.mark.usefixtures("four_per_file")
@pytest.mark.parametrize("sub", ["", "cifar-10-batches-bin"])
def test_cifar_binary_version(tmp_path, sub):
    folder = tmp_path / sub
    folder.mkdir(exist_ok=True)
    images, labels = pixels(24, 1), np.arange(24) * 7 % 10
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    for k, name in enumerate(names):
        records = [
            bytes([label]) + image.tobytes()
            for label, image in zip(labels[4 * k : 4 * k + 4], images[4 * k : 4 * k + 4], strict=True)
        ]
        (folder / name).write_bytes(b"".join(records))
    for spelling in ("cifar10", "CIFAR10", "CIFAR-10", "cifar_10"):
        data = load_dataset(spelling, tmp_path)
    assert np.array_equal(data.train_images, images[:20]) and np.array_equal(data.test_images, images[20:])
    assert data.train_labels.tolist() + data.test_labels.tolist() == labels.tolist()
    assert (data.name, data.input_size, len(data.classes)) == ("cifar10", (3, 32, 32), 10)

    (folder / names[2]).write_bytes(b"\0" * 3073)
    with pytest.raises(DataError, match=r"data_batch_3.bin has 3073 bytes, expected 12292"):
        load_dataset("cifar10", tmp_path)
    (folder / names[2]).write_bytes(b"\x0a" * 3073 * 4)
    with pytest.raises(DataError, match="label 10"):
        load_dataset("cifar10", tmp_path)
    (folder / names[2]).unlink()
    with pytest.raises(DataError, match=r"only data_batch_3.bin missing"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.usefixtures("four_per_file")
def test_cifar_mosaics(tmp_path):
    images = pixels(24, 2)
    for k, name in enumerate([f"train-{k}" for k in range(5)] + ["test-0"]):
        a, b, c, d = images[4 * k : 4 * k + 4]
        mosaic = np.concatenate([np.concatenate([a, b], axis=2), np.concatenate([c, d], axis=2)], axis=1)
        Image.fromarray(mosaic.transpose(1, 2, 0)).save(tmp_path / f"{name}.webp", lossless=True)
    data = load_dataset("cifar10", tmp_path)
    assert np.array_equal(data.train_images, images[:20]) and np.array_equal(data.test_images, images[20:])
    assert data.train_labels[:6].tolist() == [0, 1, 2, 3, 0, 1]

    Image.new("RGB", (32, 32)).save(tmp_path / "train-1.webp", lossless=True)
    with pytest.raises(DataError, match=r"train-1.webp is 32 x 32 pixels"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "train-1.webp").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"train-1.webp cannot be decoded"):
        load_dataset("cifar10", tmp_path)


def test_cifar_npz(tmp_path):
    images = pixels(10, 3)
    arrays = {
        "train_images": images[:8].transpose(0, 2, 3, 1),
        "train_labels": np.arange(8),
        "test_images": images[8:].transpose(0, 2, 3, 1),
        "test_labels": np.arange(2, dtype=np.uint8),
    }
    np.savez(tmp_path / "cifar10.npz", **arrays)
    for root in (tmp_path, tmp_path / "cifar10.npz"):
        assert np.array_equal(load_dataset("cifar10", root).train_images, images[:8])
    mean, std = images[:8].mean((0, 2, 3)) / 255, images[:8].std((0, 2, 3)) / 255
    assert load_dataset("cifar10", tmp_path).mean == pytest.approx(mean, abs=1e-6)
    assert load_dataset("cifar10", tmp_path).std == pytest.approx(std, abs=1e-6)

    np.savez(tmp_path / "cifar10.npz", **{**arrays, "train_labels": np.array([object()] * 8)})
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10.npz", **{**arrays, "test_images": images[8:]})
    with pytest.raises(DataError, match=r"test_images must be uint8 \[N, 32, 32, 3\]"):
        load_dataset("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10.npz", train_images=arrays["train_images"])
    with pytest.raises(DataError, match="train_labels"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "cifar10.npz").write_bytes(b"not a zip file")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("cifar10", tmp_path)


def test_cifar_pickles_are_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(DataError, match="pickles and are not read: fetch the binary version"):
        load_dataset("cifar10", tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        load_dataset("cifar10", tmp_path / "nowhere")


@pytest.mark.parametrize(("sub", "suffix"), [("", ".gz"), ("raw", ""), ("FashionMNIST/raw", ".gz")])
def test_fashion_mnist(tmp_path, sub, suffix):
    images = write_fashion(tmp_path / sub, suffix)
    for spelling in ("fashion-mnist", "FashionMNIST", "fashion_mnist"):
        data = load_dataset(spelling, tmp_path)
    assert data.train_images.shape == (6, 3, 32, 32) and data.test_images.shape == (4, 3, 32, 32)
    assert all(np.array_equal(data.train_images[:, channel, 2:-2, 2:-2], images[:6]) for channel in range(3))
    assert data.train_images[:, :, :2].sum() == data.train_images[:, :, :, -2:].sum() == 0
    assert data.test_labels.tolist() == [6, 7, 8, 9]
    assert len(set(data.mean)) == 1 and data.flip
    assert not load_dataset("mnist", tmp_path / sub).flip, "a mirrored digit is no digit"


def test_damaged_idx_files(tmp_path):
    write_fashion(tmp_path, "")
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    good = images.read_bytes()
    for damaged, message in (
        (good[:-1], "holds 4703 bytes"),
        (good + b"\0", "holds 4705 bytes"),
        (b"\0\0\x0d\x03" + good[4:], "no idx file of bytes"),
        (good[:4] + struct.pack(">3I", 6, 32, 32) + good[16:], "shape"),
        (good[:4] + struct.pack(">3I", 2**31, 28, 28) + good[16:], "shape"),
        (good[:7], "cannot be read"),
    ):
        images.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            load_dataset("fashion-mnist", tmp_path)
    images.write_bytes(good)
    write_idx(labels, np.zeros(5, dtype=np.uint8))
    with pytest.raises(DataError, match="6 train images and 5 labels"):
        load_dataset("fashion-mnist", tmp_path)
    write_idx(labels, np.full(6, 10, dtype=np.uint8))
    with pytest.raises(DataError, match=r"labels must lie in 0..9"):
        load_dataset("fashion-mnist", tmp_path)
    labels.unlink()
    with pytest.raises(DataError, match=r"looked for train-images-idx3-ubyte.*name the folder"):
        load_dataset("fashion-mnist", tmp_path)


def test_damaged_gzip(tmp_path):
    write_fashion(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz cannot be read"):
        load_dataset("fashion-mnist", tmp_path)


def test_download_only_when_asked(tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []

    def fetch(root, train, download):
        assert download
        asked.append(train)
        write_fashion(tmp_path / "FashionMNIST" / "raw")

    monkeypatch.setattr(datasets, "FashionMNIST", fetch)
    with pytest.raises(DataError, match="or allow the download"):
        load_dataset("fashion-mnist", tmp_path)
    assert not asked
    assert load_dataset("fashion-mnist", tmp_path, download=True).train_count == 6
    assert asked == [True, False]
    load_dataset("fashion-mnist", tmp_path, download=True)
    assert len(asked) == 2, "what is there already is not fetched again"
    for name in ("cifar10", "image-folder"):
        with pytest.raises(DataError, match=f"only mnist and fashion-mnist can be downloaded, not {name}: leave"):
            load_dataset(name, tmp_path, download=True)


def test_unknown_names_and_sizes(tmp_path):
    with pytest.raises(DataError, match="no data set is called 'imagenet'; there are cifar10"):
        load_dataset("imagenet", tmp_path)
    with pytest.raises(DataError, match="size=64"):
        load_dataset("mnist", tmp_path, 64)


def write_images(root: Path, split: str, classes: dict[str, int]) -> None:
    for label, (name, count) in enumerate(classes.items()):
        (root / split / name).mkdir(parents=True)
        for k in range(count):
            noise = np.random.default_rng(100 * label + k).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / split / name / f"{k}.png")


def the_test_image(root: Path, file: str, image: Image.Image, **how) -> torch.Tensor:
    """The one test image of an image folder, as it is evaluated; it replaces what was there."""
    for old in (root / "val" / "cat").iterdir():
        old.unlink()
    image.save(root / "val" / "cat" / file, **how)
    (images, _), *_ = load_dataset("image-folder", root, 16).test_batches(1, device=CPU)
    return images


GREY = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)


def test_image_folder(tmp_path):
    write_images(tmp_path, "train", {"cat": 3, "dog": 4})
    write_images(tmp_path, "val", {"cat": 1, "dog": 2})
    data = load_dataset("image-folder", tmp_path, 16)
    assert (data.classes, data.input_size, data.train_count, data.test_count) == (("cat", "dog"), (3, 16, 16), 7, 3)
    state = torch.get_rng_state()
    whole = list(data.train_batches(2, seed=5, epoch=1, device=CPU))
    assert [images.shape for images, _ in whole] == [(2, 3, 16, 16)] * 3, "the odd image out is left out"
    again = list(data.train_batches(2, seed=5, epoch=1, first=1, device=CPU, workers=1))
    for (images, labels), (same_images, same_labels) in zip(whole[1:], again, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
    other = next(data.train_batches(2, seed=5, epoch=2, device=CPU))
    assert not torch.equal(whole[0][0], other[0])
    assert torch.equal(state, torch.get_rng_state()), "the process's generator is not touched"
    assert [labels.tolist() for _, labels in data.test_batches(2, device=CPU)] == [[0, 1], [1]]
    few = data.limited(2)
    assert (few.train_count, few.test_count) == (2, 2) and {label for _, label in few.train_files} == {0, 1}


@pytest.mark.parametrize("error", [RuntimeError("odd"), TypeError("odd"), MemoryError("odd")])
@pytest.mark.parametrize("where", ["load", "convert"])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, where, error):
    for split in ("train", "test"):
        write_images(tmp_path, split, {"cat": 1})
    data = load_dataset("image-folder", tmp_path, 16)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    if where == "load":
        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    expected = (
        (MemoryError, "odd") if isinstance(error, MemoryError) else (DataError, r"0.png: cannot be decoded .*odd")
    )
    with pytest.raises(expected[0], match=expected[1]):
        list(data.test_batches(1, device=CPU))


def test_image_folder_errors(tmp_path):
    with pytest.raises(DataError, match=r"expected train/CLASS/\* and one of val"):
        load_dataset("image-folder", tmp_path)
    write_images(tmp_path, "train", {"cat": 1, "dog": 1})
    write_images(tmp_path, "test", {"cat": 1, "wolf": 1})
    with pytest.raises(DataError, match="only one of them has dog, wolf"):
        load_dataset("image-folder", tmp_path)
    (tmp_path / "test" / "wolf").rename(tmp_path / "test" / "dog")
    (tmp_path / "test" / "dog" / "0.png").write_bytes(b"no image")
    data = load_dataset("image-folder", tmp_path, 16)
    for workers in (0, 1):
        with pytest.raises(
            DataError, match=r"^[^\n]*0.png: cannot be decoded[^\n]*or leave it out; with fewer .* begin a new one$"
        ):
            list(data.test_batches(2, device=CPU, workers=workers))
    (tmp_path / "test" / "dog" / "0.png").rename(tmp_path / "test" / "dog" / "0.txt")
    with pytest.raises(DataError, match=r"test.dog holds no image \(\.jpg, .*put images there, or remove the class"):
        load_dataset("image-folder", tmp_path)
    (tmp_path / "train" / "ape").mkdir()
    (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train" / "dog" / "1.PNG")
    with pytest.raises(DataError, match=r"train.ape, \S*train.cat hold no images .*from train and test$"):
        load_dataset("image-folder", tmp_path)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train must hold one folder of images per class, but has no folder$"):
        load_dataset("image-folder", tmp_path)


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("16.png", Image.fromarray(GREY.astype(np.uint16) * 257)),
        ("16.tiff", Image.fromarray(GREY.astype(np.uint16) * 257)),
        ("16.pgm", Image.fromarray(GREY.astype(np.uint16) * 257)),
        ("32.tiff", Image.fromarray(GREY.astype(np.int32) * 257)),
        ("little.tiff", Image.fromarray(GREY.astype(np.int32))),
        ("little.png", Image.fromarray(GREY.astype(np.uint16))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_grey_of_16_bits_is_seen_as_of_8(tmp_path, file, image):
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 1})
    expected = the_test_image(tmp_path, "8.png", Image.fromarray(GREY))
    assert torch.equal(the_test_image(tmp_path, file, image), expected)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.float32), "odd.tiff: its pixels are floating-point numbers.*save it with 8 bits per channel"),
        (GREY.astype(np.int32) - 1, r"odd.tiff: its pixels lie in -1..254.*save it with 8 bits per channel"),
        (GREY.astype(np.int32) * 258, r"odd.tiff: its pixels lie in 0..65790.*save it with 8 bits per channel"),
    ],
)
def test_pixels_of_no_known_range_are_refused(tmp_path, pixels, message):
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 1})
    with pytest.raises(DataError, match=message):
        the_test_image(tmp_path, "odd.tiff", Image.fromarray(pixels))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_images_are_upright(tmp_path, orientation, ending):
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 1})
    image, exif = Image.fromarray(np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = the_test_image(tmp_path, f"turned.{ending}", image, exif=exif)
    turned = image.copy()
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    assert torch.equal(found, the_test_image(tmp_path, "upright.png", ImageOps.exif_transpose(turned), exif=b""))


def test_odd_exif_is_passed_over(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 1})
    image = Image.fromarray(GREY)
    expected = the_test_image(tmp_path, "plain.png", image)
    assert torch.equal(the_test_image(tmp_path, "odd.png", image, exif=b"Exif\0\0no tags"), expected)


def test_crops_and_flips_are_shifted_copies():
    images = torch.randint(1, 256, (64, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = set()
    crops = crop_and_flip(images, draw_crops(64, torch.Generator().manual_seed(1), padding=2), padding=2)
    for image, border, crop in zip(images, padded, crops, strict=True):
        places = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(crop.flip(2) if mirrored else crop, border[:, top : top + 6, left : left + 5])
        ]
        assert len(places) == 1 and crop.shape == image.shape
        found.add(places[0])
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(5))
    assert {mirrored for *_, mirrored in found} == {False, True}


def test_no_flip_means_no_flip():
    images = torch.arange(4, dtype=torch.uint8).expand(32, 3, 2, 4)
    drawn = [draw_crops(32, torch.Generator().manual_seed(0), padding=0, flip=flip) for flip in (False, True)]
    crops, flipped = (crop_and_flip(images, draw, padding=0) for draw in drawn)
    assert torch.equal(crops, images)
    assert {tuple(image[0, 0].tolist()) for image in flipped} == {(0, 1, 2, 3), (3, 2, 1, 0)}


@pytest.mark.parametrize("side", [1, 3, 4])
def test_cut_out_erases_a_square(side):
    places = draw_places(200, 7, 9, torch.Generator().manual_seed(0))
    assert places.amin(0).tolist() == [0, 0] and places.amax(0).tolist() == [6, 8]
    holes = cut_out(torch.ones(200, 2, 7, 9), places, side) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    for hole, (row, column) in zip(holes[:, 0], places.tolist(), strict=True):
        inside = torch.zeros(7 + 2 * side, 9 + 2 * side, dtype=torch.bool)
        top, left = row + side - side // 2, column + side - side // 2
        inside[top : top + side, left : left + side] = True
        assert torch.equal(hole, inside[side:-side, side:-side])


def test_normalise_and_statistics():
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = pixel_statistics(images)
    values = Normaliser(mean, std, CPU)(images)
    assert values.dtype == torch.float32
    assert values.mean((0, 2, 3)).abs().max() < 1e-4 and (values.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    constant = Normaliser((0.5,), (0.25,), CPU)(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
    assert torch.allclose(constant, torch.full((1, 1, 2, 2), 2.0))


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_same_batches(tmp_path, processes):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(50)
    data = ImageTensors("toy", tuple(map(str, range(50))), images, labels, images, labels, (0.0,) * 3, (1.0,) * 3)
    write_images(tmp_path, "train", {"cat": 26, "dog": 24})
    write_images(tmp_path, "val", {"cat": 1, "dog": 4})
    for dataset in (data, load_dataset("image-folder", tmp_path, 8)):
        whole = list(dataset.train_batches(24, seed=1, epoch=2, device=CPU))
        parts = [
            list(dataset.train_batches(24, seed=1, epoch=2, device=CPU, part=(process, processes)))
            for process in range(processes)
        ]
        rows = [rows_of(24, (process, processes)) for process in range(processes)]
        assert sorted(torch.cat(rows).tolist()) == list(range(24))
        for number, (batch, targets) in enumerate(whole):
            for own, part in zip(rows, parts, strict=True):
                assert torch.equal(part[number][0], batch[own]) and torch.equal(part[number][1], targets[own])
                assert torch.equal(targets.flip(0)[own], part[number][1].flip(0)), "partners in mixing"
        tests = [
            labels
            for process in range(processes)
            for _, labels in dataset.test_batches(2, device=CPU, part=(process, processes))
        ]
        assert sum(map(len, tests)) == dataset.test_count
        assert sorted(torch.cat(tests).tolist()) == sorted(
            torch.cat([labels for _, labels in dataset.test_batches(7, device=CPU)]).tolist()
        )
    with pytest.raises(TrainingError, match=f"must be a multiple of {2 * processes}"):
        rows_of(23, (0, processes))


def test_images_are_copied_to_a_device_once():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    data = ImageTensors(
        "toy", ("a",), images, images[:, 0, 0, 0].long(), images, images[:, 0, 0, 0].long(), (0.5,), (1.0,)
    )
    meta = torch.device("meta")
    assert data._on(meta)[0].device == meta and data._on(meta)[0] is data._on(meta)[0]
    assert data._on(CPU)[0] is images


def test_each_epoch_shows_each_image_once():
    images = torch.arange(12, dtype=torch.uint8).add(1)[:, None, None, None].expand(-1, 3, 8, 8)
    labels = torch.arange(12)
    data = ImageTensors("toy", tuple("abcdefghijkl"), images, labels, images, labels, (0.0,) * 3, (1.0,) * 3)
    orders = []
    for epoch in range(2):
        seen = [labels for _, labels in data.train_batches(4, seed=0, epoch=epoch, device=CPU)]
        assert sorted(torch.cat(seen).tolist()) == list(range(12))
        orders.append(torch.cat(seen).tolist())
    assert orders[0] != orders[1]
    for batch_images, batch_labels in data.train_batches(5, seed=0, epoch=0, device=CPU):
        assert torch.equal((batch_images.amax((1, 2, 3)) * 255).round().long(), batch_labels + 1)
    assert len(list(data.train_batches(5, seed=0, epoch=0, device=CPU))) == 2
    few = data.limited(5).train_labels.tolist()
    assert len(few) == 5 and few == sorted(set(few)) and few == data.limited(5).train_labels.tolist()


def test_counting():
    assert [steps_per_epoch(count, 4) for count in (1, 4, 7, 8)] == [1, 1, 1, 2]
    assert some(2, 5).tolist() == [0, 1] and some(10, 3).tolist() == some(10, 3).tolist()
    assert set((some(1000, 100) % 10).tolist()) == set(range(10))  # labels in turn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": torch.zeros(2, 3, 4, 4)}, "train images must be uint8"),
        ({"test_labels": torch.zeros(3, dtype=torch.int64)}, r"test labels must be int64 \[2\]"),
        ({"train_labels": torch.tensor([0, 2])}, r"lie in 0..1"),
        ({"test_images": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, "N > 0"),
    ],
)
def test_tensors_are_checked(change, message):
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    fields = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    with pytest.raises(DataError, match=message):
        ImageTensors("toy", ("a", "b"), **{**fields, **change}, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("size", [0, -1])
def test_size_must_be_positive(tmp_path, size):
    with pytest.raises(DataError, match=f"at least 1, not {size}"):
        load_dataset("image-folder", tmp_path, size)


def test_augmenting_in_this_process_seeds_no_gpu(tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 2})
    dataset = load_dataset("image-folder", tmp_path, size=16)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("seeds all devices"))
    before = torch.get_rng_state()
    first, second = (
        next(iter(dataset.train_batches(2, seed=seed, epoch=0, device=torch.device("cpu"))))[0] for seed in (0, 1)
    )
    assert not torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)


def test_workers_outlive_a_signal_to_all_processes(tmp_path):
    write_images(tmp_path, "train", {"cat": 1, "dog": 1})
    write_images(tmp_path, "val", {"cat": 8, "dog": 8})
    batches = load_dataset("image-folder", tmp_path, 8).test_batches(1, device=CPU, workers=1)
    labels = [next(batches)[1]]
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    labels += [label for _, label in batches]
    assert torch.cat(labels).tolist() == [0] * 8 + [1] * 8
