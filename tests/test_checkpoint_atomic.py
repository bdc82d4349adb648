"""At every moment a reader finds the old checkpoint or the new one, whole; however the saver ends."""

import contextlib
import errno
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cnn import NAME, a_result, load, same_state, slimmed, trained
from torch import nn

from zoo_slim import checkpoint
from zoo_slim._errors import CheckpointError
from zoo_slim._files import replacing_file

STEPS = ("rename", "mkdir", "fsync", "link", "rmdir", "unlink")
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def save(folder: Path, seed: int) -> None:
    checkpoint.save(trained(seed), folder, architecture=NAME, metrics={"seed": seed})


def save_with_variants(folder: Path, seed: int = 0) -> nn.Module:
    save(folder, seed)
    slim = slimmed(trained(50), a_result())
    checkpoint.save(slim, folder / "pruned-0.5", architecture=NAME, result=a_result())
    (folder / "README.md").write_text("card")
    return slim


def seed_of(folder: Path) -> int:
    """Return which save the folder holds; its weights, config and digests must agree."""
    model = load(folder)
    origin = checkpoint.origin_of(model)
    assert origin is not None
    seed = origin.metrics["seed"]
    assert same_state(model, trained(seed))
    return int(seed)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.parent.rglob(".*"))


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process and return its exit code; negative: the signal that killed it."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def strike(monkeypatch: pytest.MonkeyPatch, number: int, after: bool, blow: Callable[[], Any]) -> None:
    """Let ``blow`` happen before or after the ``number``-th change to the file system."""
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def struck(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and not after:
                blow()
            mine = count
            try:
                return function(*args, **kwargs)
            finally:
                if mine == number and after:
                    blow()

        return struck

    for name in STEPS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


@forking
def test_killed_at_random(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    slim = save_with_variants(folder)
    chance = random.Random(0)
    reader, writer = os.pipe()

    def work() -> None:
        seed = seed_of(folder)
        while True:
            seed += 1
            save(folder, seed)
            os.write(writer, b".")

    seen = [0]
    for _ in range(30):
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        os.read(reader, 1)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen.append(seed_of(folder))
        assert seen[-1] > seen[-2]
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 1000)
        os.set_blocking(reader, True)
        assert checkpoint.variants(folder) == ["0.5"]
        assert same_state(load(folder / "pruned-0.5"), slim)
    save(folder, 999)
    assert seed_of(folder) == 999 and leftovers(folder) == [] and (folder / "README.md").read_text() == "card"


@forking
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_step(tmp_path: Path, after: bool) -> None:
    seen, number, code = [], 0, -1
    while code:
        number += 1
        folder = tmp_path / str(number) / "net"
        slim = save_with_variants(folder, 1)

        def work(folder: Path = folder, number: int = number) -> None:
            with pytest.MonkeyPatch.context() as patch:
                strike(patch, number, after, lambda: os.kill(os.getpid(), signal.SIGKILL))
                save(folder, 2)

        code = in_child(work)
        assert code in (0, -signal.SIGKILL)
        seen.append(seed_of(folder))
        assert checkpoint.variants(folder) == ["0.5"] and same_state(load(folder / "pruned-0.5"), slim)
        checkpoint.save(slim, folder / "pruned-0.7", architecture=NAME, result=a_result())
        assert seed_of(folder) == seen[-1] and leftovers(folder) == []
        save(folder, 3)
        assert seed_of(folder) == 3 and leftovers(folder) == [] and checkpoint.variants(folder) == ["0.5", "0.7"]
    assert number > 10 and seen == sorted(seen) and set(seen) == {1, 2}


@forking
def test_killed_at_every_step_of_a_first_save(tmp_path: Path) -> None:
    seen, number, code = [], 0, -1
    while code:
        number += 1
        folder = tmp_path / str(number) / "net"

        def work(folder: Path = folder, number: int = number) -> None:
            with pytest.MonkeyPatch.context() as patch:
                strike(patch, number, False, lambda: os.kill(os.getpid(), signal.SIGKILL))
                save(folder, 1)

        code = in_child(work)
        seen.append(folder.exists() and seed_of(folder))
    assert seen == sorted(seen) and set(seen) == {False, 1}


@pytest.mark.parametrize("after", [False, True])
def test_an_error_at_every_step(tmp_path: Path, after: bool) -> None:
    class Struck(BaseException):
        pass

    def blow() -> None:
        raise Struck

    seen, number, ended = [], 0, False
    while not ended:
        number += 1
        folder = tmp_path / str(number) / "net"
        save_with_variants(folder, 1)
        with pytest.MonkeyPatch.context() as patch:
            strike(patch, number, after, blow)
            try:
                save(folder, 2)
                ended = True
            except Struck:
                pass
        seen.append(seed_of(folder))
        assert folder.is_dir() and checkpoint.variants(folder) == ["0.5"]
    assert number > 10 and seen == sorted(seen) and set(seen) == {1, 2}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "net"
    save(folder, 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"net: cannot be written: No space left on device"):
        save(folder, 2)
    assert seed_of(folder) == 1 and leftovers(folder) == []


def test_what_lies_between_the_two_renames_is_read_and_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    slim = save_with_variants(folder, 1)
    os.rename(folder / "pruned-0.5", folder / ".pruned-0.5.old-1-a")
    os.rename(folder, tmp_path / ".net.old-1-b")
    shutil.copytree(tmp_path / ".net.old-1-b", tmp_path / ".net.tmp-1-b")
    assert seed_of(folder) == 1 and checkpoint.variants(folder) == ["0.5"]
    assert same_state(load(folder / "pruned-0.5"), slim)
    save(folder, 2)
    assert seed_of(folder) == 2 and leftovers(folder) == [] and checkpoint.variants(folder) == ["0.5"]


@forking
def test_readers_and_savers_at_the_same_time(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    slim = save_with_variants(folder, 0)

    def bases(first: int) -> None:
        for seed in range(first, first + 12):
            save(folder, seed)

    def variants() -> None:
        for _ in range(12):
            checkpoint.save(slim, folder / "pruned-0.7", architecture=NAME, result=a_result())

    context = multiprocessing.get_context("fork")
    savers = [context.Process(target=bases, args=(first,)) for first in (100, 200)] + [context.Process(target=variants)]
    for saver in savers:
        saver.start()
    reads = 0
    while any(saver.is_alive() for saver in savers) or reads < 10:
        seed_of(folder)
        assert same_state(load(folder / "pruned-0.5"), slim)
        reads += 1
    assert [saver.exitcode for saver in savers] == [0, 0, 0]
    assert leftovers(folder) == [] and checkpoint.variants(folder) == ["0.5", "0.7"]


def test_other_folders_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"photos.*'cat\.jpg'.*no config\.json"):
        save(folder, 1)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="not the config of a zoo_slim checkpoint"):
        save(folder, 1)
    assert sorted(p.name for p in folder.iterdir()) == ["cat.jpg", "config.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save(tmp_path / "file", 1)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path / "file" / "net", 1)
    save(tmp_path / "net", 1)
    monkeypatch.chdir(tmp_path / "net")
    with pytest.raises(CheckpointError, match="working directory"):
        save(Path(), 2)
    assert leftovers(tmp_path / "net") == []


def test_empty_folders_links_and_lone_variants(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", 1)
    (tmp_path / "link").symlink_to(tmp_path / "empty", target_is_directory=True)
    save(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink() and seed_of(tmp_path / "empty") == 2
    slim = slimmed(trained(), a_result())
    checkpoint.save(slim, tmp_path / "new" / "pruned-0.5", architecture=NAME, result=a_result())
    save(tmp_path / "new", 3)
    assert seed_of(tmp_path / "new") == 3 and checkpoint.variants(tmp_path / "new") == ["0.5"]
    with pytest.raises(CheckpointError, match="holds variants of a base network"):
        checkpoint.save(slim, tmp_path / "new", architecture=NAME, result=a_result())
    assert torch.equal(load(tmp_path / "new" / "pruned-0.5").scale, slim.scale)


@forking
def test_a_folder_that_cannot_be_opened_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def unreadable(path: Any, *more: Any, **how: Any) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **how)

    monkeypatch.setattr(os, "open", unreadable)
    model = slimmed(trained(50), a_result())
    folder = checkpoint.save(model, tmp_path / "mine" / "pruned-x", architecture=NAME, result=a_result())
    assert same_state(load(folder), model)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file, link = tmp_path / "page.md", tmp_path / "link.md"
    file.write_text("old")
    link.symlink_to(file)
    with pytest.raises(ValueError, match="half"), replacing_file(file) as scratch:
        scratch.write_text("ha")
        raise ValueError("half")
    assert file.read_text() == "old"
    with replacing_file(link) as scratch:
        scratch.write_text("new")
        assert (scratch.suffix, file.read_text()) == (".md", "old")
    assert file.read_text() == "new" and link.is_symlink() and len(list(tmp_path.iterdir())) == 2
    lost = tmp_path / "nowhere" / "page.md"
    with pytest.raises(FileNotFoundError, match=r"/page\.md'"), replacing_file(lost) as scratch:
        scratch.write_text("new")
    with pytest.raises(OSError, match=r"No space left.*/page\.md'"), replacing_file(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(IsADirectoryError, match="is a folder"), replacing_file(tmp_path):
        pass


def test_permissions_stay(tmp_path: Path) -> None:
    folder = checkpoint.save(trained(), tmp_path / "private", architecture=NAME)
    (folder / "model.safetensors").chmod(0o600)
    folder.chmod(0o700)
    checkpoint.save(trained(1), folder, architecture=NAME)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o600
    file = tmp_path / ("x" * 240 + ".txt")
    file.write_text("old")
    file.chmod(0o600)
    with replacing_file(file) as scratch:
        scratch.write_text("new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)
