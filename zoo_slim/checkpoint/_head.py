"""The same network for other classes."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoo_slim._errors import CheckpointError
from zoo_slim._networks import unwrap
from zoo_slim.checkpoint._meta import build_on_meta, build_real, named_tensors, shapes_of
from zoo_slim.checkpoint._origin import attach_origin, origin_of
from zoo_slim.registry import Architecture, registry
from zoo_slim.result import apply_result

__all__ = ["new_head"]


def new_head(model: nn.Module, classes: int | Iterable[str]) -> nn.Module:
    """Return the same network, slim as it is, with a new head for other classes. The given one stays as it is.

    The head is all that the architecture builds in another shape, or not at all, for another ``num_classes``: the last
    linear layer of most. It begins with the architecture's random weights, from torch's global generator; all else is
    the model's.

    Args:
        model: a network that zoo_slim loaded or slimmed, of an architecture with the option ``num_classes``.
        classes: how many, or their names in order.

    Returns:
        A network with the dtype, the device and the mode of the given one. Its `Origin` keeps how the weights were
        trained, but no metrics, which are of the other classes.

    Raises:
        CheckpointError: zoo_slim did not build the model, it is not what its architecture builds, or that has no head.
        RegistryError: the architecture has no option ``num_classes``, or it cannot be that number.
    """
    model = unwrap(model)
    origin = origin_of(model)
    if origin is None:
        raise CheckpointError(
            "new_head: the architecture of this model is not known, as zoo_slim did not build it: load it with"
            " zoo_slim.load, or replace its last layer yourself"
        )
    names = tuple(classes) if isinstance(classes, Iterable) else None
    if isinstance(classes, str) or (names is not None and not all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"new_head: classes must be a number or a list of names, found {classes!r}")
    count = classes if names is None else len(names)
    known = registry().find(origin.architecture)
    options = known.check({**origin.options, "num_classes": count})
    head = _sized_by_classes(known, options)
    if not head:
        raise CheckpointError(f"new_head: {known.name!r} builds nothing in another shape for another num_classes")
    made = build_real(known, options)
    if origin.result is not None:
        made = apply_result(made, origin.result)
    given, wanted = named_tensors(model), named_tensors(made)
    for name in {**given, **wanted}.keys() - head:
        if name not in given or name not in wanted or given[name].shape != wanted[name].shape:
            raise CheckpointError(
                f"new_head: {name} of the model is not as architecture {known.name!r} builds it; replace the last layer"
                " of a network that was changed yourself"
            )
    like = next(model.parameters())
    unsaved = dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in {**dict(made.named_buffers()), **wanted}.items():
            source = None if name in head else given.get(name, unsaved.get(name))
            tensor.data = tensor.data.to(like) if source is None else source.detach().clone()
    made.train(model.training)
    return attach_origin(made, replace(origin, options=options, classes=names, metrics={}, base={}))


def _sized_by_classes(architecture: Architecture, options: dict[str, Any]) -> set[str]:
    """The names of the tensors whose shape depends on the number of classes."""
    shapes = shapes_of(build_on_meta(architecture, options))
    other = shapes_of(build_on_meta(architecture, {**options, "num_classes": options["num_classes"] + 1}))
    return {name for name, shape in shapes.items() if other.get(name) != shape}
