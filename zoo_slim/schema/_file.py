"""The schema file: JSON that a person can read in a review."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoo_slim._errors import SchemaError
from zoo_slim._files import replacing_file
from zoo_slim._union_find import Ids
from zoo_slim.schema._expression import Expression, format_channels, parse_channels
from zoo_slim.schema._schema import ROUNDINGS, Group, Layer, PruningSchema, is_share

__all__ = ["FORMAT", "VERSION", "contents_of", "document_of", "dumps", "loads", "read_schema", "write_schema"]

FORMAT, VERSION = "zoo_slim.schema", 1
_TOP = {
    "format",
    "version",
    "architecture",
    "fingerprint",
    "rounding",
    "groups",
    "layers",
    "parameters",
    "attributes",
    "equal",
}
_LIMIT_BYTES = 16 << 20
_MOST = 1 << 24


class Readable(Protocol):
    """A path, or a file inside a package."""

    def read_bytes(self) -> bytes: ...


def dumps(schema: PruningSchema) -> str:
    """The schema as JSON: one line per group and per layer."""
    members = schema.members()

    def text(channels: Ids) -> Expression:
        return format_channels(channels, members)

    groups = {}
    for name, group in schema.groups.items():
        entry: dict[str, Any] = {"width": group.width}
        if group.merge != "or":
            entry["merge"] = group.merge
        entry.update({key: value for key in ("ratio", "minimum") if (value := getattr(group, key)) is not None})
        if group.inexact:
            entry["inexact"] = True
        groups[name] = entry
    layers: dict[str, dict[str, Any]] = {}
    for name, layer in schema.layers.items():
        line: dict[str, Any] = {}
        if layer.inputs is not None:
            line["in"] = text(layer.inputs)
        if layer.outputs is not None:
            line["out"] = text(layer.outputs)
        if layer.groups != 1:
            line["groups"] = layer.groups
        if layer.transposed:
            line["transposed"] = True
        layers[name] = line
    for name, channels in schema.norms.items():
        layers[name] = {"norm": text(channels)}
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for key in ("architecture", "fingerprint"):
        if getattr(schema, key) is not None:
            document[key] = getattr(schema, key)
    if schema.rounding != "none":
        document["rounding"] = schema.rounding
    document["groups"], document["layers"] = groups, layers
    if schema.parameters:
        document["parameters"] = {
            name: {str(axis): text(channels) for axis, channels in places.items()}
            for name, places in schema.parameters.items()
        }
    if schema.attributes:
        document["attributes"] = {
            name: {key: text(channels) for key, channels in own.items()} for name, own in schema.attributes.items()
        }
    if len(schema.equal):
        document["equal"] = [[text(row) for row in rows] for rows in schema.equal]
    return _layout(document)


def _layout(document: Mapping[str, Any]) -> str:
    lines = []
    for key, value in document.items():
        if isinstance(value, (dict, list)) and value:
            items = value.items() if isinstance(value, dict) else [(None, item) for item in value]
            inner = [f"    {json.dumps(k) + ': ' if k is not None else ''}{json.dumps(item)}" for k, item in items]
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            lines.append(f"  {json.dumps(key)}: {opening}\n" + ",\n".join(inner) + f"\n  {closing}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def loads(text: str | bytes, where: str = "schema") -> PruningSchema:
    """Read a schema.

    Args:
        text: JSON.
        where: what to call the file in errors.

    Raises:
        SchemaError: naming the field, what was found there and what was expected.
    """
    document = document_of(text, where)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SchemaError(
            f"{where}: field 'format' must be {FORMAT!r}; for the original tool's files use read_original"
        )
    if document.get("version") != VERSION:
        raise SchemaError(f"{where}: version {document.get('version')!r} is unknown, this zoo_slim reads {VERSION}")
    if unknown := sorted(set(document) - _TOP):
        raise SchemaError(f"{where}: unknown field {unknown[0]!r}; expected some of {', '.join(sorted(_TOP))}")
    groups = {}
    for name, entry in _table(document, "groups", where).items():
        groups[name] = _group(entry, f"{where}: groups.{name}")
    schema = PruningSchema(groups)
    if schema.channels > _MOST:
        raise SchemaError(f"{where}: the groups have {schema.channels} channels together, more than any network")
    members, total = schema.members(), 0

    def parse(expression: object, place: str) -> Ids:
        nonlocal total
        channels = parse_channels(expression, members, place)
        total += len(channels)
        if total > _MOST:
            raise SchemaError(f"{place}: with it, the schema describes more than {_MOST} positions, as no network has")
        return channels

    layers, norms = {}, {}
    for name, entry in _table(document, "layers", where).items():
        place = f"{where}: layers.{name}"
        if not isinstance(entry, dict) or set(entry) - {"in", "out", "norm", "groups", "transposed"}:
            raise SchemaError(f"{place}: expected an object of 'in', 'out', 'groups', 'transposed', or 'norm'")
        if "norm" in entry:
            if len(entry) > 1:
                raise SchemaError(f"{place}: a norm has no other fields, such as {min(set(entry) - {'norm'})!r}")
            norms[name] = parse(entry["norm"], f"{place}.norm")
            continue
        count = entry.get("groups", 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise SchemaError(f"{place}.groups: {count!r} is not a positive integer")
        transposed = entry.get("transposed", False)
        if not isinstance(transposed, bool):
            raise SchemaError(f"{place}.transposed: {transposed!r} is neither true nor false")
        inputs = parse(entry["in"], f"{place}.in") if "in" in entry else None
        outputs = parse(entry["out"], f"{place}.out") if "out" in entry else None
        for channels in (inputs, outputs):
            if channels is not None and len(channels) % count:
                raise SchemaError(f"{place}.groups: {len(channels)} channels do not divide into {count} groups")
        layers[name] = Layer(inputs, outputs, count, transposed)
    parameters: dict[str, dict[int, Ids]] = {}
    for name, places in _table(document, "parameters", where).items():
        if not isinstance(places, dict) or not all(re.fullmatch("[0-9]{1,2}", key) for key in places):
            raise SchemaError(f'{where}: parameters.{name}: expected an object of axes, such as {{"0": "group"}}')
        parameters[name] = {
            int(axis): parse(value, f"{where}: parameters.{name}.{axis}") for axis, value in places.items()
        }
    attributes: dict[str, dict[str, Ids]] = {}
    for name, own in _table(document, "attributes", where).items():
        if not isinstance(own, dict) or not all(re.fullmatch(r"[^\W\d]\w*(\[[0-9]{1,4}\])?", key) for key in own):
            raise SchemaError(
                f'{where}: attributes.{name}: expected an object of names, such as {{"num_heads": "group"}}'
            )
        attributes[name] = {key: parse(value, f"{where}: attributes.{name}.{key}") for key, value in own.items()}
    equal = []
    rows_list = document.get("equal", [])
    if not isinstance(rows_list, list):
        raise SchemaError(f"{where}: field 'equal' must be a list of lists")
    for number, rows in enumerate(rows_list):
        if not isinstance(rows, list) or not rows:
            raise SchemaError(f"{where}: equal[{number}] must be a list of channels")
        parsed = [parse(row, f"{where}: equal[{number}]") for row in rows]
        if len({len(row) for row in parsed}) != 1:
            raise SchemaError(f"{where}: equal[{number}]: its rows have different lengths")
        equal.append(np.stack(parsed))
    rounding = document.get("rounding", "none")
    if rounding not in ROUNDINGS:
        raise SchemaError(f"{where}: rounding {rounding!r} must be 'none', 'eight' or 'two_pow'")
    for key in ("architecture", "fingerprint"):
        if not isinstance(document.get(key, ""), str):
            raise SchemaError(f"{where}: field {key!r} must be a string")
    return PruningSchema(
        groups, layers, norms, parameters, attributes, equal,
        architecture=document.get("architecture"), fingerprint=document.get("fingerprint"), rounding=rounding,
    )  # fmt: skip


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:60]!r} occurs twice in one object")
        result[key] = value
    return result


def _table(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise SchemaError(f"{where}: field {key!r} must be an object, not {type(value).__name__}")
    return value


def _group(entry: object, where: str) -> Group:
    fields = {"width", "merge", "ratio", "minimum", "inexact"}
    if not isinstance(entry, dict) or set(entry) - fields:
        raise SchemaError(f"{where}: expected an object of {', '.join(sorted(fields))}")
    width, ratio, minimum = entry.get("width"), entry.get("ratio"), entry.get("minimum")
    if not isinstance(width, int) or isinstance(width, bool) or not 0 < width < 1 << 24:
        raise SchemaError(f"{where}.width: {width!r} is not a positive integer")
    if entry.get("merge", "or") not in ("or", "and"):
        raise SchemaError(f"{where}.merge: {entry['merge']!r} must be 'or' or 'and'")
    if ratio is not None and not is_share(ratio):
        raise SchemaError(f"{where}.ratio: {ratio!r} is not a share from 0 up to, but not including, 1")
    if minimum is not None and (not isinstance(minimum, int) or isinstance(minimum, bool) or not 0 < minimum <= width):
        raise SchemaError(f"{where}.minimum: {minimum!r} is not an integer from 1 to the width {width}")
    if not isinstance(entry.get("inexact", False), bool):
        raise SchemaError(f"{where}.inexact: {entry['inexact']!r} is neither true nor false")
    return Group(width, entry.get("merge", "or"), ratio, minimum, entry.get("inexact", False))


def read_schema(path: str | os.PathLike[str] | Readable) -> PruningSchema:
    """Read a schema file.

    Raises:
        SchemaError: the file is missing, too large or not a schema.
    """
    source: Readable = Path(path) if isinstance(path, (str, os.PathLike)) else path
    return loads(contents_of(source), str(path))


def contents_of(file: Readable) -> bytes:
    """Read the bytes of a schema file.

    Raises:
        SchemaError: it is missing or too large.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SchemaError(f"schema {file} cannot be read: {error.strerror or error}") from None
    if len(data) > _LIMIT_BYTES:
        raise SchemaError(f"schema {file} has {len(data)} bytes, more than {_LIMIT_BYTES}")
    return data


def document_of(text: str | bytes, where: str) -> Any:
    """Parse JSON without NaN, infinities, and keys that occur twice.

    Raises:
        SchemaError: it is not that.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{where} is not JSON: {error}") from None


def write_schema(schema: PruningSchema, path: str | os.PathLike[str]) -> None:
    """Write a schema file; readers see the old file or the new one.

    Raises:
        OSError: it is a folder, or cannot be written.
    """
    with replacing_file(Path(path)) as scratch:
        scratch.write_text(dumps(schema), encoding="utf-8")
