"""Networks as they are found: wrapped, after training, with activations left on them."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError

__all__ = ["computed_attributes", "copy_of", "unwrap"]


def copy_of(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy; what the last forward left in attributes is copied without its graph, which torch refuses to copy.

    Args:
        model: stays as it is.
        memo: as for `copy.deepcopy`, what to put in the place of objects.

    Raises:
        SlimmingError: something that the model holds cannot be copied.
    """
    memo = {} if memo is None else memo
    for tensor in computed_attributes(model):
        memo.setdefault(id(tensor), tensor.detach().clone())
    try:
        made = copy.deepcopy(model, memo)
    except Exception as error:
        raise SlimmingError(
            f"this {type(model).__name__} cannot be copied: {type(error).__name__}: {error}. Networks are changed on a "
            "copy; take what cannot be copied, a lock or an open file for instance, off it first"
        ) from error
    # Copies of torch.fx's modules are in training mode; frozen scripts have no mode.
    modes = {name: getattr(module, "training", None) for name, module in model.named_modules(remove_duplicate=False)}
    for name, module in made.named_modules(remove_duplicate=False):
        if modes.get(name) not in (None, getattr(module, "training", None)):
            module.training = bool(modes[name])
    return made


def computed_attributes(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules hold as plain attributes, also in lists and dicts, and that have a graph."""
    for module in model.modules():
        for value in list(vars(module).values()):
            yield from _computed(value)


def _computed(value: Any) -> Iterator[Tensor]:
    # Not `tensors_in`: it would use up iterators that a module holds.
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, (dict, list, tuple, set)):
        for item in list(value.values() if isinstance(value, dict) else value):
            yield from _computed(item)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside `torch.compile`, DataParallel and DistributedDataParallel.

    Raises:
        SlimmingError: it is no `nn.Module`, or a script.
    """
    while True:
        if not isinstance(model, nn.Module):
            kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
            raise SlimmingError(f"{kind} is no network: give an nn.Module")
        if isinstance(model, torch.jit.ScriptModule):
            raise SlimmingError(
                f"this {type(model).__name__} is a script, which cannot be taken apart: give the network that it was "
                "made from, and script or trace the slim one"
            )
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model
