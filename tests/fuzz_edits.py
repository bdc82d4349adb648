"""Small changes to bytes and to JSON, at random, and the two parts of a safetensors file."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**53, 2**63, 2**200, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "0", "1", "-1", "00", "a" * 10_000, "../../x", "/etc/passwd", "\x00", "\ud800", "\n\x1b[31m", "é" * 99),
    *("__class__", "forward", "_parameters", "training", "weight", "mask0", "mask1", "scale", "Identity", "Zeros"),
    *("float16", "float64", "int64", "F16", "BF16", "I64", "BOOL", "PICKLE", "pickle", "2", "1.0", "pruned-x"),
    *("resnet18", "timm/resnet18", "checkpoint-test-cnn", "os.system", "hf-hub:a/b", "https://host/x", "0.5"),
    *([], [[]], [0], [-1], [8], [True] * 6, [2**40] * 3, [1] * 17, [0] * 1000, [None], ["a", "b"]),
    *({}, {"a": {}}, {"checkpoint_path": "/etc/passwd"}, {"pretrained_cfg": {}}, {"width": 10**6}, {"0": "mask0"}),
]


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
