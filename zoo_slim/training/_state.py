"""The state of a run on disk: the old or the new one, never a mixture, and no pickle.

``state.json`` names a safetensors file with its sha256. The tensors are written first, under a new name; then
``state.json`` is replaced by a rename; then what an earlier or a killed writer left is removed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from zoo_slim._files import replacing_file
from zoo_slim.training._settings import TrainingError

__all__ = ["digest_of", "read_json", "read_state", "write_json", "write_state"]

FORMAT = {"format": "zoo_slim.training_state", "version": 1}


def write_state(folder: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Replace the state in ``folder`` atomically.

    Args:
        folder: made if missing.
        tensors: any shapes, dtypes and devices.
        progress: whatever else belongs to the state; JSON values only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = save_tensors({name: _copy(tensor) for name, tensor in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    file = folder / f"tensors-{digest[:16]}.safetensors"
    write_file(file, data)
    described = {"file": file.name, "bytes": len(data), "sha256": digest}
    write_json(folder / "state.json", {**FORMAT, "tensors": described, **progress})
    for stale in folder.iterdir():
        if stale.name.startswith(("tensors-", ".tensors-", ".state.")) and stale.name != file.name:
            stale.unlink(missing_ok=True)


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return ``(tensors, progress)`` as they were written, on the CPU, or None where there is no state yet.

    Raises:
        TrainingError: the state is damaged.
    """
    if not (folder / "state.json").exists():
        return None
    state = read_json(folder / "state.json")
    if any(state.get(key) != value for key, value in FORMAT.items()):
        raise TrainingError(f"{folder / 'state.json'} is no training state of version {FORMAT['version']}")
    try:
        described = state["tensors"]
        name, digest = str(described["file"]), described["sha256"]
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{folder / 'state.json'} does not say where its tensors are") from error
    if Path(name).name != name:
        raise TrainingError(f"{folder / 'state.json'} names {name!r}, which is no file beside it")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise TrainingError(f"{folder / name} cannot be read: {error}; start again in another folder") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise TrainingError(f"{folder / name} is damaged: its sha256 is not the recorded one; start again elsewhere")
    try:
        return load_tensors(data), state
    except SafetensorError as error:
        raise TrainingError(f"{folder / name} is no safetensors file: {error}") from error


def _copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU, made once wherever the tensor is: safetensors takes no shared memory."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def write_file(file: Path, data: bytes) -> None:
    """Write ``data`` to ``file`` so that a reader, or a crash, sees the old or the new content."""
    with replacing_file(file) as scratch:
        scratch.write_bytes(data)


def write_json(file: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    write_file(file, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a state dict: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``.

    Raises:
        TrainingError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{file} must hold a JSON object")
    return value
