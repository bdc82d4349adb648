"""Masked equivalence of one network, slimmed at random, and whether it can be trained."""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from zoo_slim import slim
from zoo_slim._containers import tensors_in
from zoo_slim._errors import CheckpointError, ZooSlimError
from zoo_slim.checkpoint import Config
from zoo_slim.cli._channels import removable, removed
from zoo_slim.cli._checkpoints import find_folder
from zoo_slim.registry import Architecture, registry
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming import over_batches, randomize, training_step, verify
from zoo_slim.slimming._defaults import bundled_schema
from zoo_slim.slimming._score import find_criterion
from zoo_slim.tracing import Trace, run_trace, schema_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_checkpoint", "check_network"]

ORIGINAL_FAILS = "original fails"
SMALL = 96
"""Side of the images that are tried first: most networks take any size, and small ones are quick."""


def check_network(
    name: str,
    options: Mapping[str, Any],
    ratio: float,
    criteria: Sequence[str],
    size: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Slim an architecture with random weights by each criterion, and verify.

    Args:
        name: a registered name.
        options: for its builder.
        ratio: share of the channels to remove.
        criteria: names that `zoo_slim.slimming.list_criteria` lists.
        size: side of the images; None: 96, and where the network does not take that, its own.
        seed: of weights and channels.

    Returns:
        What was found of the worst of the criteria, ready for JSON; ``error`` says why there is nothing to find.

    Raises:
        SlimmingError: a criterion that does not exist or cannot be used.
    """
    functions = {criterion: find_criterion(criterion) for criterion in criteria}
    architecture = registry().find(name)

    def attempt(side: int | None) -> dict[str, Any]:
        model = randomize(architecture.build(**options), seed)
        example = architecture.example_input(size=side, options=options)
        facts, seconds = _timed_trace(model, example)
        schema = bundled_schema(model, name) or schema_of(model, facts)
        found = []
        for criterion, function in functions.items():
            torch.manual_seed(seed)
            if getattr(function, "needs_gradients", False):
                function = over_batches(function, [(example, None)], _any_loss)
            _, result = slim(model, ratio=ratio, criterion=function, example_input=example, schema=schema)
            found.append({"criterion": criterion, **_compare(model, result, example, facts, schema, seconds)})
        return max(found, key=lambda report: (not report["ok"], report["max_relative_difference"]))

    return {"name": name, **_first_that_works(attempt, architecture, size)}


def check_checkpoint(name: str, pruned: str, size: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Verify the channels that a slim checkpoint keeps, with random weights.

    Args:
        name: a registered name, a folder or ``hf-hub:org/name``.
        pruned: the variant.
        size: side of the images; None: as recorded, else 96, else the architecture's own.
        seed: of the weights.

    Raises:
        ZooSlimError: there is no such checkpoint, or it is damaged.
    """
    from zoo_slim.checkpoint._load import read_skeleton

    skeleton = read_skeleton(find_folder(name, pruned, weights=False))
    architecture, config, result = skeleton.architecture, skeleton.config, skeleton.result
    if result is None:
        raise CheckpointError(f"variant {pruned!r} of {name!r} is not slim: all of its channels were kept")

    def attempt(side: int | None) -> dict[str, Any]:
        model = randomize(architecture.build(**config.options), seed)
        example = architecture.example_input(size=side, options=config.options)
        facts, seconds = _timed_trace(model, example)
        return _compare(model, result, example, facts, schema_of(model, facts), seconds)

    return {"name": name, "variant": pruned, **_first_that_works(attempt, architecture, size or _recorded(config))}


def _recorded(config: Config) -> int | None:
    given = (config.input or {}).get("size")
    return given[-1] if given else None


def _first_that_works(attempt: Any, architecture: Architecture, size: int | None) -> dict[str, Any]:
    """Try the small images, then the architecture's own."""
    small = [SMALL] if max(architecture.input_size[1:]) > SMALL else []
    error: Exception = ZooSlimError("nothing was tried")
    for side in [size] if size is not None else [*small, None]:
        try:
            report: dict[str, Any] = attempt(side)
        except Exception as caught:  # of whatever kind: it is the network's forward that fails
            error = caught
            continue
        if report["training_step"] != ORIGINAL_FAILS or side not in small:
            return report
    return {"ok": False, "exact": False, "error": f"{type(error).__name__}: {error}"}


def _any_loss(outputs: Any, targets: None) -> torch.Tensor:
    """A loss for gradients of random weights, of which only shapes matter."""
    return torch.stack([out.square().mean() for out in tensors_in(outputs) if out.requires_grad]).sum()


def _timed_trace(model: "nn.Module", example: torch.Tensor) -> tuple[Trace, float]:
    start = time.perf_counter()
    return run_trace(model, example), time.perf_counter() - start


def _compare(
    model: "nn.Module",
    result: PruningResult,
    example: torch.Tensor,
    facts: Trace,
    schema: PruningSchema,
    seconds: float,
) -> dict[str, Any]:
    found = verify(model, result, example, trace=facts)
    step = _training_step(model, result, example)
    return {
        "ok": found.exact and step != "fails",
        "exact": found.exact,
        "max_relative_difference": found.max_relative_difference,
        "trace_seconds": seconds,
        "input": list(example.shape[1:]),
        "removable": removable(schema),
        "removed": int(removed(schema, model, result).sum()),
        "params": found.params,
        "slim_params": found.slim_params,
        "training_step": step,
    }


def _training_step(model: "nn.Module", result: PruningResult, example: torch.Tensor) -> str:
    """``ok``, ``fails``, or ``original fails`` where slimming is not to blame."""
    try:
        training_step(apply_result(model, result), example)
        return "ok"
    except Exception:
        try:
            training_step(copy.deepcopy(model), example)
        except Exception:
            return ORIGINAL_FAILS
        return "fails"
