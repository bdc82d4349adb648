"""Slimming: score, select, remove."""

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import PruningSchema, read_schema
from zoo_slim.slimming._cost import count_macs, count_params
from zoo_slim.slimming._criteria import Criterion
from zoo_slim.slimming._keep import result_from_keep
from zoo_slim.slimming._score import score
from zoo_slim.slimming._select import select
from zoo_slim.tracing import Example, call_model, meta_copy, to_device, trace

__all__ = ["remove", "run_check", "slim"]

_STEPS = 12
"""Halvings of the ratio when a budget is met: 2**-12 of the channels is finer than one channel of most groups."""


def slim(
    model: nn.Module,
    *,
    ratio: float | None = None,
    params: int | float | None = None,
    macs: int | float | None = None,
    criterion: str | Criterion = "bn_scale",
    example_input: Example | None = None,
    schema: PruningSchema | None = None,
    minimum: int | float = 0.02,
    rounding: str | None = None,
    allow_inexact: bool = False,
) -> tuple[nn.Module, PruningResult]:
    """Remove the channels that matter least. The given model stays as it is.

    Exactly one of ``ratio``, ``params`` and ``macs`` says how many.

    Args:
        model: the network, usually after sparsity training.
        ratio: the share of all scored channels to remove, ``0 <= ratio < 1``.
        params: keep at most this many parameters (an integer), or this share of them (a float below 1).
        macs: keep at most this many multiply-accumulates per sample, or this share of them.
        criterion: a name from `zoo_slim.slimming.list_criteria` (``bn_scale``, ``l1``, ``l2``, ``taylor``, ``random``,
            and those of installed plugins), or a function ``(model, schema) -> scores``.
        example_input: what to call the model with; by default the architecture's, for a model that zoo_slim built.
        schema: the channel groups. By default the architecture's bundled schema where it fits, or else a fresh trace.
        minimum: what each group keeps at least: a number of channels, or a share of its width (then at least 2).
        rounding: keep a multiple of 8 (``eight``) or a power of two (``two_pow``) in each group.
        allow_inexact: also remove channels for which removal does not equal masking.

    Returns:
        the slim network, in the mode of the given one, and the pruning result from which it can be rebuilt.

    Raises:
        SlimmingError: contradictory arguments, a model that cannot be traced, or a budget that cannot be met.
    """
    given = [name for name, value in (("ratio", ratio), ("params", params), ("macs", macs)) if value is not None]
    if len(given) != 1:
        raise SlimmingError(f"give exactly one of ratio, params and macs, not {' and '.join(given) or 'none of them'}")
    if example_input is None:
        example_input = _example_of(model)
    if schema is None:
        schema = _bundled_schema(model) or trace(model, example_input)
    else:
        schema.check(model)
    scores = score(model, schema, criterion)
    probe = meta_copy(model)

    def attempt(share: float) -> PruningResult:
        keep = select(schema, scores, share, minimum=minimum, rounding=rounding, allow_inexact=allow_inexact)
        return result_from_keep(probe, schema, keep)

    if ratio is not None:
        result = attempt(ratio)
    else:
        limit = params if params is not None else macs
        assert limit is not None
        result = _within(probe, attempt, limit, macs is not None, example_input)
    run_check(apply_result(probe, result), probe, example_input)
    return remove(model, result), result


def remove(model: nn.Module, result: PruningResult) -> nn.Module:
    """Apply a result, and note in the slim network's origin what was kept, and of what."""
    slim_model = apply_result(model, result)
    origin = getattr(model, "zoo_slim_origin", None)
    if origin is not None:
        slim_model.zoo_slim_origin = replace(
            origin,
            result=result if origin.result is None else origin.result.then(result),
            variant=None,
            metrics={},
            base=origin.base or origin.metrics,
        )
    return slim_model


def _within(probe: nn.Module, attempt: Any, limit: int | float, macs: bool, example: Example) -> PruningResult:
    """The smallest ratio whose network has at most ``limit`` parameters or MACs, by bisection."""
    batch = _batch_size(example)
    if isinstance(limit, bool) or not 0 < limit < math.inf:
        raise SlimmingError(
            f"{'macs' if macs else 'params'}={limit} is no budget: give a number to keep at most, such as 2_000_000, "
            "or a share below 1 of what there is, such as 0.5"
        )

    def cost(result: PruningResult) -> float:
        network = apply_result(probe, result)
        return count_macs(network, example) / batch if macs else count_params(network)

    whole = cost(PruningResult())
    target = limit * whole if isinstance(limit, float) and limit < 1 else float(limit)
    low, high = 0.0, 1 - 2**-_STEPS
    if cost(all_of_it := attempt(low)) <= target:
        return all_of_it
    best = attempt(high)
    if cost(best) > target:
        raise SlimmingError(
            f"a budget of {target:,.0f} {'MACs' if macs else 'parameters'} cannot be met: of {whole:,.0f}, "
            f"{cost(best):,.0f} are left when every group is at its minimum. Raise the budget or lower `minimum`."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        result = attempt(middle)
        if cost(result) <= target:
            high, best = middle, result
        else:
            low = middle
    return best


def _batch_size(example: Example) -> int:
    values: Any = (
        list(example.values()) if hasattr(example, "values") and not isinstance(example, torch.Tensor) else example
    )
    first = values if isinstance(values, torch.Tensor) else values[0]
    return first.shape[0] if isinstance(first, torch.Tensor) and first.ndim else 1


def _example_of(model: nn.Module) -> Example:
    origin = getattr(model, "zoo_slim_origin", None)
    if origin is None:
        raise SlimmingError(
            f"this {type(model).__name__} was not built by zoo_slim, so its input is not known: "
            "pass example_input=torch.zeros(2, 3, 224, 224), or what it is called with"
        )
    from zoo_slim.registry import registry

    size = (origin.input or {}).get("size")
    return registry().find(origin.architecture).example_input(size=tuple(size) if size else None)


def _bundled_schema(model: nn.Module) -> PruningSchema | None:
    origin = getattr(model, "zoo_slim_origin", None)
    if origin is None or origin.result is not None:
        return None
    from zoo_slim.registry import registry

    file = registry().find(origin.architecture).schema
    if file is None:
        return None
    schema = read_schema(file)
    try:
        schema.check(model)
    except SchemaError:
        return None  # made for other options of the builder
    return schema


def run_check(network: nn.Module, original: nn.Module, example: Example) -> None:
    """Run a slim network on meta tensors in both modes, and compare the shapes of its outputs with the original's.

    Raises:
        SlimmingError: it does not run, or its outputs have other shapes.
    """
    from zoo_slim.tracing._interpreter import tensors_in

    meta = to_device(example, "meta")
    for training in (False, True):
        expected = None
        try:
            with torch.no_grad():
                expected = [out.shape for out in tensors_in(call_model(copy.deepcopy(original).train(training), meta))]
        except Exception:
            continue  # the original does not run on meta tensors in this mode: there is nothing to compare with
        try:
            with torch.no_grad():
                found = [out.shape for out in tensors_in(call_model(copy.deepcopy(network).train(training), meta))]
        except Exception as error:
            raise SlimmingError(
                f"the slim {type(network).__name__} does not run: {error}. Its forward depends on widths in a way that "
                "tracing did not see; please report it, and exclude the layer by setting its group's ratio to 0."
            ) from error
        if found != expected:
            raise SlimmingError(f"the slim network gives outputs of shapes {found}, the original {expected}")
