"""What takes the place of a block that was removed: modules without parameters, from a short list."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError

__all__ = ["REPLACEMENTS", "Removed", "Zeros", "around", "conflict", "is_within", "replacement"]


class Zeros(nn.Module):
    """In place of a branch: zeros of its first argument's shape, dtype and device."""

    def forward(self, x: Tensor, *unused: Any, **ignored: Any) -> Tensor:
        return torch.zeros_like(x)


class Removed(nn.Module):
    """In place of a block that takes more than a tensor: an activation of its first argument."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, *unused: Any, **ignored: Any) -> Tensor:
        output: Tensor = self.activation(x)
        return output


REPLACEMENTS: Mapping[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, Zeros)
}
"""``Identity`` for ``x + branch(x)``, an activation for ``act(x + branch(x))``, `Zeros` for a branch alone."""


def replacement(block: nn.Module, becomes: str) -> nn.Module:
    """Return what takes the place of ``block``, in its mode. A block that takes one tensor becomes a layer of torch.

    Args:
        block: the module to be removed.
        becomes: a name in `REPLACEMENTS`.

    Raises:
        SlimmingError: a name that is not there, or a module that takes no tensor.
    """
    if becomes not in REPLACEMENTS:
        raise SlimmingError(f"it cannot become {becomes!r}, only one of {', '.join(REPLACEMENTS)}")
    takes = list(inspect.signature(block.forward).parameters.values())
    if not takes or isinstance(block, (nn.ModuleList, nn.ModuleDict)):
        raise SlimmingError(f"a {type(block).__name__} takes no tensor")
    found = REPLACEMENTS[becomes]()
    plain = len(takes) == 1 and takes[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return (found if plain or isinstance(found, Zeros) else Removed(found)).train(block.training)


def around(name: str) -> list[str]:
    """The names of the modules around a module, parameter or buffer, from the inside out, but for the model's own."""
    return [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]


def conflict(named: Iterable[str], removed: Collection[str]) -> tuple[str, str] | None:
    """A name, of those given or of the modules removed, that lies in a removed module; and that module."""
    depth = max((block.count(".") + 1 for block in removed), default=0)

    def leading(name: str) -> Iterator[str]:
        parts = name.split(".", depth)[:depth]  # a name from a file may have millions of dots
        return (".".join(parts[:count]) for count in range(1, len(parts) + 1))

    pairs = chain(
        ((name, block) for name in named for block in leading(name)),
        ((name, block) for name in removed for block in leading(name) if block != name),
    )
    return next(((name, block) for name, block in pairs if block in removed), None)


def is_within(name: str, module: str) -> bool:
    """Whether ``name``, of a module, parameter or buffer, is ``module`` itself or lies in it."""
    return name == module or name.startswith(f"{module}.")
