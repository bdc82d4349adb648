"""Random crops and flips of whole batches, drawn from an explicit generator."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["crop_and_flip", "normalise"]


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift each image by up to ``padding`` pixels over a black border, and mirror every second one by chance.

    Args:
        images: ``[N, C, H, W]``, any dtype and device.
        generator: a CPU generator; the same draws are made whatever the device of ``images``.
        padding: pixels of border on each side.
        flip: whether to mirror left and right.

    Returns:
        Tensor of the same shape, dtype and device, in channels-last memory format.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    mirrored = torch.rand(count, 1, generator=generator).to(images.device) < 0.5
    rows = top + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    if flip:
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = left + columns
    padded = functional.pad(images, (padding,) * 4)
    batch = torch.arange(count, device=images.device)
    return padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return ``(images / 255 - mean) / std`` per channel, float32, for uint8 ``images`` of shape ``[N, C, H, W]``."""
    shift = torch.tensor(mean, device=images.device).mul_(255)[:, None, None]
    scale = torch.tensor(std, device=images.device).mul_(255)[:, None, None]
    return images.float().sub_(shift).div_(scale)
