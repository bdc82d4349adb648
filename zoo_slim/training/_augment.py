"""Augmentation of whole batches on their device. The host draws the random numbers of an epoch at once, beforehand."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["PADDING", "Normaliser", "crop_and_flip", "cut_out", "draw_crops", "draw_places"]

PADDING = 4
"""Pixels of black border on each side of an image before it is cropped: for CIFAR, He et al. (CVPR 2016, section
4.2)."""


def draw_crops(count: int, generator: torch.Generator, *, padding: int = PADDING, flip: bool = True) -> Tensor:
    """Draw for each of ``count`` images where its crop begins and whether it is mirrored.

    Returns:
        int64 ``[count, 3]``: rows and columns from the top left of the padded image, and 0 or 1.
    """
    corners = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([corners, mirrored if flip else torch.zeros_like(mirrored)], dim=1)


def crop_and_flip(images: Tensor, crops: Tensor, *, padding: int = PADDING) -> Tensor:
    """Shift images over a black border, and mirror some of them.

    Args:
        images: ``[N, C, H, W]``, any dtype and device.
        crops: of `draw_crops`, on the same device.
        padding: that the crops were drawn for.

    Returns:
        Tensor of the same shape, dtype and device, in channels-last memory format.
    """
    count, _, height, width = images.shape
    top, left, mirrored = crops.T[:, :, None]
    rows = top + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left + torch.where(mirrored > 0, width - 1 - columns, columns)
    padded = functional.pad(images, (padding,) * 4)
    batch = torch.arange(count, device=images.device)
    return padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def draw_places(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw a pixel for each of ``count`` images: int64 ``[count, 2]``, row and column."""
    return torch.stack([torch.randint(0, side, (count,), generator=generator) for side in (height, width)], dim=1)


def cut_out(images: Tensor, places: Tensor, side: int) -> Tensor:
    """Set a square of each image to 0, which is the mean of normalised images (DeVries and Taylor, arXiv 1708.04552).

    Args:
        images: ``[N, C, H, W]``.
        places: the squares' centres, of `draw_places`, on the same device; squares may reach over the edge.
        side: of the squares, in pixels.
    """
    inside = [
        ((torch.arange(size, device=images.device) - places[:, axis, None] + side // 2) // side) == 0
        for axis, size in enumerate(images.shape[2:])
    ]
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


class Normaliser:
    """Turns uint8 images ``[N, C, H, W]`` into float32 ``(image / 255 - mean) / std``, with constants on the device."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self._shift = torch.tensor(mean).mul_(255)[:, None, None].to(device)
        self._scale = torch.tensor(std).mul_(255)[:, None, None].to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._shift).div_(self._scale)
