"""Progress bars, drawn only where somebody can see them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["announce", "progress"]


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Show a bar on stderr while the block runs, if stderr is a terminal.

    Args:
        title: what is going on.
        total: number of steps.
        done: steps done before the block.

    Yields:
        A function to be called after each step, with a note to show beside the bar.
    """
    if not sys.stderr.isatty():
        yield lambda note: None
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
        task = bar.add_task(title, total=total, completed=done, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


def announce(line: str) -> None:
    """Print one line to stderr at once."""
    print(line, file=sys.stderr, flush=True)
