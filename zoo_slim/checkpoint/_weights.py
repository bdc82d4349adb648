"""``model.safetensors``: between a file and a network's state dict, tensor by tensor."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._config import FileRecord
from zoo_slim.checkpoint._meta import named_tensors
from zoo_slim.checkpoint._safetensors import TensorFile, write_tensors
from zoo_slim.result import slice_tensor

__all__ = ["assign", "check_fits", "floating_dtype", "read_weights", "shared_names", "write_weights"]

_METADATA = {"format": "pt"}


def shared_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for each name, the first name of the same tensor: itself, where nothing is shared."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def floating_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the floating dtype that most values have; float32 where there is none."""
    counts: dict[torch.dtype, int] = {}
    for tensor in state.values():
        if tensor.is_floating_point():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)


def check_fits(model: nn.Module, expected: nn.Module, described: str) -> None:
    """Check that ``model`` has the tensors that ``expected`` has, and layers with the same settings.

    Args:
        model: a network to be saved.
        expected: the network that loading would build, its parameters on the meta device.
        described: what ``expected`` is, for messages.

    Raises:
        CheckpointError: naming the first tensor or layer that differs.
    """
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
        if name != first and not _same_bits(found[name], found[first]):
            raise CheckpointError(
                f"tensor {name!r}: the {described} shares it with {first!r}, but the model holds different values"
            )
    modules = dict(model.named_modules())
    for name, module in expected.named_modules():
        for setting in _settings(module):
            there, here = getattr(module, setting, None), getattr(modules.get(name), setting, None)
            if type(modules.get(name)) is type(module) and there != here:
                raise CheckpointError(
                    f"layer {name!r}: {setting} is {here}, in the {described} {there}; pass the options= it was built"
                    " with and, if it is slim, its result="
                )


def _settings(module: nn.Module) -> list[str]:
    """Return what a layer of torch computes with besides its tensors; other classes do not say."""
    names = getattr(type(module), "__constants__", [])
    if not type(module).__module__.startswith("torch.nn.modules."):
        return []
    return [name for name in names if name not in ("p", "inplace", "momentum")]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    flat = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*flat)


def write_weights(model: nn.Module, file: Path, dtype: torch.dtype | None) -> FileRecord:
    """Write a network's state dict; tensors that are shared are written once, under their first name.

    Args:
        model: on any device.
        file: where to; must not exist.
        dtype: what to cast tensors of the network's floating dtype to; None: nothing is cast.

    Raises:
        CheckpointError: a value is too large for ``dtype``.
    """
    state = named_tensors(model)
    main = floating_dtype(state)
    target = {name: dtype if dtype and state[name].dtype == main else state[name].dtype for name in state}
    names = [name for name, first in shared_names(state).items() if name == first]

    def get(name: str) -> Tensor:
        tensor = state[name].detach()
        stored = tensor.to(target[name])
        if stored.dtype != tensor.dtype and not torch.equal(stored.isfinite(), tensor.isfinite()):
            raise CheckpointError(f"tensor {name!r}: has values too large for {target[name]}; save with another dtype=")
        return stored

    specs = {name: (target[name], tuple(state[name].shape)) for name in names}
    return FileRecord(*write_tensors(file, specs, get, _METADATA))


def read_weights(
    file: Path, record: FileRecord, model: nn.Module, kept: Mapping[str, Mapping[int, Tensor]] | None = None
) -> dict[str, Tensor]:
    """Read a state dict. Nothing is allocated before the header fits, and the whole file is never held at once.

    Args:
        file: a ``model.safetensors``.
        record: its digest and length, from ``config.json``.
        model: the network that the file is for, its parameters on the meta device.
        kept: what to keep of each tensor (see `PruningResult.kept`); None: all of it.

    Returns:
        One tensor for each that the model does not share, under its first name, as stored, on the CPU.

    Raises:
        CheckpointError: a name, shape or dtype is not the model's, or the file is not the one that was recorded.
    """
    state = named_tensors(model)
    shared = shared_names(state)
    wanted = {name: state[name] for name, first in shared.items() if name == first}
    axes = {first: kept[name] for name, first in reversed(shared.items()) if kept and name in kept}
    weights: dict[str, Tensor] = {}
    with TensorFile(file, record.bytes) as source:
        for name in [*wanted, *source.entries]:
            if name not in source.entries:
                raise CheckpointError(f"{file}: tensor {name!r} is missing")
            entry = source.entries[name]
            if name not in wanted:
                raise CheckpointError(f"{file}: tensor {name[:200]!r} is not one of the architecture's")
            tensor = wanted[name]
            if entry.shape != tuple(tensor.shape):
                raise CheckpointError(
                    f"{file}: tensor {name!r}: expected the shape {list(tensor.shape)}, found {list(entry.shape)}"
                )
            if entry.dtype != tensor.dtype and not (entry.dtype.is_floating_point and tensor.is_floating_point()):
                raise CheckpointError(f"{file}: tensor {name!r}: expected {tensor.dtype}, found {entry.dtype}")
        for name, tensor in source.tensors():
            weights[name] = slice_tensor(tensor, axes[name]) if name in axes else tensor
        if source.sha256() != record.sha256:
            raise CheckpointError(
                f"{file}: its SHA-256 is {source.sha256()}, but config.json says {record.sha256}: it was damaged or"
                " replaced; fetch it anew"
            )
    return weights


def assign(model: nn.Module, weights: Mapping[str, Tensor], convert: Callable[[Tensor], Tensor]) -> None:
    """Give a network, built on the meta device, its weights, converted one by one. Shared tensors stay shared.

    Raises:
        CheckpointError: a parameter is not in the state dict, so that no file can hold its values.
    """
    state = model.state_dict(keep_vars=True)
    shared = shared_names(state)
    made: dict[str, Tensor] = {}
    for name, first in shared.items():
        if first not in made:
            tensor = convert(weights[first])
            own = state[first]
            made[first] = nn.Parameter(tensor, own.requires_grad) if isinstance(own, nn.Parameter) else tensor
        state[name] = made[first]
    model.load_state_dict(state, assign=True)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CheckpointError(f"parameter {name!r} is not in the state dict, so no file holds its value")
