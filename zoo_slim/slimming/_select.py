"""Which channels to keep: one global threshold over the scores, within what the schema allows."""

from collections.abc import Mapping
from math import ceil
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from zoo_slim._errors import SlimmingError
from zoo_slim._union_find import Ids, UnionFind
from zoo_slim.schema import Group, PruningSchema
from zoo_slim.schema._schema import ROUNDINGS
from zoo_slim.slimming._criteria import Scores

__all__ = ["Keep", "by_threshold", "check_rounding", "least", "rounded", "select", "tie"]

Keep = NDArray[np.bool_]
"""Bool ``[channels]``."""


def tie(schema: PruningSchema, scores: Scores) -> tuple[Ids, Keep]:
    """Units of channels that go together so that balanced rows stay of equal length.

    In each row the channels are ranked by score, and those of equal rank are tied: whatever units are removed, every
    row then loses equally many.

    Returns:
        the unit of each channel, and which channels are tied to positions that stay.
    """
    count = len(scores)
    union = UnionFind(count + 1)  # the last one stands for all that stays
    lookup = np.append(np.where(np.isnan(scores), np.inf, scores), np.inf)
    for rows in schema.balanced():
        channels = np.where(rows < 0, count, rows)
        order = np.lexsort((channels, lookup[channels]), axis=-1)
        ranked = np.take_along_axis(channels, order, axis=-1)
        union.unify(ranked, ranked[:1])
    units = union.find(np.arange(count + 1))
    return units[:-1], units[:-1] == units[-1]


def check_rounding(rounding: str) -> None:
    """Compare with the roundings that there are.

    Raises:
        SlimmingError: it is another one.
    """
    if rounding not in ROUNDINGS:
        raise SlimmingError(f"rounding {rounding!r} is unknown: give 'none', 'eight' or 'two_pow'")


def rounded(keep: int, width: int, rounding: str) -> int:
    """How many of ``width`` channels to keep where at least ``keep`` must be: a multiple of 8, or a power of two."""
    if rounding == "eight":
        keep = ceil(keep / 8) * 8
    elif rounding == "two_pow":
        keep = 1 << max(keep - 1, 0).bit_length()
    return min(keep, width)


def least(group: Group, minimum: int | float) -> int:
    """How many channels of a group stay whatever the ratio: its own minimum, or else the one that was given."""
    least = minimum if isinstance(minimum, (int, np.integer)) else max(int(group.width * minimum + 1e-9), 2)
    return min(group.width, max(1, group.minimum if group.minimum is not None else least))


def select(
    schema: PruningSchema,
    scores: Scores,
    ratio: float,
    *,
    minimum: int | float = 0.02,
    rounding: str | None = None,
    allow_inexact: bool = False,
) -> Keep:
    """Remove the ``ratio`` of all scored channels that score lowest, over all groups together.

    Of equal scores, each group loses the same share.

    Args:
        schema: groups with a ``ratio`` of their own are thinned by that instead, and do not count for the threshold.
        scores: float64 ``[channels]``, NaN for channels that stay.
        ratio: the share to remove, ``0 <= ratio < 1``. Less is removed where a bound below forbids more.
        minimum: what each group keeps at least: a number of channels, or a share of its width, then at least 2.
        rounding: ``none``, ``eight`` or ``two_pow``; the schema's by default.
        allow_inexact: also remove channels for which removal does not equal masking.

    Raises:
        SlimmingError: a ratio or a minimum out of range, or an unknown rounding.
    """
    rounding = schema.rounding if rounding is None else rounding
    check_rounding(rounding)
    is_count = isinstance(minimum, (int, np.integer)) and not isinstance(minimum, bool) and minimum >= 0
    if not is_count and not (isinstance(minimum, (float, np.floating)) and 0 <= minimum <= 1):
        raise SlimmingError(f"minimum={minimum!r} is neither a number of channels nor a share: give 8, or 0.02")
    keep, units, unit_score = by_threshold(schema, scores, ratio, allow_inexact)
    _restore(keep, units, unit_score, schema, minimum, rounding)
    return keep


def by_threshold(
    schema: PruningSchema, scores: Scores, ratio: float, allow_inexact: bool = False
) -> tuple[Keep, Ids, Scores]:
    """What the threshold alone keeps, before minima and roundings bring channels back; arguments as for `select`.

    Returns:
        the channels kept; the unit of each channel, see `tie`; the score of its unit, infinite for what stays anyway.
    """
    if not isinstance(ratio, Real) or not 0 <= ratio < 1:
        raise SlimmingError(f"ratio {ratio!r} is not a share of channels to remove: give 0 <= ratio < 1")
    members = schema.members()
    fixed = np.isnan(scores) | schema.untouched(allow_inexact)
    scores = np.where(fixed, np.nan, scores)
    units, stay = tie(schema, scores)
    np.logical_or.at(stay_units := np.zeros(len(scores) + 1, dtype=bool), units, fixed | stay)
    fixed = stay_units[units]
    total, sizes = np.zeros(len(scores) + 1), np.zeros(len(scores) + 1)
    np.add.at(total, units, np.where(fixed, 0.0, scores))
    np.add.at(sizes, units, 1.0)
    unit_score = np.where(fixed, np.inf, total[units] / np.maximum(sizes[units], 1))

    order = np.lexsort((units, _turns(units, unit_score, members), unit_score))
    keep = np.ones(len(scores), dtype=bool)
    for name, group in schema.groups.items():
        if group.ratio is not None:
            _remove_lowest(keep, units, order[np.isin(order, members[name]) & ~fixed[order]], group.ratio)
    _remove_lowest(keep, units, order[~schema.own_ratio()[order] & ~fixed[order]], ratio)
    return keep, units, unit_score


def _turns(units: Ids, unit_score: Scores, members: Mapping[str, Ids]) -> NDArray[np.float64]:
    """Decide between units of equal score: the share of a group that is gone when a unit has had its turn there.

    So of equal scores, which a network trained without sparsity has, every group loses the same share.
    """
    turns = np.full(len(units) + 1, np.inf)
    for channels in members.values():
        rank = np.empty(len(channels))
        rank[np.lexsort((units[channels], unit_score[channels]))] = np.arange(1, len(channels) + 1)
        np.minimum.at(turns, units[channels], rank / len(channels))
    return turns[units]


def _remove_lowest(keep: Keep, units: Ids, order: Ids, ratio: float) -> None:
    """Remove whole units, the first of ``order`` first, while no more than ``ratio`` of it is gone."""
    budget = int(len(order) * ratio + 1e-9)
    if not budget:
        return
    last = budget
    while last and last < len(order) and units[order[last]] == units[order[last - 1]]:
        last -= 1
    gone = np.zeros(int(units.max()) + 1, dtype=bool)
    gone[units[order[:last]]] = True
    keep &= ~gone[units]


def _restore(
    keep: Keep, units: Ids, unit_score: Scores, schema: PruningSchema, minimum: int | float, rounding: str
) -> None:
    """Bring back the best of what was removed until every group keeps enough. Only ever adds, so it ends."""
    members = schema.members()
    changed = True
    while changed:
        changed = False
        for name, group in schema.groups.items():
            channels = members[name]
            while (
                want := rounded(max(kept := int(keep[channels].sum()), least(group, minimum)), group.width, rounding)
            ) > kept:
                removed = channels[~keep[channels]]
                best = units[removed[np.lexsort((removed, -unit_score[removed]))[: want - kept]]]
                keep |= np.isin(units, best)
                changed = True
