"""One model: traced, slimmed at random and by criterion, verified and trained a step. Runs in a process of its own."""

import contextlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo_slim import __version__
from zoo_slim._plugins import IMPORTS, import_modules
from zoo_slim.checkpoint._packages import libraries_of
from zoo_slim.coverage._memory import peak_memory
from zoo_slim.coverage._names import find
from zoo_slim.coverage._share import reasons, removable_share
from zoo_slim.registry import Architecture
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming import count_params, randomize, slim, training_step, verify
from zoo_slim.tracing import Trace, run_trace, schema_of

__all__ = ["RANDOM", "RATIO", "measure"]

RANDOM, RATIO = 0.4, 0.5
"""Shares of the channels to remove: at random, and by criterion."""

SIDES = (64, 96)
"""Sides of the images that are tried before the network's own: small ones are quick."""

TRAINING_BRANCHES = ("aux_loss", "aux_logits")
"""Options that add branches which only run in training mode."""

_LIBRARIES = ("torchvision", "timm")
"""Those that are always installed, and named of every model."""

BYTES_PER_PARAMETER = 28
"""What verifying takes: the original and the slim network in both precisions, and copies for training mode."""

_IMPORTED = 1e9
"""What the process takes before there is a model."""


class _Record:
    """What is known of a model. Every stage's end is written down, so that a killed process leaves what it knew."""

    def __init__(self, name: str, file: Path) -> None:
        self.facts: dict[str, Any] = {"model": name, "made_with": _versions(), "failures": [], "runs": []}
        self._file = file

    def write(self) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.facts) + "\n")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note the stage; what it raises is noted and ends the measurement."""
        self.facts["stage"] = name
        self.write()
        try:
            yield
        except Exception as error:
            self.facts["failures"].append({"stage": name, "error": _short(error), "where": _where(error)})
            self.write()
            raise _StageError from error


@dataclass(frozen=True)
class _Traced:
    """A trace, and what it took: processor seconds, and bytes at its peak."""

    model: nn.Module
    trace: Trace
    side: int
    seconds: float
    memory: int | None


class _StageError(Exception):
    """A stage failed, and the record says so."""


def measure(name: str, file: Path, memory: float) -> None:
    """Measure one model, and append what is known to ``file`` after every stage, as JSON lines.

    Args:
        name: of a registered architecture or of a detector of torchvision.
        file: where to; the last line is the result.
        memory: bytes that the process may take. Models too large for that are traced and slimmed without weights.
    """
    record = _Record(name, file)
    with contextlib.suppress(_StageError):
        _measure(record, find(name), memory)
        record.facts["stage"] = "end"
    record.write()


def _measure(record: _Record, architecture: Architecture, memory: float) -> None:
    facts = record.facts
    with record.stage("build"):
        model = _without_weights(architecture)
        facts["params"] = count_params(model)
        facts["libraries"] = [str(library) for library in libraries_of(model) if library.name not in _LIBRARIES]
    with record.stage("trace"):
        found = _traced(model, architecture)
        model, trace, side = found.model, found.trace, found.side
        schema = schema_of(model, trace)
        _note_trace(facts, found)
    if not facts["removable"]:
        return
    if facts["params"] * BYTES_PER_PARAMETER + _IMPORTED > memory:
        with record.stage("slim without weights"):
            torch.manual_seed(0)
            example = architecture.example_input(size=side, device="meta")
            network, _ = slim(model, ratio=RANDOM, criterion="random", example_input=example, schema=schema)
            facts["slim_params"] = count_params(network)
        return
    with record.stage("build with weights"):
        model = randomize(_build(architecture))
    example = architecture.example_input(size=side)
    for criterion, ratio in (("random", RANDOM), (_criterion(model, schema), RATIO)):
        with contextlib.suppress(_StageError):
            _slim_and_verify(record, model, schema, trace, example, criterion, ratio)


def _without_weights(architecture: Architecture) -> nn.Module:
    try:
        with torch.device("meta"):
            return _build(architecture)
    except Exception:  # its builder computes with values
        return _build(architecture)


def _build(architecture: Architecture) -> nn.Module:
    """Build the model with all branches that it can have in training mode."""
    return architecture.build(**{option: True for option in TRAINING_BRANCHES if option in architecture.options})


def _traced(model: nn.Module, architecture: Architecture) -> _Traced:
    """Trace at the smallest size at which both modes run, else at the smallest at which evaluation mode does.

    Without weights if that works, else with weights.
    """
    own = max(architecture.input_size[1:])
    sides = [*(side for side in SIDES if side < own), own]
    best: _Traced | None = None
    error: Exception | None = None
    for build in (lambda: model, lambda: _build(architecture)):
        for side in sides:
            try:
                found = _trace(build(), architecture, side)
            except Exception as caught:
                error = caught
                continue
            if found.trace.training is None:
                return found
            best = best or found
    if best is None:
        assert error is not None
        raise error
    return best


def _trace(model: nn.Module, architecture: Architecture, side: int) -> _Traced:
    example = architecture.example_input(size=side, device=next(model.parameters()).device)
    with peak_memory() as peak:
        start = time.process_time()
        trace = run_trace(model, example)
        seconds = time.process_time() - start
        return _Traced(model, trace, side, seconds, peak())


def _note_trace(facts: dict[str, Any], found: _Traced) -> None:
    trace = found.trace
    inexact = int(np.count_nonzero(trace.inexact))
    facts |= {
        "side": found.side,
        "channels": trace.classes,
        "removable": trace.classes - inexact,
        "inexact": inexact,
        "share": removable_share(found.model, trace),
        "training": trace.training,
        "reasons": reasons(trace),
        "trace_seconds": found.seconds,
        "trace_mb": None if found.memory is None else found.memory / 1e6,
    }


def _criterion(model: nn.Module, schema: PruningSchema) -> str:
    """``bn_scale`` where most removable channels have a BatchNorm scale, else ``l2``."""
    modules = dict(model.named_modules())
    exact = np.zeros(schema.channels, dtype=bool)
    for members, group in zip(schema.members().values(), schema.groups.values(), strict=True):
        exact[members] = not group.inexact
    scaled = np.zeros(schema.channels, dtype=bool)
    for name, channels in schema.norms.items():
        if isinstance(modules[name], nn.modules.batchnorm._BatchNorm):
            scaled[channels[channels >= 0]] = True
    return "bn_scale" if 2 * np.count_nonzero(scaled & exact) > np.count_nonzero(exact) else "l2"


def _slim_and_verify(
    record: _Record,
    model: nn.Module,
    schema: PruningSchema,
    trace: Trace,
    example: torch.Tensor,
    criterion: str,
    ratio: float,
) -> None:
    run: dict[str, Any] = {"criterion": criterion, "ratio": ratio}
    with record.stage(f"slim ({criterion})"):
        torch.manual_seed(0)
        start = time.process_time()
        network, result = slim(model, ratio=ratio, criterion=criterion, example_input=example, schema=schema)
        run |= {"slim_seconds": time.process_time() - start, "slim_params": count_params(network)}
    with record.stage(f"verify ({criterion})"):
        found = verify(model, result, example, trace=trace)
        run |= {
            "exact": found.exact,
            "difference": found.max_relative_difference,
            "training_compared": found.training_compared,
        }
        record.facts["runs"].append(run)
    with record.stage(f"training step ({criterion})"):
        run["training_step"] = _training_step(network, model, example)


def _training_step(network: nn.Module, original: nn.Module, example: torch.Tensor) -> str:
    """``ok``, or ``original fails`` where slimming is not to blame.

    Raises:
        Exception: what the slim network raises, where the original raises nothing.
    """
    try:
        training_step(network, example)
    except Exception:
        try:
            training_step(original, example)
        except Exception:
            return "original fails"
        raise
    return "ok"


def _versions() -> str:
    packages = {package: metadata.version(package).split("+")[0] for package in ("torch", *_LIBRARIES)}
    return ", ".join(f"{package} {version}" for package, version in {"zoo_slim": __version__, **packages}.items())


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def _where(error: BaseException) -> list[str]:
    """The last steps of the stack trace: file, line and function."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # models warn of their own deprecations
    warnings.filterwarnings("error", message="all channels of .* stay")
    import_modules(os.environ.get(IMPORTS, "").split())
    measure(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
