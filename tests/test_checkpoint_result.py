import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_cnn import a_result, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from zoo_slim._errors import CheckpointError
from zoo_slim.checkpoint import read_result, write_result
from zoo_slim.checkpoint._meta import shapes_of
from zoo_slim.checkpoint._result_file import check_meaning
from zoo_slim.checkpoint._safetensors import write_tensors
from zoo_slim.checkpoint._tensor_file import TensorFile
from zoo_slim.result import PruningResult


@st.composite
def results(draw: st.DrawFn) -> tuple[PruningResult, dict[str, tuple[int, ...]]]:
    kept: dict[str, dict[int, torch.Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=8), max_size=5, unique=True)):
        shape = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
        axes = {}
        for axis in draw(st.sets(st.integers(0, len(shape) - 1), max_size=3)):
            index = draw(st.sets(st.integers(0, shape[axis] - 1), min_size=1))
            axes[axis] = torch.tensor(sorted(index))
        left = len(axes[0]) if 0 in axes else shape[0]
        if len(shape) > 1 and draw(st.booleans()):
            groups = draw(st.sampled_from([g for g in range(1, left + 1) if left % g == 0]))
            count = draw(st.integers(1, shape[1]))
            row = st.sets(st.integers(0, shape[1] - 1), min_size=count, max_size=count).map(sorted)
            axes[1] = torch.tensor([draw(row) for _ in range(groups)])
        shapes[name] = tuple(shape)
        if axes:
            kept[name] = axes
    number = st.integers(-(2**31) + 1, 2**31 - 1)
    attributes = draw(
        st.dictionaries(
            st.text(max_size=8),
            st.dictionaries(
                st.sampled_from(["groups", "num_heads", "_dim", "größe"]),
                number | st.lists(number, min_size=1, max_size=3).map(tuple),
                min_size=1,
            ),
            max_size=3,
        )
    )
    gone = st.sampled_from(["Identity", "ReLU", "Zeros"])
    removed = draw(st.dictionaries(st.sampled_from(["gone.0", "gone.1", "gone.11", "größe"]), gone))
    shapes |= {f"{block}.weight": (1,) for block in removed}
    return PruningResult(kept, attributes).removing(removed), shapes


@settings(max_examples=100, deadline=None)
@given(results())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, case: Any) -> None:
    result, shapes = case
    file = tmp_path_factory.mktemp("result") / "pruning.safetensors"
    _, size = write_result(result, file, shapes)
    assert size == file.stat().st_size
    read = read_result(file, shapes)
    assert read == result
    again = file.with_name("again")
    assert write_result(read, again, shapes) == write_result(result, file.with_name("third"), shapes)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("value", "fits"),
    [((3, 5), True), ((3, 5, 1), False), ((3,), False), (3, False)],
)
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_tuple_replaces_as_many_integers_of_a_list_or_tuple(kind: type, value: Any, fits: bool) -> None:
    model = torch.nn.Module()
    model.sizes = kind((8, 8))
    result = PruningResult({}, {"": {"sizes": value}})
    if fits:
        check_meaning(result, model, "file")
    else:
        with pytest.raises(CheckpointError, match=r"sizes.*one of the same length; the freshly built module has"):
            check_meaning(result, model, "file")


@pytest.mark.parametrize("current", [[8, True], [8, 8.0], [8, [8]], ["a", "b"], "ab", None, {8, 9}, range(2)])
def test_what_is_no_list_of_integers_is_never_set(current: Any) -> None:
    model = torch.nn.Module()
    model.sizes = current
    with pytest.raises(CheckpointError, match="sizes"):
        check_meaning(PruningResult({}, {"": {"sizes": (3, 5)}}), model, "file")


def rewritten(file: Path, **changes: Any) -> Path:
    """The same file with some fields of its metadata changed, or left out where None."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    fields = {**header["__metadata__"], **changes}
    header["__metadata__"] = {name: value for name, value in fields.items() if value is not None}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return file


REMOVED = PruningResult(a_result().kept, a_result().attributes).removing({"conv2": "Identity"})


def test_a_file_without_removed_blocks_is_as_it_always_was(tmp_path: Path) -> None:
    shapes = shapes_of(trained())
    write_result(a_result(), tmp_path / "old", shapes)
    write_result(REMOVED, tmp_path / "new", shapes)
    found = []
    for name in ("old", "new"):
        with safe_open(tmp_path / name, framework="np") as file:
            found.append(file.metadata())
    assert found[0]["version"] == "1" and "removed" not in found[0]
    assert found[1]["version"] == "2" and json.loads(found[1]["removed"]) == {"conv2": "Identity"}
    assert read_result(tmp_path / "new", shapes) == REMOVED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1"}, "expected the metadata"),
        ({"version": "3"}, "'version': expected '1' or '2', found '3'"),
        ({"removed": None}, "expected the metadata"),
        ({"removed": "[]"}, "removed"),
        ({"removed": '{"conv2": 1}'}, "'conv2': expected one of Identity, .*, found 1"),
        ({"removed": '{"conv2": "Linear"}'}, "'conv2': expected one of Identity, .*, found 'Linear'"),
        ({"removed": '{"conv2": "__class__"}'}, "'conv2': expected one of"),
        ({"removed": '{"conv3": "Identity"}'}, "'conv3': the architecture has no such module"),
        ({"removed": '{"": "Identity"}'}, "'': the architecture has no such module"),
        ({"removed": '{"conv2.weight": "Identity"}'}, "'conv2.weight': the architecture has no such module"),
        ({"removed": '{"conv1": "Identity"}'}, "'conv1': is removed, but 'conv1.weight' in it is named too"),
        ({"removed": '{"conv2": "Identity"}', "attributes": '{"conv2": {"groups": 1}}'}, "'conv2': is removed, but"),
        ({"removed": '{"conv2": "Identity"}', "attributes": '{"conv2%s": {"a": 1}}' % (".x" * 10**5)}, "'conv2': is"),
    ],
)
def test_removed_blocks_are_validated(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    shapes = shapes_of(trained())
    write_result(REMOVED, tmp_path / "p", shapes)
    with pytest.raises(CheckpointError, match=message):
        read_result(rewritten(tmp_path / "p", **changes), shapes)


@pytest.mark.parametrize("removed", [{"conv2": "Linear"}, {"nobody": "Identity"}, {"bn1": "Identity"}])
def test_blocks_that_are_not_there_are_not_written(tmp_path: Path, removed: dict[str, str]) -> None:
    result = PruningResult(REMOVED.kept, REMOVED.attributes, removed)
    with pytest.raises(CheckpointError, match=next(iter(removed))):
        write_result(result, tmp_path / "p", shapes_of(trained()))
    assert not (tmp_path / "p").exists()


def test_equal_masks_are_stored_once_in_the_order_of_packbits(tmp_path: Path) -> None:
    shapes = shapes_of(trained())
    write_result(a_result(), tmp_path / "p", shapes)
    with safe_open(tmp_path / "p", framework="np") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert file.metadata()["format"] == "zoo_slim.pruning"
    expected = [np.zeros(8, bool), np.zeros((2, 4), bool), np.zeros(16, bool)]
    expected[0][[0, 2, 5, 7]] = True
    expected[1][0, [0, 2]] = expected[1][1, [1, 3]] = True
    expected[2][[0, 3, 5, 9, 10, 15]] = True
    packed = sorted(np.packbits(mask, axis=-1).tolist() for mask in expected if mask.ndim == 1)
    assert sorted(mask.tolist() for mask in stored.values() if mask.ndim == 1) == packed
    assert [mask.tolist() for mask in stored.values() if mask.ndim == 2] == [[[0b10100000], [0b01010000]]]


@pytest.mark.parametrize(
    ("name", "axis", "index"),
    [
        ("nobody", 0, torch.tensor([0])),
        ("bn1.weight", 1, torch.tensor([0])),
        ("bn1.weight", -1, torch.tensor([0])),
        ("bn1.weight", 0, torch.tensor([8])),
        ("bn1.weight", 0, torch.tensor([-1])),
        ("bn1.weight", 0, torch.tensor([1, 1])),
        ("bn1.weight", 0, torch.tensor([2, 1])),
        ("bn1.weight", 0, torch.tensor([], dtype=torch.int64)),
        ("bn1.weight", 0, torch.tensor([1], dtype=torch.int32)),
        ("bn1.weight", 0, torch.tensor(1)),
    ],
)
def test_results_that_fit_no_network_are_not_written(tmp_path: Path, name: str, axis: int, index: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=name):
        write_result(PruningResult({name: {axis: index}}), tmp_path / "p", shapes_of(trained()))
    assert not (tmp_path / "p").exists()


def test_the_safetensors_library_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    tensors = {str(d): torch.arange(6).reshape(2, 3).to(d) for d in [*dtypes, torch.int8, torch.uint8]}
    tensors |= {"bool": torch.tensor([True, False]), "scalar": torch.tensor(3.5), "none": torch.zeros(0, 3)}
    specs = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    write_tensors(tmp_path / "ours", specs, lambda name: tensors[name], {"b": "é", "a": "1"})
    save_file(tensors, tmp_path / "theirs", {"b": "é", "a": "1"})
    theirs = load_file(tmp_path / "ours")
    for file in ("ours", "theirs"):
        with TensorFile(tmp_path / file) as source:
            assert source.metadata == {"b": "é", "a": "1"}
            ours = source.read()
        for name, tensor in tensors.items():
            for read in (ours, theirs):
                assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
                assert torch.equal(read[name], tensor)
