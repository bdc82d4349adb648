"""Check files in the Hub's cache against their digests, once: the client does not.

What a file's digests are is noted in ``.zoo_slim/`` in the repository's folder of the cache, together with the file's
length, its times of modification and change, and its inode. As long as these are the same, it is not read again.
"""

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from zoo_slim._files import replacing_file
from zoo_slim.checkpoint import FileRecord

__all__ = ["Digests", "etag_of", "forget", "is_verified", "read_digests", "wrong_with"]

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Digests:
    """Digests of a file's content, in hexadecimal: SHA-256, and the name that git gives it as a blob."""

    sha256: str
    git: str


def wrong_with(file: Path, etag: str | None, record: FileRecord | None) -> str | None:
    """Return what is wrong with a file in the cache, or None.

    Args:
        file: its place in a snapshot's folder.
        etag: what the Hub says: 64 digits are a SHA-256, 40 git's hash; None, or anything else, says nothing.
        record: what ``config.json`` says; None: nothing.
    """
    try:
        found = _digests(file)
        size = file.stat().st_size
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if record is not None and size != record.bytes:
        return f"it is {size} bytes long, config.json says {record.bytes}"
    if record is not None and found.sha256 != record.sha256:
        return f"its SHA-256 is {found.sha256}, config.json says {record.sha256}"
    if etag is not None and re.fullmatch("[0-9a-f]{64}", etag) and found.sha256 != etag:
        return f"its SHA-256 is {found.sha256}, the Hub says {etag}"
    if etag is not None and re.fullmatch("[0-9a-f]{40}", etag) and found.git != etag:
        return f"its git hash is {found.git}, the Hub says {etag}"
    return None


def is_verified(file: Path, record: FileRecord) -> bool:
    """Return whether a file in the Hub's cache was compared with this record and is the same since."""
    try:
        noted = _noted(file, _stamp(file))
    except OSError:
        return False
    return noted is not None and noted.sha256 == record.sha256


def etag_of(file: Path) -> str | None:
    """Return what the Hub said of a file when it was downloaded: the cache names its blobs so, where it has links."""
    blob = _blob(file)
    return blob.name if blob != file else None


def forget(file: Path) -> None:
    """Remove a file from the cache: its link, its content, and what was noted of it."""
    for path in (_note(file), _blob(file), file):
        if path is not None:
            path.unlink(missing_ok=True)


def _blob(file: Path) -> Path:
    """The file that the snapshot's link names; that may be a link itself, into a store that repositories share."""
    if not file.is_symlink():
        return file
    return Path(os.path.normpath(file.parent / os.readlink(file)))


def _note(file: Path) -> Path | None:
    """Where the digests of a file are noted; None: it is in no cache."""
    home = next((parent.parent for parent in file.parents if parent.name == "snapshots"), None)
    if home is None:
        return None
    blob = _blob(file)
    inside = blob.relative_to(home) if blob.is_relative_to(home) else file.relative_to(home)
    return home / ".zoo_slim" / f"{inside}.json"


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _noted(file: Path, stamp: list[int]) -> Digests | None:
    note = _note(file)
    if note is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(note.read_text(encoding="utf-8"))
        if noted["stamp"] == stamp:
            return Digests(str(noted["sha256"]), str(noted["git"]))
    return None


def _digests(file: Path) -> Digests:
    note, stamp = _note(file), _stamp(file)
    if (noted := _noted(file, stamp)) is not None:
        return noted
    found = read_digests(file)
    if note is not None and _stamp(file) == stamp:
        with contextlib.suppress(OSError):  # a cache that cannot be written: its files are read each time
            note.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(note) as temp:
                noted_now = {"stamp": stamp, "sha256": found.sha256, "git": found.git}
                temp.write_text(json.dumps(noted_now), encoding="utf-8")
    return found


def read_digests(file: Path) -> Digests:
    """Read a file and return its digests."""
    sha256, git = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    git.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            git.update(chunk)
    return Digests(sha256.hexdigest(), git.hexdigest())
