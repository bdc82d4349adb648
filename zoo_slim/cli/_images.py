"""Image files as a network takes them, and what a classifier says of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from zoo_slim.checkpoint import Origin

__all__ = ["class_name", "classify", "prepare"]

MARGIN = 4
"""Pixels that an image may lack in height and width: what 28 x 28 digits lack to the 32 x 32 of their data sets."""


def prepare(image: "Image", origin: "Origin", default_size: Sequence[int] = (3, 224, 224)) -> "Tensor":
    """Return float32 ``[1, channels, height, width]``, normalised as the network expects.

    An image of the input's size, or at most `MARGIN` pixels smaller, is centred on black and keeps its pixels, as the
    images of CIFAR-10 and MNIST do. Any other is resized until it covers the input with a margin, and its middle is cut
    out, as the test images of an image folder are; for a network that was trained on such a folder, every image is.

    Args:
        image: of 8 bits per channel, as `read_image` returns them; grey becomes colour, and the other way round, as the
            network's channels ask.
        origin: says the input's size, mean and standard deviation, and the data set of the training.
        default_size: channels, height and width where it does not.

    Raises:
        DataError: the network's input has neither one nor three channels.
    """
    import numpy as np
    import torch
    from PIL import Image

    from zoo_slim._errors import DataError
    from zoo_slim.checkpoint._origin import trained_on

    given = origin.input or {}
    channels, height, width = given.get("size") or default_size
    if channels not in (1, 3):
        raise DataError(f"the network takes images of {channels} channels; an image file has 1 or 3")
    image = image.convert("L" if channels == 1 else "RGB")
    missing = height - image.height, width - image.width
    if trained_on(origin.training) == "image-folder" or not all(0 <= pixels <= MARGIN for pixels in missing):
        image = _resized_and_cropped(image, height, width)
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    pixels = torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255).reshape(height, width, channels)
    mean, std = (torch.tensor(given.get(key) or [start] * channels) for key, start in (("mean", 0.0), ("std", 1.0)))
    return ((pixels - mean) / std).permute(2, 0, 1).unsqueeze(0)


def _resized_and_cropped(image: "Image", height: int, width: int) -> "Image":
    """Resize and crop as torchvision's ``Resize`` and ``CenterCrop`` do with the test images of an image folder."""
    from PIL.Image import Resampling

    from zoo_slim.training._folder import SHORT_SIDE

    rows, columns = round(height * SHORT_SIDE), round(width * SHORT_SIDE)
    if rows / image.height >= columns / image.width:
        columns = max(width, int(rows * image.width / image.height))
    else:
        rows = max(height, int(columns * image.height / image.width))
    image = image.resize((columns, rows), Resampling.BILINEAR)
    left, top = round((columns - width) / 2), round((rows - height) / 2)
    return image.crop((left, top, left + width, top + height))


def classify(model: "nn.Module", images: "Tensor") -> "Tensor":
    """Return the probability of each class, float32 ``[N, classes]``.

    Raises:
        TrainingError: the model is no classifier.
    """
    import torch

    from zoo_slim.training._loss import logits_of

    parameter = next(model.parameters())
    with torch.inference_mode():
        logits = logits_of(model(images.to(parameter.device, parameter.dtype)))
    return logits.float().softmax(1).cpu()


def class_name(origin: Any, index: int) -> str:
    """The name of an output, or its number where names are not recorded."""
    classes = origin.classes or ()
    return classes[index] if index < len(classes) else f"class {index}"
