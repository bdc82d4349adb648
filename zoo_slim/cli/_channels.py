"""Which channels of a schema a pruning result removed, and a picture of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import nn

    from zoo_slim.result import PruningResult
    from zoo_slim.schema import PruningSchema

__all__ = ["bars", "kept_per_group", "removable", "removed"]

MOST_BARS = 48
WIDTH = 32


def removed(schema: "PruningSchema", model: "nn.Module", result: "PruningResult") -> "NDArray[np.bool_]":
    """Return which channels are gone, bool ``[schema.channels]``; ``model`` is the original, weights or not."""
    import numpy as np

    from zoo_slim.slimming._removal import present_channels, without

    gone = ~present_channels(without(schema, result.removed), model)
    for name, places in schema.axes(model).items():
        for axis, channels in places.items():
            index = result.kept.get(name, {}).get(axis)
            if index is None:
                continue
            lost = np.ones(channels.shape, dtype=bool)
            np.put_along_axis(lost, index.numpy().reshape(*channels.shape[:-1], -1), False, axis=-1)
            gone[channels[lost & (channels >= 0)]] = True
    return gone


def removable(schema: "PruningSchema") -> int:
    """How many channels may be removed without being asked for by name."""
    return sum(group.width for group in schema.groups.values() if not group.inexact)


def kept_per_group(schema: "PruningSchema", gone: "NDArray[np.bool_]") -> dict[str, tuple[int, int]]:
    """Return ``{group: (channels kept, width)}``."""
    return {
        name: (len(channels) - int(gone[channels].sum()), len(channels)) for name, channels in schema.members().items()
    }


def bars(kept: "Mapping[str, tuple[int, int]]") -> "Table":
    """Return a picture: one bar per group, the first ones of a large network."""
    from rich.bar import Bar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(width=WIDTH)
    grid.add_column(justify="right")
    for name, (count, width) in list(kept.items())[:MOST_BARS]:
        colour = "green" if count == width else "cyan"
        grid.add_row(name, Bar(width, 0, count, width=WIDTH, color=colour, bgcolor="grey23"), f"{count} of {width}")
    if len(kept) > MOST_BARS:
        rest = list(kept.values())[MOST_BARS:]
        grid.add_row(
            f"… {len(rest)} more groups", "", f"{sum(part[0] for part in rest)} of {sum(part[1] for part in rest)}"
        )
    return grid
