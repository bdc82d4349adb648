"""Folders that appear and change all at once.

A checkpoint is written into ``.NAME.tmp-PID-xxxx`` beside its place, flushed to the disk, and put there by one rename.
Where a checkpoint stands already, a directory cannot be renamed over it, so there are two: the old one becomes
``.NAME.old-PID-xxxx``, then the new one takes its place. Killed between the two, ``.NAME.old-...`` is complete and
nothing stands in its place: readers then read it, and the next save puts it back first. As soon as the new one stands,
the old is renamed to a ``.tmp-`` name before it is deleted: a ``.tmp-`` folder is never read, and the next save deletes
it. So at every moment exactly one complete checkpoint, the old or the new, is found under the name. A reader that has
read ``config.json`` before the change and the weights after it notices by the digests in the former, and by the folder
being another one, and reads again. Savers of a network and of its variants exclude each other by locking the folder
that the network's folder is in.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from zoo_slim._errors import CheckpointError
from zoo_slim._files import flush_folder
from zoo_slim.checkpoint._config import CONFIG, FORMAT, MODEL, PRUNING, is_variant
from zoo_slim.checkpoint._json import parse_object

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["VARIANT_PREFIX", "find_folder", "list_variants", "named", "read_consistently", "replacing"]

VARIANT_PREFIX = "pruned-"
_OWN = {CONFIG, MODEL, PRUNING}
_T = TypeVar("_T")


def named(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint's folder that ends in its name; a leading ``~`` is the user's home.

    Raises:
        CheckpointError: it cannot be a path.
    """
    path = Path(os.path.expanduser(folder))
    if "\0" in str(path):
        raise CheckpointError(f"{str(path)!r}: a path cannot hold a null character; choose another folder")
    return Path(os.path.realpath(path)) if path.name in ("", "..") else path


def _aside(folder: Path, kind: str) -> list[Path]:
    """Return the folders that a save of ``folder`` has put beside it: ``kind`` is ``"tmp"`` or ``"old"``."""
    try:
        return sorted(p for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}.{kind}-"))
    except OSError:
        return []


def _find(folder: Path) -> Path:
    if not os.path.exists(folder):
        for old in _aside(folder, "old"):
            return old
    return folder


def find_folder(folder: Path) -> Path:
    """Return where the checkpoint of this name is now: ``folder``, or what an interrupted save moved aside."""
    if folder.name.startswith(VARIANT_PREFIX):
        return _find(_find(folder.parent) / folder.name)
    return _find(folder)


def list_variants(folder: Path) -> list[str]:
    """Return the variants in a checkpoint's folder, sorted; ``[]`` where there is none. Others' folders are none."""
    try:
        names = {entry.name for entry in find_folder(folder).iterdir() if entry.is_dir()}
    except OSError:
        return []
    for name in list(names):
        if name.startswith("." + VARIANT_PREFIX) and ".old-" in name:
            names.add(name[1:].rpartition(".old-")[0])
    tags = (name.removeprefix(VARIANT_PREFIX) for name in names if name.startswith(VARIANT_PREFIX))
    return sorted(filter(is_variant, tags))


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        status = find_folder(folder).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def read_consistently(folder: Path, read: Callable[[Path], _T]) -> _T:
    """Return ``read(place)``; where that fails because a save has replaced the checkpoint meanwhile, read again."""
    for _ in range(20):
        before = _identity(folder)
        try:
            return read(find_folder(folder))
        except CheckpointError:
            if before == _identity(folder):
                raise
    return read(find_folder(folder))


def _lock(folder: Path) -> int | None:
    """Wait for the lock of a folder and return its descriptor; None where it cannot be had.

    Not every file system has locks, and a folder that may not be read cannot be opened.

    The system releases it when its holder ends, however it ends.
    """
    while fcntl:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)
    return None


def _unlock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _settle(folder: Path, exclusive: bool) -> None:
    """Finish what an interrupted save began: put the old checkpoint back, delete what was not finished."""
    if not folder.exists():
        for old in _aside(folder, "old"):
            os.rename(old, folder)
            break
    if exclusive:
        for left in [*_aside(folder, "old"), *_aside(folder, "tmp")]:
            shutil.rmtree(left, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file, a checkpoint is a folder; choose another name")
    with contextlib.suppress(OSError):
        if Path.cwd().is_relative_to(folder):
            raise CheckpointError(f"{folder}: is the working directory, which cannot be replaced; save from outside it")
    others = [entry.name for entry in folder.iterdir() if not entry.name.lstrip(".").startswith(VARIANT_PREFIX)]
    if others and CONFIG not in others:
        raise CheckpointError(
            f"{folder}: holds {sorted(others)[0]!r} and no {CONFIG}, so it is no zoo_slim checkpoint and is not"
            " overwritten; choose another folder"
        )
    if others:
        try:
            found = parse_object((folder / CONFIG).read_bytes(), str(folder / CONFIG), 1 << 20).get("format")
        except (OSError, CheckpointError):
            found = None
        if found != FORMAT:
            raise CheckpointError(
                f"{folder / CONFIG}: is not the config of a zoo_slim checkpoint, so the folder is not overwritten;"
                " choose another one"
            )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _carry_over(source: Path, target: Path) -> None:
    """Take what is not the checkpoint's own (variants, the model card) from the old folder to the new one."""
    for entry in source.iterdir():
        if entry.name in _OWN or entry.name.startswith("." + VARIANT_PREFIX):
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry), target / entry.name)
        elif entry.is_dir():
            shutil.copytree(entry, target / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(str(entry), str(target / entry.name))


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into, which takes the place of ``folder`` at the end of the ``with`` block.

    Where the block raises, ``folder`` stays as it was. Variants and other files in ``folder`` are kept; the files of
    the checkpoint itself are replaced as one.

    Raises:
        CheckpointError: ``folder`` holds something else than a checkpoint, or cannot be written.
    """
    target = Path(os.path.realpath(folder))
    top = target.parent if target.name.startswith(VARIANT_PREFIX) else target
    try:
        top.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lock = _lock(top.parent)
            if lock is not None:
                stack.callback(_unlock, lock)
            _settle(top, lock is not None)
            if top != target:
                top.mkdir(exist_ok=True)
                _settle(target, lock is not None)
            _check_replaceable(target)
            for variant in list_variants(target):
                _settle(target / f"{VARIANT_PREFIX}{variant}", lock is not None)
            mark = f"{os.getpid()}-{secrets.token_hex(4)}"
            temp = target.with_name(f".{target.name}.tmp-{mark}")
            temp.mkdir()
            stack.callback(shutil.rmtree, temp, ignore_errors=True)
            yield temp
            _swap(temp, target, mark)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise CheckpointError(
            f"{folder}: cannot be written: {error.strerror or error}{place}; a checkpoint takes the place of its folder"
            " as a whole, so the folder around it must be writable: save into a folder below it, or elsewhere"
        ) from error


def _swap(temp: Path, target: Path, mark: str) -> None:
    old = target.with_name(f".{target.name}.old-{mark}")
    if target.exists():
        _carry_over(target, temp)
        for name in _OWN:
            if (target / name).is_file() and (temp / name).is_file():
                shutil.copymode(target / name, temp / name)
        shutil.copymode(target, temp)
    flush_folder(temp)
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(temp, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    flush_folder(target.parent)
    with contextlib.suppress(OSError):
        if old.exists():
            os.rename(old, temp)
            shutil.rmtree(temp, ignore_errors=True)
