"""Which models differ in structure, and not only in sizes."""

import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from zoo_slim.registry import registry

__all__ = ["smallest_of_each_structure", "structure"]


def structure(model: nn.Module) -> frozenset[str]:
    """What the channels of a model depend on apart from their number: one line for each kind of module.

    A module's kind is its class, whether a convolution is dense, grouped or depthwise, and the names of its parameters
    and of its children (digits left out, so that depth does not count). Kernel sizes and strides do not count, nor do
    widths and heads.
    """
    return frozenset(map(_kind, model.modules()))


def _kind(module: nn.Module) -> str:
    cls = type(module)
    parts = [f"{cls.__module__}.{cls.__qualname__}"]
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups == module.in_channels
        parts.append("dense" if module.groups == 1 else "depthwise" if depthwise else "grouped")
    parts += [name for name, _ in module.named_parameters(recurse=False)]
    parts += [name for name, _ in module.named_children()]
    return " ".join([parts[0], *sorted({re.sub(r"\d+", "#", part) for part in parts[1:]})])


def smallest_of_each_structure(names: Iterable[str]) -> Iterator[tuple[str, dict[tuple[str, frozenset[str]], str]]]:
    """Build models without weights, and keep the one with the fewest parameters of each structure.

    Models of different modules always count as different. One that cannot be built without weights is kept.

    Yields:
        after every model its name, and what is kept so far: ``{(module, structure): name}``.
    """
    kept: dict[tuple[str, frozenset[str]], str] = {}
    sizes: dict[tuple[str, frozenset[str]], int] = {}
    for name in names:
        try:
            with torch.device("meta"):
                model = registry().find(name).build()
            key = type(model).__module__, structure(model)
            size = sum(parameter.numel() for parameter in model.parameters())
        except Exception:  # of whatever kind: the builder is not ours
            key, size = (name, frozenset()), 0
        if key not in sizes or size < sizes[key]:
            sizes[key], kept[key] = size, name
        yield name, kept
