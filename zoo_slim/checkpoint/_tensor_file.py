"""Read a safetensors file: whole, into memory of the tensors' own, or only the rows and columns that are kept."""

import hashlib
import io
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._base import FileRecord
from zoo_slim.checkpoint._json import show
from zoo_slim.checkpoint._safetensors import LARGEST_HEADER, Entry, check_byte_order, parse_header
from zoo_slim.result import slice_tensor

__all__ = ["TensorFile"]

_BATCH = 32 << 20
_MOST_BUFFERS = 1000  # IOV_MAX is 1024
_BLOCK = 1 << 20
_BYTES = Entry(torch.uint8, (0,), 0, 0)
_AHEAD = 64 << 20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TensorFile:
    """A safetensors file open for reading once. A context manager.

    Its bytes go from the system straight into the tensors' memory. They are hashed in a second thread meanwhile.

    Attributes:
        entries: the tensors, in the order of their bytes.
        metadata: the header's text.
        size: length of the file in bytes.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    size: int

    def __init__(self, file: Path, record: FileRecord | None = None, hashed: bool = True):
        """Open the file and validate its header.

        Args:
            file: a regular file.
            record: the length and digest that it must have; None: any.
            hashed: False: somebody has compared its digest already.

        Raises:
            CheckpointError: it cannot be read, has another length, or its header is damaged.
        """
        self._where = str(file)
        self._record = record
        self._digest = hashlib.sha256() if hashed and record is not None else None
        self._workers = ThreadPoolExecutor(2)
        self._ahead: Future[dict[str, Tensor]] | None = None
        self._rooms = [_empty(torch.uint8, [0]), _empty(torch.uint8, [0])]
        check_byte_order(self._where)
        self._file = _open(file)
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        self.size = os.fstat(self._file.fileno()).st_size
        if self._record is not None and self.size != self._record.bytes:
            raise CheckpointError(
                f"{self._where}: config.json says that it is {self._record.bytes} bytes long, found {self.size}; fetch"
                " it anew"
            )
        head = bytearray(8)
        self._read([memoryview(head)])
        length = int.from_bytes(head, "little")
        if length > min(LARGEST_HEADER, self.size - 8):
            raise CheckpointError(
                f"{self._where}: claims a header of {length} bytes, of at most {LARGEST_HEADER}, in a file of"
                f" {self.size}; it is damaged, or no safetensors file"
            )
        text = bytearray(length)
        self._read([memoryview(text)])
        if self._digest is not None:
            self._digest.update(head + text)
        self.entries, self.metadata = parse_header(bytes(text), self.size - 8 - length, self._where)
        self._payload = 8 + length

    def read_ahead(self) -> None:
        """Begin to read all tensors in another thread, if the file is short enough to do so before names are judged."""
        if self.size <= _AHEAD:  # the thread only waits for the system: two that run Python slow each other down
            tensors, batches = self._make_room()
            self._ahead = self._workers.submit(self._fill, tensors, batches)

    def read(self) -> dict[str, Tensor]:
        """Return all tensors; each has memory of its own, on the CPU.

        Raises:
            CheckpointError: the file is not the one that was recorded, or a boolean is neither 0 nor 1.
        """
        tensors = self._ahead.result() if self._ahead is not None else self._fill(*self._make_room())
        for name, tensor in tensors.items():
            self._check_booleans(name, tensor)
        return tensors

    def _make_room(self) -> tuple[dict[str, Tensor], list[list[memoryview]]]:
        """Return all tensors, without values, and their memory in the order of the file."""
        tensors = {name: _empty(entry.dtype, entry.shape) for name, entry in self.entries.items()}
        return tensors, list(_batches([memory for tensor in tensors.values() if (memory := _memory(tensor))]))

    def _fill(self, tensors: dict[str, Tensor], batches: Sequence[Sequence[memoryview]]) -> dict[str, Tensor]:
        hashing: Future[None] | None = None
        for batch in batches:
            self._read(batch)
            if self._digest is not None:
                if hashing is not None:
                    hashing.result()
                hashing = self._workers.submit(self._hash, batch)
        if hashing is not None:
            hashing.result()
        self._check_digest()
        return tensors

    def read_kept(self, kept: Mapping[str, Mapping[int, Tensor]]) -> dict[str, Tensor]:
        """Return the kept parts of some tensors, without ever holding more of the file than a few rows.

        Args:
            kept: for each tensor wanted ``{axis: indices}`` as in `PruningResult.kept`; ``{}``: all of it.

        Raises:
            CheckpointError: the file is not the one that was recorded, or a boolean is neither 0 nor 1.
        """
        # all are made before anything short-lived is, which would leave holes between them
        tensors = {
            name: _empty(entry.dtype, _shape_kept(entry.shape, kept[name]))
            for name, entry in self.entries.items()
            if name in kept
        }
        for name, entry in self.entries.items():
            self._file.seek(self._payload + entry.start)
            if name in kept:
                if kept[name]:
                    self._read_rows(entry, kept[name], tensors[name])
                else:
                    self._read_hashed(tensors[name])
                self._check_booleans(name, tensors[name])
            elif self._digest is not None:
                for start in range(entry.start, entry.stop, _BLOCK):
                    self._read_hashed(self._room(0, _BYTES, min(_BLOCK, entry.stop - start)))
        self._check_digest()
        return tensors

    def _read_rows(self, entry: Entry, axes: Mapping[int, Tensor], result: Tensor) -> None:
        """Read the kept part of one tensor, from where the file stands at its beginning.

        Unless all bytes are to be hashed, what lies before the first and after the last row kept in a block is skipped.
        """
        rows = axes[0] if 0 in axes else torch.arange(entry.shape[0])
        size = (entry.stop - entry.start) // max(1, entry.shape[0])
        step = max(1, _BLOCK // max(1, size))
        for first in range(0, entry.shape[0], step):
            last = min(first + step, entry.shape[0])
            begin, end = torch.searchsorted(rows, torch.tensor([first, last])).tolist()
            if self._digest is None:
                if begin == end:
                    continue
                first, last = int(rows[begin]), int(rows[end - 1]) + 1
                self._file.seek(self._payload + entry.start + first * size)
            block = self._room(0, entry, last - first)
            self._read_hashed(block)
            if begin < end:
                inner = {axis: _rows_of(index, len(rows), begin, end) for axis, index in axes.items() if axis}
                part = result[begin:end]
                chosen = self._room(1, entry, end - begin) if inner else part
                _take(block, 0, rows[begin:end] - first, chosen)
                if len(inner) == 1 and (axis := next(iter(inner))) and inner[axis].ndim == 1:
                    _take(chosen, axis, inner[axis], part)
                elif inner:
                    part.copy_(slice_tensor(chosen, inner))

    def _room(self, number: int, entry: Entry, rows: int) -> Tensor:
        """Return one of two places for some rows of a tensor; its next use overwrites it."""
        shape = (rows, *entry.shape[1:])
        size = math.prod(shape) * entry.dtype.itemsize
        if len(self._rooms[number]) < size:
            self._rooms[number] = _empty(torch.uint8, [size])
        return self._rooms[number][:size].view(entry.dtype).reshape(shape)

    def _read_hashed(self, tensor: Tensor) -> None:
        if memory := _memory(tensor):
            self._read([memory])
            if self._digest is not None:
                self._digest.update(memory)

    def _read(self, buffers: Sequence[memoryview]) -> None:
        """Fill buffers from where the file stands."""
        left = list(reversed(buffers))
        while left:
            try:
                count = _readv(self._file, left)
            except OSError as error:
                raise CheckpointError(f"{self._where}: cannot be read: {error.strerror or error}") from None
            if not count:
                raise CheckpointError(f"{self._where}: ends early; fetch it anew")
            while left and count >= len(left[-1]):
                count -= len(left.pop())
            if count:
                left[-1] = left[-1][count:]

    def _hash(self, buffers: Sequence[memoryview]) -> None:
        assert self._digest is not None
        for memory in buffers:
            self._digest.update(memory)

    def _check_booleans(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype is torch.bool and tensor.numel() and (largest := int(tensor.view(torch.uint8).max())) > 1:
            raise CheckpointError(f"{self._where}: tensor {show(name)}: a boolean is {largest}")

    def _check_digest(self) -> None:
        if self._digest is None or self._record is None:
            return
        if (found := self._digest.hexdigest()) != self._record.sha256:
            raise CheckpointError(
                f"{self._where}: its SHA-256 is {found}, but config.json says {self._record.sha256}: it was damaged or"
                " replaced; fetch it anew"
            )

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._file.close()


def _open(file: Path) -> io.FileIO:
    """Open a regular file, without a buffer; a FIFO would block until somebody writes to it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{file}: is not a regular file")
    return io.FileIO(descriptor)


def _readv(file: io.FileIO, reversed_buffers: Sequence[memoryview]) -> int:
    if not hasattr(os, "readv"):
        return file.readinto(reversed_buffers[-1]) or 0
    return os.readv(file.fileno(), reversed_buffers[: -_MOST_BUFFERS - 1 : -1])


def _empty(dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="cpu")


def _memory(tensor: Tensor) -> memoryview | None:
    """Return a contiguous tensor's bytes, to be written to; None where it has none."""
    if not tensor.numel():
        return None
    memory: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return memory


def _batches(buffers: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """Yield the buffers in turn, cut so that a few megabytes are together: one system call, and one piece to hash."""
    batch: list[memoryview] = []
    size = 0
    for memory in buffers:
        for start in range(0, len(memory), _BATCH):
            piece = memory[start : start + _BATCH]
            if batch and (size + len(piece) > _BATCH or len(batch) == _MOST_BUFFERS):
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
    if batch:
        yield batch


def _shape_kept(shape: Sequence[int], axes: Mapping[int, Tensor]) -> list[int]:
    return [axes[axis].shape[-1] if axis in axes else length for axis, length in enumerate(shape)]


def _take(source: Tensor, axis: int, index: Tensor, out: Tensor) -> None:
    """Copy some positions of an axis, in this thread: torch shares out even a small job, and waits for the slowest."""
    kind = _INTEGERS[source.itemsize]
    parts = source.view(kind).numpy(), index.numpy(), axis, out.view(kind).numpy()
    np.take(*parts, mode="clip")  # indices are valid already; "raise" would make a copy first


def _rows_of(index: Tensor, rows: int, begin: int, end: int) -> Tensor:
    """Return what of an index of an inner axis is for the rows ``begin`` to ``end`` of those kept."""
    return index if index.ndim == 1 else index[torch.arange(begin, end) // (rows // index.shape[0])]
