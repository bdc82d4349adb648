"""What the scales of a network say before anything is removed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_slim.cli._output import facts, percent
from zoo_slim.cli._pictures import check_ending, write_picture

if TYPE_CHECKING:
    from rich.table import Table

    from zoo_slim.slimming import Cliff

__all__ = ["check_picture", "draw_scales", "scales_report"]

WIDTH = 64
_LEVELS = "▁▂▃▄▅▆▇█"


def scales_report(cliff: "Cliff", ratio: float | None) -> "Table":
    """Return a table: how many scales are dead, where the cliff is, and what ``ratio`` would lose."""
    count = len(cliff.scales)
    rows: list[tuple[str, Any]] = [
        ("channels that a ratio may take", count),
        ("scales exactly 0", f"{cliff.dead} ({percent(cliff.dead / max(count, 1), 1)})"),
        ("below 1 % of the group's RMS", f"{cliff.faint} ({percent(cliff.faint / max(count, 1), 1)})"),
        ("sorted |gamma|, log", _curve(cliff)),
        (
            "cliff",
            f"{cliff.ratio:.3g}: no group loses more than {percent(cliff.tolerance, 0)} of its variance up to there",
        ),
    ]
    if ratio is not None:
        rows.append((f"ratio {ratio:g}", _describe(cliff, ratio)))
    return facts(rows)


def _describe(cliff: "Cliff", ratio: float) -> str:
    loss = cliff.at(ratio)
    if not loss.channels:
        return "no channel is removed"
    if not loss.share:
        return "no variance is lost; what remains are constants, see --fold"
    share = percent(loss.share, 1) if loss.share >= 5e-4 else "less than 0.1 %"
    return f"{share} of the variance of group {loss.group} is lost"


def _curve(cliff: "Cliff") -> str:
    """Draw the scales in ascending order, in one line: blank where they are 0, and ``|`` at the cliff."""
    import numpy as np

    scales = cliff.scales
    if not len(scales):
        return ""
    at = scales[(np.arange(WIDTH) * len(scales)) // WIDTH]
    alive = at[at > 0]
    if not len(alive):
        return " " * WIDTH + "|"
    low, high = np.log(alive.min()), np.log(alive.max())
    heights = (np.log(np.maximum(at, alive.min())) - low) / max(high - low, 1e-12) * (len(_LEVELS) - 1)
    drawn = [_LEVELS[round(float(height))] if scale else " " for scale, height in zip(at, heights, strict=True)]
    drawn.insert(round(cliff.ratio * WIDTH), "|")
    return "".join(drawn)


def check_picture(file: Path) -> None:
    """Refuse a picture that could not be written.

    Raises:
        ZooSlimError: an unknown ending, or matplotlib is missing.
        OSError: it is a folder.
    """
    from importlib.util import find_spec

    from zoo_slim._errors import ZooSlimError

    check_ending("--picture", file)
    if find_spec("matplotlib") is None:
        raise ZooSlimError("a picture needs matplotlib: pip install matplotlib")


def draw_scales(cliff: "Cliff", title: str, ratio: float | str | None, file: Path) -> None:
    """Write the picture of the sorted scales."""
    from zoo_slim.pictures import sorted_scales

    write_picture(sorted_scales(cliff, title, ratio if isinstance(ratio, float) else None), file)
