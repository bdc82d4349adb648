"""What can go wrong between a Hub and a loaded network, made to happen, and what came of it."""

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hub_clients import Client
from hub_handler import Fault
from hub_server import Hub

FILES = ("config.json", "pruning.safetensors", "model.safetensors")

LOAD = """
import json
said = {"error": "", "warnings": []}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    try:
        model = load("hf-hub:me/net", "0.75")
        said["same"] = cnn.same_state(model, cnn.slimmed(cnn.trained(1), cnn.a_result()))
    except ZooSlimError as error:
        said["error"] = str(error)
    said["warnings"] = [str(warning.message) for warning in told]
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        name: what goes wrong.
        where: where it is put.
        faults: of the server's answers.
        tamper: returns what the repository holds instead of the right files.
        spoil: what is done beforehand to the cache of somebody who has loaded the network.
        env: the environment of the load.
        before: code that the load's process runs first.
        error: part of the error that the user must see; "": the network loads, bit for bit.
        warning: part of the warning that the user must see.
        left: what the cache may hold afterwards of the variant's files.
    """

    name: str
    where: str
    faults: tuple[Fault, ...] = ()
    tamper: Callable[[dict[str, bytes]], dict[str, bytes]] = dict
    spoil: Callable[[Client], object] | None = None
    env: tuple[tuple[str, str], ...] = ()
    before: str = ""
    error: str = ""
    warning: str = ""
    left: tuple[str, ...] = FILES


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: what the user saw, what the cache holds, and whether it loads once the fault is gone."""

    loaded: bool
    same: bool
    error: str
    warnings: tuple[str, ...]
    left: tuple[str, ...]
    incomplete: bool
    damaged: tuple[str, ...]
    afterwards: bool


def _flip(file: str, at: float = 0.5) -> Callable[[Client], object]:
    def spoil(client: Client) -> None:
        blob = client.blob(f"pruned-0.75/{file}")
        status, data = blob.stat(), bytearray(blob.read_bytes())
        data[int(len(data) * at)] ^= 1
        blob.write_bytes(data)
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))

    return spoil


def _cut_in_half(client: Client) -> None:
    blob = client.blob("pruned-0.75/model.safetensors")
    os.truncate(blob, blob.stat().st_size // 2)


def _other_weights(client: Client) -> None:
    """Put another variant's weights, sound in themselves, in the place of this one's."""
    client.run("""load("hf-hub:me/net", "0.5")""").ok()
    blob, other = (client.blob(f"pruned-{tag}/model.safetensors") for tag in ("0.75", "0.5"))
    blob.unlink()
    os.link(other, blob)


def _remove(client: Client) -> None:
    client.blob("pruned-0.75/model.safetensors").unlink()


def _kill(client: Client) -> None:
    """Begin a load whose download stalls, and kill it: what it had is left behind."""
    for file in FILES:
        client.blob(f"pruned-0.75/{file}").unlink()
    hub = Hub.of(client.url)
    with hub.failing(Fault("GET .*/[0-9a-f]+$", "stall")):
        job = client.start("""import os; print(os.getpid(), flush=True); load("hf-hub:me/net", "0.75")""")
        end = time.monotonic() + 30
        while not any("incomplete" in file.name for file in client.cache.rglob("*")) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(int((job / "out").read_text()), signal.SIGKILL)


def _claim(**claims: object) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """Let ``config.json`` say something else of the weights."""

    def tamper(files: dict[str, bytes]) -> dict[str, bytes]:
        config = json.loads(files["pruned-0.75/config.json"])
        config["files"]["model.safetensors"].update(claims)
        return {**files, "pruned-0.75/config.json": json.dumps(config).encode()}

    return tamper


def _long(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, "pruned-0.75/config.json": files["pruned-0.75/config.json"] + b" " * (1 << 21)}


MODEL, PRUNING = (f"GET /me/net/{{{name}}}$" for name in ("model", "pruning"))
CONFIG = "GET /me/net/resolve/[^/]*/pruned-0.75/config.json"
HEADS = r"HEAD /me/net/resolve/"
NO_WEIGHTS = ("config.json", "pruning.safetensors")
TWICE = "was fetched twice and came damaged, so it was not kept"
BROKE = "broke off the download of pruned-0.75/"
AGAIN = "was damaged in the cache: its SHA-256 is"

CASES = (
    Case("connection cut, once", "config.json", (Fault(CONFIG, "cut", after=100, times=1),)),
    Case("connection cut, once", "model.safetensors", (Fault(MODEL, "cut", times=1),)),
    Case(
        "connection cut, once; the server knows no ranges",
        "model.safetensors",
        (Fault(MODEL, "cut", times=1), Fault(MODEL, "whole")),
    ),
    Case("connection cut, always", "model.safetensors", (Fault(MODEL, "cut"),), error=BROKE, left=NO_WEIGHTS),
    Case("answer stalls, once", "model.safetensors", (Fault(MODEL, "stall", times=1),)),
    Case("answer stalls, always", "model.safetensors", (Fault(MODEL, "stall"),), error=BROKE, left=NO_WEIGHTS),
    Case("no answer, once", "model.safetensors", (Fault(MODEL, "drop", times=1),)),
    Case(
        "no answer, always",
        "question for a file",
        (Fault(HEADS, "drop"),),
        error="the Hub cannot be reached (",
        left=(),
    ),
    Case("one bit wrong, once", "config.json", (Fault(CONFIG, "corrupt", times=1),)),
    Case("one bit wrong, once", "pruning.safetensors", (Fault(PRUNING, "corrupt", times=1),)),
    Case("one bit wrong, always", "config.json", (Fault(CONFIG, "corrupt"),), error=TWICE, left=()),
    Case("one bit wrong, always", "model.safetensors", (Fault(MODEL, "corrupt"),), error=TWICE, left=NO_WEIGHTS),
    Case("shorter than announced, once", "model.safetensors", (Fault(MODEL, "short", after=100, times=1),)),
    Case(
        "shorter than announced, always",
        "model.safetensors",
        (Fault(MODEL, "short", after=100),),
        error=BROKE,
        left=NO_WEIGHTS,
    ),
    Case("status 503, once", "question for a file", (Fault(HEADS, "status", 503, times=1),)),
    Case("status 503, always", "question for a file", (Fault(HEADS, "status", 503),), error="503", left=()),
    Case("status 429, always", "question for a file", (Fault(HEADS, "status", 429),), error="429", left=()),
    Case("status 403, always", "model.safetensors", (Fault(MODEL, "status", 403),), error="403", left=NO_WEIGHTS),
    Case(
        "claims a file of 99 GB",
        "config.json in the repository",
        tamper=_claim(bytes=99 * 10**9),
        error="99,000,000,000 bytes long, as config.json says, but can have",
        left=NO_WEIGHTS,
    ),
    Case(
        "claims another SHA-256",
        "config.json in the repository",
        tamper=_claim(sha256="0" * 64),
        error="it was not downloaded. The files were not pushed together",
        left=NO_WEIGHTS,
    ),
    Case("2 MB long", "config.json in the repository", tamper=_long, error="but can have 1,048,576 at most", left=()),
    Case(
        "no room on the disk",
        "the cache",
        before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))",
        error="CACHE: File too large; pruned-0.75/model.safetensors cannot be kept there",
        left=NO_WEIGHTS,
    ),
    Case("one bit wrong", "config.json in the cache", spoil=_flip("config.json"), warning="was damaged in the cache"),
    Case("one bit wrong", "pruning.safetensors in the cache", spoil=_flip("pruning.safetensors"), warning=AGAIN),
    Case("one bit wrong", "model.safetensors in the cache", spoil=_flip("model.safetensors", 0.9), warning=AGAIN),
    Case("cut in half", "model.safetensors in the cache", spoil=_cut_in_half, warning="bytes long, config.json says"),
    Case("another variant's weights", "model.safetensors in the cache", spoil=_other_weights, warning=AGAIN),
    Case("content deleted", "model.safetensors in the cache", spoil=_remove),
    Case("process killed during the download", "pruning.safetensors", spoil=_kill),
    Case(
        "one bit wrong, and offline",
        "model.safetensors in the cache",
        spoil=_flip("model.safetensors"),
        env=(("HF_HUB_OFFLINE", "1"),),
        error="was damaged in the cache",
    ),
    Case(
        "one bit wrong, and no answer",
        "model.safetensors in the cache",
        (Fault("HEAD", "drop"),),
        spoil=_flip("model.safetensors"),
        error="was damaged in the cache",
        warning="is in the cache and is used",
    ),
)


def measure(case: Case, files: dict[str, bytes], folder: Path) -> Outcome:
    """Make a fault happen to somebody who loads variant 0.75 of ``me/net``, and see what comes of it."""
    hub = Hub(folder / "store")
    try:
        repo, served = hub.store.repo("me/net"), case.tamper(files)
        repo.create()
        repo.put(served)
        client = Client(hub.url, folder / "home")
        if case.spoil is not None:
            client.run(LOAD).ok()
            case.spoil(client)
        shas = {
            name: hashlib.sha256(files[f"pruned-0.75/{name}.safetensors"]).hexdigest() for name in ("model", "pruning")
        }
        with hub.failing(*(replace(fault, where=fault.where.format(**shas)) for fault in case.faults)):
            said = json.loads(client.run(case.before + LOAD, **dict(case.env)).ok())
        home = "me/net/pruned-0.75/"
        held = {name.removeprefix(home): _content(client, name) for name in client.cached() if name.startswith(home)}
        wrong = [name for name, data in held.items() if data != served[f"pruned-0.75/{name}"]]
        incomplete = "incomplete" in client.cached()
        repo.put(files)
        clean = json.loads(client.run(LOAD).ok())
        return Outcome(
            loaded="same" in said,
            same=said.get("same", False),
            error=plain(said["error"], client),
            warnings=tuple(plain(text, client) for text in said["warnings"]),
            left=tuple(name for name in FILES if name in held),
            incomplete=incomplete,
            damaged=tuple(wrong),
            afterwards=clean.get("same", False),
        )
    finally:
        hub.close()


def _content(client: Client, name: str) -> bytes:
    return client.blob(name.removeprefix("me/net/")).read_bytes()


def plain(text: str, client: Client) -> str:
    """Return what the user saw, without what is different each time: places, ports and digests."""
    text = text.replace(str(client.cache), "CACHE").replace(client.url, "http://127.0.0.1:PORT")
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"\b([0-9a-f]{4})[0-9a-f]{36,60}\b", r"\1…", text)
    return re.sub(r"\(Request ID: [^)]*\)|\(Amzn Trace ID: [^)]*\)", "", text)


@dataclass(frozen=True)
class PushCase:
    """A fault during a push; see `Case`.

    Attributes:
        done: whether the commit is on the branch in the end.
    """

    name: str
    where: str
    fault: Fault
    error: str = ""
    done: bool = True


@dataclass(frozen=True)
class PushOutcome:
    """What came of it: what the user saw, and how many commits the push made."""

    error: str
    commits: int
    same: bool
    afterwards: bool


PUSH = """
import json
how = dict(architecture=cnn.NAME, options={"num_classes": 5}, result=cnn.a_result(), tag=sys.argv[1] or None)
said = {"error": ""}
try:
    zoo_slim.push_to_hub(cnn.slimmed(cnn.trained(3), cnn.a_result()), "me/net", "new", card=False, **how)
except ZooSlimError as error:
    said["error"] = str(error)
print(json.dumps(said))
"""

LOAD_PUSHED = """assert cnn.same_state(load("hf-hub:me/net", "new"), cnn.slimmed(cnn.trained(3), cnn.a_result()))"""

COMMIT = "POST /api/models/me/net/commit/"
NOTHING = "nothing was committed"
PUSH_CASES = (
    PushCase("status 503, once", "upload of a large file", Fault("PUT", "status", 503, times=1)),
    PushCase("status 403, always", "upload of a large file", Fault("PUT", "status", 403), NOTHING, False),
    PushCase(
        "arrives damaged, the Hub says",
        "check after the upload",
        Fault("POST .*/verify", "status", 400),
        NOTHING,
        False,
    ),
    PushCase(
        "status 403, always", "question how to upload", Fault("POST .*/preupload/", "status", 403), NOTHING, False
    ),
    PushCase("status 400, always", "commit", Fault(COMMIT, "status", 400), NOTHING, False),
    PushCase("somebody else committed (412), once", "commit", Fault(COMMIT, "status", 412, times=1)),
    PushCase("another commit is in progress (409), once", "commit", Fault(COMMIT, "status", 409, times=1)),
    PushCase("status 500, once", "commit", Fault(COMMIT, "status", 500, times=1)),
    PushCase("no answer, not done, once", "commit", Fault(COMMIT, "drop", times=1)),
    PushCase("no answer, but done", "commit", Fault(COMMIT, "lost", times=1)),
    PushCase("status 403, always", "tag", Fault("POST .*/tag/", "status", 403), "was made, but not tagged 'v1'"),
)


def measure_push(case: PushCase, files: dict[str, bytes], folder: Path) -> PushOutcome:
    """Make a fault happen to somebody who pushes a variant to ``me/net``, and see what comes of it."""
    hub = Hub(folder / "store")
    try:
        repo = hub.store.repo("me/net")
        repo.create()
        repo.put(files)
        before = len(repo.log())
        client = Client(hub.url, folder / "home", {"HF_TOKEN": "hf_me"})
        with hub.failing(replace(case.fault)):
            said = json.loads(client.run(PUSH, "v1" if case.where == "tag" else "").ok())
        commits = len(repo.log()) - before
        client.run(LOAD).ok()
        same = commits == 0 or client.run(LOAD_PUSHED).code == 0
        again = json.loads(client.run(PUSH, "").ok())
        afterwards = not again["error"] and client.run(LOAD_PUSHED).code == 0 and len(repo.log()) == before + 1
        return PushOutcome(plain(said["error"], client), commits, same, afterwards)
    finally:
        hub.close()
