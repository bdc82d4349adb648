"""Hostile checkpoints made by hand: one per way in which a stranger's file could reach for what is not its own."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_edits import join, split
from fuzz_spoil import CONFIG, MODEL, PRUNING, Case

__all__ = ["HAND_MADE", "HandMade"]


@dataclass(frozen=True)
class HandMade:
    """A hostile checkpoint.

    Attributes:
        spoil: makes it out of a valid one.
        says: part of the message that the user must see.
        template: the valid one.
        true_digests: whether ``config.json`` tells the digests of the files as they are.
    """

    spoil: Callable[[Case], object]
    says: str
    template: str = "net/pruned-own"
    true_digests: bool = True


def _config(*path: str, value: Any) -> Callable[[Case], object]:
    """Return what sets a field of ``config.json``."""

    def spoil(case: Case) -> None:
        raw = json.loads((case.folder / CONFIG).read_text())
        owner = raw
        for key in path[:-1]:
            owner = owner[key]
        owner[path[-1]] = value
        (case.folder / CONFIG).write_text(json.dumps(raw))

    return spoil


def _text(old: str, new: str) -> Callable[[Case], object]:
    """Return what replaces text in ``config.json``."""

    def spoil(case: Case) -> None:
        text = (case.folder / CONFIG).read_text()
        assert old in text
        (case.folder / CONFIG).write_text(text.replace(old, new, 1))

    return spoil


def _header(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Case], object]:
    """Return what changes the header of a safetensors file."""

    def spoil(case: Case) -> None:
        header, payload = split(case.folder / name)
        change(header)
        join(case.folder / name, json.dumps(header).encode(), payload)

    return spoil


def _meta(field: str, change: Callable[[Any], object]) -> Callable[[Case], object]:
    """Return what changes one of the JSON texts in the metadata of ``pruning.safetensors``."""

    def edit(header: dict[str, Any]) -> None:
        value = json.loads(header["__metadata__"][field])
        change(value)
        header["__metadata__"][field] = json.dumps(value)

    return _header(PRUNING, edit)


def _payload(name: str, change: Callable[[bytes], bytes]) -> Callable[[Case], object]:
    def spoil(case: Case) -> None:
        header, payload = split(case.folder / name)
        join(case.folder / name, json.dumps(header).encode(), change(payload))

    return spoil


def _repeat_key(case: Case) -> None:
    header, payload = split(case.folder / MODEL)
    text = json.dumps(header)
    join(case.folder / MODEL, (text[:-1] + f', "scale": {json.dumps(header["scale"])}}}').encode(), payload)


def _indices(case: Case) -> None:
    """Put indices, negative and repeated ones, where the masks belong."""
    header, _ = split(case.folder / PRUNING)
    shapes = json.loads(header["__metadata__"]["masks"])
    end = 0
    for name in shapes:
        header[name] = {"dtype": "I64", "shape": [4], "data_offsets": [end, end + 32]}
        end += 32
    indices = b"".join(i.to_bytes(8, "little", signed=True) for i in (-1, 0, 0, 2**40))
    join(case.folder / PRUNING, json.dumps(header).encode(), indices * len(shapes))


def _two_names(case: Case) -> None:
    header, payload = split(case.folder / PRUNING)
    metadata = header["__metadata__"]
    masks, kept = json.loads(metadata["masks"]), json.loads(metadata["kept"])
    end = len(payload)
    header["other"] = {"dtype": "U8", "shape": [2], "data_offsets": [end, end + 2]}
    masks["other"], kept["again"]["0"] = [16], "other"
    metadata.update(masks=json.dumps(masks), kept=json.dumps(kept))
    join(case.folder / PRUNING, json.dumps(header).encode(), payload + b"\xfc\x00")


def _long_metadata(case: Case) -> None:
    header, payload = split(case.folder / MODEL)
    header["__metadata__"] = {"format": "pt", "x": "x" * (99 << 20)}
    join(case.folder / MODEL, json.dumps(header).encode(), payload)


def _sparse(case: Case) -> None:
    """Let the header describe a terabyte, and the file be as long, without a byte of it on the disk."""
    end = 1 << 40
    header = {"scale": {"dtype": "F32", "shape": [end // 4], "data_offsets": [0, end]}}
    text = json.dumps(header).encode()
    join(case.folder / MODEL, text, b"")
    with (case.folder / MODEL).open("r+b") as stream:
        stream.truncate(8 + len(text) + end)
    _config("files", MODEL, "bytes", value=8 + len(text) + end)(case)


def _link(name: str, target: str) -> Callable[[Case], object]:
    def spoil(case: Case) -> None:
        (case.folder / name).unlink()
        (case.folder / name).symlink_to(target)

    return spoil


def _folder_link(case: Case) -> None:
    """Move the variant out of the model's folder, and link to a file of it from within."""
    outside = case.folder.parent.parent / "outside"
    outside.mkdir()
    (case.folder / PRUNING).rename(outside / PRUNING)
    (case.folder / PRUNING).symlink_to(Path("..") / ".." / "outside" / PRUNING)


def _pickle(case: Case) -> None:
    (case.folder / MODEL).write_bytes(b"\x80\x04cposix\nsystem\n(S'touch /tmp/owned'\ntR.")


_FAR = "far/pruned-far"
_TIMM = {"checkpoint_path": "/etc/passwd"}
_HUGE = [2**40, 2**40]

HAND_MADE: dict[str, HandMade] = {
    "a mask for more channels than there are": HandMade(
        _meta("kept", lambda kept: kept["scale"].update({"0": kept["bn1.weight"]["0"]})), "positions"
    ),
    "bits beyond the end of a mask": HandMade(
        _payload(PRUNING, lambda bits: b"\xff" * len(bits)), "must be 0", template="net/pruned-above"
    ),
    "a mask that keeps nothing": HandMade(_payload(PRUNING, lambda bits: bytes(len(bits))), "at least one"),
    "indices, negative and repeated, instead of masks": HandMade(_indices, "expected uint8"),
    "a mask of 10^12 channels": HandMade(
        _meta("masks", lambda masks: masks.update({key: [10**12] for key in masks})), "expected uint8"
    ),
    "an axis of -1": HandMade(_meta("kept", lambda kept: kept["scale"].update({"-1": "mask0"})), "axis '-1'"),
    "two names of one tensor, of which other channels are kept": HandMade(_two_names, "is another name of"),
    "shape [2^40, 2^40]": HandMade(_header(MODEL, lambda h: h["scale"].update(shape=_HUGE)), "bytes long"),
    "a shape of -6": HandMade(_header(MODEL, lambda h: h["scale"].update(shape=[-6])), "natural"),
    "a header that describes a terabyte, in a file as long": HandMade(
        _sparse, "expected the shape", true_digests=False
    ),
    "dtype PICKLE": HandMade(_header(MODEL, lambda h: h["scale"].update(dtype="PICKLE")), "dtype"),
    "int32 where floats belong": HandMade(
        _header(MODEL, lambda h: h["scale"].update(dtype="I32")), "expected torch.float32"
    ),
    "a tensor named ../../x": HandMade(
        _header(MODEL, lambda h: h.update({"../../x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})),
        "'../../x' is not one of the architecture's",
    ),
    "a file named ../../x": HandMade(
        _config("files", value={"../../x": {"sha256": "0" * 64, "bytes": 1}}), "'files'", true_digests=False
    ),
    "base weights in a file named ../../x.safetensors": HandMade(
        _config("base_weights", "file", value="../../x.safetensors"), "'base_weights.file'", template=_FAR
    ),
    "base weights at a URL": HandMade(
        _config("base_weights", "repo", value="https://host/x"), "'base_weights.repo'", template=_FAR
    ),
    "the same key twice, in a header": HandMade(_repeat_key, "occurs twice"),
    "the same key twice, in config.json": HandMade(
        _text('"options"', '"architecture": "resnet18", "options"'), "occurs twice", true_digests=False
    ),
    "metadata of 99 MB": HandMade(_long_metadata, "claims a header of"),
    "a width of NaN": HandMade(_config("options", "width", value=math.nan), "field 'width': NaN"),
    "an attribute of NaN": HandMade(
        _meta("attributes", lambda a: a["conv1"].update(out_channels=math.nan)), "field 'out_channels': NaN"
    ),
    "another architecture": HandMade(
        lambda case: (_config("architecture", value="resnet18")(case), _config("options", value={})(case)),
        "the architecture has no such tensor",
    ),
    "another architecture's option": HandMade(_config("architecture", value="resnet18"), "'options'"),
    "an architecture that is a path": HandMade(_config("architecture", value="../../os"), "'architecture'"),
    "checkpoint_path for timm": HandMade(
        lambda case: (_config("architecture", value="timm/resnet18")(case), _config("options", value=_TIMM)(case)),
        "checkpoint_path",
    ),
    "pretrained_cfg for timm": HandMade(
        lambda case: (
            _config("architecture", value="timm/resnet18")(case),
            _config("options", value={"pretrained_cfg": "hf-hub:org/x"})(case),
        ),
        "pretrained_cfg",
    ),
    "a width of a million": HandMade(_config("options", "width", value=10**6), "cannot be built"),
    "the attribute forward": HandMade(_meta("attributes", lambda a: a["conv1"].update(forward=1)), "'forward'"),
    "the attribute __class__": HandMade(_meta("attributes", lambda a: a["conv1"].update(__class__=1)), "__class__"),
    "the attribute training": HandMade(_meta("attributes", lambda a: a["conv1"].update(training=1)), "'training'"),
    "an unknown version of config.json": HandMade(_config("version", value=99), "'version'"),
    "an unknown version of pruning.safetensors": HandMade(
        _header(PRUNING, lambda h: h["__metadata__"].update(version="99")), "'version'"
    ),
    "text that moves the terminal's cursor": HandMade(_config("training", value={"by": "\x1b[2J"}), "'training.by'"),
    "weights that link to /etc/passwd": HandMade(_link(MODEL, "/etc/passwd"), "leads out", true_digests=False),
    "weights that link to /dev/zero": HandMade(_link(MODEL, "/dev/zero"), "leads out", true_digests=False),
    "a link out of the folder": HandMade(_folder_link, "leads out", true_digests=False),
    "a pickle in place of the weights": HandMade(_pickle, MODEL),
}
