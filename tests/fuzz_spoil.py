"""Valid checkpoints, and what can be done to one: `spoil` makes the same case for the same seed and number."""

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_edits import dumps, edit_bytes, edit_json, join, split

CONFIG, MODEL, PRUNING, BASE = "config.json", "model.safetensors", "pruning.safetensors", "base.safetensors"


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


def kind_at_random(chance: random.Random) -> str:
    """Return the kind of a case, from the chance at its beginning."""
    return chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]


def spoil(number: int, seed: int, templates: Path, place: Path) -> Case:
    """Make a case in ``place``, an empty folder."""
    chance = random.Random(f"{seed}/{number}")
    kind = kind_at_random(chance)
    which = chance.choice(["net", "net/pruned-own", "net/pruned-own", "net/pruned-above", "far/pruned-far"])
    shutil.copytree(templates, place / "zoo")
    base_file = place / "zoo" / BASE if which.startswith("far") else None
    case = Case(place / "zoo" / which, base_file, chance)
    if which == "net/pruned-above" and chance.random() < 0.3:
        above = Case(case.folder.parent, None, chance)
        KINDS[kind][0](above)
        if above.true_digests:
            above.reseal()
        return case
    KINDS[kind][0](case)
    if case.true_digests:
        case.reseal()
    return case
