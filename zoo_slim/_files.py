"""Files that appear and change all at once."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_parents", "check_replaceable", "flush_file", "flush_folder", "replacing_file"]


def check_parents(path: Path) -> None:
    """Refuse a path that leads through a file.

    Raises:
        OSError: naming the file.
    """
    for parent in path.parents:
        if os.path.lexists(parent):
            if not parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"is no folder that {path.name} can be made in", str(parent))
            return


def check_replaceable(path: Path) -> None:
    """Refuse what is no name of a file, before anything is done for it.

    Raises:
        OSError: it is a folder, a device or a pipe, or lies in what is no folder.
    """
    check_parents(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file to be written", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file; name a file to be written", str(path))


def flush_file(file: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to be written, which takes the place of ``path`` at the end of the ``with`` block.

    It lies beside ``path``, has the same ending, and is flushed to the disk first. Where the block raises, ``path``
    stays as it was, and nothing else is left. A link stays one.

    Raises:
        OSError: naming ``path``: it cannot be replaced, or not be written.
    """
    check_replaceable(path)
    target = Path(os.path.realpath(path))
    scratch = target.with_name(f".{target.stem[:100]}.tmp-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")
    try:
        yield scratch
        flush_file(scratch)
        if target.exists():
            shutil.copymode(target, scratch)
        scratch.replace(target)
        flush_folder(target.parent)
    except OSError as error:
        own = error.filename is None or str(error.filename) == str(scratch)  # a full disk names no file
        if not own or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
