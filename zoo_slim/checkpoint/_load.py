"""Read a slim checkpoint from a folder."""

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError, SlimmingError
from zoo_slim.checkpoint._config import CONFIG, MODEL, PRUNING, Config, check_variant, parse_config, read_bytes
from zoo_slim.checkpoint._folder import VARIANT_PREFIX, list_variants, read_consistently
from zoo_slim.checkpoint._meta import build_on_meta, build_real, fill_buffers, shapes_of
from zoo_slim.checkpoint._origin import Origin, attach_origin
from zoo_slim.checkpoint._result_file import LARGEST, check_attributes, parse_result
from zoo_slim.checkpoint._weights import assign, read_weights
from zoo_slim.registry import Architecture, registry
from zoo_slim.result import PruningResult, apply_result

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
    return read_consistently(Path(folder), _read_config)


def variants(folder: str | os.PathLike[str]) -> list[str]:
    """Return the tags of the variants in a base checkpoint's folder, sorted; ``[]`` where there are none."""
    return list_variants(Path(folder))


def read_skeleton(folder: str | os.PathLike[str]) -> Skeleton:
    """Read what a checkpoint holds besides its weights, validated as for loading.

    Raises:
        CheckpointError: naming the file and field that is missing, damaged or does not fit.
        RegistryError: the architecture is not installed, or does not take an option.
    """
    return read_consistently(Path(folder), lambda place: _read_skeleton(place, {}))


def load_folder(
    folder: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Load the network of one checkpoint folder, in evaluation mode and with its `Origin` attached.

    Args:
        folder: a base checkpoint, or a variant (``NAME/pruned-VARIANT``).
        pretrained: False: random weights; then no weights need to be there.
        device: where to.
        dtype: floating dtype to cast to; None: the one that the network had when it was saved.
        options: keyword arguments for the architecture, which must agree with those in ``config.json``.

    Raises:
        CheckpointError: naming the file and field or tensor that is missing, damaged or does not fit.
        RegistryError: the architecture is not installed, or does not take an option.
    """
    where = resolve_device(device)
    check_dtype(dtype)
    return read_consistently(Path(folder), lambda place: _load(place, pretrained, where, dtype, dict(options or {})))


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
    """Return the path of a checkpoint's file; links may not lead out, but to the blobs of a Hub cache's snapshot."""
    file = folder / name
    real = Path(os.path.realpath(folder))
    roots = [real, *(parent.parent / "blobs" for parent in real.parents[:2] if parent.name == "snapshots")]
    if not any(Path(os.path.realpath(file)).is_relative_to(root) for root in roots):
        raise CheckpointError(f"{file}: is a link that leads out of the checkpoint; put the file itself there")
    return file


def _read_config(folder: Path) -> Config:
    if not os.path.isdir(folder):
        raise CheckpointError(f"{folder}: there is no such folder")
    file = inside(folder, CONFIG)
    config = parse_config(read_bytes(file, 1 << 20), str(file))
    if folder.name.startswith(VARIANT_PREFIX) and PRUNING in config.files:
        tag = check_variant(folder.name.removeprefix(VARIANT_PREFIX), str(folder), "folder name")
        if config.variant is not None and config.variant != tag:
            raise CheckpointError(f"{file}: field 'variant': expected {tag!r}, the folder's, found {config.variant!r}")
    return config


def _load(
    folder: Path, pretrained: bool, device: torch.device, dtype: torch.dtype | None, options: dict[str, Any]
) -> nn.Module:
    bones = _read_skeleton(folder, options)
    architecture, config, checked = bones.architecture, bones.config, bones.options
    original, result, model = bones.original, bones.result, bones.model
    if pretrained:
        weights, stored = _read_weights(folder, config, original, model, result)
        before, after = getattr(torch, stored.stored_dtype), dtype or getattr(torch, stored.dtype)

        def convert(tensor: Tensor) -> Tensor:
            cast = tensor.is_floating_point() and (dtype is not None or tensor.dtype == before)
            return tensor.to(device=device, dtype=after if cast else tensor.dtype)

        fill_buffers(model, architecture, checked, result, after)
        assign(model, weights, convert)
    else:
        model = _apply(build_real(architecture, checked), result, folder)
    origin = Origin(
        architecture=config.architecture,
        options=checked,
        result=result,
        variant=config.variant,
        classes=config.classes,
        input=config.input,
        metrics=config.metrics if pretrained else {},
        training=config.training if pretrained else {},
        base=config.base,
    )
    return attach_origin(model.to(device=device, dtype=dtype).eval(), origin)


def _read_skeleton(folder: Path, options: dict[str, Any]) -> Skeleton:
    config = _read_config(folder)
    architecture = registry().find(config.architecture)
    checked = architecture.check(_merge(config, options, architecture, folder))
    original = build_on_meta(architecture, checked)
    result = _read_result(folder, config, original) if PRUNING in config.files else None
    return Skeleton(architecture, config, checked, original, result, _apply(original, result, folder))


def _merge(config: Config, given: dict[str, Any], architecture: Architecture, folder: Path) -> dict[str, Any]:
    """Return the stored options; those given must say the same."""
    architecture.check(given)
    for name, value in given.items():
        if name in config.options:
            stored = config.options[name]
        else:
            parameter = inspect.signature(architecture.builder).parameters.get(name)
            stored = "the default" if parameter is None else parameter.default
        if type(stored) is not type(value) or stored != value:
            raise CheckpointError(
                f"{folder / CONFIG}: was saved with {name}={stored!r}, but {name}={value!r} was asked for; leave it"
                " out, or build the architecture anew with pretrained=False"
            )
    return config.options


def _read_result(folder: Path, config: Config, original: nn.Module) -> PruningResult:
    file, record = inside(folder, PRUNING), config.files[PRUNING]
    data = read_bytes(file, LARGEST)
    if (found := hashlib.sha256(data).hexdigest()) != record.sha256 or len(data) != record.bytes:
        raise CheckpointError(
            f"{file}: its SHA-256 is {found}, but config.json says {record.sha256}: it was damaged or replaced;"
            " fetch it anew"
        )
    result = parse_result(data, str(file), shapes_of(original))
    check_attributes(result, original, str(file))
    return result


def _apply(original: nn.Module, result: PruningResult | None, folder: Path) -> nn.Module:
    if result is None:
        return original
    try:
        return apply_result(original, result)
    except SlimmingError as error:
        raise CheckpointError(f"{folder / PRUNING}: does not fit the architecture: {error}") from None


def _read_weights(
    folder: Path, config: Config, original: nn.Module, model: nn.Module, result: PruningResult | None
) -> tuple[dict[str, Tensor], Config]:
    """Return the weights, and the config that says how they are stored."""
    if MODEL in config.files:
        return read_weights(inside(folder, MODEL), config.files[MODEL], model), config
    if result is None:
        raise CheckpointError(f"{folder / CONFIG}: field 'files': expected {MODEL}, found none; pass pretrained=False")
    parent = folder.parent
    base = _read_config(parent)
    if (base.architecture, base.options) != (config.architecture, config.options):
        raise CheckpointError(
            f"{parent / CONFIG}: expected {config.architecture!r} with options {config.options}, of which"
            f" {folder.name} is a variant, found {base.architecture!r} with {base.options}"
        )
    record = base.files.get(MODEL)
    if record is None or (config.base_weights is not None and config.base_weights != record):
        raise CheckpointError(
            f"{parent / CONFIG}: field 'files.{MODEL}': expected the weights that {folder.name} is cut from"
            f" ({config.base_weights}), found {record}; fetch both of one revision"
        )
    return read_weights(inside(parent, MODEL), record, original, result.kept), base
