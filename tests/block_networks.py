"""Small residual networks, and what removing their blocks must give."""

import copy
from typing import Any

import torch
from equivalence import difference, outputs, zeroed
from torch import nn

from zoo_slim import PruningResult, apply_result
from zoo_slim.slimming import TOLERANCE, randomize

IMAGES = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))


def conv(inputs: int = 6, outputs_: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs_, 3, padding=1), nn.BatchNorm2d(outputs_))


class Block(nn.Module):
    """``act(x + outer(relu(inner(x))))``, or whatever ``join`` makes of the two."""

    def __init__(self, join: Any = None, width: int = 5, outputs_: int = 6) -> None:
        super().__init__()
        self.inner, self.outer, self.join = conv(6, width), conv(width, outputs_), join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.outer(self.inner(x).relu())
        return self.join(x, branch) if self.join is not None else x + branch


class Net(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = conv(), nn.Sequential(*blocks), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class TakesMore(Block):
    def forward(self, x: torch.Tensor, size: tuple[int, int] = (1, 1), *, mask: Any = None) -> torch.Tensor:
        return super().forward(x) if mask is None else super().forward(x * mask)


def graded(*scales: float) -> Net:
    """Blocks whose inner channels have BatchNorm scales of the given sizes."""
    model = randomize(Net(*(Block() for _ in scales)))
    with torch.no_grad():
        for block, scale in zip(model.blocks, scales, strict=True):
            block.inner[1].weight.copy_(torch.linspace(0.9, 1.1, 5) * scale)
            block.outer[1].weight.fill_(10.0)
        model.stem[1].weight.fill_(10.0)
    return model


def exact(model: nn.Module, result: PruningResult, last: list[str], example: torch.Tensor, slimmed: nn.Module) -> bool:
    """Whether a slim network is the original with the last layers of the removed branches zero, and readers masked."""
    original = copy.deepcopy(model).double().eval()
    masked = zeroed(original, result)
    with torch.no_grad():
        for block in result.removed:
            for path in last:
                layer = masked.get_submodule(block).get_submodule(path.removesuffix(".-1"))
                for parameter in (layer[-1] if path.endswith(".-1") else layer).parameters():
                    parameter.zero_()
    found = outputs(apply_result(original, result), example.double())
    same = outputs(copy.deepcopy(slimmed).double().eval(), example.double())
    assert difference(found, same) < 1e-6  # the network that slim gave is the one that its result gives
    return difference(found, outputs(masked, example.double())) < TOLERANCE
