"""``model.safetensors``: between a file and a network's state dict, tensor by tensor."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._base import FileRecord
from zoo_slim.checkpoint._json import show
from zoo_slim.checkpoint._meta import named_tensors
from zoo_slim.checkpoint._safetensors import Entry, write_tensors
from zoo_slim.checkpoint._tensor_file import TensorFile

__all__ = [
    "Wanted",
    "assign",
    "check_base",
    "check_own",
    "floating_dtype",
    "read_base",
    "same_bits",
    "shared_names",
    "wanted_tensors",
    "write_weights",
]

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


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bytes; NaN equals itself."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    flat = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*flat)


def write_weights(model: nn.Module, expected: nn.Module, file: Path, dtype: torch.dtype | None) -> FileRecord:
    """Write a network's state dict.

    Args:
        model: on any device.
        expected: the network that loading would build; what it shares is written once, under its first name.
        file: where to; must not exist.
        dtype: what to cast tensors of the network's floating dtype to; None: nothing is cast.

    Raises:
        CheckpointError: a value is too large for ``dtype``, or some tensors are of ``dtype`` already while most are
            not, so that loading could not tell which were cast.
    """
    state = named_tensors(model)
    main = floating_dtype(state)
    if dtype not in (None, main) and (own := [name for name in state if state[name].dtype == dtype]):
        raise CheckpointError(
            f"tensor {own[0]!r}: is {dtype} already, most others are {main}; stored as {dtype}, it could not be told"
            " from them. Leave dtype= out, or convert the network to one dtype first"
        )
    target = {name: dtype if dtype and state[name].dtype == main else state[name].dtype for name in state}
    names = [name for name, first in shared_names(named_tensors(expected)).items() if name == first]

    def get(name: str) -> Tensor:
        tensor = state[name].detach()
        stored = tensor.to(target[name])
        if stored.dtype != tensor.dtype and not torch.equal(stored.isfinite(), tensor.isfinite()):
            raise CheckpointError(f"tensor {name!r}: has values too large for {target[name]}; save with another dtype=")
        return stored

    specs = {name: (target[name], tuple(state[name].shape)) for name in names}
    return FileRecord(*write_tensors(file, specs, get, _METADATA))


@dataclass(frozen=True)
class Wanted:
    """A tensor of the network, to be read from a file.

    Attributes:
        names: all its names in the architecture, its own first; more than one where it is shared.
        dtype: its dtype; of floating ones any may be stored.
        shape: its shape in the architecture.
        kept: what is kept of it, ``{axis: indices}`` as in `PruningResult.kept`.
    """

    names: tuple[str, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]
    kept: Mapping[int, Tensor]

    @property
    def shape_kept(self) -> tuple[int, ...]:
        """Its shape in the slim network."""
        return tuple(self.kept[axis].shape[-1] if axis in self.kept else n for axis, n in enumerate(self.shape))


def wanted_tensors(
    whole: Mapping[str, Tensor], names: Iterable[str], kept: Mapping[str, Mapping[int, Tensor]]
) -> dict[str, Wanted]:
    """Return what a network needs, under the first name that each tensor has in it.

    Args:
        whole: the architecture's state dict, on the meta device.
        names: those names of it that the network still has.
        kept: as `PruningResult.kept`; ``{}``: everything.
    """
    shared: dict[int, list[str]] = {}
    for name, tensor in whole.items():
        shared.setdefault(id(tensor), []).append(name)
    wanted: dict[str, Wanted] = {}
    done: set[int] = set()
    for name in names:
        tensor = whole[name]
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        others = shared[id(tensor)]
        axes = next((kept[other] for other in others if other in kept), {})
        order = (name, *(other for other in others if other != name))
        wanted[name] = Wanted(order, tensor.dtype, tuple(tensor.shape), axes)
    return wanted


def check_own(source: TensorFile, file: Path, wanted: Mapping[str, Wanted]) -> None:
    """Check that a file holds what a network needs, already cut, and nothing else.

    Raises:
        CheckpointError: naming the first tensor that is missing, too many, or of another shape or dtype.
    """
    for name in [*wanted, *source.entries]:
        if name not in source.entries:
            raise CheckpointError(f"{file}: tensor {name!r} is missing")
        if name not in wanted:
            raise CheckpointError(f"{file}: tensor {show(name, 200)} is not one of the architecture's")
        if trouble := _misfit(source.entries[name], wanted[name], wanted[name].shape_kept):
            raise CheckpointError(f"{file}: tensor {name!r}: {trouble}")


def _misfit(entry: Entry, wanted: Wanted, shape: tuple[int, ...]) -> str | None:
    if entry.shape != shape:
        return f"expected the shape {list(shape)}, found {list(entry.shape)}"
    if entry.dtype != wanted.dtype and not (entry.dtype.is_floating_point and wanted.dtype.is_floating_point):
        return f"expected {wanted.dtype}, found {entry.dtype}"
    return None


def check_base(
    source: TensorFile, file: Path, wanted: Mapping[str, Wanted], name_of: Callable[[str], str] = str
) -> dict[str, str]:
    """Check that a base's file holds what a slim network is cut from. Other tensors in the file are left alone.

    A batch norm's ``num_batches_tracked``, which older files lack, may be missing.

    Args:
        source: the base's file, open.
        file: its path, for messages.
        wanted: what the slim network needs.
        name_of: what the file calls a tensor of the architecture.

    Returns:
        What the file calls the tensors, by the names in ``wanted``.

    Raises:
        CheckpointError: naming the tensors that the file lacks or has in another shape or dtype, at most five.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    troubles: list[str] = []
    for name, tensor in wanted.items():
        theirs = next((their for own in tensor.names if (their := name_of(own)) in source.entries), None)
        if theirs is None:
            if not (name.endswith(".num_batches_tracked") and tensor.shape == ()):
                troubles.append(f"{name!r} is missing" + ("" if (n := name_of(name)) == name else f", as {n!r}"))
            continue
        called = f"{name!r}" + ("" if theirs == name else f" ({show(theirs)} there)")
        if trouble := _misfit(source.entries[theirs], tensor, tensor.shape):
            troubles.append(f"{called}: {trouble}")
        elif theirs in taken:
            troubles.append(f"{called} is another tensor's already")
        found[name] = theirs
        taken.add(theirs)
    if troubles:
        more = f"; and {len(troubles) - 5} more" if len(troubles) > 5 else ""
        raise CheckpointError(
            f"{file}: does not hold the base weights of this architecture: tensor {'; '.join(troubles[:5])}{more}"
        )
    return found


def read_base(source: TensorFile, wanted: Mapping[str, Wanted], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Read the kept rows and columns of a base's tensors.

    Args:
        source: the base's file, open.
        wanted: what the slim network needs.
        names: as `check_base` returns them; what has none is 0.

    Returns:
        The slim network's tensors by the names in ``wanted``, as stored, on the CPU.
    """
    read = source.read_kept({theirs: wanted[name].kept for name, theirs in names.items()})
    return {
        name: read[names[name]] if name in names else torch.zeros((), dtype=tensor.dtype)
        for name, tensor in wanted.items()
    }


def assign(
    model: nn.Module, state: Mapping[str, Tensor], weights: dict[str, Tensor], convert: Callable[[Tensor], Tensor]
) -> None:
    """Give a network, built on the meta device, its weights, converted one by one. Shared tensors stay shared.

    Args:
        model: the network, its tensors cut or still whole.
        state: its state dict, of the model's own tensors.
        weights: one tensor for each that the model does not share, under its first name; emptied.
        convert: casts a tensor, and moves it to its device.

    Raises:
        CheckpointError: a parameter is not in the state dict, so that no file can hold its values.
    """
    places, hooked = _places(model)
    made: dict[str, Tensor] = {}
    for name, first in shared_names(state).items():
        if first not in made:
            tensor, own = convert(weights.pop(first)), state[first]
            made[first] = nn.Parameter(tensor, own.requires_grad) if isinstance(own, nn.Parameter) else tensor
        made[name] = made[first]
    if not hooked and all(name in places and places[name][0][places[name][1]] is state[name] for name in state):
        for name, tensor in made.items():
            owner, key = places[name]
            owner[key] = tensor
    else:
        for name, own in state.items():  # `load_state_dict` compares shapes
            if own.shape != made[name].shape:
                own.data = own.data.new_empty(made[name].shape)
        model.load_state_dict(made, assign=True)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CheckpointError(f"parameter {name!r} is not in the state dict, so no file holds its value")


def _places(model: nn.Module) -> tuple[dict[str, tuple[dict[str, Tensor | None], str]], bool]:
    """Return where each parameter and buffer is kept, by name; and whether a module has to be told of a new one."""
    places: dict[str, tuple[dict[str, Tensor | None], str]] = {}
    hooked = False
    for prefix, module in model.named_modules(remove_duplicate=False):
        hooked |= bool(module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks)
        hooked |= type(module).__setattr__ is not nn.Module.__setattr__  # recurrent layers keep lists of their weights
        for owner in (module._parameters, module._buffers):
            for key in owner:
                places[f"{prefix}.{key}" if prefix else key] = owner, key
    return places, hooked
