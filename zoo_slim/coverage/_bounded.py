"""Many processes, each with a bound on its time and on its memory."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Bounds", "Ended", "run_bounded"]

_INTERVAL = 0.1
"""Seconds between two looks at a process."""

_CLOCK = 4
"""How many times the bound on processor time may pass by the clock."""

_TAIL = 2000
"""Characters of its stderr that are kept."""


@dataclass(frozen=True)
class Bounds:
    """What a process may take.

    Attributes:
        seconds: processor time, of all threads, so that a busy machine changes nothing; and four times that by the
            clock. Read from ``/proc``; where there is none, only the clock counts.
        memory: resident memory, bytes, of the process itself. Its address space is no measure: importing torch alone
            reserves many gigabytes. Where there is no ``/proc``, memory is not bounded.
    """

    seconds: float = 300.0
    memory: float = 6e9


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        outcome: ``done``, ``failed`` (a non-zero status), ``time`` or ``memory`` (the bound that it passed).
        seconds: how long it ran by the clock.
        memory: the largest resident memory seen, bytes.
        errors: the end of what it wrote to stderr.
    """

    outcome: str
    seconds: float
    memory: int
    errors: str


def run_bounded(
    commands: Mapping[str, Sequence[str]], bounds: Bounds, workers: int = 1, folder: Path | None = None
) -> Iterator[tuple[str, Ended]]:
    """Run commands, ``workers`` at a time, and yield the key of each with how it ended, as they end.

    Every process gets its share of the processors (``OMP_NUM_THREADS``), unless the environment sets it. Whatever runs
    is killed when the iteration is left early.

    Args:
        commands: ``{key: command}``.
        bounds: of each process.
        workers: processes at a time.
        folder: where they run; here by default.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers)), **os.environ}
    stop = threading.Event()
    waiting = iter(commands.items())
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[Ended], str] = {}
        try:
            while True:
                while len(running) < workers and (item := next(waiting, None)) is not None:
                    running[pool.submit(_run, item[1], bounds, environment, stop, folder)] = item[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            stop.set()


def _run(
    command: Sequence[str], bounds: Bounds, environment: Mapping[str, str], stop: threading.Event, folder: Path | None
) -> Ended:
    tail = bytearray()
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder,
        start_new_session=True,
    ) as process:
        reader = threading.Thread(target=_keep_tail, args=(process, tail), daemon=True)
        reader.start()
        outcome, peak = "done", 0
        try:
            while process.poll() is None and outcome == "done":
                resident, seconds = _used(process.pid)
                peak = max(peak, resident)
                if seconds > bounds.seconds or time.perf_counter() - start > _CLOCK * bounds.seconds:
                    outcome = "time"
                elif peak > bounds.memory:
                    outcome = "memory"
                elif stop.wait(_INTERVAL):
                    break
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        reader.join()
    if outcome == "done" and status != 0:
        outcome = "failed"
    return Ended(outcome, time.perf_counter() - start, peak, bytes(tail).decode("utf-8", "replace"))


def _keep_tail(process: "subprocess.Popen[bytes]", tail: bytearray) -> None:
    assert process.stderr is not None
    while part := process.stderr.read1():  # type: ignore[attr-defined]
        tail += part
        del tail[:-_TAIL]


def _used(pid: int) -> tuple[int, float]:
    """The resident memory of a process, bytes, and its processor time, seconds; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0, 0.0
    try:
        # After the command's name, which may hold anything: fields 3 and on of proc_pid_stat(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0, 0.0  # it has just ended
