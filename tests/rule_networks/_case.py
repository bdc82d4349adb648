"""A small network from its parts and its forward, and what is known of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CASES", "Case", "Net", "after", "case", "conv", "head", "image", "of", "pool", "weights"]


class Net(nn.Module):
    """A module from its parts and its forward: tensors become buffers, all else is set as it is."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@dataclass(frozen=True)
class Case:
    """A network and what is known of it.

    Attributes:
        build: makes the network.
        removable: how many classes can be removed exactly, worked out by hand; None where that is not settled.
        example: what it is called with.
        reads: parameters that read a channel axis in another way than layers do: ``{name: axis or axes}``.
    """

    build: Callable[[], nn.Module]
    removable: int | None
    example: Any
    reads: Mapping[str, int | tuple[int, ...]]


CASES: dict[str, Case] = {}


def image(channels: int = 3, *size: int) -> Tensor:
    return torch.rand(2, channels, *(size or (8, 8)), generator=torch.Generator().manual_seed(7))


def case(
    name: str, removable: int | None, run: Callable[..., Any], *, example: Any = None, reads: Any = None, **parts: Any
) -> None:
    """Add a network. Parts are given as functions, so that every test builds its own."""
    assert name not in CASES
    CASES[name] = Case(
        lambda: Net(run, **{key: part() if callable(part) else part for key, part in parts.items()}),
        removable,
        image() if example is None else example,
        reads or {},
    )


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def of(kind: type[nn.Module], *args: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(*args, **options)


def weights(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(shape))


def head(channels: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(channels, 5)


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def after(name: str, removable: int | None, step: Callable[..., Tensor], channels: int = 8, **parts: Any) -> None:
    """A convolution to 8 channels, a step, and a linear layer that reads ``channels`` of its result."""
    options = {key: parts.pop(key) for key in ("example", "reads") if key in parts}
    case(
        name,
        removable,
        lambda m, x: m.head(step(m, m.a(x)).flatten(2).mean(2)),
        a=conv(3, 8),
        **parts,
        head=head(channels),
        **options,
    )
