"""Counts in short, as tables have them."""

__all__ = ["amount"]


def amount(value: object, unit: str = "") -> str:
    """Write a count in short: 11173962 is ``11.17 M``. What is not a number is a dash."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "—"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.2f} {letter}{unit}"
    return f"{value:g} {unit}".rstrip()
