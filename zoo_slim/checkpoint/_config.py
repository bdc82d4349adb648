"""``config.json``: what a checkpoint says about itself, validated field by field."""

import contextlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_slim._errors import CheckpointError
from zoo_slim._plugins import Package
from zoo_slim.checkpoint._base import BaseWeights, FileRecord, parse_base, parse_record
from zoo_slim.checkpoint._json import check_tree, dump, fail, parse_object
from zoo_slim.checkpoint._safetensors import DTYPES

__all__ = [
    "CONFIG",
    "MODEL",
    "PRUNING",
    "Config",
    "check_input",
    "check_variant",
    "is_variant",
    "parse_config",
    "read_bytes",
    "read_config_file",
]

CONFIG, MODEL, PRUNING = "config.json", "model.safetensors", "pruning.safetensors"
FORMAT, VERSION = "zoo_slim.checkpoint", 1

_LIMIT = 1 << 20
_MOST_VALUES = 1 << 26
_MOST_LIBRARIES = 100
_FLOATS = {str(dtype).removeprefix("torch.") for dtype in DTYPES.values() if dtype.is_floating_point}
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*){0,3}")
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Config:
    """The content of ``config.json``; the fields that `Origin` has too mean the same here.

    Attributes:
        package: the package that offered the architecture when the network was saved; None: the program registered it,
            or it is not recorded.
        libraries: other packages that define classes of the network (timm, torchvision, ...), as they were then.
        dtype: floating dtype of the network when it was saved (``"float32"``); the dtype it loads as by default.
        stored_dtype: floating dtype in the file; differs from ``dtype`` when saved with ``dtype=``.
        files: the checkpoint's files (``model.safetensors``, ``pruning.safetensors``), each with digest and length.
        base_weights: of a variant without weights of its own, what they are cut from: the ``model.safetensors`` in the
            folder above (a `FileRecord`), or a file in another repository (`BaseWeights`).
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None
    input: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    stored_dtype: str = "float32"
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    base_weights: FileRecord | BaseWeights | None = None
    package: Package | None = None
    libraries: tuple[Package, ...] = ()

    def to_json(self) -> str:
        """Return the text of ``config.json``, sorted and indented."""
        fields = asdict(self)
        if isinstance(self.base_weights, BaseWeights):
            fields["base_weights"] = self.base_weights.to_json()
        return dump({"format": FORMAT, "version": VERSION, **fields})


def is_variant(text: str) -> bool:
    """Whether a text can be a variant's tag."""
    return _VARIANT.fullmatch(text) is not None


def check_variant(value: object, where: str, field: str = "variant") -> str:
    """Return a variant's tag: at most 64 letters, digits, ``.``, ``_``, ``+`` and ``-``, no leading dot."""
    if not isinstance(value, str) or not is_variant(value):
        fail(where, field, "a tag of at most 64 letters, digits, '.', '_', '+', '-' (for instance '0.75')", value)
    return value


def further_tag(variant: str | None, tag: str) -> str:
    """Return the tag of what is made of a variant, or else of a base, by slimming it."""
    return tag if variant is None else f"{variant}-{tag}"


def read_bytes(file: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        CheckpointError: it is missing, not a regular file, unreadable or longer than ``limit`` bytes.
    """
    try:
        if not os.path.isfile(file):
            raise CheckpointError(f"{file}: there is no such file; a zoo_slim checkpoint has one")
        if (size := file.stat().st_size) > limit:
            raise CheckpointError(f"{file}: is {size} bytes long, at most {limit} are read")
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None


def read_config_file(file: Path) -> Config:
    """Read and validate a ``config.json``.

    Raises:
        CheckpointError: as `read_bytes` and `parse_config`.
    """
    return parse_config(read_bytes(file, _LIMIT), str(file))


def parse_config(data: bytes, where: str) -> Config:
    """Validate the content of a ``config.json``.

    Args:
        data: the file's content, at most 1 MiB.
        where: its path, for messages.

    Raises:
        CheckpointError: naming the file, the field, what was expected and what was found.
    """
    raw = parse_object(data, where, _LIMIT)
    if "format" not in raw:
        raise CheckpointError(
            f"{where}: field 'format' is missing: a checkpoint of another library; make one of its weights with "
            "zoo-slim convert, or build its network there and zoo_slim.save it"
        )
    if raw["format"] != FORMAT:
        fail(where, "format", repr(FORMAT), raw["format"])
    if type(raw.get("version")) is not int or raw["version"] != VERSION:
        fail(where, "version", f"{VERSION} (a newer version needs a newer zoo_slim)", raw.get("version"))
    known = {"format", "version", *Config.__dataclass_fields__}
    if unknown := sorted(raw.keys() - known):
        fail(
            where,
            unknown[0][:60],
            f"one of the known fields {', '.join(sorted(known))} (a newer zoo_slim may know more)",
            raw[unknown[0]],
        )
    if missing := sorted({"architecture", "options", "files"} - raw.keys()):
        raise CheckpointError(f"{where}: field {missing[0]!r} is missing")
    name = raw["architecture"]
    if not isinstance(name, str) or len(name) > 200 or not _ARCHITECTURE.fullmatch(name):
        fail(where, "architecture", "the name of an architecture", name)
    files = _files(raw["files"], where)
    variant = None if raw.get("variant") is None else check_variant(raw["variant"], where)
    if variant is not None and PRUNING not in files:
        fail(where, "variant", f"null, as 'files' has no {PRUNING}", variant)
    base_weights = None if raw.get("base_weights") is None else parse_base(raw["base_weights"], where, "base_weights")
    if base_weights is not None and (MODEL in files or PRUNING not in files):
        fail(where, "base_weights", f"null, unless {PRUNING} is the only file", raw["base_weights"])
    return Config(
        architecture=name,
        options=_options(raw["options"], where),
        variant=variant,
        input=check_input(raw.get("input"), where),
        classes=_classes(raw.get("classes"), where),
        metrics=_tree(raw.get("metrics"), where, "metrics"),
        base=_tree(raw.get("base"), where, "base"),
        training=_tree(raw.get("training"), where, "training"),
        dtype=_dtype(raw.get("dtype", "float32"), where, "dtype"),
        stored_dtype=_dtype(raw.get("stored_dtype", "float32"), where, "stored_dtype"),
        files=files,
        base_weights=base_weights,
        package=None if raw.get("package") is None else _package(raw["package"], where, "package"),
        libraries=_libraries(raw.get("libraries"), where),
    )


def _libraries(value: object, where: str) -> tuple[Package, ...]:
    if value is not None and not (isinstance(value, list) and len(value) <= _MOST_LIBRARIES):
        fail(where, "libraries", f"a list of at most {_MOST_LIBRARIES} packages", value)
    return tuple(_package(one, where, f"libraries[{index}]") for index, one in enumerate(value or ()))


def _package(value: object, where: str, field: str) -> Package:
    if isinstance(value, dict) and value.keys() == {"name", "version"}:
        with contextlib.suppress(ValueError):
            return Package(**value)
    fail(where, field, "the 'name' and the 'version' of a package", value)


def _tree(value: object, where: str, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        fail(where, field, "an object", value)
    tree = check_tree(value, where, field)
    assert isinstance(tree, dict)
    return tree


def _options(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 100:
        fail(where, "options", "an object of at most 100 options", value)
    for name, option in value.items():
        if not _OPTION.fullmatch(name):
            fail(where, "options", "names of keyword arguments", name)
        if not isinstance(option, (bool, int, float, str)) or (isinstance(option, str) and len(option) > 200):
            fail(where, f"options.{name}", "a number, a boolean or a short text", option)
        check_tree(option, where, f"options.{name}")
    return dict(value)


def _dtype(value: object, where: str, field: str) -> str:
    if not isinstance(value, str) or value not in _FLOATS:
        fail(where, field, f"one of {', '.join(sorted(_FLOATS))}", value)
    return value


def _files(value: object, where: str) -> dict[str, FileRecord]:
    if not isinstance(value, dict):
        fail(where, "files", "an object", value)
    for name in value:
        if name not in (MODEL, PRUNING):
            fail(where, "files", f"no other files than {MODEL} and {PRUNING}", name)
    return {name: parse_record(record, where, f"files.{name}") for name, record in value.items()}


def _classes(value: object, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 100_000:
        fail(where, "classes", "a list of 1 to 100000 names", value)
    for i, name in enumerate(value):
        if not isinstance(name, str) or len(name) > 300:
            fail(where, f"classes[{i}]", "text of at most 300 characters", name)
        check_tree(name, where, f"classes[{i}]")
    return tuple(value)


def check_input(value: object, where: str) -> dict[str, Any] | None:
    """Return what a network expects of its images, as plain data.

    Raises:
        CheckpointError: naming the field of ``where`` that is wrong.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not {"size"} <= value.keys() <= {"size", "mean", "std"}:
        fail(where, "input", "an object with 'size' and perhaps 'mean' and 'std'", value)
    size = value["size"]
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 3
        or not all(type(n) is int and 1 <= n <= 65536 for n in size)
    ):
        fail(where, "input.size", "[channels, height, width]", size)
    if math.prod(size) > _MOST_VALUES:
        fail(where, "input.size", f"[channels, height, width] of at most {_MOST_VALUES} values in all", size)
    checked: dict[str, Any] = {"size": list(size)}
    for name in ("mean", "std"):
        numbers = value.get(name)
        if numbers is None:
            continue
        if not isinstance(numbers, (list, tuple)) or len(numbers) != size[0]:
            fail(where, f"input.{name}", f"a list of {size[0]} numbers, one per channel", numbers)
        for number in numbers:
            valid = isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < 1e12
            if not valid or not math.isfinite(number) or (name == "std" and number <= 0):
                fail(where, f"input.{name}", "finite numbers" + (" above 0" if name == "std" else ""), number)
        checked[name] = [float(number) for number in numbers]
    return checked
