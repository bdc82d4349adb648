"""What the commands print: consoles, tables and numbers."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from zoo_slim._amount import amount

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["accuracy", "console", "facts", "percent", "printable", "size", "status", "table"]

PIPE_WIDTH = 240
"""Columns where stdout is no terminal: wide enough that nothing is cut off."""


def console(stderr: bool = False) -> "Console":
    """Return a console that prints text as it stands: what looks like markup is not."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = _is_terminal(stream)
    return Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        file=None if terminal or stream is None else cast(TextIO, _Unpadded(stream)),
        width=None if terminal else PIPE_WIDTH,
    )


class _Unpadded:
    """A stream that is written to without the blanks with which tables end their lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(" +$", "", text, flags=re.MULTILINE))


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # a closed one is None


def table(*columns: str, title: str | None = None, numbers: Iterable[str] = ()) -> "Table":
    """Return an empty table.

    Args:
        columns: their headings.
        title: above it.
        numbers: the columns to be aligned to the right.
    """
    from rich import box
    from rich.table import Table

    made = Table(
        title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title_justify="left", title_style="bold"
    )
    for column in columns:
        made.add_column(column, justify="right" if column in set(numbers) else "left", overflow="fold")
    return made


def facts(rows: Iterable[tuple[str, Any]]) -> "Table":
    """Return a table of names and values; rows without a value are left out."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, "", (), [], {}):
            grid.add_row(name, "\n".join(map(printable, str(value).splitlines())))
    return grid


@contextmanager
def status(what: str) -> Iterator[None]:
    """Say on stderr what goes on while the block runs, if stderr is a terminal."""
    if not _is_terminal(sys.stderr):
        yield
        return
    with console(stderr=True).status(what):
        yield


def printable(text: str) -> str:
    """Return text from a file without characters that steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def size(value: Any) -> str:
    """Write a file's length: 11173962 bytes are ``11.17 MB``."""
    return amount(value, "B")


def percent(value: Any, digits: int = 2) -> str:
    """Write a share: 0.9312 is ``93.12 %``."""
    return f"{100 * value:.{digits}f} %" if isinstance(value, (int, float)) else "—"


def accuracy(value: Any, part: tuple[int, int] | None) -> str:
    """Write an accuracy, and what part of the test images it is of: ``93.12 % (512 of 10,000 images)``."""
    return percent(value) + (f" ({part[0]:,} of {part[1]:,} images)" if part and value is not None else "")
