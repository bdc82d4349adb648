"""Files of JSON lines that survive a crash: every line is on disk before the next is made."""

import json
import os
from pathlib import Path
from typing import Any

from zoo_slim._errors import DataError

__all__ = ["append_line", "read_lines"]


def append_line(file: Path, record: dict[str, Any]) -> None:
    """Append one record and wait until it is on disk. A line that was cut off before is ended first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(file: Path, key: str = "model") -> dict[str, dict[str, Any]]:
    """The records of a file by their ``key``: the last of each. A line that was cut off is left out.

    Raises:
        DataError: a line that is no record, though not the cut-off end of a crash.
    """
    records: dict[str, dict[str, Any]] = {}
    if not file.exists():
        return records
    for number, line in enumerate(file.read_text("utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue  # written when the machine went down
        if not isinstance(record, dict) or not isinstance(record.get(key), str):
            raise DataError(
                f"{file}, line {number}: a JSON object with the text {key!r} was expected. It is no file of this "
                "command; give another."
            )
        records[record[key]] = record
    return records
