"""What a checkpoint's config records of how its network came to be: trainings and slimmings, the latest first."""

import json
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

__all__ = ["as_base", "group_ratios_record", "history", "steps", "trainings"]

LENGTH = 100_000
"""Characters that the records of all earlier steps may have as JSON; the oldest go. A config has at most 1 MiB."""

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
    kept: dict[str, Any] = {"before": _shortened(steps(before))}
    if isinstance(before.get("base"), Mapping):
        kept["base"] = as_base(before["base"])
    return kept


def as_base(record: Record, bases: int = BASES) -> dict[str, Any]:
    """Return what a slim network's record says of the one that it was slimmed from, and of at most ``bases - 1``
    before that.
    """
    kept, *before = _shortened(steps(record)) or [{}]
    if before:
        kept["before"] = before
    if bases > 1 and isinstance(record.get("base"), Mapping):
        kept["base"] = as_base(record["base"], bases - 1)
    return kept


def steps(record: Record) -> list[dict[str, Any]]:
    """Return a record and those before it, each by itself, the latest first."""
    before = record.get("before")
    found = [record, *(before if isinstance(before, list) else [])]
    return [_alone(step) for step in found if isinstance(step, Mapping)]


def trainings(record: Record) -> list[dict[str, Any]]:
    """Return what a config records of trainings, the latest first, back to the slimming or to random weights."""
    return list(takewhile(lambda step: isinstance(step.get("epochs"), int), steps(record)))


def group_ratios_record(ratios: Mapping[str, float] | None) -> dict[str, list[str]]:
    """Return what is recorded of the ratios of single groups: a list, as their order counts, which objects lose."""
    return {"group_ratios": [f"{name}={share}" for name, share in ratios.items()]} if ratios else {}


def _alone(step: Record) -> dict[str, Any]:
    return {key: value for key, value in step.items() if key not in ("before", "base")}


def _shortened(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The latest steps that there is room for, without what is nested deeper than our own records are."""
    kept, room = [], LENGTH
    for step in found:
        flat = {key: value for key, value in step.items() if _is_flat(value)}
        room -= len(json.dumps(flat))
        if room < 0:
            break
        kept.append(flat)
    return kept


def _is_flat(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return not any(isinstance(item, (Mapping, list, tuple)) for item in inner)
