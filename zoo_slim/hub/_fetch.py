"""Fetch files of a repository into the Hub's cache, and check them."""

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint import FileRecord
from zoo_slim.hub._errors import ClaimError, UnreachableError
from zoo_slim.hub._remote import Head, Remote, quiet
from zoo_slim.hub._verify import etag_of, forget, wrong_with

__all__ = ["fetch", "fetch_first"]

SMALL = 16 << 20
"""Bytes below which a download shows no progress bar."""

_COMMIT = re.compile("[0-9a-f]{40}")


def fetch_first(remote: Remote, file: str, most: int) -> tuple[Path, str]:
    """Fetch a file of the commit that the revision names now; where the Hub cannot be asked, named when it last was.

    Args:
        remote: the repository.
        file: its path there.
        most: bytes that it may be long.

    Returns:
        Its place in the commit's folder of the cache, and the commit.

    Raises:
        NotThereError: the repository, the revision or the file does not exist, or is kept from us; or the Hub cannot be
            asked, and the cache has no copy.
        CheckpointError: what the Hub has is damaged or too large.
    """
    if remote.revision is not None and _COMMIT.fullmatch(remote.revision):
        return fetch(remote, file, remote.revision, None, most), remote.revision
    try:
        commit = remote.head(file, remote.revision).commit
    except UnreachableError as error:
        cached = remote.cached(file, remote.revision)
        if cached is None:
            known = remote.cached_commit(remote.revision) is not None
            raise UnreachableError(
                f"{error}, and the cache has no {file} of {remote.revision or 'main'}", error.final, exists=known
            ) from error
        commit = next(place.name for place in cached.parents if place.parent.name == "snapshots")
        if remote.asked_for and not error.final:
            warnings.warn(f"{remote.repo}: {error}; its commit {commit} is in the cache and is used", stacklevel=2)
        return fetch(remote, file, commit, None, most), commit
    path = fetch(remote, file, commit, None, most)
    if remote.cached(file, remote.revision) != path:  # the cache still thinks that the revision is another commit
        with quiet(), suppress(CheckpointError):  # the file is here; at worst the cache is wrong about it offline
            remote.download(file, remote.revision)
    return path, commit


def fetch(
    remote: Remote,
    file: str,
    commit: str,
    record: FileRecord | None,
    most: int | Callable[[], int],
) -> Path:
    """Fetch a file of one commit, unless the cache has it undamaged.

    A file that is damaged in the cache is named in a warning and fetched again.

    Args:
        remote: the repository.
        file: its path there.
        commit: 40 hexadecimal digits.
        record: its digest and length as ``config.json`` has them.
        most: bytes that it may be long; asked for only if it is to be downloaded.

    Returns:
        Its place in the commit's folder of the cache.

    Raises:
        NotThereError: it does not exist, is kept from us, or cannot be had and is not in the cache.
        CheckpointError: it is too large (nothing is downloaded then) or not what it should be (nothing is kept then).
    """
    name = f"{remote.repo}: {file}"
    path = remote.cached(file, commit)
    damage = None if path is None else wrong_with(path, etag_of(path), record)
    if path is not None and damage is None:
        return path
    try:
        head = remote.head(file, commit)
    except UnreachableError as error:
        if path is None:
            raise UnreachableError(f"{error}, and the cache has no {file} of commit {commit}", error.final) from error
        raise CheckpointError(
            f"{path}: was damaged in the cache: {damage}. It cannot be fetched again: {error}"
        ) from error
    _refuse(name, head, record, most() if callable(most) else most)
    if path is not None:
        try:
            forget(path)
        except OSError as error:
            raise CheckpointError(
                f"{path}: was damaged in the cache: {damage}. It cannot be removed: {error.strerror or error}; remove"
                " it, or choose another cache with HF_HOME"
            ) from None
        warnings.warn(f"{path}: was damaged in the cache: {damage}; it is fetched again", stacklevel=2)
    small = head.size is not None and head.size <= SMALL
    for _ in range(2):
        with quiet(small):
            path = remote.download(file, commit, force=damage is not None)
        damage = wrong_with(path, head.etag, record)
        if damage is None:
            return path
        forget(path)
    raise CheckpointError(
        f"{name}: was fetched twice and came damaged, so it was not kept: {damage}. Try again, or ask its owner to push"
        " it again"
    )


def _refuse(name: str, head: Head, record: FileRecord | None, most: int) -> None:
    """Raise where what the Hub says of a file before the download cannot be right."""
    claims = [("the Hub", head.size)] + ([("config.json", record.bytes)] if record else [])
    for who, size in claims:
        if size is not None and size > most:
            raise ClaimError(
                f"{name}: is {size:,} bytes long, as {who} says, but can have {most:,} at most; it was not downloaded"
            )
    if record is None:
        return
    mine = f"SHA-256 {record.sha256} and {record.bytes:,} bytes"
    other = head.etag if re.fullmatch("[0-9a-f]{64}", head.etag) else record.sha256
    if other != record.sha256 or head.size not in (None, record.bytes):
        raise ClaimError(
            f"{name}: config.json says {mine}, the Hub says {head.etag} and {head.size} bytes; it was not downloaded."
            " The files were not pushed together; ask the repository's owner to push them again"
        )
