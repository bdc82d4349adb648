"""Ending a run early without losing what it has done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["heeding_sigterm"]


@contextmanager
def heeding_sigterm() -> Iterator[Callable[[], bool]]:
    """Remember a SIGTERM instead of dying of it; gives a function that says whether one came.

    One that came too late to be heeded is sent again at the end. Another handler than the system's is left alone.
    """
    told = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True

    in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set a handler
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield lambda: False
        return
    signal.signal(signal.SIGTERM, remember)
    try:
        yield lambda: told
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if told:
        signal.raise_signal(signal.SIGTERM)
