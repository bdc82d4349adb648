"""Options that several commands share, and how their texts become values."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zoo_slim.training._run_all import Ratio

__all__ = [
    "AsJson", "GroupRatios", "Name", "Options", "Pruned", "Rounding", "example", "parse_count", "parse_group_ratios",
    "parse_options", "parse_ratio", "parse_share",
]  # fmt: skip

Name = Annotated[str, typer.Argument(help="A registered name, hf-hub:org/name[@revision], or a checkpoint's folder.")]
Pruned = Annotated[str | None, typer.Option("--pruned", help="Variant, 0.75 for instance.")]
Rounding = Annotated[str | None, typer.Option("--rounding", help="none, eight or two_pow: of the channels kept.")]
GroupRatios = Annotated[
    list[str] | None,
    typer.Option(
        "--group-ratio",
        help="NAME=SHARE: what to remove of one channel group, or of those that fit a pattern ('classifier.*=0.9'), "
        "whatever the others lose; groups that the criterion says nothing of go by l2. May be repeated: the last that "
        "fits counts.",
    ),
]
Options = Annotated[list[str] | None, typer.Option("--option", help="Builder option key=value; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def example(command: str) -> str:
    """The line that ends a command's help."""
    return f"Example: zoo-slim {command}"


def parse_options(pairs: list[str] | None, stem: str | None, num_classes: int | None) -> dict[str, Any]:
    """Return the builder's keyword arguments; ``key=value`` are read as true or false, numbers or text."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--option takes key=value, not {pair!r}")
        options[key.replace("-", "_")] = _value(value)
    if stem is not None:
        options["stem"] = stem
    if num_classes is not None:
        options["num_classes"] = num_classes
    return options


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_ratio(text: str, option: str) -> "Ratio":
    """Read ``auto`` or a share; which shares there can be is for slimming to say."""
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{option} takes a share of the channels, 0 to 1, or auto, not {text!r}") from None


def parse_group_ratios(pairs: list[str] | None) -> dict[str, float]:
    """Read ``name=share``; which names and shares there can be is for slimming to say."""
    ratios: dict[str, float] = {}
    for pair in pairs or []:
        name, _, share = pair.rpartition("=")
        ratios.pop(name, None)  # the last one counts, and comes last
        try:
            ratios[name] = float(share)
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"--group-ratio takes NAME=SHARE, classifier.0=0.9 for instance, not {pair!r}")
    return ratios


def parse_share(text: str, option: str) -> int | float:
    """Read ``8`` as a number of channels and ``0.1`` as a share."""
    try:
        value = int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        value = -1.0
    if isinstance(value, float) and not 0 <= value <= 1:
        raise typer.BadParameter(f"{option} takes a number of channels or a share of them, not {text!r}")
    return value


def parse_count(text: str, option: str) -> int | float:
    """Read a budget: ``2500000``, ``2.5M`` or ``300k`` is a number, ``0.25`` (below 1) a share."""
    suffix = _SUFFIXES.get(text[-1:].lower())
    try:
        value = float(text[:-1] if suffix else text) * (suffix or 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e18 or value == 1:
        raise typer.BadParameter(f"{option} takes a number such as 2.5M, or a share such as 0.25, not {text!r}")
    return value if value < 1 else round(value)
