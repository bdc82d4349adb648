"""Whether loading would build the network that is to be saved."""

import copy
import warnings

import torch
from torch import nn

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._meta import named_tensors
from zoo_slim.checkpoint._weights import same_bits, shared_names

__all__ = ["check_fits"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
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
            raise CheckpointError(
                f"tensor {name!r}: the {has} has it, the {lacks} not; pass the right architecture=, or register a"
                " builder that makes this network (zoo_slim.register) and pass its name"
            )
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
    """Compare torch's own layers; of other classes it is not known what they compute."""
    found: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    wanted: dict[str, nn.Module] = dict(expected.named_modules(remove_duplicate=False))
    for name, there in wanted.items():
        here = found.get(name, there)  # a wrapper may have changed the name
        if not _alike(here, there):
            raise CheckpointError(
                f"layer {name!r}: is a {_kind(here)}, in the {described} a {_kind(there)}, which loading would build;"
                " pass the options= it was built with, or register a builder that makes this network"
                " (zoo_slim.register) and pass its name as architecture="
            )
        for setting in _settings(there):
            if hasattr(here, setting) and getattr(there, setting, None) != getattr(here, setting):
                raise CheckpointError(
                    f"layer {name!r}: {setting} is {getattr(here, setting)}, in the {described}"
                    f" {getattr(there, setting, None)}; pass the options= it was built with and, if it is slim, its"
                    " result="
                )
        if isinstance(there, nn.Sequential) and isinstance(here, nn.Sequential):
            more = [*list(here)[len(there) :], *list(there)[len(here) :]]
            if not all(map(_returns_its_input, more)):
                raise CheckpointError(
                    f"layer {name!r}: has {len(here)} layers, in the {described} {len(there)}; pass the options= it was"
                    " built with, or register a builder that makes this network (zoo_slim.register)"
                )


def _alike(here: nn.Module, there: nn.Module) -> bool:
    """Whether two layers compute the same in evaluation mode, as far as that is known."""
    if type(here) is type(there) or not (_is_torchs(here) or _is_torchs(there)):
        return True
    if isinstance(here, torch.jit.ScriptModule) or (type(here) in _NORMS and type(there) in _NORMS):
        return True
    return _returns_its_input(here) and _returns_its_input(there)


def _is_torchs(layer: nn.Module) -> bool:
    kind = type(layer)
    return kind.__module__.startswith("torch.nn.modules.") and not kind.__module__.endswith((".container", ".module"))


def _returns_its_input(layer: nn.Module) -> bool:
    """Whether a layer does nothing in evaluation mode, as dropout and stochastic depth of any library."""
    if next(layer.parameters(), None) is not None or next(layer.buffers(), None) is not None:
        return False
    images = torch.randn(2, 4, 6, 6, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    try:
        with torch.no_grad():
            output = copy.deepcopy(layer).eval()(images)
    except Exception:
        return False
    return isinstance(output, torch.Tensor) and torch.equal(output, images)


def _kind(layer: nn.Module) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _settings(module: nn.Module) -> list[str]:
    """Return what a layer of torch computes with besides its tensors; other classes do not say."""
    names = getattr(type(module), "__constants__", []) if _is_torchs(module) else []
    return [name for name in names if name not in ("p", "inplace", "momentum")]
