"""Strict JSON for files from strangers: bounded, no duplicate keys, no NaN, no infinity."""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from zoo_slim._errors import CheckpointError

__all__ = ["check_tree", "dump", "fail", "is_text", "parse_object", "show"]

_LONGEST_NUMBER = 32
_MOST_VALUES = 500_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show(value: object, limit: int = 80) -> str:
    """Return a short, printable form of any value, for messages."""
    text = ascii(value).replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def fail(where: str, field: str, expected: str, found: object) -> NoReturn:
    """Raise the error of a field that is not as it must be."""
    raise CheckpointError(f"{where}: field {field!r}: expected {expected}, found {show(found)}")


class _NumberError(ValueError):
    """A number that a file may not hold."""


def _no_constant(text: str) -> NoReturn:
    raise _NumberError(f"{text} is not a number that a file may hold")


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise _NumberError(f"the number {text[:20]}... is too long")
    return int(text)


def _real(text: str) -> float:
    value = float(text) if len(text) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(value):
        raise _NumberError(f"the number {text[:20]} is too large or too long")
    return value


def _field_of_number(text: str) -> str:
    """Return the field of the first number that a file may not hold, to begin a message with; ``""`` if it has none."""
    bad, found = object(), list[str]()

    def number(parse: Callable[[str], object]) -> Callable[[str], object]:
        def judge(text: str) -> object:
            try:
                return parse(text)
            except _NumberError:
                return bad

        return judge

    def note(pairs: list[tuple[str, object]]) -> None:
        for name, value in pairs:
            if value is bad or (isinstance(value, list) and any(item is bad for item in value)):
                found.append(name)

    with contextlib.suppress(ValueError, RecursionError):
        json.loads(
            text,
            parse_constant=number(_no_constant),
            parse_int=number(_integer),
            parse_float=number(_real),
            object_pairs_hook=note,
        )
    return f"field {show(found[0])}: " if found else ""


def is_text(value: str) -> bool:
    """Return whether a string has no half surrogate pairs, which JSON's escapes can spell."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if not all(map(is_text, result)):
        raise ValueError(f"the key {show(next(key for key in result if not is_text(key)))} is no text")
    if len(result) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {show(name)} occurs twice")
    return result


def parse_object(data: bytes | str, where: str, limit: int) -> dict[str, object]:
    """Parse one JSON object of at most ``limit`` bytes.

    Raises:
        CheckpointError: too long, not UTF-8, not JSON, keys that are no text or occur twice, NaN, infinities,
            too many values, or not an object.
    """
    if len(data) > limit:
        raise CheckpointError(f"{where}: is {len(data)} bytes long, at most {limit} are read")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        text.encode("utf-8")
        if sum(map(text.count, ",[{")) > _MOST_VALUES:  # a few bytes of JSON can become a hundred in memory
            raise ValueError(f"it has more than {_MOST_VALUES} values")
        value = json.loads(
            text, parse_constant=_no_constant, parse_int=_integer, parse_float=_real, object_pairs_hook=_unique
        )
    except _NumberError as error:
        raise CheckpointError(f"{where}: {_field_of_number(text)}{error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: is not the JSON that zoo_slim writes: {show(str(error), 200)}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {show(value)}")
    return value


def check_tree(value: object, where: str, field: str, depth: int = 6) -> object:
    """Return a copy of plain data: finite numbers, strings, booleans, None, and lists and objects of these.

    Tuples become lists, and scalars of NumPy and torch become numbers, so that what is returned equals its JSON.

    Raises:
        CheckpointError: naming the field that holds anything else, or is nested more than ``depth`` levels deep.
    """
    if not isinstance(value, (bool, int, float, str, dict, list, tuple)) and hasattr(value, "item"):
        try:
            value = value.item()
        except (RuntimeError, ValueError):
            fail(where, field, "a single number", value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else fail(where, field, "an integer of at most 64 bits", value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else fail(where, field, "a finite number", value)
    if isinstance(value, str):
        if len(value) > 100_000 or not is_text(value) or _CONTROL.search(value):
            fail(where, field, "text of at most 100000 characters, none of them a terminal's control", value)
        return str(value)
    if depth == 0 or not isinstance(value, (dict, list, tuple)):
        fail(where, field, "numbers, text, booleans, or lists and objects of these, at most 6 levels deep", value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or len(key) > 300 or _CONTROL.search(key):
                fail(where, field, "keys that are text of at most 300 characters, none of them a control", key)
        return {str(key): check_tree(item, where, f"{field}.{key[:60]}", depth - 1) for key, item in value.items()}
    return [check_tree(item, where, f"{field}[{i}]", depth - 1) for i, item in enumerate(value)]


def dump(value: object) -> str:
    """Return sorted, indented JSON with a newline at its end."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
