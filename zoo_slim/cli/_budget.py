"""How much to remove, as a shell's user says it."""

from typing import Any

import typer

from zoo_slim.cli._options import parse_count

__all__ = ["parse_blocks", "parse_budget"]


def parse_blocks(text: str) -> list[str] | int | str:
    """Read ``3`` as a number of blocks, ``dead`` and ``needed`` as rules, and all else as names."""
    if text in ("dead", "needed"):
        return text
    if text.isdecimal():
        return int(text)
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise typer.BadParameter(f"--remove-blocks takes names with commas, a number, dead or needed, not {text!r}")
    return names


def parse_budget(
    ratio: float | str | None,
    params: str | None,
    macs: str | None,
    group_ratios: dict[str, float],
    blocks: list[str] | int | str | None,
    dry_run: bool,
) -> tuple[dict[str, Any], str]:
    """Return the one budget that was given, if any, and a tag for the network that it makes."""
    given = {name: text for name, text in (("ratio", ratio), ("params", params), ("macs", macs)) if text is not None}
    if not given and dry_run:
        return {}, "none"
    thinned = any(group_ratios.values())
    elsewhere = isinstance(blocks, (list, int)) or (thinned and blocks is None)
    if len(given) > 1 or (not given and not elsewhere):
        named = " and ".join(f"--{name}" for name in given) or "none"
        more = "" if given else "; or say what goes with --group-ratio or --remove-blocks"
        raise typer.BadParameter(f"give exactly one of --ratio, --params and --macs, not {named}{more}")
    tags = [] if blocks is None else [f"{blocks}-blocks" if isinstance(blocks, str) else f"blocks-{_count(blocks)}"]
    if not given:
        return {}, "-".join(["groups"] * thinned + tags)
    ((name, text),) = given.items()
    if ratio is not None:
        return {"ratio": ratio}, "-".join([ratio if isinstance(ratio, str) else f"{ratio:g}", *tags])
    return {name: parse_count(str(text), f"--{name}")}, "-".join([name, str(text), *tags])


def _count(blocks: list[str] | int) -> int:
    return blocks if isinstance(blocks, int) else len(blocks)
