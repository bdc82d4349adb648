"""Variants whose weights are the kept rows and columns of a file in another repository."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cnn import NAME, a_result, images, load, same_state, slimmed, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo_slim
from zoo_slim import checkpoint
from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint import BaseWeights, FileRecord, _tensor_file, describe_base
from zoo_slim.checkpoint._tensor_file import TensorFile
from zoo_slim.registry import Architecture, registry
from zoo_slim.result import PruningResult, slice_tensor

REPO, COMMIT = "someone/cnn", "0123456789" * 4


def base_file(folder: Path, state: Mapping[str, Tensor] | None = None, **how: Any) -> tuple[Path, BaseWeights]:
    """Write a base's state dict as others do; return where, and its description."""
    state = trained(1).state_dict() if state is None else state
    file = folder / f"base-{len(list(folder.iterdir()))}.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, file)
    return file, describe_base(file, REPO, COMMIT, **how)


def save(model: nn.Module, folder: Path, base: BaseWeights, file: Path, **how: Any) -> Path:
    how = {"result": a_result(), "architecture": NAME, **how}
    return checkpoint.save(model, folder, base_weights=base, base_file=file, **how)


def test_only_the_result_is_stored(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    file, base = base_file(tmp_path)
    folder = save(slim, tmp_path / "net" / "pruned-0.5", base, file, metrics={"test_accuracy": 0.5})
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pruning.safetensors"]
    raw = json.loads((folder / "config.json").read_text())["base_weights"]
    assert raw == {
        "repo": REPO,
        "revision": COMMIT,
        "file": "model.safetensors",
        "sha256": base.sha256,
        "bytes": file.stat().st_size,
    }
    assert checkpoint.read_config(folder).base_weights == base
    for verified in (False, True, lambda path, record: path == file and record == base.record):
        loaded = load(folder, base_file=file, verified=verified)
        assert same_state(slim, loaded) and torch.equal(slim(images()), loaded(images()))
        origin = checkpoint.origin_of(loaded)
        assert origin is not None and origin.result == a_result() and origin.metrics == {"test_accuracy": 0.5}
    assert load(folder, base_file=file, dtype=torch.float16).scale.dtype == torch.float16
    assert load(folder, pretrained=False)(images()).shape == (2, 5)


def test_what_was_verified_is_not_hashed_again(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    file, base = base_file(tmp_path)
    folder = save(slim, tmp_path / "delta", base, file)
    own = checkpoint.save(slim, tmp_path / "own", architecture=NAME, result=a_result())
    asked: list[tuple[Path, FileRecord]] = []

    def known(path: Path, record: FileRecord) -> bool:
        asked.append((path, record))
        return False

    load(own, verified=known)
    load(folder, base_file=file, verified=known)
    assert asked == [
        (own / "model.safetensors", checkpoint.read_config(own).files["model.safetensors"]),
        (file, base.record),
    ]
    for place, weights in ((own, own / "model.safetensors"), (folder, file)):
        data = bytearray(weights.read_bytes())
        for i in range(8 + int.from_bytes(data[:8], "little"), len(data)):
            data[i] ^= 1
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{weights.name}: its SHA-256"):
            load(place, base_file=None if place == own else file)
        assert not same_state(load(place, base_file=None if place == own else file, verified=True), slim)


def test_a_common_prefix_is_noticed_and_recorded(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    state = trained(1).state_dict()
    file, base = base_file(tmp_path, {**{f"module.{name}": t for name, t in state.items()}, "epoch": torch.tensor(3)})
    folder = save(slim, tmp_path / "net", base, file)
    assert checkpoint.read_config(folder).base_weights == dataclasses.replace(base, prefix="module.")
    assert same_state(slim, load(folder, base_file=file))


def test_other_names_are_given(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    state = trained(1).state_dict()
    names = {"conv1.weight": "stem.0.weight", "head.bias": "fc.b"}
    renamed = {names.get(name, name): tensor for name, tensor in state.items()}
    file, plain = base_file(tmp_path, renamed)
    with pytest.raises(CheckpointError, match=r"tensor 'conv1\.weight' is missing; 'head\.bias' is missing$"):
        save(slim, tmp_path / "net", plain, file)
    base = describe_base(file, REPO, COMMIT, "a/b.safetensors", names)
    folder = save(slim, tmp_path / "net", base, file)
    assert checkpoint.read_config(folder).base_weights == base
    assert same_state(slim, load(folder, base_file=file))
    for wrong, message in (
        ({**names, "nobody": "x"}, "'nobody'"),
        ({**names, "bn1.weight": "bn1.bias"}, r"'bn1\.bias' is another tensor's already"),
        ({**names, "head.bias": "head.weight"}, r"'head\.bias' \('head\.weight' there\): expected the shape"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save(slim, tmp_path / "net", dataclasses.replace(base, names=wrong), file)
    raw = json.loads((folder / "config.json").read_text())
    raw["base_weights"]["names"]["nobody"] = "x"
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"config\.json: field 'base_weights\.names'.*'nobody'"):
        load(folder, base_file=file)


def test_a_shared_tensor_may_have_any_of_its_names(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    state = trained(1).state_dict()
    del state["scale"]
    file, base = base_file(tmp_path, state)
    assert same_state(slim, load(save(slim, tmp_path / "net", base, file), base_file=file))


def test_counts_of_batches_that_are_missing_are_zero(tmp_path: Path) -> None:
    model = trained(1)
    model.bn1.num_batches_tracked.zero_()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "bn1.num_batches_tracked"}
    file, base = base_file(tmp_path, state)
    slim = slimmed(model, a_result())
    assert same_state(slim, load(save(slim, tmp_path / "net", base, file), base_file=file))
    slim.bn1.num_batches_tracked += 1
    with pytest.raises(CheckpointError, match=r"'bn1\.num_batches_tracked': is not the kept part"):
        save(slim, tmp_path / "net", base, file)
    file, base = base_file(tmp_path, {name: tensor for name, tensor in state.items() if name != "steps"})
    with pytest.raises(CheckpointError, match=r"tensor 'steps' is missing$"):
        save(slim, tmp_path / "net", base, file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_base_that_is_stored_in_another_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model = trained(1).to(dtype)
    model.bn1.running_mean = model.bn1.running_mean.float()
    file, base = base_file(tmp_path, model.state_dict())
    slim = slimmed(model.float(), a_result())
    folder = save(slim, tmp_path / "net", base, file)
    config = checkpoint.read_config(folder)
    assert (config.dtype, config.stored_dtype) == ("float32", str(dtype).removeprefix("torch."))
    assert same_state(slim, load(folder, base_file=file))


def test_blocks_that_are_removed_are_not_needed(tmp_path: Path) -> None:
    result = PruningResult({}, {}, {"bn1": "Identity"})
    slim = slimmed(trained(1), result)
    assert isinstance(slim.bn1, nn.Identity)
    state = {name: tensor for name, tensor in trained(1).state_dict().items() if not name.startswith("bn1.")}
    file, base = base_file(tmp_path, state)
    folder = save(slim, tmp_path / "net", base, file, result=result)
    loaded = load(folder, base_file=file)
    assert isinstance(loaded.bn1, nn.Identity) and same_state(slim, loaded)


def test_weights_that_are_not_cut_from_the_base_are_refused(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    file, base = base_file(tmp_path)
    with torch.no_grad():
        slim.head.bias += 1
    with pytest.raises(CheckpointError, match=r"'head\.bias': is not the kept part.*trained after.*must be stored"):
        save(slim, tmp_path / "net", base, file)
    with pytest.raises(CheckpointError, match=r"and \d+ more of \d+\)"):
        save(slimmed(trained(2), a_result()), tmp_path / "net", base, file)
    other, of_three = base_file(tmp_path, trained(1, num_classes=3).state_dict())
    with pytest.raises(CheckpointError, match=r"'head\.weight': expected the shape \[5, 16\], found \[3, 16\]; 'head"):
        save(slimmed(trained(1), a_result()), tmp_path / "net", of_three, other)
    many, of_doubles = base_file(tmp_path, trained(1, width=4).state_dict())
    with pytest.raises(CheckpointError, match=r"; and \d+ more$"):
        save(slimmed(trained(1), a_result()), tmp_path / "net", of_doubles, many)
    assert not (tmp_path / "net").exists()


def test_what_save_refuses(tmp_path: Path) -> None:
    slim = slimmed(trained(1), a_result())
    file, base = base_file(tmp_path)

    def refused(message: str, base: BaseWeights = base, **how: Any) -> None:
        with pytest.raises(CheckpointError, match=message):
            fields: dict[str, Any] = {"result": a_result(), "architecture": NAME, "base_file": file, **how}
            checkpoint.save(fields.pop("model", slim), tmp_path / "net", base_weights=base, **fields)
        assert not (tmp_path / "net").exists()

    refused("needs base_file=", base_file=None)
    refused("dtype= has no meaning", dtype=torch.float16)
    refused("only a slim network", model=trained(1), result=None)
    refused("cannot be read", base_file=tmp_path / "nobody")
    refused("is not a regular file", base_file=tmp_path)
    refused("bytes long", dataclasses.replace(base, bytes=base.bytes + 1))
    refused("its SHA-256", dataclasses.replace(base, sha256="0" * 64))
    refused(r"'base_weights\.revision'.*40", dataclasses.replace(base, revision="main"))
    refused(r"'base_weights\.repo'.*org/name", dataclasses.replace(base, repo="../../x"))
    refused(r"'base_weights\.file'", dataclasses.replace(base, file="../x.safetensors"))
    with pytest.raises(CheckpointError, match=r"'base_weights\.file'.*pytorch_model"):
        describe_base(file, REPO, COMMIT, "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="nobody: cannot be read"):
        describe_base(tmp_path / "nobody", REPO, COMMIT)


FIELDS: list[tuple[str, Any, str]] = [
    ("repo", 3, r"'base_weights\.repo'"),
    ("repo", "a/b/c", r"'base_weights\.repo'"),
    ("repo", "a/..", r"'base_weights\.repo'"),
    *(("repo", name, r"'base_weights\.repo'") for name in ("a/b.git", "a--b/c", "a-/b", "a/b.", "-a/b")),
    ("repo", "https://host/b", r"'base_weights\.repo'"),
    ("revision", "f" * 39, r"'base_weights\.revision'"),
    ("revision", "F" * 40, r"'base_weights\.revision'"),
    ("file", "/etc/passwd.safetensors", r"'base_weights\.file'"),
    ("file", "a/../b.safetensors", r"'base_weights\.file'"),
    ("file", "model.bin", r"'base_weights\.file'"),
    ("file", ".git/x.safetensors", r"'base_weights\.file'"),
    ("sha256", "0" * 63, r"'base_weights\.sha256'"),
    ("bytes", True, r"'base_weights\.bytes'"),
    ("bytes", 2**50, r"'base_weights\.bytes'"),
    ("prefix", 3, r"'base_weights\.prefix'"),
    ("prefix", "a" * 301, r"'base_weights\.prefix'"),
    ("names", [], r"'base_weights\.names'"),
    ("names", {"scale": 1}, r"'base_weights\.names'"),
    ("names", {"scale": "a", "conv1.weight": "a"}, r"'base_weights\.names'.*twice"),
    ("names", {str(i): str(i) for i in range(10_001)}, r"'base_weights\.names'"),
    ("token", "x", "'base_weights'"),
]


@pytest.mark.parametrize(("field", "value", "message"), FIELDS, ids=[str(i) for i in range(len(FIELDS))])
def test_fields_of_a_hostile_config(tmp_path: Path, field: str, value: Any, message: str) -> None:
    file, base = base_file(tmp_path)
    folder = save(slimmed(trained(1), a_result()), tmp_path / "net", base, file)
    raw = json.loads((folder / "config.json").read_text())
    raw["base_weights"][field] = value
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=rf"config\.json: field {message}"):
        load(folder, base_file=file)


def test_the_base_file_is_asked_for_only_where_it_is_needed(tmp_path: Path) -> None:
    file, base = base_file(tmp_path)
    slim = slimmed(trained(1), a_result())
    folder = save(slim, tmp_path / "net", base, file)
    with pytest.raises(CheckpointError, match=rf"hf-hub:{REPO}@{COMMIT}; fetch it and pass base_file="):
        load(folder)
    own = checkpoint.save(slim, tmp_path / "own", architecture=NAME, result=a_result())
    with pytest.raises(CheckpointError, match=r"'base_weights'.*base_file=.*leave it out"):
        load(own, base_file=file)


def test_a_base_may_be_replaced_that_a_delta_does_not_need(tmp_path: Path) -> None:
    file, base = base_file(tmp_path)
    checkpoint.save(trained(1), tmp_path / "net", architecture=NAME)
    slim = slimmed(trained(1), a_result())
    folder = save(slim, tmp_path / "net" / "pruned-0.5", base, file)
    checkpoint.save(trained(2), tmp_path / "net", architecture=NAME)
    assert same_state(slim, load(folder, base_file=file))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Tensor, dict[int, Tensor]]:
    shape = draw(st.lists(st.integers(1, 9), max_size=4))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    axes = {}
    for axis in draw(st.sets(st.sampled_from(range(len(shape))))) if shape else ():
        axes[axis] = torch.tensor(sorted(draw(st.sets(st.integers(0, shape[axis] - 1), min_size=1))))
    if len(shape) > 1 and draw(st.booleans()):
        left = len(axes[0]) if 0 in axes else shape[0]
        groups = draw(st.sampled_from([g for g in range(1, left + 1) if left % g == 0]))
        count = draw(st.integers(1, shape[1]))
        row = st.sets(st.integers(0, shape[1] - 1), min_size=count, max_size=count).map(sorted)
        axes[1] = torch.tensor([draw(row) for _ in range(groups)])
    return tensor, axes


@settings(max_examples=150, deadline=None)
@given(cases=st.lists(cuts(), min_size=1, max_size=4), block=st.sampled_from([1, 7, 64, 4 << 20]), hashed=st.booleans())
def test_rows_and_columns_are_read_as_they_would_be_cut(
    tmp_path_factory: pytest.TempPathFactory, cases: Any, block: int, hashed: bool
) -> None:
    file = tmp_path_factory.mktemp("cut") / "x.safetensors"
    save_file({f"t{i}": tensor for i, (tensor, _) in enumerate(cases)}, file)
    base = describe_base(file, REPO, COMMIT)
    wanted = {f"t{i}": axes for i, (_, axes) in enumerate(cases) if i != 1}
    with pytest.MonkeyPatch.context() as patch, TensorFile(file, base.record, hashed) as source:
        patch.setattr(_tensor_file, "_BLOCK", block)
        found = source.read_kept(wanted)
    assert found.keys() == wanted.keys()
    for name, axes in wanted.items():
        expected = slice_tensor(cases[int(name[1:])][0], axes)
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected)


@pytest.mark.parametrize("batch", [1, 5, 32 << 20])
def test_whole_files_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    state = {name: tensor.clone() for name, tensor in trained(3).state_dict().items()}
    save_file(state, tmp_path / "x")
    monkeypatch.setattr(_tensor_file, "_BATCH", batch)
    monkeypatch.setattr(_tensor_file, "_MOST_BUFFERS", 3)
    for ahead in (False, True):
        with TensorFile(tmp_path / "x", describe_base(tmp_path / "x", REPO, COMMIT).record) as source:
            if ahead:
                source.read_ahead()
            read = source.read()
        assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


HUNGRY = """
import sys, torch, pathlib
from zoo_slim.checkpoint import FileRecord
from zoo_slim.checkpoint._tensor_file import TensorFile

def peak():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024

torch.zeros(10).index_select(0, torch.arange(3))
before = peak()
file, size, sha256, hashed = sys.argv[1:]
with TensorFile(pathlib.Path(file), FileRecord(sha256, int(size)), hashed == "True") as source:
    kept = {"a": {0: torch.arange(0, 4096, 16), 1: torch.arange(0, 4096, 2)}, "b": {1: torch.arange(8)}}
    found = source.read_kept(kept)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's record of the peak")
@pytest.mark.parametrize("hashed", [True, False])
def test_the_base_is_never_held_whole(tmp_path: Path, hashed: bool) -> None:
    save_file({"a": torch.zeros(4096, 4096), "b": torch.zeros(16, 1 << 20), "c": torch.zeros(1 << 24)}, tmp_path / "x")
    base = describe_base(tmp_path / "x", REPO, COMMIT)
    assert base.bytes > 190 << 20
    arguments = [sys.executable, "-c", HUNGRY, str(tmp_path / "x"), str(base.bytes), base.sha256, str(hashed)]
    peak = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert float(peak) < 20


def test_files_of_timm_fit_torchvision_where_the_names_are_the_same(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    file, base = base_file(tmp_path, timm.create_model("resnet18").state_dict())
    for name in ("resnet18", "timm/resnet18"):
        whole = registry().find(name).build().eval()
        whole.load_state_dict(load_file(file))
        checkpoint.attach_origin(whole, checkpoint.Origin(name))
        slim, _ = zoo_slim.slim(whole, ratio=0.5, criterion="l1")
        folder = checkpoint.save(slim, tmp_path / name.replace("/", "-"), base_weights=base, base_file=file)
        assert sum(p.stat().st_size for p in folder.iterdir()) < 20_000
        assert same_state(load(folder, base_file=file), slim)


class Recurrent(nn.Module):
    """A layer that keeps a list of its weights, and one that wants to be told when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)
        self.head.register_load_state_dict_post_hook(lambda module, _: setattr(module, "told", True))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def test_layers_that_keep_lists_of_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Architecture("checkpoint-test-recurrent", Recurrent, options={})
    monkeypatch.setattr("zoo_slim.registry.Registry._find", lambda self, name: ("", known))
    model = Recurrent().eval()
    result = PruningResult({"head.weight": {0: torch.tensor([1])}, "head.bias": {0: torch.tensor([1])}}, {})
    slim = slimmed(model, result)
    file, base = base_file(tmp_path, model.state_dict())
    folder = save(slim, tmp_path / "net", base, file, result=result, architecture=known.name)
    loaded = load(folder, base_file=file)
    assert same_state(slim, loaded) and loaded.head.told
    assert torch.equal(loaded(torch.ones(1, 5, 3)), slim(torch.ones(1, 5, 3)))
