"""A slim network without weights of its own: proof that they are the kept rows and columns of a base's."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._base import BaseWeights, FileRecord, common_prefix, parse_base
from zoo_slim.checkpoint._config import CONFIG, MODEL, Config, read_config_file
from zoo_slim.checkpoint._folder import VARIANT_PREFIX, find_folder
from zoo_slim.checkpoint._meta import named_tensors
from zoo_slim.checkpoint._tensor_file import TensorFile
from zoo_slim.checkpoint._weights import check_base, floating_dtype, read_base, same_bits, wanted_tensors
from zoo_slim.result import PruningResult

__all__ = ["check_still_there", "cut_from_file", "cut_from_folder_above"]


def cut_from_folder_above(
    model: nn.Module, original: nn.Module, result: PruningResult, config: Config, folder: Path
) -> Config:
    """Return the config of a network whose weights are cut from those in the folder above.

    Args:
        model: the slim network.
        original: the whole network, its parameters on the meta device.
        result: what is kept of it.
        config: what the variant's ``config.json`` says otherwise.
        folder: where the variant is to be saved.

    Raises:
        CheckpointError: there is no base of this architecture, or the weights are not cut from it.
    """
    if not folder.name.startswith(VARIANT_PREFIX):
        raise CheckpointError(f"{folder}: only a slim network in a folder pruned-VARIANT can do without weights")
    parent = find_folder(folder.parent)
    base = read_config_file(parent / CONFIG)
    if (base.architecture, base.options) != (config.architecture, config.options) or MODEL not in base.files:
        raise CheckpointError(
            f"{parent / CONFIG}: expected the weights of {config.architecture!r} with options {config.options},"
            f" found {base.architecture!r} with {base.options} and files {sorted(base.files)}"
        )
    record, file = base.files[MODEL], parent / MODEL
    state = named_tensors(model)
    with TensorFile(file, record) as source:
        wanted = wanted_tensors(named_tensors(original), state, result.kept)
        tensors = read_base(source, wanted, check_base(source, file, wanted))
    _check_same(tensors, state, file, getattr(torch, base.stored_dtype), getattr(torch, base.dtype))
    return replace(config, base_weights=record)


def check_still_there(record: FileRecord, folder: Path) -> None:
    """Check that the folder above still holds the weights that a variant was found to be cut from.

    Args:
        record: those weights.
        folder: the variant's, locked.

    Raises:
        CheckpointError: it does not.
    """
    file = find_folder(folder.parent) / CONFIG
    if read_config_file(file).files.get(MODEL) != record:
        raise CheckpointError(f"{file}: the base network was replaced meanwhile; slim the one that is there now")


def cut_from_file(
    model: nn.Module,
    original: nn.Module,
    result: PruningResult,
    config: Config,
    base: BaseWeights,
    file: str | os.PathLike[str],
) -> Config:
    """Return the config of a network whose weights are cut from a file in another repository.

    Names that the file prefixes (``module.``) are noticed, others must be in ``base.names``.

    Args:
        model: the slim network.
        original: the whole network, its parameters on the meta device.
        result: what is kept of it.
        config: what the variant's ``config.json`` says otherwise.
        base: that file.
        file: where it is on this machine.

    Raises:
        CheckpointError: the file is not the one described, does not hold what the architecture needs, or the weights
            are not cut from it.
    """
    base = _checked(base)
    state, whole = named_tensors(model), named_tensors(original)
    if unknown := sorted(base.names.keys() - whole.keys()):
        raise CheckpointError(f"base_weights: names: the architecture has no tensor {unknown[0]!r}")
    wanted = wanted_tensors(whole, state, result.kept)
    with TensorFile(Path(file), base.record) as source:
        if not base.prefix:
            needed = [n for n in wanted if n not in base.names and not n.endswith(".num_batches_tracked")]
            base = replace(base, prefix=common_prefix(needed, source.entries))
        tensors = read_base(source, wanted, check_base(source, Path(file), wanted, base.name_of))
    stored = floating_dtype(tensors)
    _check_same(tensors, state, Path(file), stored, getattr(torch, config.dtype))
    return replace(config, base_weights=base, stored_dtype=str(stored).removeprefix("torch."))


def _checked(base: BaseWeights) -> BaseWeights:
    parsed = parse_base(base.to_json(), "save", "base_weights")
    assert isinstance(parsed, BaseWeights)
    return parsed


def _check_same(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], file: Path, stored: torch.dtype, loaded: torch.dtype
) -> None:
    """Check that the tensors cut from a base, as they would be loaded, are those of a network, bit for bit."""
    different = [
        name
        for name, tensor in tensors.items()
        if not same_bits(tensor.to(loaded if tensor.dtype == stored else tensor.dtype), state[name])
    ]
    if different:
        others = f" (and {len(different) - 1} more of {len(tensors)})" if len(different) > 1 else ""
        raise CheckpointError(
            f"tensor {different[0]!r}{others}: is not the kept part of the base's in {file}: the weights were trained"
            " after slimming, or cut from others, and must be stored; save with weights=True and without base_weights="
        )
