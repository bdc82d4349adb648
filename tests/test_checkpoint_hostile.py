"""Files from strangers: whatever is wrong with one, the error names the file and what is wrong in it."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cnn import NAME, a_result, same_state, trained

from zoo_slim import ZooSlimError, checkpoint
from zoo_slim.checkpoint._meta import shapes_of
from zoo_slim.checkpoint._result_file import write_result
from zoo_slim.checkpoint._safetensors import DTYPES
from zoo_slim.result import apply_result

CONFIG, MODEL, PRUNING = "config.json", "model.safetensors", "pruning.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    slim = apply_result(trained(), a_result())
    return checkpoint.save(slim, tmp_path / "net", architecture=NAME, result=a_result(), classes=list("abcde"))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ZooSlimError, match=message) as caught:
        checkpoint.load_folder(folder)
    assert len(str(caught.value)) < 1500 and str(caught.value).isprintable()


def reseal(folder: Path) -> None:
    """Let config.json tell the true digests: what is wrong must be noticed without them."""
    config = json.loads((folder / CONFIG).read_text())
    for name in config["files"]:
        data = (folder / name).read_bytes()
        config["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / CONFIG).write_text(json.dumps(config))


def split(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(file: Path, header: Any, payload: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + payload)


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets a field, given as ``"a.b"``; ``...`` removes it."""

    def change(raw: dict[str, Any]) -> None:
        *path, last = name.split("/")
        for key in path:
            raw = raw[key]
        if value is ...:
            del raw[last]
        else:
            raw[last] = value

    return change


CONFIG_CASES = [
    (put("format", "pickle"), "'format'"),
    (put("format", ...), "'format'"),
    (put("version", 2), "'version'.*newer"),
    (put("version", True), "'version'"),
    (put("version", "1"), "'version'"),
    (put("code", "import os"), "'code'.*known fields"),
    (put("architecture", ...), "'architecture' is missing"),
    (put("architecture", "../../etc"), "'architecture'"),
    (put("architecture", 3), "'architecture'"),
    (put("architecture", "checkpoint-test-nobody-has-this"), "which no installed package offers; import the module"),
    (put("options", []), "'options'"),
    (put("options", {"__class__": 1}), "'options'"),
    (put("options", {"width": [8]}), r"'options\.width'"),
    (put("options", {"width": 10**9}), "'width'"),
    (put("options", {"pretrained_cfg": "x"}), "'pretrained_cfg'"),
    (put("options", {"width": 16}), r"pruning\.safetensors.*positions"),
    (put("variant", "a/b"), "'variant'"),
    (put("variant", "a" * 65), "'variant'"),
    (put("variant", ".."), "'variant'"),
    (put("input", [3, 4, 4]), "'input'"),
    (put("input", {"size": [3, 4]}), r"'input\.size'"),
    (put("input", {"size": [3, 4, -4]}), r"'input\.size'"),
    (put("input", {"size": [3, 4, 4], "mean": [1]}), r"'input\.mean'"),
    (put("input", {"size": [1, 4, 4], "std": [-1]}), r"'input\.std'"),
    (put("input", {"size": [1, 4, 4], "url": "x"}), "'input'"),
    (put("classes", "abcde"), "'classes'"),
    (put("classes", []), "'classes'"),
    (put("classes", ["a", None]), r"'classes\[1\]'"),
    (put("classes", ["a" * 301]), r"'classes\[0\]'"),
    (put("metrics", 3), "'metrics'"),
    (put("metrics", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {}}}}}}}}), "'metrics.*6 levels"),
    (put("metrics", {"a": 2**63}), r"'metrics\.a'"),
    (put("training", {"a" * 301: 1}), "'training'"),
    (put("training", {"a": "\x1b[31m"}), r"'training\.a'.*control"),
    (put("training", {"\x9b31m": 1}), "'training'.*control"),
    (put("classes", ["a\x07"]), r"'classes\[0\]'.*control"),
    (put("base", [1]), "'base'"),
    (put("dtype", "int64"), "'dtype'"),
    (put("dtype", "os"), "'dtype'"),
    (put("stored_dtype", 16), "'stored_dtype'"),
    (put("files", [MODEL]), "'files'"),
    (put("files", {"../secret": {"sha256": "0" * 64, "bytes": 1}}), "'files'"),
    (put("files/setup.py", {"sha256": "0" * 64, "bytes": 1}), "'files'"),
    (put(f"files/{MODEL}", {}), rf"'files\.{MODEL}'"),
    (put(f"files/{MODEL}/sha256", "0" * 63), "sha256'"),
    (put(f"files/{MODEL}/sha256", "0" * 64), r"model\.safetensors: its SHA-256"),
    (put(f"files/{PRUNING}/sha256", "0" * 64), r"pruning\.safetensors: its SHA-256"),
    (put(f"files/{MODEL}/bytes", -1), "bytes'"),
    (put(f"files/{MODEL}/bytes", 1.0), "bytes'"),
    (put(f"files/{MODEL}/bytes", 17), r"model\.safetensors.*17 bytes long"),
    (put(f"files/{MODEL}", ...), r"config\.json"),
    (put(f"files/{PRUNING}", ...), r"model\.safetensors: tensor 'scale': expected the shape \[16\], found \[6\]"),
    (put("package", "numpy"), "'package'"),
    (put("package", {"name": "numpy"}), "'package'"),
    (put("package", {"name": "numpy", "version": "1", "index": "http://host"}), "'package'"),
    (put("package", {"name": "--index-url=http://host", "version": "1"}), "'package'"),
    (put("package", {"name": "numpy", "version": "1\n2"}), "'package'"),
    (put("package", {"name": ["numpy"], "version": 1}), "'package'"),
    (put("libraries", {"numpy": "1"}), "'libraries'"),
    (put("libraries", [{"name": "numpy", "version": "1"}, "scipy"]), r"'libraries\[1\]'"),
    (put("libraries", [{"name": "numpy", "version": "1"}] * 101), "'libraries'.*at most 100"),
    (put("base_weights", {"sha256": "0" * 64, "bytes": 1}), "'base_weights'"),
]


@pytest.mark.parametrize(("change", "message"), CONFIG_CASES, ids=[str(i) for i in range(len(CONFIG_CASES))])
def test_config_fields(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    change(raw)
    (folder / CONFIG).write_text(json.dumps(raw))
    refused(folder, message)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "", "is not the JSON"),
        (lambda text: text[:-20], "is not the JSON"),
        (lambda text: "[]", "expected a JSON object"),
        (lambda text: text.replace('"metrics": {}', '"metrics": {"a": NaN}'), "NaN"),
        (lambda text: text.replace('"metrics": {}', '"metrics": {"a": -Infinity}'), "-Infinity"),
        (lambda text: text.replace('"metrics": {}', '"metrics": {"a": 1e999}'), "too large"),
        (lambda text: text.replace('"metrics": {}', '"metrics": {"a": %s}' % ("9" * 5000)), "too long"),
        (lambda text: text.replace('"metrics": {}', '"metrics": {"a": 1, "a": 2}'), "occurs twice"),
        (lambda text: text.replace('"metrics": {}', '"metrics": {"a": "\\ud800"}'), "metrics"),
        (lambda text: text.replace('"metrics": {}', '"metrics": ' + "[" * 50000 + "]" * 50000), "is not the JSON"),
        (lambda text: text + " " * (1 << 20), "at most 1048576 are read"),
        (lambda text: "\ufeff" + text, "is not the JSON"),
        (lambda text: "\x80\x04K*.", "is not the JSON"),
    ],
)
def test_config_text(folder: Path, edit: Callable[[str], str], message: str) -> None:
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(edit(text))
    assert (folder / CONFIG).read_text() != text
    refused(folder, rf"config\.json.*{message}")


def test_config_that_is_not_text(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b"\xff\xfe{}")
    refused(folder, r"config\.json.*utf-8")


def first_of(header: dict[str, Any]) -> str:
    return min((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])


HEADER_CASES: list[tuple[Callable[[dict[str, Any], bytes], tuple[Any, bytes]], str]] = [
    (lambda h, p: (b"not json", p), "is not the JSON"),
    (lambda h, p: (b"[]", p), "expected a JSON object"),
    (lambda h, p: (b'{"a":1,"a":1}', p), "occurs twice"),
    (lambda h, p: ({**h, "__metadata__": 3}, p), "__metadata__"),
    (lambda h, p: ({**h, "__metadata__": {"a": 1}}, p), "__metadata__"),
    (lambda h, p: ({**h, "extra": h["scale"]}, p), "overlaps"),
    (lambda h, p: ({**h, "extra": {"dtype": "F32", "shape": [0], "data_offsets": [len(p)] * 2}}, p), "'extra' is not"),
    (lambda h, p: ({n: e for n, e in h.items() if n != "scale"}, p), "the file has|holes"),
    (lambda h, p: (h, p + b"tail"), "the file has"),
    (lambda h, p: (h, p[:-4]), "the file has"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "shape": [3]}}, p), "'scale'.*bytes long"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "shape": [2, 3]}}, p), r"'scale': expected the shape \[6\]"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "shape": [-6]}}, p), "'scale'.*natural"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "shape": [2**40, 2**40]}}, p), "'scale'.*bytes long"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "shape": [True] * 6}}, p), "'scale'.*natural"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "shape": [1] * 17}}, p), "'scale'.*16"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "dtype": "I32"}}, p), r"'scale': expected torch\.float32"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "dtype": "PICKLE"}}, p), "'scale'.*dtype"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "dtype": ["F32"]}}, p), "'scale'.*dtype"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "data_offsets": [0]}}, p), "'scale'.*data_offsets"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "data_offsets": [-24, 0]}}, p), "'scale'.*data_offsets"),
    (lambda h, p: ({**h, "scale": {**h["scale"], "data_offsets": [2**51, 2**51 + 24]}}, p), "'scale'.*data_offsets"),
    (lambda h, p: ({**h, "scale": 3}, p), "'scale'"),
    (lambda h, p: ({**h, "steps": {**h["steps"], "dtype": "F64"}}, p), r"'steps': expected torch\.int64"),
    (lambda h, p: ({**h, "\n\x1b[31m": h[first_of(h)], first_of(h): h["scale"]}, p), "header"),
]


@pytest.mark.parametrize(("change", "message"), HEADER_CASES, ids=[str(i) for i in range(len(HEADER_CASES))])
def test_weights_header(
    folder: Path, change: Callable[[dict[str, Any], bytes], tuple[Any, bytes]], message: str
) -> None:
    file = folder / MODEL
    join(file, *change(*split(file)))
    reseal(folder)
    refused(folder, rf"model\.safetensors.*{message}")


@pytest.mark.parametrize("name", [MODEL, PRUNING])
@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 7, b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}", b"\x80\x04\x95K*.", b"PK\x03\x04" * 9],
)
def test_files_that_are_no_safetensors(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    reseal(folder)
    refused(folder, name)


def text(field: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any], bytes], tuple[Any, bytes]]:
    def edit(header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
        metadata = header["__metadata__"]
        metadata[field] = json.dumps(change(json.loads(metadata[field])))
        return header, payload

    return edit


def meta(field: str, value: Any) -> Callable[[dict[str, Any], bytes], tuple[Any, bytes]]:
    return lambda h, p: ({**h, "__metadata__": {**h["__metadata__"], field: value}}, p)


def attribute(module: str, name: str, value: Any) -> Callable[[dict[str, Any], bytes], tuple[Any, bytes]]:
    return text("attributes", lambda a: {**a, module: {**a.get(module, {}), name: value}})


PRUNING_CASES: list[tuple[Callable[[dict[str, Any], bytes], tuple[Any, bytes]], str]] = [
    (meta("format", "pt"), "'format'"),
    (meta("version", "2"), "'version'"),
    (meta("extra", "x"), "metadata"),
    (lambda h, p: ({n: e for n, e in h.items() if n != "__metadata__"}, p), "metadata"),
    (meta("kept", "[]"), "kept.*object"),
    (meta("kept", '{"scale": {"0": "mask0"}, "scale": {"0": "mask0"}}'), "kept.*twice"),
    (meta("masks", "{"), "masks.*JSON"),
    (text("kept", lambda k: {**k, "nobody": {"0": "mask0"}}), "'nobody'.*no such tensor"),
    (text("kept", lambda k: {**k, "scale": {"0": "nobody"}}), "'scale': axis 0.*'nobody'"),
    (text("kept", lambda k: {**k, "scale": {"1": "mask0"}}), "'scale': axis '1'"),
    (text("kept", lambda k: {**k, "scale": {"-1": "mask0"}}), "'scale': axis '-1'"),
    (text("kept", lambda k: {**k, "scale": {"00": "mask0"}}), "'scale': axis '00'"),
    (text("kept", lambda k: {**k, "scale": {}}), "'scale'"),
    (text("kept", lambda k: {**k, "steps": {"0": "mask0"}}), "'steps': axis '0'"),
    (text("kept", lambda k: {**k, "scale": k["bn1.weight"]}), "'scale': axis 0 has 16 positions"),
    (text("kept", lambda k: {**k, "head.bias": {"0": k["conv2.weight"]["1"]}}), r"'head\.bias'"),
    (text("kept", lambda k: {n: a for n, a in k.items() if n not in ("scale", "again")}), "'scale'.*shape"),
    (text("masks", lambda m: {**m, "nobody": [8]}), "'nobody'"),
    (text("masks", lambda m: dict.fromkeys(m, 8)), "mask"),
    (text("masks", lambda m: {key: [0] for key in m}), "mask"),
    (text("masks", lambda m: {key: [2, 2, 2] for key in m}), "mask"),
    (text("masks", lambda m: {key: [10**12] for key in m}), "mask.*expected uint8"),
    (lambda h, p: (h, b"\x00" * len(p)), "at least one"),
    (lambda h, p: (h, b"\xff" * len(p)), "must be 0"),
    (lambda h, p: (h, p[:-1] + bytes([p[-1] | 1])), "must be 0|equally many|positions|mask"),
    (attribute("nobody", "groups", 1), "no module 'nobody'"),
    (attribute("conv1", "__class__", 1), "__class__"),
    (attribute("conv1", "nobody", 1), r"'conv1'\.'nobody'"),
    (attribute("conv1", "training", 1), r"'conv1'\.'training'"),
    (attribute("conv1", "forward", 1), r"'conv1'\.'forward'"),
    (attribute("conv1", "weight", 1), r"'conv1'\.'weight'"),
    (attribute("conv1", "_parameters", 1), "_parameters"),
    (attribute("conv1", "padding_mode", "zeros"), "integer"),
    (attribute("conv1", "out_channels", True), "integer"),
    (attribute("conv1", "out_channels", 4.0), "integer"),
    (attribute("conv1", "out_channels", 2**31), "integer"),
    (attribute("conv1", "out_channels", [4]), "same length"),
    (attribute("conv1", "stride", [1, 1, 1]), "same length"),
    (attribute("conv1", "stride", []), "integer"),
    (attribute("conv1", "a b", 1), "'a b'"),
    (text("attributes", lambda a: {**a, "conv1": 3}), "'conv1'"),
]


@pytest.mark.parametrize(("change", "message"), PRUNING_CASES, ids=[str(i) for i in range(len(PRUNING_CASES))])
def test_pruning_file(folder: Path, change: Callable[[dict[str, Any], bytes], tuple[Any, bytes]], message: str) -> None:
    file = folder / PRUNING
    before = file.read_bytes()
    join(file, *change(*split(file)))
    assert file.read_bytes() != before
    reseal(folder)
    refused(folder, message)


def test_names_of_one_tensor_keep_the_same(folder: Path, tmp_path: Path) -> None:
    result, original = a_result(), trained()
    slim = apply_result(original, result)
    only_one = replace(result, kept={name: axes for name, axes in result.kept.items() if name != "scale"})
    checkpoint.save(slim, tmp_path / "one", architecture=NAME, result=only_one)
    assert same_state(checkpoint.load_folder(tmp_path / "one"), checkpoint.load_folder(folder))
    two = replace(result, kept={**result.kept, "again": {0: result.kept["again"][0] + 0}})
    checkpoint.save(slim, tmp_path / "two", architecture=NAME, result=two)
    others = replace(result, kept={**result.kept, "again": {0: torch.tensor([0, 3, 5, 9, 10, 14])}})
    with pytest.raises(ZooSlimError, match="'again' is another name of 'scale'"):
        checkpoint.save(slim, tmp_path / "others", architecture=NAME, result=others)
    (folder / PRUNING).unlink()
    write_result(others, folder / PRUNING, shapes_of(original))
    reseal(folder)
    refused(folder, r"pruning\.safetensors: kept: 'again' is another name of 'scale'")


def test_a_claimed_size_is_not_allocated(folder: Path) -> None:
    header, _ = split(folder / MODEL)
    big = 2**28
    header = {"scale": {"dtype": "F32", "shape": [big], "data_offsets": [0, 4 * big]}}
    join(folder / MODEL, header, b"")
    with (folder / MODEL).open("ab") as stream:
        stream.truncate(stream.tell() + 4 * big)
    config = json.loads((folder / CONFIG).read_text())
    config["files"][MODEL]["bytes"] = (folder / MODEL).stat().st_size
    (folder / CONFIG).write_text(json.dumps(config))
    refused(folder, r"model\.safetensors: tensor 'scale': expected the shape \[6\], found")


def test_booleans_are_zero_or_one(tmp_path: Path) -> None:
    from zoo_slim.checkpoint._tensor_file import TensorFile

    join(tmp_path / "x", {"b": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\x01\x02")
    with TensorFile(tmp_path / "x") as file, pytest.raises(ZooSlimError, match="'b'"):
        file.read()
    assert torch.bool in DTYPES.values()


def test_files_that_are_links_folders_or_missing(folder: Path, tmp_path: Path) -> None:
    for name in (CONFIG, MODEL, PRUNING):
        copy = tmp_path / f"missing-{name}"
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        refused(copy, name)
        shutil.copy(folder / name, tmp_path / "outside")
        (copy / name).symlink_to(tmp_path / "outside")
        refused(copy, f"{name}.*leads out")
        (copy / name).unlink()
        (copy / name).symlink_to(copy / name)
        refused(copy, name)
        (copy / name).unlink()
        (copy / name).mkdir()
        refused(copy, name)
        (copy / name).rmdir()
        os.mkfifo(copy / name)
        refused(copy, name)
    refused(tmp_path / "nowhere", "there is no such folder")


def test_links_within_a_hub_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in (CONFIG, MODEL, PRUNING):
        shutil.copy(folder / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert same_state(checkpoint.load_folder(snapshot), checkpoint.load_folder(folder))


def test_a_folder_of_another_variant(folder: Path) -> None:
    put_variant = json.loads((folder / CONFIG).read_text())
    put_variant["variant"] = "0.5"
    (folder / CONFIG).write_text(json.dumps(put_variant))
    checkpoint.load_folder(folder)
    folder.rename(folder.with_name("pruned-0.6"))
    refused(folder.with_name("pruned-0.6"), r"'variant': expected '0\.6'.*'0\.5'")


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat or insert some."""
    mutated = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 4])):
        where = chance.randrange(len(mutated) + 1)
        kind = chance.randrange(5)
        if kind == 0 and where < len(mutated):
            mutated[where] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del mutated[where : where + chance.choice([1, 8, 100])]
        elif kind == 2:
            mutated[where:where] = mutated[where : where + chance.choice([1, 30])]
        elif kind == 3:
            mutated[where : where + 1] = chance.choice(
                [b"0", b"9", b"-", b'"', b"{", b"]", b",", b"null", b"\x00", b"1e9"]
            )
        else:
            mutated[where : where + 1] = bytes([chance.randrange(256)])
    return bytes(mutated)


@pytest.mark.parametrize("name", [CONFIG, PRUNING, MODEL])
def test_mutated_files_raise_or_load_equal(folder: Path, name: str) -> None:
    chance = random.Random(name)
    original = checkpoint.load_folder(folder)
    data = (folder / name).read_bytes()
    config = (folder / CONFIG).read_bytes()
    raised = 0
    for number in range(100):
        (folder / CONFIG).write_bytes(config)
        (folder / name).write_bytes(mutate(data, chance))
        if name != CONFIG and number % 2:
            reseal(folder)
        try:
            loaded = checkpoint.load_folder(folder)
        except ZooSlimError as error:
            assert str(error).isprintable() or "\n" in str(error)
            raised += 1
        else:
            shapes = [t.shape for t in loaded.state_dict().values()]
            assert shapes == [t.shape for t in original.state_dict().values()]
            if name == CONFIG or not number % 2:
                assert same_state(loaded, original)
    assert raised > 40


@pytest.mark.parametrize("shape", [[2**49, 2**49, 0], [0, 2**49, 2**49], [2**40, 0, 2**40, 2**40]])
def test_an_empty_tensor_of_a_shape_that_overflows(folder: Path, shape: list[int]) -> None:
    header, payload = split(folder / MODEL)
    header["zzz"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(payload), len(payload)]}
    join(folder / MODEL, header, payload)
    reseal(folder)
    refused(folder, r"model\.safetensors: header: tensor 'zzz': a tensor of the shape .* cannot be held")


def test_a_big_endian_machine_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "big")
    refused(folder, r"model\.safetensors: safetensors files are little-endian")
    with pytest.raises(ZooSlimError, match="little-endian"):
        checkpoint.save(trained(), tmp_path / "new", architecture=NAME)
    assert not (tmp_path / "new").exists()
