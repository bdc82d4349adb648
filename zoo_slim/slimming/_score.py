"""Find a criterion, and score the channels of a model by it."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim import _plugins
from zoo_slim._errors import SlimmingError, ZooSlimError
from zoo_slim._networks import copy_of
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming._criteria import Criterion, Scores, l2
from zoo_slim.tracing import Example, call_model

__all__ = ["GROUP", "by_weights", "find_criterion", "list_criteria", "over_batches", "score"]

GROUP = "zoo_slim.criteria"
"""The entry-point group of criteria: the name of an entry point is the criterion's, and it loads to a `Criterion`."""


def list_criteria() -> list[str]:
    """Return the names of all criteria that are installed, sorted."""
    return _plugins.names(GROUP)


def find_criterion(name: str) -> Criterion:
    """Return the criterion of that name. No other plugin is imported, so that one that fails harms no other.

    Raises:
        SlimmingError: nothing has the name, several plugins claim it, or the one that does fails.
    """
    points = [point for point in _plugins.entry_points(GROUP) if point.name == name]
    if not points:
        raise SlimmingError(f"there is no criterion {name!r}; choose one of {', '.join(list_criteria())}")
    if len(points) > 1:
        claims = "; ".join(sorted(map(_plugins.label, points)))
        raise SlimmingError(
            f"criterion {name!r} is claimed by {len(points)} plugins: {claims}. "
            "Uninstall one of them, or ask its authors to rename the criterion"
        )
    try:
        criterion: Criterion = points[0].load()
    except Exception as error:
        raise SlimmingError(
            f"the criterion plugin {_plugins.label(points[0])} failed: {_plugins.reason(error)}"
        ) from error
    if not callable(criterion):
        raise SlimmingError(
            f"the criterion plugin {_plugins.label(points[0])} loads to {criterion!r}; a function "
            "(model, schema) -> scores was expected"
        )
    return criterion


def score(model: nn.Module, schema: PruningSchema, criterion: str | Criterion) -> Scores:
    """Score all channels: float64 ``[schema.channels]``, NaN for those that stay.

    Raises:
        SlimmingError: a criterion that does not exist or fails, gives scores of another shape, or scores nothing.
    """
    function = find_criterion(criterion) if isinstance(criterion, str) else criterion
    try:
        given = function(model, schema)
        scores = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
    except ZooSlimError:
        raise
    except Exception as error:
        if isinstance(criterion, str):
            raise SlimmingError(f"criterion {criterion!r} failed: {_plugins.reason(error)}") from error
        raise
    if scores.shape != (schema.channels,):
        raise SlimmingError(f"the criterion gave scores of shape {scores.shape} for {schema.channels} channels")
    if schema.channels and np.isnan(scores).all():
        raise SlimmingError(
            f"the criterion scores none of the {schema.channels} channels of this {type(model).__name__}, so that "
            "nothing could be removed. bn_scale needs BatchNorm scales; l1 and l2 need layers whose weights are not "
            'parametrised. Where there are no BatchNorm scales, choose criterion="l2" (on the command line --criterion '
            "l2)."
        )
    return scores


def by_weights(model: nn.Module, schema: PruningSchema, scores: Scores) -> Scores:
    """The same scores, and those of `l2` for the groups with a ratio of their own that have none.

    Such a group's channels are compared with each other only, so that another unit than that of the rest does no harm.
    """
    found = zip(schema.members().values(), schema.groups.values(), strict=True)
    unscored = [members for members, group in found if group.ratio and np.isnan(scores[members]).all()]
    if not unscored:
        return scores
    scores, channels = scores.copy(), np.concatenate(unscored)
    scores[channels] = l2(model, schema)[channels]
    return scores


def over_batches(
    criterion: str | Criterion,
    batches: Iterable[tuple[Example, Any]],
    loss: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy,
) -> Criterion:
    """A criterion that needs gradients, given those of one batch after the other: the mean of its scores.

    The model is copied, and run in evaluation mode; it gets no gradients itself.

    Args:
        criterion: ``taylor``, or another that reads ``.grad``.
        batches: pairs of what the model is called with and targets, on the model's device. Gone through each time that
            a model is scored.
        loss: ``(outputs, targets) -> scalar``.

    Raises:
        SlimmingError: when it is called, and there is no batch.

    Example:
        >>> zoo_slim.slim(model, ratio=0.5, criterion=over_batches("taylor", batches), example_input=images)
    """

    def averaged(model: nn.Module, schema: PruningSchema) -> Scores:
        probe = copy_of(model).eval()
        total, count = np.zeros(schema.channels), 0
        for inputs, targets in batches:
            probe.zero_grad()
            with torch.enable_grad():
                loss(call_model(probe, inputs), targets).backward()
            total += score(probe, schema, criterion)
            count += 1
        if not count:
            raise SlimmingError("there is no batch to take gradients of: the batches are empty, or used up already")
        return total / count

    return averaged
