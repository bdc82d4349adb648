"""Where a model comes from: what `save` needs to know beyond the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from zoo_slim._networks import unwrap
from zoo_slim.result import PruningResult

__all__ = ["Origin", "attach_origin", "origin_of", "part_tested", "trained_on"]

_ATTRIBUTE = "zoo_slim_origin"


@dataclass(frozen=True)
class Origin:
    """The provenance of a model, attached to it as the plain attribute ``zoo_slim_origin``.

    It survives `copy.deepcopy` and is not part of the state dict.

    Attributes:
        architecture: registered name of the original network's architecture.
        options: keyword arguments that the architecture was built with.
        result: what was kept of the original network; None for the original itself.
        variant: tag of a slim variant, ``"0.75"`` for instance.
        classes: names of the outputs, in order.
        input: ``{"size": [channels, height, width], "mean": [per channel], "std": [per channel]}``; the network
            expects ``(pixel - mean) / std`` of pixels in 0..1.
        metrics: what was measured of this very network (``test_accuracy``, ``params``, ``macs``, ...).
        training: how it was trained (command, seed, dataset, versions, ...).
        base: metrics of the original network that it was slimmed from.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    result: PruningResult | None = None
    variant: str | None = None
    classes: tuple[str, ...] | None = None
    input: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)


def attach_origin(model: nn.Module, origin: Origin) -> nn.Module:
    """Attach ``origin`` to ``model`` (in place of an earlier one) and return the model."""
    setattr(unwrap(model), _ATTRIBUTE, origin)
    return model


def origin_of(model: nn.Module) -> Origin | None:
    """Return the model's `Origin`, or None for a model that zoo_slim neither loaded nor slimmed."""
    origin = vars(unwrap(model)).get(_ATTRIBUTE)
    return origin if isinstance(origin, Origin) else None


def trained_on(training: object) -> str | None:
    """Return the data set of a network's last training, by what is recorded: its own, or one of those before it."""
    while isinstance(training, Mapping):
        if isinstance(training.get("dataset"), str):
            return str(training["dataset"])
        training = training.get("base")
    return None


def part_tested(training: object) -> tuple[int, int] | None:
    """Return how many test images a recorded accuracy is of, and of how many, where these were not all of them.

    None where they were, and where it is not recorded.
    """
    evaluation = training.get("evaluation") if isinstance(training, Mapping) else None
    if not isinstance(evaluation, Mapping):
        return None
    count, total = evaluation.get("count"), evaluation.get("of")
    if type(count) is not int or type(total) is not int or not 0 < count < total:
        return None
    return count, total
