"""The safetensors format, read strictly: a header is judged before anything is allocated, and every byte is hashed.

A file is the header's length (8 bytes, little-endian), the header (JSON: dtype, shape and byte range of every tensor),
and the tensors' bytes without holes. https://github.com/huggingface/safetensors describes it. What is written here is
byte for byte the same for the same tensors and metadata, so that equal checkpoints have equal digests.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._json import parse_object, show

__all__ = ["DTYPES", "Entry", "TensorFile", "parse_header", "serialize_header", "write_tensors"]

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
_LARGEST_HEADER = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its dtype, its shape, and its byte range after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**50


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
    raw = parse_object(data, f"{where}: header", _LARGEST_HEADER)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(f"{where}: header: '__metadata__' must map text to text, found {show(metadata)}")
    entries: dict[str, Entry] = {}
    for name, value in raw.items():
        at = f"{where}: header: tensor {show(name)}"
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"{at}: expected 'dtype', 'shape' and 'data_offsets', found {show(value)}")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise CheckpointError(f"{at}: expected a dtype of {', '.join(DTYPES)}, found {show(dtype)}")
        if not isinstance(shape, list) or len(shape) > 16 or not all(map(_natural, shape)):
            raise CheckpointError(f"{at}: expected a shape of at most 16 natural numbers, found {show(shape)}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
            raise CheckpointError(f"{at}: expected data_offsets [begin, end], found {show(offsets)}")
        length = math.prod(shape) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != length:
            raise CheckpointError(f"{at}: {dtype} {shape} is {length} bytes long, but data_offsets are {offsets}")
        entries[name] = Entry(DTYPES[dtype], tuple(shape), offsets[0], offsets[1])
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


class TensorFile:
    """A safetensors file open for reading once, from its beginning to its end. A context manager.

    Attributes:
        entries: the tensors, in the order of their bytes.
        metadata: the header's text.
        size: length of the file in bytes.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    size: int

    def __init__(self, file: Path, size: int | None = None):
        """Open the file and validate its header.

        Args:
            file: a regular file.
            size: the length it must have; None: any.

        Raises:
            CheckpointError: it cannot be read, has another length, or its header is damaged.
        """
        self._where = str(file)
        try:
            mode = file.stat().st_mode
            if not stat.S_ISREG(mode):
                raise CheckpointError(f"{file}: is not a regular file")
            self._file = file.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
        try:
            self._read_header(size)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, size: int | None) -> None:
        self.size = os.fstat(self._file.fileno()).st_size
        if size is not None and self.size != size:
            raise CheckpointError(
                f"{self._where}: config.json says that it is {size} bytes long, found {self.size}; fetch it anew"
            )
        self._digest = hashlib.sha256()
        length = int.from_bytes(self._read(8), "little")
        if length > min(_LARGEST_HEADER, self.size - 8):
            raise CheckpointError(f"{self._where}: claims a header of {length} bytes; it is no safetensors file")
        self.entries, self.metadata = parse_header(self._read(length), self.size - 8 - length, self._where)

    def _read(self, length: int) -> bytes:
        data = bytearray(length)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, target: memoryview) -> None:
        done = 0
        while done < len(target):
            try:
                count = self._file.readinto(target[done : done + (16 << 20)])
            except OSError as error:
                raise CheckpointError(f"{self._where}: cannot be read: {error.strerror or error}") from None
            if not count:
                raise CheckpointError(f"{self._where}: ends early; fetch it anew")
            self._digest.update(target[done : done + count])
            done += count

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor, in the order of their bytes; each owns its memory, on the CPU."""
        for name, entry in self.entries.items():
            tensor = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
            if tensor.numel():
                flat = tensor.reshape(-1).view(torch.uint8)
                self._fill(flat.numpy().data)
                if entry.dtype is torch.bool and int(flat.max()) > 1:
                    raise CheckpointError(f"{self._where}: tensor {show(name)}: a boolean is {flat.max()}")
            yield name, tensor

    def sha256(self) -> str:
        """Return the digest of all that was read: the whole file's, once `tensors` is exhausted."""
        return self._digest.hexdigest()

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


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
    if len(data) > _LARGEST_HEADER:
        raise CheckpointError(f"a header of {len(data)} bytes could not be read again, at most {_LARGEST_HEADER} can")
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
    """
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
