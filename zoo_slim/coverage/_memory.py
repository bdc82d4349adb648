"""The most memory that this process held while something ran."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["peak_memory"]


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Yield a function: the peak of the resident memory since entry above that at entry, bytes.

    It returns None where the system does not tell: Linux does.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # 5: set VmHWM to VmRSS, see proc_pid_clear_refs(5)
    before = _high_water()

    def above() -> int | None:
        now = _high_water()
        return None if before is None or now is None else now - before

    yield above


def _high_water() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)
