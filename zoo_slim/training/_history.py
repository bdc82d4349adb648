"""What a checkpoint's config records of how its network came to be: trainings and slimmings, the latest first."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

__all__ = ["as_base", "history", "trainings"]

STEPS = 64
"""So many earlier trainings and slimmings are recorded."""

BASES = 2
"""A base that was slim itself is recorded with its own base, but no further: a config holds what is so deep at most."""

Record = Mapping[str, Any]


def history(before: Record) -> dict[str, Any]:
    """Return what a training's record says of the time before.

    Args:
        before: the record of the network that is trained now: of its last training, or its slimming; may be empty.

    Returns:
        ``before``, the records up to then as a list, the latest first; and ``base``, the record of the network that
        it was slimmed from, if it was. Nothing where ``before`` is empty.
    """
    if not before:
        return {}
    kept: dict[str, Any] = {"before": _steps(before)[:STEPS]}
    if isinstance(before.get("base"), Mapping):
        kept["base"] = as_base(before["base"])
    return kept


def as_base(record: Record, bases: int = BASES) -> dict[str, Any]:
    """Return what a slim network's record says of the one that it was slimmed from, and of at most ``bases - 1``
    before that.
    """
    own, *before = _steps(record)
    kept = {**own, **({"before": before[:STEPS]} if before else {})}
    if bases > 1 and isinstance(record.get("base"), Mapping):
        kept["base"] = as_base(record["base"], bases - 1)
    return kept


def trainings(record: Record) -> list[dict[str, Any]]:
    """Return what a config records of trainings, the latest first, back to the slimming or to random weights."""
    return list(takewhile(lambda step: isinstance(step.get("epochs"), int), _steps(record)))


def _steps(record: Record) -> list[dict[str, Any]]:
    """A record and those before it, each by itself. Early versions put each into the next."""
    own = {key: value for key, value in record.items() if key not in ("before", "base")}
    before = record.get("before")
    if isinstance(before, Mapping):
        return [own, *_steps(before)]
    return [own, *(dict(step) for step in (before if isinstance(before, list) else []) if isinstance(step, Mapping))]
