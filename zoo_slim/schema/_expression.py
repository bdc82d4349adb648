"""Channels as short texts: ``conv1``, ``conv1[0:32]``, ``conv1*49``, and lists of these and of plain counts.

A group's name stands for all its channels in order; ``[a:b]`` for some; ``[3,1,2]`` for these; ``*r`` repeats each
channel ``r`` times in a row, as `flatten` does. A number ``n`` stands for ``n`` positions that stay.
"""

import re
from collections.abc import Mapping

import numpy as np

from zoo_slim._errors import SchemaError
from zoo_slim._union_find import Ids

__all__ = ["Expression", "format_channels", "parse_channels"]

Expression = str | int | list[str | int]
_PART = re.compile(r"(?P<group>[^\[\]*]+)(\[(?P<members>[0-9:,]+)\])?(\*(?P<repeat>[1-9][0-9]{0,8}))?")
_LIMIT = 1 << 24
"""Positions that one axis may have: far above any network's, small enough to be refused before memory runs out."""


def parse_channels(expression: object, members: Mapping[str, Ids], where: str) -> Ids:
    """The channel of each position, -1 for those that stay.

    Args:
        expression: a text, a count, or a list of these.
        members: the channels of each group.
        where: the field that it stands in, for errors.
    """
    parts: list[Ids] = []
    total = 0
    for part in expression if isinstance(expression, list) else [expression]:
        channels = _parse_part(part, members, where)
        total += len(channels)
        if total > _LIMIT:
            raise SchemaError(f"{where}: {expression!r} describes more than {_LIMIT} positions")
        parts.append(channels)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _parse_part(part: object, members: Mapping[str, Ids], where: str) -> Ids:
    if isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= _LIMIT:
        return np.full(part, -1, dtype=np.int64)
    match = _PART.fullmatch(part) if isinstance(part, str) else None
    if match is None:
        raise SchemaError(f"{where}: {part!r} is neither a count nor of the form 'group', 'group[a:b]' or 'group*r'")
    if match["group"] not in members:
        raise SchemaError(f"{where}: there is no group {match['group']!r} among the schema's groups")
    channels = members[match["group"]]
    if match["members"]:
        channels = channels[_indices(match["members"], len(channels), where)]
    if match["repeat"]:
        repeat = int(match["repeat"])
        if repeat * len(channels) > _LIMIT:
            raise SchemaError(f"{where}: {part!r} describes more than {_LIMIT} positions")
        channels = channels.repeat(repeat)
    return channels


def _indices(text: str, width: int, where: str) -> Ids:
    chosen: list[int] = []
    for item in text.split(","):
        ends = item.split(":")
        if len(ends) > 2 or not all(end.isdigit() and len(end) < 9 for end in ends):
            raise SchemaError(f"{where}: {item!r} is neither a number nor a range a:b")
        first, last = int(ends[0]), int(ends[-1]) + (len(ends) == 1)
        if not first < last <= width:
            raise SchemaError(f"{where}: {item!r} does not lie in a group of {width} channels")
        if len(chosen) + last - first > _LIMIT:
            raise SchemaError(f"{where}: {text[:40]!r}… describes more than {_LIMIT} positions")
        chosen += range(first, last)
    return np.asarray(chosen, dtype=np.int64)


def format_channels(channels: Ids, members: Mapping[str, Ids]) -> Expression:
    """The shortest of the forms above that `parse_channels` reads back as ``channels``."""
    names = list(members)
    first = np.asarray([part[0] if len(part) else -1 for part in members.values()], dtype=np.int64)
    owner = np.searchsorted(first, channels, side="right") - 1
    parts: list[str | int] = []
    position, end = 0, len(channels)
    while position < end:
        stop = position + 1
        if channels[position] < 0:
            while stop < end and channels[stop] < 0:
                stop += 1
            parts.append(stop - position)
            position = stop
            continue
        repeat = 1
        while position + repeat < end and channels[position + repeat] == channels[position]:
            repeat += 1
        group, count = owner[position], 1
        while _continues(channels, owner, position, count, repeat):
            count += 1
        low = int(channels[position] - first[group])
        name = names[group]
        text = name if low == 0 and count == len(members[name]) else f"{name}[{low}:{low + count}]"
        if count == 1 and len(members[name]) > 1:
            text = f"{name}[{low}]"
        parts.append(text if repeat == 1 else f"{text}*{repeat}")
        position += count * repeat
    parts = _gather(parts)
    return parts[0] if len(parts) == 1 else parts


def _continues(channels: Ids, owner: Ids, position: int, count: int, repeat: int) -> bool:
    start = position + count * repeat
    block = channels[start : start + repeat]
    after = start + repeat
    return (
        len(block) == repeat
        and owner[start] == owner[position]
        and bool((block == channels[position] + count).all())
        and not (after < len(channels) and channels[after] == block[0])
    )


def _gather(parts: list[str | int]) -> list[str | int]:
    """Join neighbouring pieces of one group: ``a[0]``, ``a[3]`` becomes ``a[0,3]``."""
    joined: list[str | int] = []
    piece = re.compile(r"([^\[\]*]+)\[([0-9:,]+)\]")
    for part in parts:
        now = piece.fullmatch(part) if isinstance(part, str) else None
        before = piece.fullmatch(joined[-1]) if joined and isinstance(joined[-1], str) else None
        if now and before and now[1] == before[1]:
            joined[-1] = f"{now[1]}[{before[2]},{now[2]}]"
        else:
            joined.append(part)
    return joined
