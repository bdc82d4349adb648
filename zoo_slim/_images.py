"""Finding image files, and reading them the way a network is to see them, in training and ever after."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_slim._errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_endings", "image_files", "read_image"]


def image_endings() -> tuple[str, ...]:
    """Return the endings, in lower case, of what torchvision takes for image files."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return IMG_EXTENSIONS


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files in a folder and below it, as their names say; links are followed."""
    endings = image_endings()
    for root, _, names in os.walk(folder, followlinks=True):
        yield from (Path(root, name) for name in names if name.lower().endswith(endings))


def read_image(file: str | Path, mode: str | None = None) -> "Image":
    """Return an image file decoded, upright as its EXIF orientation asks, and with 8 bits per channel.

    It is converted to Pillow's ``mode``, if one is given.

    Grey values of 16 bits are scaled by 1 / 257, unless none exceeds 255: those are 8 bits stored in 16.

    Raises:
        DataError: it is missing, is no image, or its pixels are floating-point numbers or exceed 16 bits.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            opened.load()
            image = _in_8_bits(_upright(opened), file)
            return image if mode is None else image.convert(mode)
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{file}: is a folder; name its files") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # of whatever kind: every decoder raises its own
        raise DataError(
            f"{file}: cannot be decoded as an image: {error}; replace it by a valid image, or leave it out"
        ) from None


def _upright(image: "Image") -> "Image":
    """Turn a decoded image; `PIL.ImageOps.exif_transpose` would write the other tags anew, and fail on odd ones."""
    from PIL import ExifTags
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of whatever kind: a damaged block says nothing of the pixels
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def _in_8_bits(image: "Image", file: str | Path) -> "Image":
    """Scale what `PIL.Image.Image.convert` would clip at 255."""
    import numpy as np
    from PIL import Image

    way_out = "save it with 8 bits per channel"
    if image.mode == "F":
        raise DataError(f"{file}: its pixels are floating-point numbers, whose white is unknown; {way_out}")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image).astype(np.int32)
    least, most = int(pixels.min()), int(pixels.max())
    if least < 0 or most > 65535:
        raise DataError(f"{file}: its pixels lie in {least}..{most}, expected at most 0..65535; {way_out}")
    if most > 255:
        pixels = (pixels + 128) // 257
    return Image.fromarray(pixels.astype(np.uint8))
