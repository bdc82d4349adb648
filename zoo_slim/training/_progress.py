"""Progress bars and lines, only from the main process, and bars only where somebody can see them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo_slim.training._processes import is_main

__all__ = ["Advance", "announce", "progress"]


class Advance:
    """Called after each step, with a new note to show beside the bar or None to keep the last."""

    shown = False

    def __call__(self, note: str | None = None) -> None:
        """Draw nothing."""


class _Bar(Advance):
    shown = True

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def __call__(self, note: str | None = None) -> None:
        self._bar.update(self._task, advance=1, **({} if note is None else {"note": note}))


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs, if stderr is a terminal.

    Args:
        title: what is going on.
        total: number of steps.
        done: steps done before the block.
    """
    if sys.stderr is None or not (sys.stderr.isatty() and is_main()):
        yield Advance()
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}"),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task(title, total=total, completed=done, note=""))


def announce(line: str) -> None:
    """Print one line to stderr at once."""
    if is_main() and sys.stderr is not None:  # it is None where it was closed
        print(line, file=sys.stderr, flush=True)
