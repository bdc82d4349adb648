"""TinyNet: three convolutions for small grey images."""

from typing import Literal

from torch import nn

from zoo_slim import Architecture


def build(num_classes: int = 10, width: int = 8, pool: Literal["avg", "max"] = "avg") -> nn.Sequential:
    """Return a TinyNet for images ``[N, 1, H, W]``."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1) if pool == "avg" else nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


tinynet = Architecture("tinynet", build, input_size=(1, 28, 28))
