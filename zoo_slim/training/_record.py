"""The metrics of a run, a line per epoch: in ``metrics.jsonl``, and for TensorBoard if that is wanted.

The history is part of the resume state. Both are written from it, so that a run that goes on repeats nothing.
"""

import json
from pathlib import Path
from typing import Any

from zoo_slim.training._settings import TrainingError
from zoo_slim.training._state import write_file

__all__ = ["Record"]

EVENTS = "events.out.tfevents."
"""How the names of TensorBoard's files begin."""


class Record:
    """Writes the lines of metrics; ``tensorboard`` adds a folder ``tensorboard/`` of event files.

    Raises:
        TrainingError: TensorBoard is wanted but not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._folder = folder
        self._writer: Any = None
        self._tensorboard = tensorboard
        if tensorboard:
            try:
                import torch.utils.tensorboard  # noqa: F401
            except ImportError as error:
                raise TrainingError("--tensorboard needs tensorboard: pip install tensorboard") from error

    def write(self, history: list[dict[str, Any]]) -> None:
        """Make the files say what the history says."""
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in history]
        write_file(self._folder / "metrics.jsonl", "".join(lines).encode())
        if not self._tensorboard:
            return
        new = history[-1:]
        if self._writer is None:
            self._writer, new = self._open(), history
        for line in new:
            self._show(line)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        place = self._folder / "tensorboard"
        for file in place.glob(f"{EVENTS}*"):
            file.unlink()
        return SummaryWriter(str(place))

    def _show(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
