"""A network with the normalisation of its images as its first step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Normalised"]


class Normalised(nn.Module):
    """Takes float32 images ``[N, channels, height, width]`` of values from 0 to 1, and normalises them for a network.

    torchvision's ``Normalize`` does the same, but looks at values, which `torch.export` cannot record.

    Args:
        model: takes normalised images.
        mean: one number per channel.
        std: one number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.train(model.training)

    def forward(self, images: Tensor) -> Any:
        return self.model((images - self.mean) / self.std)
