"""Image files as a network takes them, and what a classifier says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from zoo_slim.checkpoint import Origin

__all__ = ["class_name", "classify", "prepare", "read_image"]

SHORT_SIDE = 256 / 224
"""As in training: an image's short side exceeds the crop by this factor."""


def read_image(file: Path) -> "Image":
    """Open an image file, upright and decoded.

    Raises:
        DataError: it is missing, or no image.
    """
    from PIL import Image, ImageOps

    from zoo_slim._errors import DataError

    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
            return image
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be decoded as an image: {error}") from None


def prepare(image: "Image", origin: "Origin", default_size: Sequence[int] = (3, 224, 224)) -> "Tensor":
    """Return float32 ``[1, channels, height, width]``, normalised as the network expects.

    An image that is at most an eighth smaller than the input is centred on black, as 28 x 28 digits in 32 x 32 are in
    training. Any other is resized until it covers the input, with the margin that test images have in training, and
    cropped; one that has the input's size already is left as it is.

    Args:
        image: any mode; grey becomes colour, and the other way round, as the network's channels ask.
        origin: says the input's size, mean and standard deviation.
        default_size: channels, height and width where it does not.

    Raises:
        DataError: the network's input has neither one nor three channels.
    """
    import numpy as np
    import torch
    from PIL import Image

    from zoo_slim._errors import DataError

    given = origin.input or {}
    channels, height, width = given.get("size") or default_size
    if channels not in (1, 3):
        raise DataError(f"the network takes images of {channels} channels; an image file has 1 or 3")
    image = image.convert("L" if channels == 1 else "RGB")
    if not (height >= image.height >= height / SHORT_SIDE and width >= image.width >= width / SHORT_SIDE):
        scale = SHORT_SIDE * max(height / image.height, width / image.width)
        resized = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        image = image.resize(resized, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    pixels = torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255).reshape(height, width, channels)
    mean, std = (torch.tensor(given.get(key) or [start] * channels) for key, start in (("mean", 0.0), ("std", 1.0)))
    return ((pixels - mean) / std).permute(2, 0, 1).unsqueeze(0)


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
