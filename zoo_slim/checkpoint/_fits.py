"""Whether loading would build the network that is to be saved."""

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._meta import named_tensors
from zoo_slim.checkpoint._weights import same_bits, shared_names

__all__ = ["check_fits"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ALIKE: tuple[tuple[type[nn.Module], ...], ...] = ((_BatchNorm,), (_DropoutNd, nn.Identity))
"""Classes that compute the same in evaluation mode."""


def check_fits(model: nn.Module, expected: nn.Module, described: str) -> None:
    """Check that ``model`` has the tensors that ``expected`` has, and the same layers with the same settings.

    Args:
        model: a network to be saved.
        expected: the network that loading would build, its parameters on the meta device.
        described: what ``expected`` is, for messages.

    Warns:
        UserWarning: a buffer that is not in the state dict has other values.

    Raises:
        CheckpointError: naming the first tensor or layer that differs.
    """
    _check_tensors(model, expected, described)
    _check_layers(model, expected, described)
    saved, found = named_tensors(expected), dict(model.named_buffers(remove_duplicate=False))
    for name, built in expected.named_buffers(remove_duplicate=False):
        own = None if name in saved or built.is_meta else found.get(name)
        if own is not None and own.shape == built.shape and not same_bits(own, built.to(own.dtype)):
            warnings.warn(
                f"buffer {name!r}: is not in the state dict, so it is not saved, and the {described} builds it with"
                " other values than the model has; register it with persistent=True, or derive it from what is saved",
                stacklevel=3,
            )


def _check_tensors(model: nn.Module, expected: nn.Module, described: str) -> None:
    found, wanted = named_tensors(model), named_tensors(expected)
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            has, lacks = ("model", described) if name in found else (described, "model")
            raise CheckpointError(f"tensor {name!r}: the {has} has it, the {lacks} not; pass the right architecture=")
        if found[name].shape != wanted[name].shape:
            raise CheckpointError(
                f"tensor {name!r}: the model's shape is {list(found[name].shape)}, that of the {described}"
                f" {list(wanted[name].shape)}; pass the options= it was built with and, if it is slim, its result="
            )
        if found[name].is_floating_point() != wanted[name].is_floating_point() or (
            not found[name].is_floating_point() and found[name].dtype != wanted[name].dtype
        ):
            raise CheckpointError(
                f"tensor {name!r}: the model's dtype is {found[name].dtype}, that of the {described}"
                f" {wanted[name].dtype}; convert it before saving"
            )
    for name, first in shared_names(wanted).items():
        if name != first and not same_bits(found[name], found[first]):
            raise CheckpointError(
                f"tensor {name!r}: the {described} shares it with {first!r}, but the model holds different values"
            )


def _check_layers(model: nn.Module, expected: nn.Module, described: str) -> None:
    found = dict(model.named_modules(remove_duplicate=False))
    wanted = dict(expected.named_modules(remove_duplicate=False))
    added = (name for name in found if name not in wanted and isinstance(_parent(found, name), _CONTAINERS))
    for name in [*wanted, *added]:
        here, there = found.get(name), wanted.get(name)
        if here is None or there is None or not _same_class(here, there):
            own, other = ("nothing" if layer is None else f"a {type(layer).__name__}" for layer in (here, there))
            raise CheckpointError(
                f"layer {name!r}: is {own}, in the {described} {other}, which loading would build; register a builder"
                " that makes this network (zoo_slim.register), and pass its name as architecture="
            )
        for setting in _settings(there):
            if type(here) is type(there) and getattr(there, setting, None) != getattr(here, setting, None):
                raise CheckpointError(
                    f"layer {name!r}: {setting} is {getattr(here, setting, None)}, in the {described}"
                    f" {getattr(there, setting, None)}; pass the options= it was built with and, if it is slim, its"
                    " result="
                )


def _parent(modules: dict[str, nn.Module], name: str) -> nn.Module:
    return modules[name.rpartition(".")[0]]


def _same_class(a: nn.Module, b: nn.Module) -> bool:
    """Compared by name, as a notebook's cell that runs again makes another class of the same name."""
    one, other = ((type(layer).__module__, type(layer).__qualname__) for layer in (a, b))
    return one == other or any(isinstance(a, alike) and isinstance(b, alike) for alike in _ALIKE)


def _settings(module: nn.Module) -> list[str]:
    """Return what a layer of torch computes with besides its tensors; other classes do not say."""
    names = getattr(type(module), "__constants__", [])
    if not type(module).__module__.startswith("torch.nn.modules."):
        return []
    return [name for name in names if name not in ("p", "inplace", "momentum")]
