"""The safetensors format, read strictly: a header is judged before anything is allocated.

A file is the header's length (8 bytes, little-endian), the header (JSON: dtype, shape and byte range of every tensor),
and the tensors' bytes without holes. https://github.com/huggingface/safetensors describes it. What is written here is
byte for byte the same for the same tensors and metadata, so that equal checkpoints have equal digests.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._json import is_text, parse_object, show

__all__ = ["DTYPES", "LARGEST_HEADER", "Entry", "parse_header", "serialize_header", "write_tensors"]

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 4 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its dtype, its shape, and its byte range after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def check_byte_order(where: str) -> None:
    """Refuse to move values between a file and memory as they are where these order bytes differently.

    Raises:
        CheckpointError: this machine is big-endian; the format is little-endian.
    """
    if sys.byteorder != "little":
        raise CheckpointError(
            f"{where}: safetensors files are little-endian, and this machine, which is not, cannot use it"
        )


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**50


def _entry(value: object) -> Entry:
    """One tensor of a header; ValueError says what is wrong with it."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"expected 'dtype', 'shape' and 'data_offsets', found {show(value)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"expected a dtype of {', '.join(DTYPES)}, found {show(dtype)}")
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_natural, shape)):
        raise ValueError(f"expected a shape of at most 16 natural numbers, found {show(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise ValueError(f"expected data_offsets [begin, end], found {show(offsets)}")
    length = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != length:
        raise ValueError(f"{dtype} {shape} is {length} bytes long, but data_offsets are {offsets}")
    if math.prod(max(1, size) for size in shape) * DTYPES[dtype].itemsize >= 2**63:  # a 0 hides it from the length
        raise ValueError(f"a tensor of the shape {shape} cannot be held")
    return Entry(DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def parse_header(data: bytes, payload: int, where: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """Validate a header.

    Args:
        data: the header without its length.
        payload: how many bytes follow it.
        where: the file's path, for messages.

    Returns:
        The tensors in the order of their bytes, and the metadata.

    Raises:
        CheckpointError: naming the file, the tensor, and what is wrong with it.
    """
    raw = parse_object(data, f"{where}: header", LARGEST_HEADER)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) and is_text(text) for text in metadata.values()):
        raise CheckpointError(f"{where}: header: '__metadata__' must map text to text, found {show(metadata)}")
    entries: dict[str, Entry] = {}
    for name, value in raw.items():
        try:
            entries[name] = _entry(value)
        except ValueError as error:  # the name is put into words only where somebody reads them
            raise CheckpointError(f"{where}: header: tensor {show(name)}: {error}") from None
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 0
    for name, entry in ordered.items():
        if entry.start != end:
            raise CheckpointError(
                f"{where}: header: tensor {show(name)}: begins at byte {entry.start}, but the tensor before it ends at"
                f" {end}; a safetensors file has no holes and no overlaps"
            )
        end = entry.stop
    if end != payload:
        raise CheckpointError(f"{where}: the header describes {end} bytes of tensors, the file has {payload}")
    return ordered, metadata


def serialize_header(
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """Return a file's beginning (length and header), and the tensors' names in the order of their bytes.

    Wide dtypes come first, so that every tensor is aligned.

    Raises:
        CheckpointError: a dtype that safetensors does not know.
    """
    for name, (dtype, _) in specs.items():
        if dtype not in _NAMES:
            raise CheckpointError(f"{name}: tensors of {dtype} cannot be saved; cast it to one of {', '.join(DTYPES)}")
    order = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = specs[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    data += b" " * (-len(data) % 8)
    if len(data) > LARGEST_HEADER:
        raise CheckpointError(f"a header of {len(data)} bytes could not be read again, at most {LARGEST_HEADER} can")
    return len(data).to_bytes(8, "little") + data, order


def write_tensors(
    file: Path,
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    get: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> tuple[str, int]:
    """Write a file, tensor by tensor, and wait until it is on the disk.

    Args:
        file: where to; must not exist.
        specs: dtype and shape of every tensor.
        get: returns the tensor of a name, of that dtype and shape, on any device.
        metadata: text for the header.

    Returns:
        The SHA-256 (hexadecimal) and the length of the file.

    Raises:
        CheckpointError: as `check_byte_order`.
    """
    check_byte_order(str(file))
    head, order = serialize_header(specs, metadata)
    digest = hashlib.sha256()
    with file.open("xb") as stream:
        stream.write(head)
        digest.update(head)
        for name in order:
            tensor = get(name).detach().cpu().contiguous()
            assert (tensor.dtype, tuple(tensor.shape)) == specs[name], name
            if tensor.numel():
                data = tensor.reshape(-1).view(torch.uint8).numpy().data
                stream.write(data)
                digest.update(data)
        length = stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest(), length
