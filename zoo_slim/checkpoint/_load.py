"""Read a slim checkpoint from a folder."""

import contextlib
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError, RegistryError, SlimmingError, UnknownNameError
from zoo_slim.checkpoint._base import BaseWeights, FileRecord
from zoo_slim.checkpoint._config import CONFIG, MODEL, PRUNING, Config, check_variant, read_bytes, read_config_file
from zoo_slim.checkpoint._folder import VARIANT_PREFIX, list_variants, named, read_consistently
from zoo_slim.checkpoint._json import fail
from zoo_slim.checkpoint._meta import build_on_meta, build_real, fill_buffers, named_tensors, shapes_of
from zoo_slim.checkpoint._origin import Origin, attach_origin
from zoo_slim.checkpoint._packages import where_it_was, with_what_changed
from zoo_slim.checkpoint._result_file import LARGEST, check_meaning, parse_result
from zoo_slim.checkpoint._tensor_file import TensorFile
from zoo_slim.checkpoint._weights import assign, check_base, check_own, read_base, wanted_tensors
from zoo_slim.registry import Architecture, registry
from zoo_slim.result import PruningResult, apply_result, set_attributes

__all__ = [
    "Skeleton",
    "check_dtype",
    "inside",
    "load_folder",
    "read_config",
    "read_skeleton",
    "resolve_device",
    "variants",
]


@dataclass(frozen=True)
class Skeleton:
    """A checkpoint's network without its weights.

    Attributes:
        architecture: what its ``config.json`` names.
        config: that file.
        options: what the architecture was built with, checked.
        original: the whole network, on the meta device.
        result: what was kept of it; None where it is not slim.
        model: the checkpoint's own network, on the meta device; ``original`` where it is not slim.
    """

    architecture: Architecture
    config: Config
    options: dict[str, Any]
    original: nn.Module
    result: PruningResult | None
    model: nn.Module


def read_config(folder: str | os.PathLike[str]) -> Config:
    """Read and validate the ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: naming the file, the field, what was expected and what was found.
    """
    return read_consistently(named(folder), _read_config)


def variants(folder: str | os.PathLike[str]) -> list[str]:
    """Return the tags of the variants in a base checkpoint's folder, sorted; ``[]`` where there are none."""
    return list_variants(named(folder))


def read_skeleton(folder: str | os.PathLike[str]) -> Skeleton:
    """Read what a checkpoint holds besides its weights, validated as for loading.

    Raises:
        CheckpointError: naming the file and field that is missing, damaged or does not fit.
        RegistryError: the architecture is not installed, or does not take an option.
    """
    return read_consistently(named(folder), lambda place: _read_skeleton(place, {}))


def load_folder(
    folder: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    base_file: str | os.PathLike[str] | None = None,
    verified: bool | Callable[[Path, FileRecord], bool] = False,
) -> nn.Module:
    """Load the network of one checkpoint folder, in evaluation mode and with its `Origin` attached.

    Every byte of the weights is hashed and compared with ``config.json`` as it is read, unless ``verified`` says that
    somebody has done so. A file of up to 64 MiB is read while the network is built; of a longer one, nothing is
    allocated before its names, shapes and dtypes fit. Of base weights only the rows and columns that are kept are held.

    Args:
        folder: a base checkpoint, or a variant (``NAME/pruned-VARIANT``).
        pretrained: False: random weights; then no weights need to be there.
        device: where to.
        dtype: floating dtype to cast to; None: the one that the network had when it was saved.
        options: keyword arguments for the architecture, which must agree with those in ``config.json``.
        base_file: where the safetensors file is that ``base_weights`` in ``config.json`` names, for a variant whose
            weights are cut from a file in another repository (`read_config` tells which).
        verified: whether the file of the weights is known to have the digest recorded, so that only its length is
            compared. A function is asked, with the file's path and that record. Say so only of files that were hashed
            since they were last written, such as those in a cache that notes their inode, length and times of change.

    Raises:
        CheckpointError: naming the file and field or tensor that is missing, damaged or does not fit.
        RegistryError: the architecture is not installed, or does not take an option.
    """
    where = resolve_device(device)
    if pretrained and where.type == "meta":
        raise CheckpointError("load: the device 'meta' holds no weights; pass pretrained=False, or another device")
    check_dtype(dtype)
    base = None if base_file is None else Path(base_file)

    def read(place: Path) -> nn.Module:
        return _load(place, pretrained, where, dtype, dict(options or {}), base, verified)

    return read_consistently(named(folder), read)


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; CheckpointError where torch has no such device."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"load: device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise CheckpointError where a network's weights cannot be cast to the dtype."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise CheckpointError(f"load: dtype must be a floating one, such as torch.float16, found {dtype!r}")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a checkpoint's file; links may not lead out, but to the blobs of a Hub cache's snapshot.

    These are in the repository's folder of the cache, or in the store that the repositories of the cache share.
    """
    file = folder / name
    real = Path(os.path.realpath(folder))
    snapshots = [parent for parent in real.parents[:2] if parent.name == "snapshots"]
    roots = [real, *(home / "blobs" for parent in snapshots for home in parent.parents[:2])]
    if not any(Path(os.path.realpath(file)).is_relative_to(root) for root in roots):
        raise CheckpointError(f"{file}: is a link that leads out of the checkpoint; put the file itself there")
    return file


def _read_config(folder: Path) -> Config:
    if not os.path.isdir(folder):
        raise CheckpointError(f"{folder}: there is no such folder")
    file = inside(folder, CONFIG)
    config = read_config_file(file)
    if folder.name.startswith(VARIANT_PREFIX) and PRUNING in config.files:
        tag = check_variant(folder.name.removeprefix(VARIANT_PREFIX), str(folder), "folder name")
        if config.variant is not None and config.variant != tag:
            raise CheckpointError(f"{file}: field 'variant': expected {tag!r}, the folder's, found {config.variant!r}")
    return config


@dataclass(frozen=True)
class _Weights:
    """Where a network's weights are: ``base`` tells what of the whole network's, None that they are its own."""

    file: Path
    record: FileRecord
    dtype: torch.dtype
    stored_dtype: torch.dtype
    base: Callable[[str], str] | None


def _load(
    folder: Path,
    pretrained: bool,
    device: torch.device,
    dtype: torch.dtype | None,
    options: dict[str, Any],
    base_file: Path | None,
    verified: bool | Callable[[Path, FileRecord], bool],
) -> nn.Module:
    config = _read_config(folder)
    architecture, checked = _architecture_of(config, options, folder)
    pruning = _read_pruning(folder, config)
    origin = Origin(
        architecture=config.architecture,
        options=checked,
        variant=config.variant,
        classes=config.classes,
        input=config.input,
        metrics=config.metrics if pretrained else {},
        training=config.training if pretrained else {},
        base=config.base,
    )
    if not pretrained:
        with with_what_changed(config):
            real = build_real(architecture, checked)
            result = _parse_pruning(pruning, real, folder)
            model = _apply(real, result, folder).to(device=device, dtype=dtype)
        return attach_origin(model.eval(), replace(origin, result=result))
    weights = _find_weights(folder, config, base_file)
    hashed = not (verified(weights.file, weights.record) if callable(verified) else verified)
    with TensorFile(weights.file, weights.record, hashed) as source:
        if weights.base is None:
            source.read_ahead()
        with with_what_changed(config):
            original = _build(architecture, checked, folder)
            whole = named_tensors(original)
            result = _parse_pruning(pruning, original, folder)
            model = original
            if result is not None and result.removed:
                model = _apply(original, result, folder)
            elif result is not None:
                set_attributes(model, result)
            state = whole if model is original else named_tensors(model)
            wanted = wanted_tensors(whole, state, {} if result is None else result.kept)
            if weights.base is None:
                check_own(source, weights.file, wanted)
            else:
                _check_names(config, whole, folder)
                names = check_base(source, weights.file, wanted, weights.base)
        tensors = source.read() if weights.base is None else read_base(source, wanted, names)
    after = dtype or weights.dtype

    def convert(tensor: Tensor) -> Tensor:
        cast = tensor.is_floating_point() and (dtype is not None or tensor.dtype == weights.stored_dtype)
        return tensor.to(device=device, dtype=after if cast else tensor.dtype)

    fill_buffers(model, state, original, architecture, checked, result, after)
    assign(model, state, tensors, convert)
    if device.type != "cpu" or dtype is not None:
        model = model.to(device=device, dtype=dtype)
    return attach_origin(model.eval(), replace(origin, result=result))


def _read_skeleton(folder: Path, options: dict[str, Any]) -> Skeleton:
    config = _read_config(folder)
    architecture, checked = _architecture_of(config, options, folder)
    pruning = _read_pruning(folder, config)
    with with_what_changed(config):
        original = _build(architecture, checked, folder)
        result = _parse_pruning(pruning, original, folder)
        return Skeleton(architecture, config, checked, original, result, _apply(original, result, folder))


def _architecture_of(config: Config, options: dict[str, Any], folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Return what the config names, and the options to build it with."""
    try:
        architecture = registry().find(config.architecture)
    except UnknownNameError as error:
        advice = (
            "; import the module that registers it (in the shell: zoo-slim --import MODULE ...), or install its package"
        )
        cure = where_it_was(config) if config.package else advice + where_it_was(config)
        raise RegistryError(
            f"{folder / CONFIG}: needs architecture {config.architecture!r}, which no installed package offers"
            f"{cure}{error.failures}"
        ) from None
    except RegistryError as error:
        raise RegistryError(f"{folder / CONFIG}: field 'architecture': {error}{where_it_was(config)}") from None
    try:
        checked = architecture.check(config.options)
    except RegistryError as error:
        raise RegistryError(f"{folder / CONFIG}: field 'options': {error}{where_it_was(config)}") from None
    _check_given(config, options, architecture, folder)
    return architecture, checked


def _build(architecture: Architecture, options: dict[str, Any], folder: Path) -> nn.Module:
    try:
        return build_on_meta(architecture, options)
    except (CheckpointError, RegistryError) as error:
        raise type(error)(f"{folder / CONFIG}: fields 'architecture' and 'options': {error}") from error


def _check_given(config: Config, given: dict[str, Any], architecture: Architecture, folder: Path) -> None:
    """Check that the options given say the same as those stored."""
    for name, value in architecture.check(given).items():
        if name in config.options:
            stored = config.options[name]
        else:
            parameter = inspect.signature(architecture.builder).parameters.get(name)
            stored = "the default" if parameter is None else parameter.default
            with contextlib.suppress(RegistryError):
                stored = architecture.check({name: stored})[name]
        if type(stored) is not type(value) or stored != value:
            other = ", or load it without, for zoo_slim.new_head" if name == "num_classes" else ""
            raise CheckpointError(
                f"{folder / CONFIG}: was saved with {name}={stored!r}, but {name}={value!r} was asked for; leave it"
                f" out, or build the architecture anew with pretrained=False{other}"
            )


def _read_pruning(folder: Path, config: Config) -> bytes | None:
    if PRUNING not in config.files:
        return None
    file, record = inside(folder, PRUNING), config.files[PRUNING]
    data = read_bytes(file, LARGEST)
    if (found := hashlib.sha256(data).hexdigest()) != record.sha256 or len(data) != record.bytes:
        raise CheckpointError(
            f"{file}: its SHA-256 is {found}, but config.json says {record.sha256}: it was damaged or replaced;"
            " fetch it anew"
        )
    return data


def _parse_pruning(data: bytes | None, original: nn.Module, folder: Path) -> PruningResult | None:
    if data is None:
        return None
    where = str(folder / PRUNING)
    result = parse_result(data, where, shapes_of(original))
    check_meaning(result, original, where)
    return result


def _apply(original: nn.Module, result: PruningResult | None, folder: Path) -> nn.Module:
    if result is None:
        return original
    try:
        return apply_result(original, result)
    except SlimmingError as error:
        raise CheckpointError(f"{folder / PRUNING}: does not fit the architecture: {error}") from None


def _find_weights(folder: Path, config: Config, base_file: Path | None) -> _Weights:
    """Return where the weights are; of a file in the folder above, the config there says how they are stored."""
    needed = config.base_weights
    if base_file is not None and not isinstance(needed, BaseWeights):
        raise CheckpointError(
            f"{folder / CONFIG}: field 'base_weights': names no file in another repository, but base_file={base_file}"
            " was given; leave it out"
        )
    here = _dtype(config.dtype), _dtype(config.stored_dtype)
    if MODEL in config.files:
        return _Weights(inside(folder, MODEL), config.files[MODEL], *here, base=None)
    if PRUNING not in config.files:
        raise CheckpointError(f"{folder / CONFIG}: field 'files': expected {MODEL}, found none; pass pretrained=False")
    if isinstance(needed, BaseWeights):
        if base_file is None:
            raise CheckpointError(
                f"{folder / CONFIG}: field 'base_weights': the weights are cut from {needed}; fetch it and pass"
                " base_file=, or load with zoo_slim.load, which does both"
            )
        return _Weights(base_file, needed.record, *here, base=needed.name_of)
    parent = folder.parent
    base = _read_config(parent)
    if (base.architecture, base.options) != (config.architecture, config.options):
        raise CheckpointError(
            f"{parent / CONFIG}: expected {config.architecture!r} with options {config.options}, of which"
            f" {folder.name} is a variant, found {base.architecture!r} with {base.options}"
        )
    record = base.files.get(MODEL)
    if record is None or (needed is not None and needed != record):
        raise CheckpointError(
            f"{parent / CONFIG}: field 'files.{MODEL}': expected the weights that {folder.name} is cut from"
            f" ({needed}), found {record}; fetch both of one revision"
        )
    return _Weights(inside(parent, MODEL), record, _dtype(base.dtype), _dtype(base.stored_dtype), base=str)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _check_names(config: Config, whole: Mapping[str, Tensor], folder: Path) -> None:
    names = config.base_weights.names if isinstance(config.base_weights, BaseWeights) else {}
    if unknown := sorted(names.keys() - whole.keys()):
        fail(str(folder / CONFIG), "base_weights.names", "names of the architecture's tensors", unknown[0])
