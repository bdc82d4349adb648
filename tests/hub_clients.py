"""Fresh processes with the Hub's real client, each with an address, a cache and tokens of its own.

The client reads its settings when it is imported. So one process imports torch and zoo_slim, but not the client, and
every `Client.run` is a fork of it: as fresh as a new interpreter, without its three seconds.
"""

import atexit
import functools
import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hub_server import Hub

__all__ = ["Client", "Ran", "environment", "hub", "needs_fork"]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PARENT = """
import io, json, os, signal, sys, traceback
import torch
import checkpoint_cnn
import zoo_slim.cli, zoo_slim.loading, zoo_slim.pictures, zoo_slim.slimming
from zoo_slim.registry import registry
registry().find(checkpoint_cnn.NAME)
slim = checkpoint_cnn.slimmed(checkpoint_cnn.trained().to("meta"), checkpoint_cnn.a_result())
zoo_slim.slimming.count_macs(slim, checkpoint_cnn.images())
figure = zoo_slim.pictures.channels_kept(zoo_slim.pictures.layer_widths(slim, slim), "")
figure.savefig(io.BytesIO(), format="png")  # all that is imported on first use is imported now
assert "huggingface_hub" not in sys.modules
torch.set_num_threads(1)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{job['folder']}/{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        os.environ.clear()
        os.environ.update(job["env"])
        os.chdir(job["cwd"])
        sys.argv = job["argv"]
        try:
            exec(compile(job["code"], "<client>", "exec"), {"__name__": "__main__"})
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        with open(f"{job['folder']}/status.tmp", "w") as stream:
            stream.write(str(status))
        os.rename(f"{job['folder']}/status.tmp", f"{job['folder']}/status")
        os._exit(status)
"""

PRELUDE = """
import sys, warnings
from pathlib import Path
import torch
import checkpoint_cnn as cnn
import zoo_slim
from zoo_slim import ZooSlimError, checkpoint, load

def error_of(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except ZooSlimError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("no error")
"""


def environment() -> dict[str, str]:
    """Return the environment of a process that asks a Hub on the loopback, and nobody else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTEST", "COV_"))}
    here = Path(__file__).parent
    return {
        **{name: value for name, value in kept.items() if not name.lower().endswith("_proxy")},
        "PYTHONPATH": f"{here.parent}{os.pathsep}{here}",
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "OMP_NUM_THREADS": "1",
        "ZOO_SLIM_NAMESPACE": "",
    }


@functools.cache
def _parent() -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = subprocess.Popen([sys.executable, "-c", PARENT], env=environment(), text=True, **pipes)
    atexit.register(started.kill)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


@dataclass(frozen=True)
class Ran:
    """How a process ended, and what it printed."""

    code: int
    out: str
    err: str

    def ok(self) -> str:
        """Return what it printed; it must have ended well."""
        assert self.code == 0, f"{self.out}\n{self.err}"
        return self.out.strip()


@dataclass(frozen=True)
class Client:
    """Somebody's machine: the Hub it asks, its cache, its environment, and code that every process begins with."""

    url: str
    home: Path
    env: dict[str, str] = field(default_factory=dict)
    setup: str = ""
    _numbers = itertools.count()

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def start(self, code: str, *argv: str, **env: str) -> Path:
        """Start a process; return the folder to `wait` for."""
        folder = self.home / "jobs" / str(next(self._numbers))
        folder.mkdir(parents=True)
        where = {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home)}
        job = {
            "code": "\n".join([PRELUDE, self.setup, textwrap.dedent(code)]),
            "argv": ["client", *argv],
            "cwd": str(self.home),
            "folder": str(folder),
            "env": {**environment(), **where, **self.env, **env},
        }
        stdin = _parent().stdin
        assert stdin is not None
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        return folder

    def wait(self, folder: Path, seconds: float = 120) -> Ran:
        end = time.monotonic() + seconds
        while not (folder / "status").exists():
            assert time.monotonic() < end, (folder / "err").read_text() if (folder / "err").exists() else folder
            time.sleep(0.01)
        out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return Ran(int((folder / "status").read_text()), out, err)

    def run(self, code: str, *argv: str, **env: str) -> Ran:
        """Run Python code in a fresh process; see `PRELUDE` for the names that it has."""
        return self.wait(self.start(code, *argv, **env))

    def command(self, *words: str, **env: str) -> Ran:
        """Run ``zoo-slim WORDS`` in a fresh process."""
        code = "from zoo_slim.cli import main\nsys.argv[0] = 'zoo-slim'\nmain()"
        return self.run(code, *words, **env)

    def cached(self) -> list[str]:
        """What the cache holds of repositories: commits as ``COMMIT``, blobs and half-written files by kind."""
        found = set()
        for file in self.cache.glob("models--*/**/*"):
            parts = file.relative_to(self.cache).parts
            if file.is_dir() or parts[1] not in ("snapshots", "blobs"):
                continue
            if parts[1] == "blobs":
                found.add("incomplete" if file.name.endswith(".incomplete") else "blob")
            elif file.exists():
                found.add("/".join([parts[0].removeprefix("models--").replace("--", "/"), *parts[3:]]))
        return sorted(found)

    def blob(self, file: str) -> Path:
        """The content of a file in the cache, whatever its commit."""
        (found,) = self.cache.glob(f"models--*/snapshots/*/{file}")
        return found.resolve()


@pytest.fixture
def hub(tmp_path: Path):
    served = Hub(tmp_path / "hub-store")
    yield served
    served.close()
