"""``pruning.safetensors``: a pruning result as bit masks, a few KB.

Every distinct set of indices is one ``uint8`` tensor, a bit mask of the axis in the order of `numpy.packbits`, so that
indices cannot be repeated, negative or unsorted. The metadata says which axis of which tensor uses which mask:

- ``format`` ``"zoo_slim.pruning"``, ``version`` ``"1"``
- ``masks``: JSON ``{key: [n]}``, or ``{key: [g, n]}`` for ``g`` rows that keep equally many of ``n`` each
- ``kept``: JSON ``{state-dict name: {axis: key}}``
- ``attributes``: JSON ``{module name: {attribute: integer or list of integers}}``

A result that removes blocks has ``version`` ``"2"`` and one field more:

- ``removed``: JSON ``{module name: what takes its place}``, a name in `zoo_slim._replacement.REPLACEMENTS`
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError
from zoo_slim._replacement import REPLACEMENTS, around, conflict
from zoo_slim.checkpoint._config import read_bytes
from zoo_slim.checkpoint._json import parse_object, show
from zoo_slim.checkpoint._safetensors import parse_header, write_tensors
from zoo_slim.result import Attribute, PruningResult

__all__ = ["check_meaning", "parse_result", "read_result", "write_result"]

FORMAT, VERSION, VERSION_WITH_REMOVED = "zoo_slim.pruning", "1", "2"
LARGEST = 16 << 20
LARGEST_MASKS = 512 << 10
"""Bytes of all masks together; in memory, an index takes 64 times the room of its bit."""

_METADATA = {"format", "version", "kept", "masks", "attributes"}


def write_result(result: PruningResult, file: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[str, int]:
    """Write a pruning result. Equal results make equal files.

    Args:
        result: what was kept.
        file: where to; must not exist.
        shapes: the shape of every tensor of the original network, by state-dict name.

    Returns:
        The SHA-256 (hexadecimal) and the length of the file.

    Raises:
        CheckpointError: the result does not fit the shapes.
    """
    keys: dict[tuple[tuple[int, ...], bytes], str] = {}
    packed: dict[str, Tensor] = {}
    masks: dict[str, list[int]] = {}
    kept: dict[str, dict[str, str]] = {}
    for name, axes in sorted(result.kept.items()):
        if name not in shapes:
            raise CheckpointError(f"the pruning result names {name!r}, which the architecture does not have")
        for axis, index in sorted(axes.items()):
            mask = _mask(index, shapes[name], axis, name)
            bits = np.packbits(mask, axis=-1)
            key = keys.setdefault((mask.shape, bits.tobytes()), f"mask{len(keys)}")
            packed[key], masks[key] = torch.from_numpy(bits), list(mask.shape)
            kept.setdefault(name, {})[str(axis)] = key
    if (size := sum(bits.numel() for bits in packed.values())) > LARGEST_MASKS:
        raise CheckpointError(f"the pruning result: its masks are {size} bytes long, at most {LARGEST_MASKS} are read")
    removed = dict(result.removed)
    _check_removed(removed, (*result.kept, *result.attributes), shapes, "the pruning result")
    metadata = {
        "format": FORMAT,
        "version": VERSION_WITH_REMOVED if removed else VERSION,
        "kept": _compact(kept),
        "masks": _compact(masks),
        "attributes": _compact({module: dict(values) for module, values in result.attributes.items()}),
    }
    if removed:
        metadata["removed"] = _compact(removed)
    return write_tensors(
        file, {key: (bits.dtype, tuple(bits.shape)) for key, bits in packed.items()}, packed.__getitem__, metadata
    )


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _mask(index: Tensor, shape: Sequence[int], axis: int, name: str) -> np.ndarray:
    """Return the boolean mask of ascending indices, shape ``[n]`` or ``[g, n]`` for an axis of ``n`` positions."""
    at = f"the pruning result, axis {axis} of {name!r}"
    if not 0 <= axis < len(shape):
        raise CheckpointError(f"{at}: that tensor has the shape {list(shape)}")
    rows = index.detach().cpu().numpy()
    if rows.dtype != np.int64 or rows.ndim not in (1, 2) or rows.size == 0:
        raise CheckpointError(f"{at}: expected int64 indices of shape [n] or [g, n], found {rows.dtype} {rows.shape}")
    if rows.min() < 0 or rows.max() >= shape[axis] or (np.diff(rows, axis=-1) <= 0).any():
        raise CheckpointError(f"{at}: indices must ascend within 0..{shape[axis] - 1}")
    mask = np.zeros((*rows.shape[:-1], shape[axis]), dtype=bool)
    np.put_along_axis(mask, rows, True, axis=-1)
    return mask


def read_result(file: str | Path, shapes: Mapping[str, Sequence[int]]) -> PruningResult:
    """Read and validate a pruning result.

    Some of it can only be judged with the model at hand: see `check_meaning`.

    Args:
        file: a ``pruning.safetensors`` of at most 16 MiB.
        shapes: the shape of every tensor of the original network, by state-dict name.

    Raises:
        CheckpointError: naming the file and what is wrong in it.
    """
    return parse_result(read_bytes(Path(file), LARGEST), str(file), shapes)


def parse_result(data: bytes, where: str, shapes: Mapping[str, Sequence[int]]) -> PruningResult:
    """Validate the content of a ``pruning.safetensors``; see `read_result`."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise CheckpointError(f"{where}: is cut off, or no safetensors file; fetch it anew")
    entries, metadata = parse_header(data[8 : 8 + length], len(data) - 8 - length, where)
    for field, values in (("format", [FORMAT]), ("version", [VERSION, VERSION_WITH_REMOVED])):
        if metadata.get(field, values[0]) not in values:
            wanted = " or ".join(map(repr, values))
            raise CheckpointError(f"{where}: field {field!r}: expected {wanted}, found {show(metadata[field])}")
    removes = metadata.get("version") == VERSION_WITH_REMOVED
    expected = {*_METADATA, "removed"} if removes else _METADATA
    if metadata.keys() != expected:
        raise CheckpointError(f"{where}: expected the metadata {sorted(expected)}, found {show(sorted(metadata))}")
    sizes = parse_object(metadata["masks"], f"{where}: masks", LARGEST)
    if sizes.keys() != entries.keys():
        difference = sorted(sizes.keys() ^ entries.keys())[0]
        raise CheckpointError(f"{where}: masks: {show(difference)} is not both described and stored")
    if (size_of_all := len(data) - 8 - length) > LARGEST_MASKS:
        raise CheckpointError(f"{where}: masks: are {size_of_all} bytes long, at most {LARGEST_MASKS} are read")
    indices: dict[str, Tensor] = {}
    mask_sizes: dict[str, int] = {}
    for key, entry in entries.items():
        at = f"{where}: mask {show(key)}"
        size = sizes[key]
        if not isinstance(size, list) or len(size) not in (1, 2) or not all(type(n) is int and n > 0 for n in size):
            raise CheckpointError(f"{at}: expected a shape [n] or [g, n], found {show(size)}")
        stored = (*size[:-1], (size[-1] + 7) // 8)
        if entry.dtype != torch.uint8 or entry.shape != stored:
            raise CheckpointError(f"{at}: expected uint8 {list(stored)}, found {entry.dtype} {list(entry.shape)}")
        start = 8 + length + entry.start
        bits = np.frombuffer(data, dtype=np.uint8, count=entry.stop - entry.start, offset=start).reshape(stored)
        indices[key], mask_sizes[key] = _indices(bits, size[-1], at), size[-1]
    kept = _kept(parse_object(metadata["kept"], f"{where}: kept", LARGEST), where, indices, mask_sizes, shapes)
    attributes = _attributes(parse_object(metadata["attributes"], f"{where}: attributes", LARGEST), where)
    removed: dict[str, str] = {}
    if removes:
        given = parse_object(metadata["removed"], f"{where}: removed", LARGEST)
        removed = _check_removed(given, (*kept, *attributes), shapes, f"{where}: removed")
    return PruningResult(kept, attributes, removed)


def _check_removed(
    given: Mapping[str, object], named: Sequence[str], shapes: Mapping[str, Sequence[int]], where: str
) -> dict[str, str]:
    """Return the blocks removed, each of which must hold tensors, none of which the result names elsewhere."""
    removed: dict[str, str] = {}
    modules = {module for name in shapes for module in around(name)}
    for block, becomes in given.items():
        at = f"{where}: {show(block)}"
        if not isinstance(becomes, str) or becomes not in REPLACEMENTS:
            raise CheckpointError(f"{at}: expected one of {', '.join(REPLACEMENTS)}, found {show(becomes)}")
        if block not in modules:
            raise CheckpointError(f"{at}: the architecture has no such module with tensors")
        removed[block] = becomes
    if (inside := conflict(named, removed)) is not None:
        raise CheckpointError(f"{where}: {show(inside[1])}: is removed, but {show(inside[0])} in it is named too")
    return removed


def _indices(bits: np.ndarray, size: int, at: str) -> Tensor:
    mask = np.unpackbits(bits, axis=-1)
    if mask[..., size:].any():
        raise CheckpointError(f"{at}: the bits after the {size} of the axis must be 0")
    counts = mask.sum(axis=-1, dtype=np.int64)
    if counts.min() < 1 or counts.min() != counts.max():
        raise CheckpointError(f"{at}: every row must keep equally many and at least one, found {show(counts.tolist())}")
    position = np.nonzero(mask)[-1]
    return torch.from_numpy(np.ascontiguousarray(position.reshape(*mask.shape[:-1], -1), dtype=np.int64))


def _kept(
    raw: dict[str, object],
    where: str,
    indices: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    shapes: Mapping[str, Sequence[int]],
) -> dict[str, dict[int, Tensor]]:
    kept: dict[str, dict[int, Tensor]] = {}
    for name, axes in raw.items():
        at = f"{where}: kept: {show(name)}"
        if name not in shapes:
            raise CheckpointError(f"{at}: the architecture has no such tensor")
        if not isinstance(axes, dict) or not axes:
            raise CheckpointError(f"{at}: expected axes and their masks, found {show(axes)}")
        shape = shapes[name]
        kept[name] = {}
        for text, key in axes.items():
            if text not in {str(axis) for axis in range(len(shape))}:
                raise CheckpointError(f"{at}: axis {show(text)} does not exist, the shape is {list(shape)}")
            axis = int(text)
            if not isinstance(key, str) or key not in indices:
                raise CheckpointError(f"{at}: axis {axis}: there is no mask {show(key)}")
            index = indices[key]
            if sizes[key] != shape[axis]:
                raise CheckpointError(f"{at}: axis {axis} has {shape[axis]} positions, mask {show(key)} {sizes[key]}")
            if index.ndim == 2 and axis != 1:
                raise CheckpointError(f"{at}: axis {axis}: only axis 1 can have a mask of several rows")
            kept[name][axis] = index
        left = kept[name][0].shape[-1] if 0 in kept[name] else shape[0] if shape else 0
        if 1 in kept[name] and kept[name][1].ndim == 2 and left % kept[name][1].shape[0]:
            raise CheckpointError(
                f"{at}: {left} outputs cannot be divided into the {kept[name][1].shape[0]} rows of axis 1's mask"
            )
    return kept


def _attributes(raw: dict[str, object], where: str) -> dict[str, dict[str, Attribute]]:
    attributes: dict[str, dict[str, Attribute]] = {}
    for module, values in raw.items():
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: attributes: {show(module)}: expected an object, found {show(values)}")
        attributes[module] = {}
        for name, value in values.items():
            at = f"{where}: attributes: {show(module)}.{show(name)}"
            if not name.isidentifier() or name.startswith("__"):
                raise CheckpointError(f"{at}: is not the name of an attribute that a file may set")
            numbers = value if isinstance(value, list) else [value]
            if not numbers or not all(type(n) is int and abs(n) < 2**31 for n in numbers):
                raise CheckpointError(f"{at}: expected an integer or a list of integers, found {show(value)}")
            attributes[module][name] = tuple(numbers) if isinstance(value, list) else numbers[0]
    return attributes


def check_meaning(result: PruningResult, model: nn.Module, where: str) -> None:
    """Check what a result can only be judged by with the model at hand.

    Every attribute exists on the freshly built model as an integer, or a tuple or list of as many. Properties, class
    attributes and booleans are none: nothing but plain numbers is ever set from a file. A tensor that has several names
    keeps the same by each of those that the result has.

    Raises:
        CheckpointError: naming the file, and the module and the attribute, or the tensor.
    """
    _check_shared(result, model, where)
    modules = dict(model.named_modules())
    for module, values in result.attributes.items():
        if module not in modules:
            raise CheckpointError(
                f"{where}: attributes: the architecture builds no module {show(module)}, so it is not that of the"
                " network that was slimmed; register a builder that makes this network (zoo_slim.register), and save"
                " it with that name as architecture="
            )
        for name, value in values.items():
            current = vars(modules[module]).get(name)
            if not _same_kind(value, current):
                raise CheckpointError(
                    f"{where}: attributes: {show(module)}.{show(name)}: can only replace an integer by an integer, or a"
                    " tuple or list of integers by one of the same length; the freshly built module has"
                    f" {show(current)}"
                )


def _check_shared(result: PruningResult, model: nn.Module, where: str) -> None:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    for name, tensor in named:
        if name in result.kept and (other := first.setdefault(id(tensor), name)) != name:
            mine, others = result.kept[name], result.kept[other]
            if mine.keys() != others.keys() or not all(torch.equal(mine[axis], others[axis]) for axis in mine):
                raise CheckpointError(
                    f"{where}: kept: {show(name)} is another name of {show(other)}, but keeps something else of it"
                )


def _same_kind(value: Attribute, current: object) -> bool:
    if isinstance(current, (tuple, list)) and type(current) in (tuple, list):
        return isinstance(value, tuple) and [type(n) for n in current] == [int] * len(value)
    return type(value) is type(current) is int
