"""The slim networks of the zoo in 8 bits, quantised by ONNX Runtime: ``python int8.py --data DIR > PAGE``.

Each is exported by ``zoo-slim export`` with ``--int8`` and without (RepVGG merged), calibrated on training images, and
tested on all test images of CIFAR-10. The two networks take turns for the times, one image and one thread at a time.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from zoo_slim import checkpoint
from zoo_slim.loading import bundled_zoo
from zoo_slim.training import Dataset, load_dataset

CPU = torch.device("cpu")
IMAGES = "images"
BATCH, CALIBRATION, TURNS = 64, 512, 200
"""Images per batch, images to calibrate on, and images to time."""

PAGE = """\
# In 8 bits

    zoo-slim export NAME --pruned TAG --int8 IMAGES --output net.onnx

quantises with ONNX Runtime's `quantize_static`: weights per output channel, activations per tensor, their ranges taken
from at most 512 images of the folder. It says on how many of these the class stays what it is in float32.

The slim networks of the zoo (RepVGG merged), calibrated on {calibration} training images: accuracy on {count:,} test
images of CIFAR-10, and the time of one image, 8 bits divided by float32, on one thread (medians, the two taking turns).

    python benchmarks/int8.py --data DIR > docs/int8.md

| net | variant | file, float32 | 8 bits | accuracy, float32 | 8 bits | time |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
{rows}

{versions}; {machine}. The times are those of a processor with AVX-512 VNNI, made for 8 bits."""


def write_images(images: Dataset, folder: Path) -> None:
    """Write the first training images as files."""
    folder.mkdir()
    for index, image in enumerate(images.train_images[:CALIBRATION]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03}.png")


def session(file: Path) -> onnxruntime.InferenceSession:
    """Open a network for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def accuracy(network: onnxruntime.InferenceSession, images: Dataset) -> float:
    """Share of the test images that are told right."""
    right = total = 0
    for batch, labels in images.test_batches(BATCH, device=CPU):
        (logits,) = network.run(None, {"images": batch.numpy()})
        right += int((logits.argmax(1) == labels.numpy()).sum())
        total += len(labels)
    return right / total


def seconds(networks: list[onnxruntime.InferenceSession], image: np.ndarray) -> list[float]:
    """Median time of one image, for networks that take turns."""
    taken: list[list[float]] = [[] for _ in networks]
    for _ in range(TURNS):
        for network, times in zip(networks, taken, strict=True):
            start = time.perf_counter()
            network.run(None, {"images": image})
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def row(name: str, tag: str, images: Dataset, folder: Path) -> str:
    """Export one network twice and measure both; return its line of the table."""
    whole, small = (folder / f"{name}-{tag}{kind}.onnx" for kind in ("", "-int8"))
    merge = ["--deploy"] if name.startswith("RepVGG") else []
    command = [str(Path(sys.executable).with_name("zoo-slim")), "export", name, "--pruned", tag, *merge]
    for words in (["--output", str(whole)], ["--int8", str(folder / IMAGES), "--output", str(small)]):
        subprocess.run([*command, *words], check=True, stdout=sys.stderr)
    networks = [session(whole), session(small)]
    before, after = (accuracy(network, images) for network in networks)
    slow, fast = seconds(networks, next(images.test_batches(1, device=CPU))[0].numpy())
    sizes = (f"{file.stat().st_size / 1e6:.2f} MB" for file in (whole, small))
    return f"| {name} | {tag} | {' | '.join(sizes)} | {before:.2%} | {after:.2%} | {fast / slow:.2f} |"


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    images = load_dataset("cifar10", parser.parse_args().data)
    with tempfile.TemporaryDirectory() as scratch:
        write_images(images, Path(scratch, IMAGES))
        rows = [
            row(folder.name, tag, images, Path(scratch))
            for folder in sorted(bundled_zoo().iterdir())
            if folder.is_dir()
            for tag in checkpoint.variants(folder)
        ]
    print(
        PAGE.format(
            calibration=CALIBRATION,
            count=images.test_count,
            rows="\n".join(rows),
            versions=f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__.split('+')[0]}",
            machine=f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}",
        )
    )


if __name__ == "__main__":
    main()
