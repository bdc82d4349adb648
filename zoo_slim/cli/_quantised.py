"""An exported network in 8 bits, quantised by ONNX Runtime."""

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from zoo_slim._errors import DataError, ZooSlimError
from zoo_slim._images import image_endings, image_files, read_image
from zoo_slim.checkpoint import Origin
from zoo_slim.cli._images import prepare

__all__ = ["Fidelity", "batches_of", "images_in", "quantise"]

MOST = 512
"""Images to calibrate on, at most."""

BATCH = 16
"""Images per batch, where a network takes any number."""

Batches = Callable[[], Iterable[np.ndarray]]
"""Makes batches anew, float32 ``[N, channels, height, width]``: calibrating and comparing take one pass each."""


@dataclass(frozen=True)
class Fidelity:
    """How near a network in 8 bits comes to the one that it was made from.

    Attributes:
        images: how many both were given.
        agreeing: on how many the largest logit is the same; None: they are no classifiers.
        sqnr: signal-to-quantisation-noise ratio in dB: 10 log10 of the sum of squares of an output in float32, divided
            by that of the differences; the least of all outputs.
    """

    images: int
    agreeing: int | None
    sqnr: float

    def __str__(self) -> str:
        """Say it in words."""
        agree = "" if self.agreeing is None else f" told as in float32: {self.agreeing};"
        return f"of {self.images} images,{agree} signal to quantisation noise {self.sqnr:.1f} dB"


def images_in(folder: Path, batch_size: int | None) -> list[Path]:
    """Return at most `MOST` image files of a folder and those below, evenly spread over their sorted names.

    Raises:
        DataError: there are none, or fewer than one batch.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; name one with images to calibrate on")
    found = sorted(image_files(folder))
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(image_endings())}) to calibrate on")
    if len(found) < (batch_size or 1):
        raise DataError(f"{folder}: holds {len(found)} images to calibrate on, fewer than one batch of {batch_size}")
    count = min(len(found), MOST)
    return [found[index * len(found) // count] for index in range(count)]


def batches_of(files: Sequence[Path], origin: Origin, expected: dict[str, Any], batch_size: int | None) -> Batches:
    """Return what makes batches of image files, as a network takes them.

    Args:
        files: as `images_in` returns them.
        origin: of the network.
        expected: size, mean and standard deviation of the images that the exported network takes.
        batch_size: the only one that the network takes, so that what does not fill a batch is left out; None: any.
    """
    as_exported = replace(origin, input=expected)
    step = batch_size or BATCH
    used = files[: len(files) // step * step] if batch_size else files

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(used), step):
            images = [prepare(read_image(file), as_exported) for file in used[start : start + step]]
            yield np.concatenate([image.numpy() for image in images])

    return batches


def quantise(file: Path, batches: Batches) -> Fidelity:
    """Quantise an ONNX file of float32 in its place: weights per output channel, activations per tensor.

    Its metadata stays.

    Args:
        file: takes ``images``; written by the same libraries.
        batches: calibrate the ranges of the activations.

    Raises:
        ZooSlimError: its outputs are no numbers any more.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.onnx")
        with _quiet():
            quant_pre_process(str(file), str(whole), skip_symbolic_shape=True)  # it writes into the current folder
            quantize_static(str(whole), str(file), _Reader(batches()), quant_format=QuantFormat.QDQ, per_channel=True)
        return _compare(_session(whole), _session(file), batches())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what ONNX Runtime logs: each weight without output channels, tracebacks of steps that it skips."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


class _Reader(CalibrationDataReader):
    """Batches, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def _compare(
    whole: onnxruntime.InferenceSession, small: onnxruntime.InferenceSession, batches: Iterable[np.ndarray]
) -> Fidelity:
    images = agreeing = 0
    signal, noise = (np.zeros(len(whole.get_outputs())) for _ in range(2))
    classifies = len(signal) == 1 and len(whole.get_outputs()[0].shape) == 2
    for batch in batches:
        images += len(batch)
        expected, found = (session.run(None, {"images": batch}) for session in (whole, small))
        if classifies:
            agreeing += int((expected[0].argmax(1) == found[0].argmax(1)).sum())
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            signal[index] += np.square(one, dtype=np.float64).sum()
            noise[index] += np.square(np.subtract(one, other, dtype=np.float64)).sum()
    if not np.isfinite(noise).all():
        raise ZooSlimError("its outputs in 8 bits are no numbers")
    with np.errstate(divide="ignore", invalid="ignore"):
        least = float(np.where(noise > 0, 10 * np.log10(signal / noise), math.inf).min())
    return Fidelity(images, agreeing if classifies else None, least)
