"""Load checkpoints that are damaged or hostile, and count what happens: ``python tests/fuzz_files.py --cases 12000``.

Each case is a valid checkpoint with something done to it, the same for the same seed and number. It must load as
exactly what its files say (as the safetensors library reads them), or raise a `ZooSlimError` that names one of its
files (or the folder, if it is none), and leave every folder as it was. Cases run in processes whose memory is limited,
and which are ended when one takes too long. Time is that of the processor, memory the peak above what there was. Linux
only.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import math
import multiprocessing
import os
import queue
import random
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG, MODEL, PRUNING, BASE = "config.json", "model.safetensors", "pruning.safetensors", "base.safetensors"
PATIENCE = 60.0
"""Seconds after which a worker that has not finished a case is ended."""

ROOM = 2 << 30
"""Bytes of address space that a worker may use beyond what it has when it begins."""

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**53, 2**63, 2**200, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "0", "1", "-1", "00", "a" * 10_000, "../../x", "/etc/passwd", "\x00", "\ud800", "\n\x1b[31m", "é" * 99),
    *("__class__", "forward", "_parameters", "training", "weight", "mask0", "mask1", "scale", "Identity", "Zeros"),
    *("float16", "float64", "int64", "F16", "BF16", "I64", "BOOL", "PICKLE", "pickle", "2", "1.0", "pruned-x"),
    *("resnet18", "timm/resnet18", "checkpoint-test-cnn", "os.system", "hf-hub:a/b", "https://host/x", "0.5"),
    *([], [[]], [0], [-1], [8], [True] * 6, [2**40] * 3, [1] * 17, [0] * 1000, [None], ["a", "b"]),
    *({}, {"a": {}}, {"checkpoint_path": "/etc/passwd"}, {"pretrained_cfg": {}}, {"width": 10**6}, {"0": "mask0"}),
]


@dataclass
class Case:
    """A checkpoint to be spoilt.

    Attributes:
        folder: its own folder.
        base_file: the base's weights, of a delta.
        chance: where all decisions come from.
        true_digests: whether ``config.json`` is to tell the digests of the files as they will be.
    """

    folder: Path
    base_file: Path | None
    chance: random.Random
    true_digests: bool = True

    def file(self, *names: str) -> Path:
        """Return one of the files named that the checkpoint has, or any of its files."""
        there = [self.folder / name for name in names or (CONFIG, MODEL, PRUNING) if (self.folder / name).exists()]
        if self.base_file is not None and (not names or BASE in names):
            there.append(self.base_file)
        return self.chance.choice(there or [self.folder / CONFIG])

    def reseal(self) -> None:
        """Write the true digests into config.json, where that can still be read."""
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
            config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            for name in config["files"]:
                config["files"][name] = _record(self.folder / name)
            if self.base_file is not None:
                config["base_weights"] |= _record(self.base_file)
            (self.folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _record(file: Path) -> dict[str, Any]:
    if not file.is_file() or file.stat().st_size > 1 << 28:
        return {"sha256": "0" * 64, "bytes": file.stat().st_size}
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def split(file: Path) -> tuple[Any, bytes]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(file: Path, header: bytes, payload: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + payload)


def edit_bytes(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat, move or insert some."""
    mutated = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        where = chance.randrange(len(mutated) + 1)
        length = chance.choice([1, 1, 2, 8, 64, 1000])
        kind = chance.randrange(7)
        if kind == 0 and where < len(mutated):
            mutated[where] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del mutated[where : where + length]
        elif kind == 2:
            mutated[where:where] = mutated[where : where + length]
        elif kind == 3:
            token = chance.choice(
                [b"0", b"9", b"-", b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"1e9", b"\\u0000"]
            )
            mutated[where : where + chance.choice([0, 1])] = token
        elif kind == 4:
            mutated[where : where + length] = chance.randbytes(length)
        elif kind == 5:
            other = chance.randrange(len(mutated) + 1)
            mutated[where : where + length] = mutated[other : other + length]
        else:
            mutated[where : where + length] = bytes([chance.choice([0, 0xFF, 0x20, 0x80])]) * length
    return bytes(mutated)


def edit_json(value: Any, chance: random.Random) -> Any:
    """Change one to three things anywhere in a tree of JSON."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        places = [place for place in _places(value) if place[0] is not None]
        if not places:
            return chance.choice(HOSTILE)
        owner, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            name = chance.choice([h for h in HOSTILE if isinstance(h, str)])
            owner[name] = owner.pop(key) if chance.random() < 0.5 else owner[key]
        elif kind == 2 and type(owner[key]) is int:
            owner[key] += chance.choice([-8, -1, 1, 4, 8, 2**32])
        elif kind == 3:
            other, there = chance.choice(places)
            with contextlib.suppress(KeyError, IndexError):
                owner[key] = json.loads(json.dumps(other[there]))
        else:
            owner[key] = chance.choice(HOSTILE)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found


def dumps(value: Any, chance: random.Random) -> bytes:
    """Return JSON, sometimes with a key that occurs twice."""
    text = json.dumps(value)
    if chance.random() < 0.1 and (start := text.find('"', chance.randrange(max(1, len(text) - 1)))) >= 0:
        end = text.find('"', start + 1) + 1
        if text[end : end + 1] == ":":
            text = f"{text[:start]}{text[start:end]}: 0, {text[start:]}"
    return text.encode("utf-8", "surrogatepass")


def some_bytes(case: Case) -> None:
    """Bytes of any file, with the digests recorded as they were, or as they are."""
    file = case.file()
    file.write_bytes(edit_bytes(file.read_bytes(), case.chance))
    case.true_digests = case.chance.random() < 0.7


def cut_short(case: Case) -> None:
    """A file that ends early, or too late."""
    file = case.file()
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(case.chance.choice([0, 1, 7, 8, 9, case.chance.randrange(size), size + 1, size + 4096]))
    case.true_digests = case.chance.random() < 0.7


def config_fields(case: Case) -> None:
    """Fields of config.json."""
    file = case.folder / CONFIG
    file.write_bytes(dumps(edit_json(json.loads(file.read_text()), case.chance), case.chance))
    case.true_digests = False


def pruning_fields(case: Case) -> None:
    """The header and the metadata of pruning.safetensors, and the masks' bits."""
    file = case.file(PRUNING)
    if file.name != PRUNING:
        return config_fields(case)
    header, payload = split(file)
    kind = case.chance.randrange(4)
    metadata = header["__metadata__"]
    if kind < 2:
        name = case.chance.choice(["kept", "masks", "attributes", "removed"])
        metadata[name] = dumps(edit_json(json.loads(metadata.get(name, "{}")), case.chance), case.chance).decode()
        if name == "removed":
            metadata["version"] = "2"
    elif kind == 2:
        header = edit_json(header, case.chance)
    else:
        payload = edit_bytes(payload, case.chance)
    join(file, dumps(header, case.chance), payload)
    return None


def weights_fields(case: Case) -> None:
    """The header of the weights: dtypes, shapes, offsets, names."""
    file = case.file(MODEL, BASE)
    if file.name == CONFIG:
        return config_fields(case)
    header, payload = split(file)
    join(file, dumps(edit_json(header, case.chance), case.chance), payload)
    return None


def weights_swapped(case: Case) -> None:
    """Well-formed weights of another network: names, shapes and dtypes that do not fit."""
    import torch
    from safetensors.torch import load_file, save_file

    file = case.file(MODEL, BASE)
    if file.name == CONFIG:
        return config_fields(case)
    state = load_file(file)
    name = case.chance.choice(sorted(state))
    kind = case.chance.randrange(6)
    if kind == 0:
        del state[name]
    elif kind == 1:
        state[case.chance.choice(["../../x", "a" * 1000, "\n", f"module.{name}", "scale.0"])] = state[name].clone()
    elif kind == 2:
        shape = [case.chance.randrange(1, 20) for _ in range(case.chance.randrange(4))]
        state[name] = torch.zeros(shape, dtype=state[name].dtype)
    elif kind == 3:
        state[name] = state[name].to(case.chance.choice([torch.float16, torch.bfloat16, torch.int64, torch.uint8]))
    elif kind == 4:
        state[name] = torch.full_like(state[name], float("nan")) if state[name].is_floating_point() else -state[name]
    else:
        state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    save_file(state, file)
    return None


def _long(text: bytes, size: int) -> bytes:
    return text * (size // len(text))


def masks_of(shape: list[int]) -> bytes:
    """Return the header of a pruning result with one mask, of that many bits."""
    stored = [*shape[:-1], shape[-1] // 8]
    metadata = {"format": "zoo_slim.pruning", "version": "1", "kept": "{}", "attributes": "{}"}
    metadata["masks"] = json.dumps({"mask": shape})
    mask = {"dtype": "U8", "shape": stored, "data_offsets": [0, math.prod(stored)]}
    return json.dumps({"__metadata__": metadata, "mask": mask}).encode()


TEXTS: list[Callable[[], bytes]] = [
    lambda: b"",
    lambda: b"{}",
    lambda: b"[]",
    lambda: b"null",
    lambda: b'"',
    lambda: b"\xff\xfe{\x00}\x00",
    lambda: b"\xef\xbb\xbf{}",
    lambda: b'{"a": "\xc3\x28"}',
    lambda: b'{"\\ud800": 0}',
    lambda: b'{"a": NaN}',
    lambda: b'{"a": ' + _long(b"9", 100_000) + b"}",
    lambda: b'{"a": 1e' + _long(b"9", 100_000) + b"}",
    lambda: b'{"a": 1, "a": 2}',
    lambda: _long(b"[", 1 << 20),
    lambda: _long(b'{"a":', 1 << 20),
    lambda: b'{"a": [' + _long(b"[],", 4 << 20) + b"0]}",
    lambda: b'{"a": [' + _long(b"{},", 1 << 20) + b"0]}",
    lambda: b'{"a": [' + _long(b"0,", 1 << 20) + b"0]}",
    lambda: b'{"a": [' + _long(b"0.1,", 900_000) + b"0]}",
    lambda: b"{" + b",".join(b'"%d":{}' % i for i in range(60_000)) + b',"0":{}}',
    lambda: b"{" + b",".join(b'"%d":[%d,%d]' % (i, i, i) for i in range(40_000)) + b"}",
    lambda: b'{"a": "' + _long(b"\\u0041", 1 << 20) + b'"}',
    lambda: b'{"a": "' + "\N{GRINNING FACE}".encode() + _long(b"a", 1 << 20) + b'"}',
    lambda: b'{"__metadata__": {"a": "' + _long(b"a", 99 << 20) + b'"}}',
    lambda: b'{"__metadata__": {"attributes": "' + _long(b"[", 3 << 20) + b'", "kept": "{}"}}',
    lambda: masks_of([64_000_000]),
    lambda: masks_of([1000, 64_000]),
    lambda: masks_of([4_000_000]),
    lambda: masks_of([500, 8000]),
    lambda: b"\x80\x04\x95" + b"cos\nsystem\n(S'true'\ntR.",
    lambda: b"PK\x03\x04" + bytes(1000),
]


def bombs(case: Case) -> None:
    """Headers and configs that are huge, deep, or not JSON; header lengths that lie."""
    file = case.file()
    text = case.chance.choice(TEXTS)()
    payload = b""
    if b'"mask"' in text:
        payload = b"\xff" * json.loads(text)["mask"]["data_offsets"][1]
    if file.name == CONFIG:
        file.write_bytes(text)
    elif case.chance.random() < 0.8:
        join(file, text, payload)
    else:
        data = file.read_bytes()
        length = case.chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(data), len(data) - 8, len(data) - 7, 4 << 20])
        file.write_bytes(length.to_bytes(8, "little") + data[8:])


def odd_files(case: Case) -> None:
    """Links, folders, pipes, sockets and holes in place of files."""
    file = case.file()
    kind = case.chance.randrange(12)
    size = file.stat().st_size
    case.true_digests = False
    if kind == 9:
        return odd_folder(case)
    if kind == 10:  # what interrupted saves of somebody else have left, and files that nobody asked for
        for name in (f".{case.folder.name}.old-1-a", f".{case.folder.name}.tmp-1-a", "pruned-", "pruned-a b"):
            (case.folder.parent / name).symlink_to("/proc/self")
        for name in ("model.py", "pytorch_model.bin", "a\nb"):
            (case.folder / name).write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
        return None
    if kind == 11:
        file.chmod(0)
        return None
    if kind == 8:  # a hole of a terabyte whose header agrees
        file = case.file(MODEL, BASE)
        header = b'{"scale": {"dtype": "F32", "shape": [274877906944], "data_offsets": [0, 1099511627776]}}'
        if file.name == CONFIG:
            header = b"{}"
        join(file, header, b"")
        with file.open("r+b") as stream:
            stream.truncate(8 + len(header) + (1 << 40))
        case.true_digests = file.name != CONFIG
        return None
    outside = case.folder.parent.parent / "outside" / file.name
    outside.parent.mkdir()
    shutil.copy(file, outside)
    file.unlink()
    if kind == 0:
        file.symlink_to(outside)
    elif kind == 1:
        file.symlink_to(os.path.relpath(outside, file.parent))
    elif kind == 2:
        file.symlink_to(file)
    elif kind == 3:
        file.symlink_to(case.chance.choice(["/dev/zero", "/dev/stdin", "/proc/self/mem", "/nonexistent"]))
    elif kind == 4:
        file.mkdir()
    elif kind == 5:
        os.mkfifo(file)
    elif kind == 6:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound, contextlib.suppress(OSError):
            bound.bind(str(file))
    else:
        with file.open("wb") as stream:
            stream.truncate(size)
    return None


def odd_folder(case: Case) -> None:
    """A folder that is none, leads elsewhere, or has another name."""
    folder, kind = case.folder, case.chance.randrange(6)
    moved = folder.with_name("moved")
    folder.rename(moved)
    if kind == 0:
        folder.write_bytes(b"{}")
    elif kind == 1:
        folder.symlink_to(folder)
    elif kind == 2:
        os.mkfifo(folder)
    elif kind == 3:
        folder.symlink_to(moved, target_is_directory=True)
    elif kind == 4:
        case.folder = folder.with_name("pruned-" + case.chance.choice(["0.9", "a b", "..", "é", "-", "\n"]))
        moved.rename(case.folder)


def another_architecture(case: Case) -> None:
    """A config that names another architecture that is installed, and options that reach for files."""
    from zoo_slim.registry import registry

    file = case.folder / CONFIG
    raw = json.loads(file.read_text())
    raw["architecture"] = case.chance.choice(registry().names())
    options = [
        {},
        {},
        {"num_classes": 10**6},
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"in_chans": 10**6},
    ]
    raw["options"] = case.chance.choice(options)
    file.write_text(json.dumps(raw))
    case.true_digests = False


KINDS: dict[str, tuple[Callable[[Case], None], int]] = {
    "bytes of any file": (some_bytes, 30),
    "cut short, or too long": (cut_short, 8),
    "fields of config.json": (config_fields, 20),
    "fields of pruning.safetensors": (pruning_fields, 20),
    "header of the weights": (weights_fields, 12),
    "weights of another network": (weights_swapped, 5),
    "huge, deep or no JSON": (bombs, 3),
    "links, folders, pipes, holes": (odd_files, 3),
    "another architecture": (another_architecture, 1),
}
"""What is done to a checkpoint, and of a hundred cases or so how many are of that kind."""


def make_templates(place: Path) -> None:
    """Write valid checkpoints: a base, slim ones with and without weights, and one cut from a file elsewhere."""
    import torch
    from checkpoint_cnn import NAME, a_result, slimmed, trained
    from safetensors.torch import save_file

    from zoo_slim import checkpoint

    base = trained(1)
    slim = slimmed(base, a_result())
    fields: dict[str, Any] = {"architecture": NAME, "result": a_result(), "metrics": {"test_accuracy": 0.5}}
    checkpoint.save(base, place / "net", architecture=NAME, classes=list("abcde"), options={"width": 8})
    fields["options"] = {"width": 8}
    checkpoint.save(slim, place / "net" / "pruned-own", **fields)
    checkpoint.save(slim, place / "net" / "pruned-above", weights=False, **fields)
    without = {name: axes for name, axes in a_result().kept.items() if not name.startswith("bn1")}
    result = type(a_result())(
        without, {k: v for k, v in a_result().attributes.items() if k != "bn1"}, {"bn1": "Identity"}
    )
    fields["result"] = result
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, place / BASE)
    described = checkpoint.describe_base(place / BASE, "org/base", "0" * 40)
    far = place / "far" / "pruned-far"
    checkpoint.save(slimmed(base, result), far, base_weights=described, base_file=place / BASE, **fields)
    assert torch.get_num_threads() >= 1


def spoil(number: int, seed: int, templates: Path, place: Path) -> tuple[str, Case]:
    """Make a case in ``place``, an empty folder; return its kind and the case."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    which = chance.choice(["net", "net/pruned-own", "net/pruned-own", "net/pruned-above", "far/pruned-far"])
    shutil.copytree(templates, place / "zoo")
    base_file = place / "zoo" / BASE if which.startswith("far") else None
    case = Case(place / "zoo" / which, base_file, chance)
    if which == "net/pruned-above" and chance.random() < 0.3:
        above = Case(case.folder.parent, None, chance)
        KINDS[kind][0](above)
        if above.true_digests:
            above.reseal()
        return kind, case
    KINDS[kind][0](case)
    if case.true_digests:
        case.reseal()
    return kind, case


def state_of(place: Path) -> list[tuple[str, int, int]]:
    """Return every name below a folder, with what it is and how long."""
    return sorted((str(p), p.lstat().st_mode, p.lstat().st_size) for p in place.rglob("*"))


def is_what_the_files_say(model: Any, case: Case) -> bool:
    """Return whether a loaded network holds the values in its files, as the safetensors library reads them."""
    import torch
    from safetensors.torch import load_file

    from zoo_slim import checkpoint
    from zoo_slim.result import slice_tensor

    origin = checkpoint.origin_of(model)
    assert origin is not None
    kept = {} if origin.result is None else origin.result.kept
    own = case.folder / MODEL
    if own.exists():
        stored, kept = load_file(own), {}
    elif case.base_file is not None:
        base: Any = checkpoint.read_config(case.folder).base_weights
        read = load_file(case.base_file)
        names = model.state_dict()
        stored = {name: read[base.name_of(name)] for name in names if base.name_of(name) in read}
    else:
        stored = load_file(case.folder.parent / MODEL)
    state = model.state_dict()
    for name, tensor in stored.items():
        if name not in state or (name == "again" and "scale" in stored):  # the first name that is there counts
            continue
        cut = slice_tensor(tensor, kept[name]) if name in kept else tensor
        expected, found = cut.to(state[name].dtype), state[name]
        if expected.shape != found.shape or not torch.equal(_bits(expected), _bits(found)):
            return False
    lacking = state.keys() - stored.keys() - {"again", "scale"}
    return all(name.endswith("num_batches_tracked") and int(state[name]) == 0 for name in lacking)


def _bits(tensor: Any) -> Any:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _memory(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


@dataclass
class Outcome:
    """What one case did: ``what`` is "equal", "refused", or what was wrong."""

    number: int
    kind: str
    what: str
    seconds: float = 0.0
    bytes: int = 0


def try_one(number: int, seed: int, templates: Path, place: Path) -> Outcome:
    """Make one case and load it."""
    from zoo_slim import ZooSlimError, checkpoint

    place.mkdir()
    kind, case = spoil(number, seed, templates, place)
    before, open_files = state_of(place), len(os.listdir("/proc/self/fd"))
    Path("/proc/self/clear_refs").write_text("5")
    base_line, began = _memory("VmRSS"), time.process_time()
    model, what = None, "equal"
    try:
        model = checkpoint.load_folder(case.folder, base_file=case.base_file)
    except ZooSlimError as error:
        what = "refused"
        if not any(name in str(error) for name in (CONFIG, MODEL, PRUNING, BASE, str(case.folder))):
            what = f"names no file: {error}"
        elif not str(error).isprintable() or len(str(error)) > 3000:
            what = f"is no message for people: {str(error)[:200]!r}"
    except BaseException as error:
        what = f"raised {type(error).__name__}: {str(error)[:200]}"
    seconds, peak = time.process_time() - began, _memory("VmHWM") - base_line
    if model is not None:
        try:
            if not is_what_the_files_say(model, case):
                what = "loaded something else than the files say"
        except Exception as error:
            what = f"loaded what cannot be compared: {type(error).__name__}: {error}"
    del model
    if state_of(place) != before:
        what = "changed files"
    if len(os.listdir("/proc/self/fd")) > open_files:
        what = "left a file open"
    shutil.rmtree(place)
    return Outcome(number, kind, what, seconds, max(0, peak))


def work(numbers: Any, outcomes: Any, seed: int, templates: Path, place: Path) -> None:
    """Try cases until there are none left. Runs in a process of its own."""
    import checkpoint_cnn  # noqa: F401 - registers the architecture
    import timm
    import torchvision  # noqa: F401

    from zoo_slim.registry import registry

    registry().find("timm/resnet18").build()
    del timm
    os.chdir(templates)
    gc.collect()
    limit = _memory("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (number := numbers.get()) is not None:
        outcomes.put(number)
        outcomes.put(try_one(number, seed, templates, place / f"{os.getpid()}"))


@dataclass
class Worker:
    """A process, the case it is at, and since when."""

    process: Any
    outcomes: Any
    number: int | None = None
    since: float = field(default_factory=time.monotonic)


def run(cases: range, seed: int, workers: int, tick: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Try cases in processes; one that dies, or is ended, is an outcome too, and another takes its place."""
    context = multiprocessing.get_context("spawn")
    done: list[Outcome] = []
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        templates = place / "templates"
        make_templates(templates)
        numbers = context.Queue()
        for number in [*cases, *[None] * workers]:
            numbers.put(number)

        def start() -> Worker:
            outcomes = context.Queue()
            process = context.Process(target=work, args=(numbers, outcomes, seed, templates, place), daemon=True)
            process.start()
            return Worker(process, outcomes)

        crew = [start() for _ in range(workers)]
        while len(done) < len(cases):
            for index, worker in enumerate(crew):
                with contextlib.suppress(queue.Empty):
                    while True:
                        found = worker.outcomes.get(timeout=0.01)
                        worker.since = time.monotonic()
                        worker.number = found if isinstance(found, int) else None
                        if isinstance(found, Outcome):
                            done.append(found)
                            tick()
                late = worker.number is not None and time.monotonic() - worker.since > PATIENCE
                if worker.number is not None and (late or not worker.process.is_alive()):
                    worker.process.kill()
                    kind = spoil_kind(worker.number, seed)
                    done.append(Outcome(worker.number, kind, "took too long" if late else "killed the process"))
                    tick()
                    crew[index] = start()
        for worker in crew:
            worker.process.join(PATIENCE)
            worker.process.kill()
        left = {p.name for p in place.iterdir()} - {"templates"}
        if left:
            done.append(Outcome(-1, "after all", f"left {sorted(left)}"))
    return done


def spoil_kind(number: int, seed: int) -> str:
    """Return the kind of a case, without making it."""
    chance = random.Random(f"{seed}/{number}")
    return chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]


def main() -> int:
    """Run cases and print a table; return 1 if anything but an equal load or a `ZooSlimError` happened."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    terminal = Console(stderr=True)
    cases = range(given.first, given.first + given.cases)
    with Progress(console=terminal, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("cases", total=given.cases)
        outcomes = run(cases, given.seed, given.workers, lambda: progress.advance(task))
    table = Table(title=f"{len(outcomes)} cases, seed {given.seed}")
    for column in ("what was done", "cases", "loaded, equal", "ZooSlimError", "else", "slowest ms", "most MiB"):
        table.add_column(column, justify="left" if column == "what was done" else "right")
    for kind in [*KINDS, "all"]:
        these = [outcome for outcome in outcomes if kind in ("all", outcome.kind)]
        equal, refused = (sum(outcome.what == what for outcome in these) for what in ("equal", "refused"))
        slowest = max((outcome.seconds for outcome in these), default=0) * 1e3
        most = max((outcome.bytes for outcome in these), default=0) / (1 << 20)
        counts = len(these), equal, refused, len(these) - equal - refused
        table.add_row(kind, *map(str, counts), f"{slowest:.0f}", f"{most:.0f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    wrong = [outcome for outcome in outcomes if outcome.what not in ("equal", "refused")]
    for outcome in wrong[:40]:
        print(f"case {outcome.number} ({outcome.kind}): {outcome.what}")
    heavy = sorted(outcomes, key=lambda outcome: outcome.seconds)[-3:] + sorted(outcomes, key=lambda o: o.bytes)[-3:]
    for outcome in heavy:
        print(f"case {outcome.number} ({outcome.kind}): {outcome.seconds:.2f} s, {outcome.bytes >> 20} MiB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
