"""Load checkpoints that are damaged or hostile, and count what happens: ``python tests/fuzz_files.py --cases 12000``.

Each case is a valid checkpoint with something done to it, the same for the same seed and number. It must load as
exactly what its files say (as the safetensors library reads them), or raise a `ZooSlimError` that names one of its
files (or the folder, if it is none), and leave every folder as it was. Cases run in processes whose memory is limited,
and which are ended when one takes too long. Time is that of the processor, memory the peak above what there was. Linux
only.
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import platform
import queue
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_spoil import BASE, CONFIG, KINDS, MODEL, PRUNING, Case, kind_at_random, make_templates, spoil
from hand_made import HAND_MADE

BY_HAND = "made by hand"
SECONDS, BYTES = 1.0, 200 << 20
"""What a case may take at most: processor time, and memory above what there was."""

PATIENCE = 60.0
"""Seconds after which a worker that has not finished a case is ended."""

ROOM = 2 << 30
"""Bytes of address space that a worker may use beyond what it has when it begins."""


def state_of(place: Path) -> list[tuple[str, int, int]]:
    """Return every name below a folder, with what it is and how long."""
    return sorted((str(p), p.lstat().st_mode, p.lstat().st_size) for p in place.rglob("*"))


_SHARED = {"again": "scale", "scale": "again"}
"""The names of one tensor; a pruning result may have one of them only."""


def is_what_the_files_say(model: Any, case: Case) -> bool:
    """Return whether a loaded network holds the values in its files, as the safetensors library reads them."""
    import torch
    from safetensors.torch import load_file

    from zoo_slim import checkpoint
    from zoo_slim.result import slice_tensor

    origin = checkpoint.origin_of(model)
    assert origin is not None
    kept = {} if origin.result is None else origin.result.kept
    own = case.folder / MODEL
    if own.exists():
        stored, kept = load_file(own), {}
    elif case.base_file is not None:
        base: Any = checkpoint.read_config(case.folder).base_weights
        read = load_file(case.base_file)
        names = model.state_dict()
        stored = {name: read[base.name_of(name)] for name in names if base.name_of(name) in read}
    else:
        stored = load_file(case.folder.parent / MODEL)
    state = model.state_dict()
    for name, tensor in stored.items():
        if name not in state or (name == "again" and "scale" in stored):  # the first name that is there counts
            continue
        told = next((n for n in (name, _SHARED.get(name, name)) if n in kept), None)
        cut = slice_tensor(tensor, kept[told]) if told is not None else tensor
        expected, found = cut.to(state[name].dtype), state[name]
        if expected.shape != found.shape or not torch.equal(_bits(expected), _bits(found)):
            return False
    lacking = state.keys() - stored.keys() - {"again", "scale"}
    return all(name.endswith("num_batches_tracked") and int(state[name]) == 0 for name in lacking)


def _bits(tensor: Any) -> Any:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _memory(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


@dataclass
class Outcome:
    """What one case did: ``what`` is "equal", "refused" (``message`` is then what the user saw), or what was wrong."""

    case: int | str
    kind: str
    what: str
    seconds: float = 0.0
    bytes: int = 0
    message: str = ""


def make(which: int | str, seed: int, templates: Path, place: Path) -> Case:
    """Make a case in ``place``, an empty folder: one at random by its number, one made by hand by its name."""
    if isinstance(which, int):
        return spoil(which, seed, templates, place)
    made = HAND_MADE[which]
    shutil.copytree(templates, place / "zoo")
    base_file = place / "zoo" / BASE if made.template.startswith("far") else None
    case = Case(place / "zoo" / made.template, base_file, random.Random(0))
    made.spoil(case)
    if made.true_digests:
        case.reseal()
    return case


def try_one(which: int | str, seed: int, templates: Path, place: Path) -> Outcome:
    """Make one case and load it."""
    from zoo_slim import ZooSlimError, checkpoint

    place.mkdir()
    case = make(which, seed, templates, place)
    before, open_files = state_of(place), len(os.listdir("/proc/self/fd"))
    Path("/proc/self/clear_refs").write_text("5")
    base_line, began = _memory("VmRSS"), time.process_time()
    model, what, message = None, "equal", ""
    try:
        model = checkpoint.load_folder(case.folder, base_file=case.base_file)
    except ZooSlimError as error:
        what, message = "refused", str(error)
        if not any(name in message for name in (CONFIG, MODEL, PRUNING, BASE, str(case.folder))):
            what = f"names no file: {error}"
        elif not message.isprintable() or len(message) > 3000:
            what = f"is no message for people: {message[:200]!r}"
    except BaseException as error:
        what = f"raised {type(error).__name__}: {str(error)[:200]}"
    seconds, peak = time.process_time() - began, _memory("VmHWM") - base_line
    if model is not None:
        try:
            if not is_what_the_files_say(model, case):
                what = "loaded something else than the files say"
        except Exception as error:
            what = f"loaded what cannot be compared: {type(error).__name__}: {error}"
    del model
    if state_of(place) != before:
        what = "changed files"
    if len(os.listdir("/proc/self/fd")) > open_files:
        what = "left a file open"
    shutil.rmtree(place)
    return Outcome(which, kind_of(which, seed), what, seconds, max(0, peak), message.replace(str(place / "zoo"), "ZOO"))


def work(cases: Any, outcomes: Any, seed: int, templates: Path, place: Path) -> None:
    """Try cases until there are none left. Runs in a process of its own."""
    import checkpoint_cnn  # noqa: F401 - registers the architecture
    import timm
    import torchvision  # noqa: F401

    from zoo_slim.registry import registry

    registry().find("timm/resnet18").build()
    del timm
    os.chdir(templates)
    gc.collect()
    limit = _memory("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (which := cases.get()) is not None:
        outcomes.put(which)
        outcomes.put(try_one(which, seed, templates, place / f"{os.getpid()}"))


@dataclass
class Worker:
    """A process, the case it is at, and since when."""

    process: Any
    outcomes: Any
    case: int | str | None = None
    since: float = field(default_factory=time.monotonic)


def run(cases: Sequence[int | str], seed: int, workers: int, tick: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Try cases in processes; one that dies, or is ended, is an outcome too, and another takes its place."""
    context = multiprocessing.get_context("spawn")
    done: list[Outcome] = []
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        templates = place / "templates"
        make_templates(templates)
        waiting = context.Queue()
        for case in [*cases, *[None] * workers]:
            waiting.put(case)

        def start() -> Worker:
            outcomes = context.Queue()
            process = context.Process(target=work, args=(waiting, outcomes, seed, templates, place), daemon=True)
            process.start()
            return Worker(process, outcomes)

        crew = [start() for _ in range(workers)]
        while len(done) < len(cases):
            for index, worker in enumerate(crew):
                with contextlib.suppress(queue.Empty):
                    while True:
                        found = worker.outcomes.get(timeout=0.01)
                        worker.since = time.monotonic()
                        worker.case = None if isinstance(found, Outcome) else found
                        if isinstance(found, Outcome):
                            done.append(found)
                            tick()
                late = worker.case is not None and time.monotonic() - worker.since > PATIENCE
                if worker.case is not None and (late or not worker.process.is_alive()):
                    worker.process.kill()
                    kind = kind_of(worker.case, seed)
                    done.append(Outcome(worker.case, kind, "took too long" if late else "killed the process"))
                    tick()
                    crew[index] = start()
        for worker in crew:
            worker.process.join(PATIENCE)
            worker.process.kill()
        left = {p.name for p in place.iterdir()} - {"templates"}
        if left:
            done.append(Outcome("after all", "after all", f"left {sorted(left)}"))
    return done


def kind_of(which: int | str, seed: int) -> str:
    """Return the kind of a case, without making it."""
    return BY_HAND if isinstance(which, str) else kind_at_random(random.Random(f"{seed}/{which}"))


def table_of(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return a row for each kind, and one for all, under a row of titles."""
    rows = [["what was done", "cases", "refused", "loaded as what they say", "anything else", "slowest ms", "most MiB"]]
    for kind in [*KINDS, BY_HAND, "all"]:
        these = [outcome for outcome in outcomes if kind in ("all", outcome.kind)]
        refused, equal = (sum(outcome.what == what for outcome in these) for what in ("refused", "equal"))
        slowest = max((outcome.seconds for outcome in these), default=0) * 1e3
        most = max((outcome.bytes for outcome in these), default=0) / (1 << 20)
        counts = len(these), refused, equal, len(these) - refused - equal
        rows.append([kind, *map(str, counts), f"{slowest:.0f}", f"{most:.0f}"])
    return rows


def document(outcomes: Sequence[Outcome], seed: int) -> dict[str, str]:
    """Return the tables of docs/hostile.md, by name."""
    import torch
    from safetensors import __version__ as safetensors

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    titles, *rows = table_of(outcomes)
    counted = [line(titles), "| --- |" + " ---: |" * (len(titles) - 1), *map(line, rows)]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors}"
    told = {outcome.case: re.sub("[0-9a-f]{60}", "…", outcome.message) for outcome in outcomes}
    messages = [line([name, told.get(name, "")]) for name in HAND_MADE]
    return {
        "counts": "\n".join([f"Seed {seed}; {platform.system()}, {versions}.", "", *counted]),
        "messages": "\n".join([line(["file", "what the user sees"]), "| --- | --- |", *messages]),
    }


def write(parts: dict[str, str], file: Path) -> None:
    """Put tables between their markers in a document."""
    text = file.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name}: written by tests/fuzz_files.py -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{part}\n\n{end}{rest.partition(end)[2]}"
    file.write_text(text, encoding="utf-8")


def main() -> int:
    """Run cases and print a table; return 1 if one did anything but load as it is or be refused, within the bounds."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12_000, help="how many at random; those made by hand come first")
    parser.add_argument("--first", type=int, default=0, help="number of the first case at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--write", type=Path, help="a document, docs/hostile.md, whose tables are to be replaced")
    given = parser.parse_args()
    terminal = Console(stderr=True)
    cases = [*HAND_MADE, *range(given.first, given.first + given.cases)]
    with Progress(console=terminal, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("cases", total=len(cases))
        outcomes = run(cases, given.seed, given.workers, lambda: progress.advance(task))
    titles, *rows = table_of(outcomes)
    table = Table(title=f"{len(outcomes)} cases, seed {given.seed}")
    for column in titles:
        table.add_column(column, justify="left" if column == titles[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    wrong = [outcome for outcome in outcomes if outcome.what not in ("equal", "refused")]
    beyond = [outcome for outcome in outcomes if outcome.seconds > SECONDS or outcome.bytes > BYTES]
    for outcome in [*wrong[:40], *beyond[:40]]:
        print(
            f"case {outcome.case} ({outcome.kind}): {outcome.what}, {outcome.seconds:.2f} s, {outcome.bytes >> 20} MiB"
        )
    if given.write is not None:
        write(document(outcomes, given.seed), given.write)
    return 1 if wrong or beyond else 0


if __name__ == "__main__":
    sys.exit(main())
