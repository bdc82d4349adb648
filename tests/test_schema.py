"""The schema file: what is written is read, what is edited by hand counts, what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo_slim import ZooSlimError
from zoo_slim.registry import registry
from zoo_slim.schema import Group, PruningSchema, dumps, loads, read_schema, write_schema
from zoo_slim.schema._expression import format_channels, parse_channels
from zoo_slim.slimming import slim
from zoo_slim.tracing import trace

IMAGES = torch.rand(2, 3, 64, 64)


@st.composite
def channels(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], np.ndarray]:
    widths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    names = ["conv1", "layer1.0.conv2", "a#2", "pos_embed/1"][: len(widths)]
    members = PruningSchema({name: Group(width) for name, width in zip(names, widths, strict=True)}).members()
    total = sum(widths)
    runs = draw(st.lists(st.tuples(st.integers(-1, total - 1), st.integers(1, 4), st.integers(1, 3)), max_size=8))
    parts = [
        np.minimum(np.arange(first, first + length), total - 1).clip(-1 if first < 0 else 0).repeat(times)
        if first >= 0
        else np.full(length, -1)
        for first, length, times in runs
    ]
    return members, np.concatenate([*parts, np.zeros(0)]).astype(np.int64)


@given(channels())
@settings(max_examples=300, deadline=None)
def test_channels_are_read_as_they_were_written(case: tuple[dict[str, np.ndarray], np.ndarray]) -> None:
    members, array = case
    text = json.loads(json.dumps(format_channels(array, members)))
    assert parse_channels(text, members, "here").tolist() == array.tolist()


def test_the_usual_forms_are_short() -> None:
    members = PruningSchema({"a": Group(4), "b": Group(2)}).members()
    assert format_channels(np.arange(4), members) == "a"
    assert format_channels(np.array([1, 2]), members) == "a[1:3]"
    assert format_channels(np.arange(4).repeat(49), members) == "a*49"
    assert format_channels(np.array([-1, -1, 4, 5, 0, 1, 2, 3]), members) == [2, "b", "a"]
    assert format_channels(np.array([3, 0, 2]), members) == "a[3,0,2]"


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "resnext50_32x4d", "densenet121", "convnext_tiny"])
def test_files_round_trip(name: str, tmp_path: Path) -> None:
    model = registry().find(name).build(num_classes=3)
    schema = trace(model, IMAGES, architecture=name)
    write_schema(schema, tmp_path / "schema.json")
    back = read_schema(tmp_path / "schema.json")
    assert dumps(back) == dumps(schema)
    one, other = schema.axes(model), back.axes(model)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key][axis], other[key][axis]) for key in one for axis in one[key])
    assert len(schema.balanced()) == len(back.balanced())
    assert [path.name for path in tmp_path.iterdir()] == ["schema.json"]


def edited(**changes: Any) -> PruningSchema:
    model = registry().find("resnet18").build(num_classes=3)
    document = json.loads(dumps(trace(model, IMAGES)))
    document["groups"]["layer1.0.conv1"].update(changes)
    return loads(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "kept"), [({"ratio": 0}, 64), ({"ratio": 0.25}, 48), ({"minimum": 60, "ratio": 0.5}, 60)]
)
def test_a_group_edited_by_hand(changes: dict[str, Any], kept: int) -> None:
    model = registry().find("resnet18").build(num_classes=3)
    network, _ = slim(model, ratio=0.5, criterion="l1", example_input=IMAGES, schema=edited(**changes))
    assert network.layer1[0].conv1.out_channels == kept


def document(**changes: Any) -> str:
    valid: dict[str, Any] = {
        "format": "zoo_slim.schema",
        "version": 1,
        "groups": {"a": {"width": 4}},
        "layers": {"conv": {"out": "a"}, "fc": {"in": "a*2"}, "bn": {"norm": "a"}},
    }
    return json.dumps({**valid, **changes})


def test_the_valid_document_is_read() -> None:
    schema = loads(document())
    assert schema.channels == 4 and schema.layers["fc"].inputs is not None
    assert schema.layers["fc"].inputs.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "format"),
        ("{", "JSON"),
        ('{"format": NaN}', "NaN"),
        ("[" * 100_000, "JSON"),
        (document(format="other"), "format"),
        (document(version=2), "version 2"),
        (document(extra=1), "extra"),
        (document(groups=[]), "groups"),
        (document(groups={"a": {"width": 0}}), "groups.a.width"),
        (document(groups={"a": {"width": True}}), "groups.a.width"),
        (document(groups={"a": {"width": 10**12}}), "groups.a.width"),
        (document(groups={"a": {"width": 4, "merge": "xor"}}), "xor"),
        (document(groups={"a": {"width": 4, "ratio": 1}}), "groups.a.ratio"),
        (document(groups={"a": {"width": 4, "minimum": 5}}), "groups.a.minimum"),
        (document(groups={"a": {"width": 4, "colour": "red"}}), "groups.a"),
        (document(layers={"conv": {"out": "b"}}), "layers.conv.out"),
        (document(layers={"conv": {"out": "a[0:5]"}}), "0:5"),
        (document(layers={"conv": {"out": "a[2:1]"}}), "2:1"),
        (document(layers={"conv": {"out": "a*999999999"}}), "layers.conv.out"),
        (document(layers={"conv": {"out": -1}}), "layers.conv.out"),
        (document(layers={"conv": {"out": "a", "groups": 0}}), "layers.conv.groups"),
        (document(layers={"conv": {"weight": "a"}}), "layers.conv"),
        (document(parameters={"p": {"x": "a"}}), "parameters.p"),
        (document(equal=[["a[0:1]", "a[1:3]"]]), r"equal\[0\]"),
        (document(equal="a"), "equal"),
        (document(rounding="ten"), "ten"),
        (document(architecture=3), "architecture"),
    ],
)
def test_bad_files_name_the_field(text: str, named: str) -> None:
    with pytest.raises(ZooSlimError, match=named):
        loads(text, "schema.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZooSlimError, match=r"nothing\.json"):
        read_schema(tmp_path / "nothing.json")


def test_a_schema_of_another_network_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    schema = trace(model, IMAGES)
    wider = nn.Sequential(nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9), nn.Conv2d(9, 2, 1))
    with pytest.raises(ZooSlimError, match=r"0\.weight"):
        slim(wider, ratio=0.5, example_input=IMAGES, schema=schema)
    shorter = nn.Sequential(nn.Conv2d(3, 8, 1))
    with pytest.raises(ZooSlimError, match=r"'2'|'1'"):
        slim(shorter, ratio=0.5, example_input=IMAGES, schema=schema)
    grown = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 2, 1))
    with pytest.raises(ZooSlimError, match="fingerprint"):
        slim(grown, ratio=0.5, example_input=IMAGES, schema=schema)
