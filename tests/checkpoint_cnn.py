"""A small network with everything that a checkpoint must carry, and pruning results for it."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo_slim import checkpoint
from zoo_slim.registry import register
from zoo_slim.result import PruningResult, apply_result

NAME = "checkpoint-test-cnn"
GROUPS = 2


class SmallCnn(nn.Module):
    """Grouped convolution, shared parameters, a buffer that is not saved, and integers that `forward` reads."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, groups=GROUPS)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.scale = nn.Parameter(torch.rand(2 * width))
        self.again = self.scale
        self.register_buffer("ramp", torch.linspace(1, 2, 2 * width), persistent=False)
        self.register_buffer("steps", torch.tensor(7))
        self.sizes = (width, width)
        self.head = nn.Linear(2 * width, num_classes)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu().mean((2, 3))
        x = x * self.scale * self.again * self.get_buffer("ramp")
        a, b = x.split(self.sizes, dim=1)
        return self.head(torch.cat([a.sigmoid(), b], dim=1))


@register(NAME, input_size=(3, 12, 12))
def small_cnn(num_classes: int = 5, width: int = 8, norm: Literal["batch"] = "batch") -> nn.Module:
    return SmallCnn(num_classes, width)


def trained(seed: int = 0, **options: Any) -> Any:
    """Return a network whose every tensor differs from what the builder makes."""
    generator = torch.Generator().manual_seed(seed)
    model = small_cnn(**options)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
            else:
                tensor.fill_(seed + 3)
    return model.eval()


def load(folder: Path, **how: Any) -> Any:
    """`load_folder`, typed so that a test may look at any attribute."""
    return checkpoint.load_folder(folder, **how)


def slimmed(model: nn.Module, result: PruningResult) -> Any:
    return apply_result(model, result)


def images(seed: int = 1) -> Tensor:
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def result_for(rows: list[list[int]], outputs: list[list[int]], width: int = 8) -> PruningResult:
    """Return what keeps ``rows`` of each group's inputs and ``outputs`` of each group's outputs."""
    half = width // GROUPS
    first = torch.tensor([r * half + i for r, row in enumerate(rows) for i in row])
    second = torch.tensor([r * width + i for r, row in enumerate(outputs) for i in row])
    norms = {
        f"{norm}.{name}": {0: index}
        for norm, index in (("bn1", first), ("bn2", second))
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    kept = {
        "conv1.weight": {0: first},
        "conv2.weight": {0: second, 1: torch.tensor(rows)},
        "conv2.bias": {0: second},
        **norms,
        **{name: {0: second} for name in ("scale", "again", "ramp")},
        "head.weight": {1: second},
    }
    left = int((second < width).sum())
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = {
        "conv1": {"out_channels": len(first)},
        "bn1": {"num_features": len(first)},
        "conv2": {"in_channels": len(first), "out_channels": len(second)},
        "bn2": {"num_features": len(second)},
        "head": {"in_features": len(second)},
        "": {"sizes": (left, len(second) - left)},
    }
    return PruningResult(kept, attributes)


def a_result() -> PruningResult:
    return result_for([[0, 2], [1, 3]], [[0, 3, 5], [1, 2, 7]])


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Return whether two state dicts are the same bit for bit."""
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(
        t.dtype == other[name].dtype
        and t.shape == other[name].shape
        and t.contiguous().reshape(-1).view(torch.uint8).equal(other[name].contiguous().reshape(-1).view(torch.uint8))
        for name, t in one.items()
    )
