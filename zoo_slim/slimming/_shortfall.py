"""Say where clearly fewer channels went than a ratio asks for, and why."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_slim.schema import PruningSchema
from zoo_slim.slimming._criteria import Scores
from zoo_slim.slimming._select import Keep, by_threshold, least, select

__all__ = ["shortfall", "unmet"]

_MET = 9 / 10
"""Of what whole units make of the ratio, so much may be left of it by minima: the bundled schemas leave 94 % at 0.9."""

_MET_ROUNDED = 2 / 3
"""The same where numbers of channels are rounded up: multiples of 8 leave 77 % of a quarter."""


def shortfall(
    schema: PruningSchema,
    scores: Scores,
    ratio: float,
    present: Keep,
    *,
    minimum: int | float,
    rounding: str | None,
    allow_inexact: bool,
) -> str | None:
    """Compare what goes with what the ratio asks for.

    The ratio counts as met where at least 9/10 of what the threshold takes goes, 2/3 with a rounding, or all but one
    channel per group. The threshold takes whole channels, and those that must go together at once; that it takes fewer
    for that is no shortfall, unless it takes none. Groups with a ratio of their own do not count.

    Args:
        schema: as for `select`, and the next two.
        scores: of all channels.
        ratio: above 0.
        present: bool ``[channels]``: those that residual blocks taken out whole leave.
        minimum: as for `select`, and the next two.
        rounding: the schema's by default.
        allow_inexact: whether removal may differ from masking.

    Returns:
        what was removed instead, and what holds the rest; None where the ratio was met.
    """
    rounding = schema.rounding if rounding is None else rounding
    keep, units, unit_scores = by_threshold(schema, scores, ratio, allow_inexact)
    members = schema.members()
    counted = (unit_scores < np.inf) & ~schema.own_ratio()
    count, taken = int(counted.sum()), int((counted & ~keep).sum())
    kept = select(schema, scores, ratio, minimum=minimum, rounding=rounding, allow_inexact=allow_inexact) & present
    gone = int((counted & ~kept).sum())
    if gone:
        few = sum(counted[channels].any() for channels in members.values())
        met = gone >= min((_MET if rounding == "none" else _MET_ROUNDED) * taken, taken - few)
    else:
        met = not count and not keep.all()
    if met:
        return None
    share = f"{100 * gone / count:.1f} %" if gone else "none"
    reason = _reason(schema, counted, keep, units, minimum, rounding, allow_inexact)
    return f"removed {share} of the channels, not {100 * ratio:.4g} %: {reason}"


def unmet(schema: PruningSchema, scores: Scores, **bounds: Any) -> list[str]:
    """The groups that have a ratio of their own above 0, and lose no channel for it; arguments as for `select`."""
    if not (asked := [name for name, group in schema.groups.items() if group.ratio]):
        return []
    keep, members = select(schema, scores, 0.0, **bounds), schema.members()
    return [name for name in asked if keep[members[name]].all()]


def _reason(
    schema: PruningSchema,
    counted: Keep,
    keep: Keep,
    units: NDArray[np.int64],
    minimum: int | float,
    rounding: str,
    allow_inexact: bool,
) -> str:
    if not counted.any():
        inexact = any(group.inexact for group in schema.groups.values()) and not allow_inexact
        return "what could go is inexact (allow_inexact=True)" if inexact else "no channel of it may go"
    if not (counted & ~keep).any():
        together = int(np.bincount(units[counted])[units[counted]].min())
        few = "one" if together == 1 else f"the {together} that go together"
        return f"that is less than {few} of {int(counted.sum())} channels"
    members = {name: channels for name, channels in schema.members().items() if counted[channels].any()}
    held = sum(keep[channels].sum() < least(schema.groups[name], minimum) for name, channels in members.items())
    reasons = [f"{held} of {len(members)} groups are at their minimum"] if held else []
    if rounding != "none":
        reasons.append(f"what groups keep is rounded up ({rounding})")
    return " and ".join(reasons) or "channels that go together with others stay"
