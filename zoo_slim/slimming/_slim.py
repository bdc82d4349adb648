"""Slimming: score, select, remove."""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import nn

from zoo_slim._errors import SlimmingError
from zoo_slim._names import listed
from zoo_slim._networks import unwrap
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming._budget import MOST, Budget
from zoo_slim.slimming._cliff import before_cliff, find_cliff
from zoo_slim.slimming._criteria import Criterion, Scores
from zoo_slim.slimming._defaults import example_of, schema_for
from zoo_slim.slimming._follow import fault_of, hold, unfollowed
from zoo_slim.slimming._keep import result_from_keep
from zoo_slim.slimming._removal import Removal, RemoveBlocks, present_channels, without
from zoo_slim.slimming._run_check import refusal
from zoo_slim.slimming._score import by_weights, score
from zoo_slim.slimming._select import by_threshold, select
from zoo_slim.slimming._shortfall import shortfall, unmet
from zoo_slim.tracing import Example, meta_copy

__all__ = ["remove", "slim"]


def slim(
    model: nn.Module,
    *,
    ratio: float | Literal["auto"] | None = None,
    params: int | float | None = None,
    macs: int | float | None = None,
    group_ratios: Mapping[str, float] | None = None,
    remove_blocks: RemoveBlocks | None = None,
    criterion: str | Criterion = "bn_scale",
    example_input: Example | None = None,
    schema: PruningSchema | None = None,
    minimum: int | float = 0.02,
    rounding: str | None = None,
    allow_inexact: bool = False,
) -> tuple[nn.Module, PruningResult]:
    """Remove the channels, and if asked the residual blocks, that matter least. The given model stays as it is.

    One of ``ratio``, ``params`` and ``macs`` says how many channels. It can be left out where ``group_ratios`` or
    ``remove_blocks`` say what to remove; nothing goes then besides.

    Args:
        model: the network, usually after sparsity training; of one in DataParallel or `torch.compile`, the network
            inside.
        ratio: the share of all scored channels to remove, ``0 <= ratio < 1``; or ``"auto"``: as far as
            `fold_constants` and `recalibrate` make up for it, see `find_cliff`.
        params: keep at most this many parameters (an integer), or this share of them (a float below 1).
        macs: keep at most this many multiply-accumulates per sample, or this share of them.
        group_ratios: shares to remove of single channel groups, by name or pattern, whatever the other channels lose:
            ``{"features.0": 0, "classifier.*": 0.9}`` leaves one alone, and thins two that ``bn_scale`` would leave
            alone for want of BatchNorms, by `l2`. The groups are those of the schema; see its `Group.ratio`.
        remove_blocks: residual blocks ``act(x + branch(x))`` to take out whole, see `zoo_slim.slimming.find_blocks`:

            - a list of their names. A branch of several in a block (``blocks.3.attn``) may be named too;
            - a number: so many of those whose channels score lowest in the mean;
            - ``"dead"``: all those that, but for ``minimum``, would lose each channel that lies in them alone;
            - ``"needed"``: as few as the budget needs, lowest score first; none where removing channels is enough.
        criterion: a name from `zoo_slim.slimming.list_criteria` (``bn_scale``, ``l1``, ``l2``, ``taylor``, ``random``,
            and those of installed plugins), or a function ``(model, schema) -> scores``.
        example_input: what to call the model with; by default the architecture's, for a model that zoo_slim built.
        schema: the channel groups. By default the architecture's bundled schema where it fits, or else a fresh trace.
        minimum: what each group keeps at least: a number of channels, or a share of its width (then at least 2).
        rounding: keep a multiple of 8 (``eight``) or a power of two (``two_pow``) in each group.
        allow_inexact: also remove channels for which removal does not equal masking.

    Returns:
        the slim network, in the mode of the given one, and the pruning result from which it can be rebuilt.

    Warns:
        UserWarning: clearly fewer channels went than ``ratio`` asks for: less than 9/10 of them, 2/3 with a rounding;
            or groups stay whole, as the network would not run without channels of them, or compute with other numbers,
            or lose nothing for a ratio of their own; or nothing goes, as the network meets the budget.

    Raises:
        SlimmingError: contradictory arguments, a model that cannot be traced, a block that cannot be removed, a
            budget that cannot be met, nothing that could go before the cliff, or a network that cannot lose any
            channel.
        SchemaError: a schema that does not fit the model, or group ratios that do not fit the schema.
    """
    given = {name: value for name, value in (("ratio", ratio), ("params", params), ("macs", macs)) if value is not None}
    _check_arguments(given, group_ratios, remove_blocks, criterion)
    model = unwrap(model)
    if example_input is None:
        example_input = example_of(model)
    schema = schema_for(model, schema, example_input).with_ratios(group_ratios or {})
    probe = meta_copy(model)
    limits = ((name, value) for name, value in (("params", params), ("macs", macs)) if value is not None)
    budget = next((Budget(model, value, name, example_input) for name, value in limits), None)
    scores = ranks = np.full(schema.channels, np.nan)
    if given or group_ratios or isinstance(remove_blocks, int):
        scores = score(model, schema, criterion)
        ranks = by_weights(model, schema, scores)
    removal = None if remove_blocks is None else Removal(model, probe, example_input)
    bounds: dict[str, Any] = {"minimum": minimum, "rounding": rounding, "allow_inexact": allow_inexact}
    while True:
        result = _plan(model, schema, scores, ranks, ratio, budget, probe, removal, remove_blocks, bounds)
        if (found := fault_of(result, probe, example_input)) is None:
            break
        held = unfollowed(schema, probe, example_input, lambda trial: select(trial, ranks, MOST, **bounds))
        schema = hold(schema, held)
        if not held or (np.isnan(ranks) | schema.untouched(allow_inexact)).all():
            raise refusal(model, found)
        warnings.warn(
            f"all channels of {listed(held)} stay: with fewer of them the slim {type(model).__name__} {found}. "
            "Its forward depends on their number in a way that cannot be followed (docs/limits.md)",
            stacklevel=2,
        )
    if not np.isnan(ranks).all() and (whole := unmet(schema, ranks, **bounds)):
        warnings.warn(
            f"all channels of {listed(whole)} stay, whatever their own ratios: they are inexact or go together with "
            "channels that stay, or the ratio is less than one channel, or minimum and rounding keep them",
            stacklevel=2,
        )
    if budget is not None and not result.kept and not result.removed:
        warnings.warn(f"nothing was removed from this {type(model).__name__}: {budget.idle()}", stacklevel=2)
    if ratio and ratio != "auto":
        rest = without(schema, result.removed)
        present = present_channels(rest, probe)
        asked = (schema, scores) if remove_blocks == "dead" else (rest, np.where(present, scores, np.nan))
        if short := shortfall(*asked, ratio, present, **bounds):
            warnings.warn(f"ratio {ratio:g} of this {type(model).__name__}: {short}", stacklevel=2)
    return remove(model, result), result


def _plan(
    model: nn.Module,
    schema: PruningSchema,
    scores: Scores,
    ranks: Scores,
    ratio: float | Literal["auto"] | None,
    budget: Budget | None,
    probe: nn.Module,
    removal: Removal | None,
    remove_blocks: RemoveBlocks | None,
    bounds: Mapping[str, Any],
) -> PruningResult:
    """Which channels and blocks go: blocks by their scores, channels by their ranks. Arguments as `slim` makes them."""

    def without_blocks(removed: Mapping[str, str], share: float | Literal["auto"]) -> PruningResult:
        rest = without(schema, removed)
        if share == "auto":
            share = find_cliff(model, schema=rest, **bounds).ratio if removed else before_cliff(model, rest, **bounds)
        left = np.where(present_channels(rest, probe), ranks, np.nan)
        return result_from_keep(probe, rest, select(rest, left, share, **bounds)).removing(removed)

    def without_dead_blocks(removal: Removal, share: float | Literal["auto"]) -> PruningResult:
        if share == "auto":
            share = before_cliff(model, schema, **bounds)
        keep, _, unit_scores = by_threshold(schema, ranks, share, bounds["allow_inexact"])
        removed = removal.dead(schema, keep, unit_scores < np.inf)
        rest = without(schema, removed)
        return result_from_keep(probe, rest, select(schema, ranks, share, **bounds)).removing(removed)

    attempt: Callable[[Any], PruningResult] = partial(without_blocks, {})
    if removal is not None:
        if remove_blocks == "dead":
            attempt = partial(without_dead_blocks, removal)
        elif remove_blocks == "needed":
            assert budget is not None
            growing = removal.lowest(schema, scores)
            fewest = bisect_left(growing, True, key=lambda removed: budget.allows(without_blocks(removed, MOST)))
            attempt = partial(without_blocks, growing[min(fewest, len(growing) - 1)])
        elif isinstance(remove_blocks, int):
            attempt = partial(without_blocks, _at(removal.lowest(schema, scores), remove_blocks))
        else:
            assert remove_blocks is not None
            attempt = partial(without_blocks, removal.named(remove_blocks))
    return attempt(ratio or 0.0) if budget is None else budget.smallest(attempt)


def _check_arguments(
    given: Mapping[str, object], group_ratios: object, remove_blocks: object, criterion: object
) -> None:
    thinned = isinstance(group_ratios, Mapping) and any(group_ratios.values())
    rules = {"dead": ("ratio", "params", "macs"), "needed": ("params", "macs")}
    if len(given) > 1 or (not given and not thinned and remove_blocks is None):
        raise SlimmingError(
            f"give exactly one of ratio, params and macs, not {' and '.join(given) or 'none of them'}"
            + ("" if given else "; or say what goes with group_ratios or remove_blocks")
        )
    if not isinstance(criterion, str) and not callable(criterion):
        raise SlimmingError(f"criterion={criterion!r} is neither the name of a criterion nor a function")
    if isinstance(ratio := given.get("ratio"), str):
        if ratio != "auto":
            raise SlimmingError(f"ratio={ratio!r} is no share of channels: give 0 <= ratio < 1, or 'auto'")
        if criterion != "bn_scale":
            raise SlimmingError(
                "ratio='auto' looks at BatchNorm scales, criterion='bn_scale': give a number with others"
            )
    if isinstance(remove_blocks, str):
        if remove_blocks not in rules:
            raise SlimmingError(
                f"remove_blocks={remove_blocks!r} is no rule: give a list of names, a number, 'dead' or 'needed'"
            )
        if not set(given) & set(rules[remove_blocks]):
            raise SlimmingError(f"remove_blocks={remove_blocks!r} needs one of {', '.join(rules[remove_blocks])}")
    elif remove_blocks is not None:
        number = isinstance(remove_blocks, int) and not isinstance(remove_blocks, bool) and remove_blocks >= 0
        names = isinstance(remove_blocks, Sequence) and all(isinstance(name, str) for name in remove_blocks)
        if not number and not names:
            raise SlimmingError(f"remove_blocks={remove_blocks!r}: give a list of names, a number, 'dead' or 'needed'")


def _at(growing: Sequence[Mapping[str, str]], count: int) -> Mapping[str, str]:
    if count >= len(growing):
        raise SlimmingError(
            f"remove_blocks={count} is too many: the network has {len(growing) - 1} residual blocks with scores of "
            "this criterion. zoo_slim.slimming.find_blocks lists all; those without scores can be named"
        )
    return growing[count]


def remove(model: nn.Module, result: PruningResult) -> nn.Module:
    """Apply a result, and note in the slim network's origin what was kept, and of what."""
    slim_model = apply_result(model, result)
    origin = getattr(unwrap(model), "zoo_slim_origin", None)
    if origin is not None:
        slim_model.zoo_slim_origin = replace(
            origin,
            result=result if origin.result is None else origin.result.then(result),
            variant=None,
            metrics={},
            base=origin.metrics if origin.result is None else origin.base,
        )
    return slim_model
