"""The base weights of a delta variant: a safetensors file in another repository, pinned, and how its names map."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint._json import fail, is_text

__all__ = ["BaseWeights", "FileRecord", "common_prefix", "describe_base", "is_repo", "parse_base", "parse_record"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"(?!.*(--|\.\.))\w([\w.-]{0,94}\w)?/\w([\w.-]{0,94}\w)?(?<!\.git)", re.ASCII)  # the client's rule
_FILE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}/){0,4}[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}\.safetensors")
_LONGEST_NAME = 300
_MOST_NAMES = 10_000
_CHUNK = 4 << 20


def is_repo(text: str) -> bool:
    """Whether a text can be ``org/name`` on the Hub."""
    return _REPO.fullmatch(text) is not None


@dataclass(frozen=True)
class FileRecord:
    """Digest (64 hexadecimal digits) and length of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class BaseWeights:
    """A safetensors file in a repository on the Hub, of which a variant's weights are the kept rows and columns.

    Attributes:
        repo: ``org/name``.
        revision: the commit, 40 hexadecimal digits: a branch or a tag could change.
        file: its path in the repository.
        sha256: digest of the file, 64 hexadecimal digits.
        bytes: length of the file.
        prefix: what the file's names begin with and the architecture's do not, ``"module."`` for instance.
        names: ``{name in the architecture: name in the file}`` of tensors whose names differ otherwise.
    """

    repo: str
    revision: str
    file: str
    sha256: str
    bytes: int
    prefix: str = ""
    names: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def record(self) -> FileRecord:
        """Digest and length of the file."""
        return FileRecord(self.sha256, self.bytes)

    def name_of(self, name: str) -> str:
        """Return what the file calls one of the architecture's tensors."""
        return self.names.get(name, self.prefix + name)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, without those that say nothing."""
        return {key: value for key, value in asdict(self).items() if value not in ("", {})}

    def __str__(self) -> str:
        return f"{self.file} of hf-hub:{self.repo}@{self.revision}"


def describe_base(
    file: str | os.PathLike[str],
    repo: str,
    revision: str,
    name: str = "model.safetensors",
    names: Mapping[str, str] | None = None,
) -> BaseWeights:
    """Describe base weights that were downloaded, for `save`.

    Args:
        file: where they are on this machine; read once, for the digest.
        repo: the repository that they are from, ``org/name``.
        revision: the commit, 40 hexadecimal digits.
        name: the file's path in the repository.
        names: ``{name in the architecture: name in the file}`` where these differ by more than a common prefix.

    Raises:
        CheckpointError: the file cannot be read, or a field is not as `BaseWeights` says.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with open(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
    base = BaseWeights(repo, revision, name, digest.hexdigest(), size, names=dict(names or {}))
    parsed = parse_base(base.to_json(), "base weights", "base_weights")
    assert isinstance(parsed, BaseWeights)
    return parsed


def parse_record(value: object, where: str, field: str) -> FileRecord:
    """Validate ``{"sha256": …, "bytes": …}``."""
    if not isinstance(value, dict) or value.keys() != {"sha256", "bytes"}:
        fail(where, field, "an object with 'sha256' and 'bytes'", value)
    _check_digest(value, where, field)
    return FileRecord(value["sha256"], value["bytes"])


def _check_digest(value: dict[str, Any], where: str, field: str) -> None:
    if not isinstance(value["sha256"], str) or not _SHA256.fullmatch(value["sha256"]):
        fail(where, f"{field}.sha256", "64 lower-case hexadecimal digits", value["sha256"])
    if type(value["bytes"]) is not int or not 0 <= value["bytes"] < 2**50:
        fail(where, f"{field}.bytes", "the length of the file", value["bytes"])


def parse_base(value: object, where: str, field: str) -> FileRecord | BaseWeights:
    """Validate base weights: a `FileRecord` is the file in the folder above, `BaseWeights` one in a repository."""
    if isinstance(value, dict) and value.keys() == {"sha256", "bytes"}:
        return parse_record(value, where, field)
    needed = {"repo", "revision", "file", "sha256", "bytes"}
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | {"prefix", "names"}:
        fail(where, field, f"an object with {', '.join(sorted(needed))}, and perhaps prefix and names", value)
    _check_digest(value, where, field)
    for key, pattern, expected in (
        ("repo", _REPO, "org/name"),
        ("revision", _REVISION, "a commit of 40 lower-case hexadecimal digits"),
        ("file", _FILE, "the path of a .safetensors file in the repository"),
    ):
        text = value[key]
        if not isinstance(text, str) or not pattern.fullmatch(text) or ".." in text:
            fail(where, f"{field}.{key}", expected, text)
    prefix, names = value.get("prefix", ""), value.get("names", {})
    if not isinstance(prefix, str) or len(prefix) > _LONGEST_NAME or not is_text(prefix):
        fail(where, f"{field}.prefix", f"text of at most {_LONGEST_NAME} characters", prefix)
    if not isinstance(names, dict) or len(names) > _MOST_NAMES:
        fail(where, f"{field}.names", f"an object of at most {_MOST_NAMES} names", names)
    for ours, theirs in names.items():
        if not isinstance(theirs, str) or max(len(ours), len(theirs)) > _LONGEST_NAME or not is_text(theirs):
            fail(where, f"{field}.names", f"names of at most {_LONGEST_NAME} characters", {ours: theirs})
    if len(set(names.values())) < len(names):
        fail(where, f"{field}.names", "a name in the file for each of the architecture's", "a name that occurs twice")
    return BaseWeights(**{key: value[key] for key in sorted(needed)}, prefix=prefix, names=names)


def common_prefix(wanted: Iterable[str], found: Iterable[str]) -> str:
    """Return what turns all wanted names into names found when put before them, ``"module."``; ``""`` if nothing."""
    names, known = list(wanted), set(found)
    if not names:
        return ""
    candidates = ["", *sorted(name.removesuffix(names[0]) for name in known if name.endswith("." + names[0]))]
    return next((prefix for prefix in candidates if all(prefix + name in known for name in names)), "")
