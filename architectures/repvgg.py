"""RepVGG (Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021).

Written from the paper: blocks of section 3.2, re-parameterisation of section 3.3, sizes of tables 2 and 3.
"""

import copy
from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._bundled import NamedFamily

DEPTHS = {"A": (1, 2, 4, 14, 1), "B": (1, 4, 6, 16, 1)}
"""Blocks per stage (table 2). Each stage begins with a block of stride 2."""

WIDTHS = {
    "A0": (0.75, 2.5),
    "A1": (1.0, 2.5),
    "A2": (1.5, 2.75),
    "B0": (1.0, 2.5),
    "B1": (2.0, 4.0),
    "B2": (2.5, 5.0),
    "B3": (3.0, 5.0),
}
"""The multipliers a, of the first four stages, and b, of the last (table 3)."""

SIZES = ("A0", "A1", "A2", "B0", *(f"B{size}{groups}" for size in (1, 2, 3) for groups in ("", "g2", "g4")))
NAMES = tuple(f"RepVGG-{size}{identity}" for size in SIZES for identity in ("", "-woid"))


class RepVGGBlock(nn.Module):
    """ReLU over the sum of a 3x3 convolution, a 1x1 convolution and, where shapes allow, the input; each normalised.

    Args:
        in_channels: channels of the input ``[N, in_channels, H, W]``.
        out_channels: channels of the output ``[N, out_channels, ceil(H / stride), ceil(W / stride)]``.
        stride: of both convolutions.
        groups: of both convolutions.
        identity: whether to add the normalised input, if the stride is 1 and the channels are equally many.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, identity: bool = True):
        super().__init__()
        self.conv3 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        has_identity = identity and stride == 1 and in_channels == out_channels
        self.bn_id = nn.BatchNorm2d(in_channels) if has_identity else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        if self.bn_id is not None:
            y = y + self.bn_id(x)
        return self.act(y)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Return the one 3x3 convolution with bias that equals the sum in evaluation mode (section 3.3).

        All sizes come from the weights, so it serves blocks of a slim network too. Sums are made in float64, and
        rounded once to the weights' dtype.
        """
        weight, bias = _fold(self.conv3, self.bn3)
        weight1, bias1 = _fold(self.conv1, self.bn1)
        weight, bias = weight + F.pad(weight1, (1, 1, 1, 1)), bias + bias1
        out_channels, per_group = weight.shape[:2]
        groups = self.conv3.groups
        if self.bn_id is not None:
            scale, shift = _affine(self.bn_id)
            outputs = torch.arange(out_channels, device=weight.device)
            weight[outputs, outputs % per_group, 1, 1] += scale
            bias = bias + shift
        like = self.conv3.weight
        stride = cast("tuple[int, int]", self.conv3.stride)
        fused = nn.Conv2d(
            per_group * groups, out_channels, 3, stride, 1, groups=groups, device=like.device, dtype=like.dtype
        )
        fused.weight.copy_(weight)
        fused.bias.copy_(bias)  # type: ignore[union-attr]
        return fused


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics cannot be fused; build it with track_running_stats")
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - mean.double() * scale


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale, shift = _affine(norm)
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    return conv.weight.double() * scale.reshape(-1, 1, 1, 1), shift


class RepVGG(nn.Module):
    """A VGG-like network whose blocks have parallel branches in training.

    Args:
        depths: blocks per stage.
        widths: channels per stage.
        groups: groups of the convolutions in the 3rd, 5th, 7th, ... block, counted over all stages (section 3.4).
        identity: whether blocks have the identity branch.
        num_classes: outputs of the last layer.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        groups: int = 1,
        identity: bool = True,
        num_classes: int = 1000,
    ):
        super().__init__()
        stages = []
        in_channels, index = 3, 0
        for depth, width in zip(depths, widths, strict=True):
            blocks = []
            for position in range(depth):
                grouped = groups if index >= 2 and index % 2 == 0 else 1
                blocks.append(RepVGGBlock(in_channels, width, 1 if position else 2, grouped, identity))
                in_channels, index = width, index + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        return self.head(self.flatten(self.pool(self.stages(x))))

    def deploy(self) -> nn.Sequential:
        """Return the re-parameterised network: a plain stack of 3x3 convolutions and ReLUs, and the classifier.

        It equals this network in evaluation mode, up to rounding. A slim network can be deployed too. The result shares
        no memory with this network and is in evaluation mode; its layers are those of the weights' dtype and device.
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for name, block in self.named_modules():
            if isinstance(block, RepVGGBlock):
                flat = name.replace("stages.", "block").replace(".", "_")
                layers[f"{flat}_conv"] = block.fuse()
                layers[f"{flat}_relu"] = nn.ReLU()
        layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=copy.deepcopy(self.head))
        return nn.Sequential(layers).eval()


def build(name: str, num_classes: int = 1000) -> RepVGG:
    """Return a RepVGG in its training-time form.

    Args:
        name: one of `NAMES`; "-woid" stands for "without identity": blocks have the two convolutions only.
        num_classes: outputs of the last layer.
    """
    size, *woid = name.removeprefix("RepVGG-").split("-")
    size, _, groups = size.partition("g")
    a, b = WIDTHS[size]
    widths = (min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * b))
    return RepVGG(DEPTHS[size[0]], widths, int(groups or 1), identity=not woid, num_classes=num_classes)


family = NamedFamily(NAMES, build)
