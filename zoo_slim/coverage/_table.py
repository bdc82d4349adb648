"""What coverage found, in words and as Markdown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["BAD", "markdown", "summary", "verdict", "why"]

Record = Mapping[str, Any]

_CONSEQUENCE = "one of its operands has channels that stay"
"""Follows from other channels that stay: from the images', where there is no other reason."""

EXACT, WRONG, FAILS, LARGE, NOTHING = "exact", "NOT EXACT", "FAILS", "too large", "nothing to remove"

BAD = (WRONG, FAILS)
"""Verdicts that must not be."""

_HEADINGS = (
    "model", "parameters", "channels", "removable", "inexact", "share", "verdict", "difference", "training branches",
    "training step", "left", "trace", "memory", "what keeps the rest",
)  # fmt: skip
_NUMBERS = {"parameters", "channels", "removable", "inexact", "share", "difference", "left", "trace", "memory"}

_LEGEND = """\
- **channels**: classes of channels that can only be removed together; **removable**: those whose removal equals
  masking; **inexact**: those for which it cannot (they pass a normalisation over channels, for instance), left alone by
  default.
- **share**: of all weight-axis positions, those that can be removed with masked equivalence. A position is an index
  along an axis of a parameter; axes of size 1 and kernel axes do not count. The images' channels and the classes are
  among the positions, so that it is never 100 %.
- **verdict**: *exact* if both slim networks compute what the masked original does, to a relative difference below 1e-9
  in float64, and both can be trained a step. *too large*: traced, slimmed and run without weights; the weights were not
  compared within the bounds on time and memory.
- **difference**: the largest relative one; **training branches**: whether the branches that only run in training mode
  are part of it (not where they are random).
- **left**: parameters after slimming by criterion (`bn_scale` where most channels have a BatchNorm scale, else `l2`).
- **trace**: processor seconds of the first trace in a fresh process; **memory**: its peak above what the process held
  before.
- **what keeps the rest**: the most frequent reasons for which channels are frozen or inexact, with the numbers of
  channels they met. A channel that is met twice counts twice; the outputs are left out.
"""


def verdict(record: Record) -> str:
    """One of `EXACT`, `WRONG`, `FAILS`, `LARGE` and `NOTHING`."""
    if not all(run["exact"] for run in record["runs"]):
        return WRONG
    cut_off = record.get("ended") in ("time", "memory") and "channels" in record
    if record["failures"] and not (cut_off and len(record["failures"]) == 1):
        return FAILS
    if record.get("removable") == 0:
        return NOTHING
    if cut_off or not record["runs"]:
        return LARGE
    return EXACT


def why(record: Record) -> str:
    """What went wrong, by stage; empty if nothing did."""
    return "; ".join(f"{failure['stage']}: {failure['error']}" for failure in record["failures"])


def summary(records: Iterable[Record]) -> str:
    """How many models there are, and how many of each verdict."""
    counts = Counter(map(verdict, records))
    order = (EXACT, NOTHING, LARGE, WRONG, FAILS)
    parts = [f"{counts[kind]} {kind}" for kind in order if counts[kind] or kind in (EXACT, *BAD)]
    return f"{counts.total()} models: {', '.join(parts)}"


def markdown(records: Sequence[Record], command: str, machine: str, title: str = "Coverage") -> str:
    """The whole page.

    Args:
        records: as `measure` makes them.
        command: that made them.
        machine: where.
        title: the page's.
    """
    records = sorted(records, key=lambda record: (record["model"].startswith("timm/"), record["model"].lower()))
    made_with = sorted({record["made_with"] for record in records if "made_with" in record})
    libraries = sorted({library for record in records for library in record.get("libraries", ())})
    parts = [
        f"# {title}",
        "Every model is traced, then slimmed twice: 40 % of its channels at random, and 50 % by criterion. Both slim "
        "networks are compared with the masked original in float64, with random weights, in evaluation mode and in the "
        "branches that only run in training; then they are trained a step.",
        f"**{summary(records)}.**",
        _figures(records),
        f"    {command}",
        f"Made with {'; '.join([*made_with, *libraries, machine])}.",
        _LEGEND.rstrip(),
    ]
    if bad := [record for record in records if verdict(record) in BAD]:
        parts += ["## Not exact, or failing", "\n".join(f"- `{record['model']}`: {_bad(record)}" for record in bad)]
    if large := [record for record in records if verdict(record) == LARGE]:
        parts += ["## Too large to compare", "\n".join(f"- `{record['model']}`: {_large(record)}" for record in large)]
    parts += ["## Only partly slimmed", _partly(records), "## All models", _rows(records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(records: Sequence[Record]) -> str:
    shares = sorted(record["share"] for record in records if "share" in record)
    seconds = sorted((record["trace_seconds"], record["model"]) for record in records if "trace_seconds" in record)
    memory = sorted((record["trace_mb"], record["model"]) for record in records if record.get("trace_mb") is not None)
    differences = [run["difference"] for record in records for run in record["runs"] if run["exact"]]
    if not shares or not seconds:
        return ""
    middle = len(seconds) // 2
    lines = [
        f"- share of weight-axis positions that can be removed: median {shares[len(shares) // 2]:.0%}, "
        f"least {shares[0]:.0%}",
        f"- trace: median {seconds[middle][0]:.2f} s, longest {seconds[-1][0]:.2f} s ({seconds[-1][1]})",
    ]
    if memory:
        lines.append(f"- memory of a trace: largest {memory[-1][0]:.0f} MB ({memory[-1][1]})")
    if differences:
        lines.append(f"- largest difference of the exact ones: {max(differences):.1e}")
    return "\n".join(lines)


def _bad(record: Record) -> str:
    differences = [f"{run['criterion']}: {run['difference']:.1e}" for run in record["runs"] if not run["exact"]]
    return _escaped("; ".join([*differences, *([why(record)] if record["failures"] else [])]))


def _large(record: Record) -> str:
    done = f"{len(record['runs'])} of 2 runs compared" if record["runs"] else "no weights compared"
    return _escaped(f"{done}{'; ' + why(record) if record['failures'] else ''}")


def _partly(records: Sequence[Record]) -> str:
    """The models of which channels stay though they are no images or outputs, by what keeps the most of them."""
    kept: dict[str, list[Record]] = {}
    whole = 0
    for record in records:
        causes = [reason for reason, _ in record.get("reasons", []) if not reason.endswith(_CONSEQUENCE)]
        if causes:
            kept.setdefault(causes[0], []).append(record)
        else:
            whole += "reasons" in record
    lines = [
        f"In {whole} models every channel can go but those of the images and of the outputs. In the others some are "
        "frozen, or inexact and left alone unless asked for. By what keeps most of them, with the share that can go:",
        "",
    ]
    for reason, models in sorted(kept.items(), key=lambda item: -len(item[1])):
        models.sort(key=lambda record: record["share"])
        names = ", ".join(f"{record['model']} {record['share']:.0%}" for record in models)
        lines.append(f"- **{_escaped(reason)}** ({len(models)}): {names}")
    return "\n".join(lines)


def _rows(records: Iterable[Record]) -> str:
    rule = " | ".join("---:" if heading in _NUMBERS else "---" for heading in _HEADINGS)
    lines = [f"| {' | '.join(_HEADINGS)} |", f"| {rule} |"]
    lines += [f"| {' | '.join(_cells(record))} |" for record in records]
    return "\n".join(lines)


def _cells(record: Record) -> list[str]:
    runs = record["runs"]
    left = runs[-1]["slim_params"] if runs else record.get("slim_params")
    steps = {run["training_step"] for run in runs if "training_step" in run}
    reasons = [f"{_escaped(reason)} ({count:,})" for reason, count in record.get("reasons", [])[:3]]
    return [
        record["model"],
        _number(record.get("params"), ","),
        _number(record.get("channels"), ","),
        _number(record.get("removable"), ","),
        _number(record.get("inexact"), ","),
        _number(record.get("share"), ".0%"),
        verdict(record),
        _number(max((run["difference"] for run in runs), default=None), ".1e"),
        ("yes" if all(run["training_compared"] for run in runs) else "no") if runs else "",
        ", ".join(sorted(steps)),
        _number(left / record["params"] if left is not None else None, ".0%"),
        _number(record.get("trace_seconds"), ".2f", " s"),
        _number(record.get("trace_mb"), ".0f", " MB"),
        "; ".join(reasons) or (_escaped(why(record))[:120] if record["failures"] else ""),
    ]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
