"""Schemas: short texts for channels, files, edits by hand, and files that are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo_slim import apply_result, trace
from zoo_slim._errors import SchemaError
from zoo_slim.schema import Group, PruningSchema, dumps, fingerprint, loads, read_schema, write_schema
from zoo_slim.schema._expression import format_channels, parse_channels
from zoo_slim.slimming import result_from_keep, select, slim, verify
from zoo_slim.slimming._select import least, rounded

NAMES = ["conv1", "0", "layer1.0.conv2", "a#2", "b c", "ü"]


def members_of(widths: list[int]) -> dict[str, np.ndarray]:
    ends = np.cumsum([0, *widths])
    return {name: np.arange(a, b) for name, a, b in zip(NAMES, ends, ends[1:], strict=False)}


@st.composite
def channels(draw) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Groups, and an axis made of pieces of them: whole groups, slices, single channels, repeats, what stays."""
    members = members_of(draw(st.lists(st.integers(1, 9), min_size=1, max_size=len(NAMES))))
    pieces = [np.zeros(0, dtype=np.int64)]
    for _ in range(draw(st.integers(0, 6))):
        group = members[draw(st.sampled_from(sorted(members)))]
        start = draw(st.integers(0, len(group) - 1))
        stop = draw(st.integers(start + 1, len(group)))
        kind = draw(st.sampled_from(["whole", "slice", "shuffled", "stays"]))
        if kind == "stays":
            pieces.append(np.full(draw(st.integers(1, 5)), -1))
        else:
            piece = group if kind == "whole" else group[start:stop]
            if kind == "shuffled":
                piece = np.asarray(draw(st.permutations(piece.tolist())))
            pieces.append(piece.repeat(draw(st.sampled_from([1, 1, 2, 3, 49]))))
    return members, np.concatenate(pieces).astype(np.int64)


@settings(deadline=None)
@given(channels())
def test_channels_read_back_as_they_were_written(drawn):
    members, axis = drawn
    expression = json.loads(json.dumps(format_channels(axis, members)))
    assert np.array_equal(parse_channels(expression, members, "here"), axis)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_any_array_of_channels_reads_back(widths, data):
    members = members_of(widths)
    axis = np.asarray(data.draw(st.lists(st.integers(-1, sum(widths) - 1), max_size=30)), dtype=np.int64)
    assert np.array_equal(parse_channels(format_channels(axis, members), members, "here"), axis)


@pytest.mark.parametrize(
    "axis, expression",
    [
        ([0, 1, 2, 3], "conv1"),
        ([0, 1], "conv1[0:2]"),
        ([3], "conv1[3]"),
        ([2, 0], "conv1[2,0]"),
        ([-1, -1, -1], 3),
        ([4, 5], "0"),
        ([0, 0, 1, 1, 2, 2, 3, 3], "conv1*2"),
        ([-1, 0, 1, 2, 3, 4, 5, -1], [1, "conv1", "0", 1]),
        ([], []),
    ],
)
def test_short_forms(axis, expression):
    members = members_of([4, 2])
    assert format_channels(np.asarray(axis, dtype=np.int64), members) == expression
    assert parse_channels(expression, members, "here").tolist() == axis


class Everything(nn.Module):
    """A network whose schema has every field: grouped, transposed, norms, parameters, halves, inexact channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.c = nn.Conv2d(6, 8, 1)
        self.d, self.nd = nn.Conv2d(8, 4, 1), nn.GroupNorm(2, 4)
        self.fc = nn.Linear(4 * 25, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c(self.up(self.b(self.na(self.a(x)))) * self.scale)
        p, q = x.chunk(2, 1)
        return self.fc(self.nd(self.d(torch.cat([q, p], 1))).flatten(1))


@pytest.fixture(scope="module")
def schema() -> PruningSchema:
    return trace(Everything(), torch.rand(2, 3, 8, 8), architecture="everything")


def plain(schema: PruningSchema) -> dict:
    """All of a schema in comparable values."""
    return {
        "groups": dict(schema.groups),
        "layers": {
            name: (
                None if layer.inputs is None else layer.inputs.tolist(),
                None if layer.outputs is None else layer.outputs.tolist(),
                layer.groups,
                layer.transposed,
            )
            for name, layer in schema.layers.items()
        },
        "norms": {name: axis.tolist() for name, axis in schema.norms.items()},
        "parameters": {
            name: {axis: part.tolist() for axis, part in axes.items()} for name, axes in schema.parameters.items()
        },
        "equal": [rows.tolist() for rows in schema.equal],
        "rest": (schema.architecture, schema.fingerprint, schema.rounding),
    }


def test_a_file_reads_back_as_it_was_written(schema, tmp_path):
    full = replace(schema, rounding="eight")
    assert full.parameters and full.norms and len(full.equal) and any(group.inexact for group in full.groups.values())
    assert {layer.groups for layer in full.layers.values()} == {1, 2}
    assert any(layer.transposed for layer in full.layers.values())
    path = tmp_path / "everything.json"
    write_schema(full, path)
    assert plain(read_schema(path)) == plain(read_schema(str(path))) == plain(full)
    assert [entry.name for entry in tmp_path.iterdir()] == ["everything.json"]
    assert dumps(loads(path.read_bytes())) == path.read_text()


def test_the_file_says_one_thing_a_line(schema):
    lines = [line.strip().rstrip(",") for line in dumps(schema).splitlines()]
    assert '"up": {"in": "b", "out": "up", "transposed": true}' in lines
    assert '"b": {"in": "a", "out": "b", "groups": 2}' in lines
    assert sum('"width"' in line for line in lines) == len(schema.groups)


def test_a_depthwise_transposed_layer_writes_what_it_reads():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.Conv2d(8, 5, 1))
    found = trace(model, torch.rand(2, 3, 8, 8))
    assert '"1": {"in": "0", "out": "0", "groups": 8, "transposed": true}' in dumps(found)
    assert plain(loads(dumps(found))) == plain(found)
    assert found.axes(model)["1.weight"].keys() == {0}


def test_names_of_modules_that_mean_something_in_an_expression():
    net = nn.Sequential()
    net.add_module("a*2", nn.Conv2d(3, 4, 1))
    net.add_module("b[0:1]", nn.Conv2d(4, 3, 1))
    net.add_module("head", nn.Conv2d(3, 2, 1))
    schema = trace(net, torch.rand(2, 3, 4, 4))
    assert schema.channels == 7
    assert plain(loads(dumps(schema))) == plain(schema)


def test_a_changed_width_changes_the_fingerprint_and_a_number_of_classes_does_not(schema):
    def of(width: int, classes: int) -> str | None:
        net = nn.Sequential(nn.Conv2d(3, width, 1), nn.Flatten(), nn.Linear(width, classes))
        return trace(net, torch.rand(2, 3, 1, 1)).fingerprint

    assert of(4, 2) == of(4, 7) != of(5, 2)
    model = Everything()
    assert fingerprint(model, schema.axes(model)) == schema.fingerprint


# Edits by hand. Two plain layers of 8 and 16 channels, and the scores that a criterion gives them.


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 2))


def edited(**changes: object) -> PruningSchema:
    """The schema of `chain`, its file changed: ``{group: {field: value}}``, other fields at the top."""
    document = json.loads(dumps(trace(chain(), torch.rand(2, 3, 1, 1))))
    for key, change in changes.items():
        if key in ("first", "second"):
            document["groups"]["0" if key == "first" else "1"].update(change)
        else:
            document[key] = change
    return loads(json.dumps(document))


def widths(schema: PruningSchema, scores: np.ndarray, ratio: float, **options: object) -> tuple[int, int]:
    keep = select(schema, scores, ratio, **options)
    return int(keep[:8].sum()), int(keep[8:].sum())


RISING = np.arange(24.0)  # the first layer has the lowest scores


def test_without_edits_the_lowest_go():
    assert widths(edited(), RISING, 0.25) == (2, 16)  # 6 of 24


def test_a_ratio_of_0_leaves_a_group_alone():
    assert widths(edited(first={"ratio": 0}), RISING, 0.5) == (8, 8)


def test_a_ratio_of_its_own_is_kept_whatever_the_threshold():
    for ratio in (0.0, 0.25, 0.75):
        left, right = widths(edited(first={"ratio": 0.5}), RISING, ratio)
        assert left == 4 and right == 16 - int(16 * ratio)


def test_minimum():
    assert widths(edited(first={"minimum": 5}), RISING, 0.25) == (5, 16)
    assert widths(edited(first={"minimum": 1}), RISING, 0.5) == (1, 12)
    assert widths(edited(), RISING, 0.5) == (2, 12)  # the default: at least 2 of 8
    assert widths(edited(), RISING, 0.5, minimum=0.5) == (4, 12)
    assert widths(edited(), RISING, 0.5, minimum=3) == (3, 12)
    assert [least(Group(100), share) for share in (0.29, 0.295, 0.57)] == [29, 29, 57]  # 100 * 0.29 is 28.999…


def test_rounding():
    assert widths(edited(rounding="eight"), RISING, 0.9) == (8, 8)
    assert widths(edited(rounding="two_pow"), RISING, 0.25) == (2, 16)
    assert widths(edited(rounding="two_pow"), RISING[::-1].copy(), 0.25) == (8, 16)  # 10 of 16 becomes 16
    assert widths(edited(rounding="two_pow"), RISING[::-1].copy(), 0.25, rounding="none") == (8, 10)
    assert [rounded(keep, 20, "eight") for keep in (1, 8, 9, 17)] == [8, 8, 16, 20]
    assert [rounded(keep, 20, "two_pow") for keep in (1, 2, 3, 9, 17)] == [1, 2, 4, 16, 20]


def test_inexact_groups_are_left_alone_unless_asked_for():
    schema = edited(first={"inexact": True})
    assert widths(schema, RISING, 0.5) == (8, 8)
    assert widths(schema, RISING, 0.5, allow_inexact=True) == (2, 12)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.na, self.b, self.nb = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.na(self.a(x))
        return self.fc((x + self.nb(self.b(x))).flatten(1))


@pytest.mark.parametrize("merge, kept", [("or", [1, 3]), ("and", [0, 3])])
def test_merge(merge, kept):
    model = Residual()
    with torch.no_grad():
        model.na.weight.copy_(torch.tensor([0.5, 0.1, 0.2, 0.9]))
        model.nb.weight.copy_(torch.tensor([-0.4, 0.8, 0.3, 0.7]))
    # or: the largest of the two, .5 .8 .3 .9; and: the smallest, .4 .1 .2 .7
    document = json.loads(dumps(trace(model, torch.rand(2, 3, 1, 1))))
    assert list(document["groups"]) == ["a"]
    document["groups"]["a"]["merge"] = merge
    _, result = slim(model, ratio=0.5, schema=loads(json.dumps(document)), example_input=torch.rand(2, 3, 1, 1))
    assert result.kept["nb.weight"][0].tolist() == kept


# Files that are refused, each with the field that its error names.

GOOD = json.loads(dumps(trace(chain(), torch.rand(2, 3, 1, 1))))
BAD = {
    "another format": ({"format": "pns"}, "format"),
    "a later version": ({"version": 2}, "version 2"),
    "a version that is no number": ({"version": "1"}, "version '1'"),
    "an unknown field": ({"colour": 1}, "colour"),
    "groups that are a list": ({"groups": []}, "groups"),
    "a group that is a number": ({"groups": {"0": 8}}, "groups.0"),
    "a group without width": ({"groups": {"0": {}}}, "groups.0.width"),
    "a width of 0": ({"groups": {"0": {"width": 0}}}, "groups.0.width"),
    "a width that is true": ({"groups": {"0": {"width": True}}}, "groups.0.width"),
    "a huge width": ({"groups": {"0": {"width": 1 << 40}}}, "groups.0.width"),
    "huge widths together": ({"groups": {str(i): {"width": (1 << 24) - 1} for i in range(3)}}, "groups"),
    "a ratio of 1": ({"groups": {"0": {"width": 8, "ratio": 1.0}}}, "groups.0.ratio"),
    "a ratio below 0": ({"groups": {"0": {"width": 8, "ratio": -0.1}}}, "groups.0.ratio"),
    "a minimum above the width": ({"groups": {"0": {"width": 8, "minimum": 9}}}, "groups.0.minimum"),
    "an unknown merge": ({"groups": {"0": {"width": 8, "merge": "xor"}}}, "groups.0.merge"),
    "an inexact that is text": ({"groups": {"0": {"width": 8, "inexact": "no"}}}, "groups.0.inexact"),
    "an unknown field of a group": ({"groups": {"0": {"width": 8, "size": 3}}}, "groups.0"),
    "a layer that is a text": ({"layers": {"0": "0"}}, "layers.0"),
    "an unknown field of a layer": ({"layers": {"0": {"input": "0"}}}, "layers.0"),
    "an unknown group": ({"layers": {"0": {"in": "7"}}}, "layers.0.in"),
    "a slice outside": ({"layers": {"0": {"out": "0[3:9]"}}}, "layers.0.out"),
    "a slice backwards": ({"layers": {"0": {"out": "0[3:3]"}}}, "layers.0.out"),
    "an expression that is none": ({"layers": {"0": {"out": "0["}}}, "layers.0.out"),
    "an expression that is an object": ({"layers": {"0": {"out": {}}}}, "layers.0.out"),
    "a fraction of positions": ({"layers": {"0": {"out": 1.5}}}, "layers.0.out"),
    "a huge repeat": ({"layers": {"0": {"out": "0*99999999"}}}, "layers.0.out"),
    "many huge counts": ({"layers": {str(i): {"in": 9_000_000} for i in range(2)}}, "layers.1.in"),
    "many ranges": ({"layers": {"0": {"out": f"0[{'0:7,' * 3_000_000}1]"}}}, "layers.0.out"),
    "a huge count": ({"layers": {"0": {"out": [16777216, 16777216]}}}, "layers.0.out"),
    "groups of a layer below 1": ({"layers": {"0": {"out": "0", "groups": 0}}}, "layers.0.groups"),
    "groups that do not divide": ({"layers": {"0": {"in": "0", "groups": 3}}}, "layers.0.groups"),
    "a transposed that is text": ({"layers": {"0": {"out": "0", "transposed": "yes"}}}, "layers.0.transposed"),
    "a norm that is a layer too": ({"layers": {"0": {"norm": "0", "in": "0"}}}, "layers.0"),
    "an axis that is no number": ({"parameters": {"p": {"x": "0"}}}, "parameters.p"),
    "an axis in a foreign digit": ({"parameters": {"p": {"²": "0"}}}, "parameters.p"),
    "equal rows of unequal length": ({"equal": [["0", "1"]]}, "equal\\[0\\]"),
    "equal that is an object": ({"equal": {}}, "equal"),
    "an equal that is empty": ({"equal": [[]]}, "equal\\[0\\]"),
    "an unknown rounding": ({"rounding": "seven"}, "rounding"),
    "a fingerprint that is a number": ({"fingerprint": 3}, "fingerprint"),
}


@pytest.mark.parametrize("change, field", BAD.values(), ids=BAD)
def test_bad_files_are_refused_with_the_field_named(change, field):
    with pytest.raises(SchemaError, match=f"bad.json.*{field}"):
        loads(json.dumps({**GOOD, **change}), "bad.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "NaN", '{"groups": NaN}', "[" * 100_000, b"\xff\xfe{", '{"version": 1' + "0" * 5000]
)
def test_what_is_no_schema_at_all(text):
    with pytest.raises(SchemaError, match=r"file\.json"):
        loads(text, "file.json")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SchemaError, match=r"missing\.json"):
        read_schema(tmp_path / "missing.json")
    with pytest.raises(SchemaError, match="cannot be read"):
        read_schema(tmp_path)
    (tmp_path / "large.json").write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(SchemaError, match=r"large\.json"):
        read_schema(tmp_path / "large.json")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layers": {"9": {"out": "0"}}}, "'9'"),
        ({"layers": {"0": {"out": "1"}}}, "0.weight.*16"),
        ({"layers": {"1": {"in": "1"}}}, "1.weight.*16"),
        ({"layers": {"2": {"out": "0"}}}, "'2'"),
        ({"layers": {"0": {"norm": "1"}}}, "0.bias"),
        ({"layers": {"0": {"out": "0", "transposed": True}}}, "0: the schema says transposed: True, the model's False"),
        ({"parameters": {"lost": {"0": "0"}}}, "'lost'"),
        ({"parameters": {"0.bias": {"1": "0"}}}, "0.bias"),
    ],
)
def test_a_schema_that_does_not_fit_the_model_names_the_layer(change, message):
    schema = loads(json.dumps({**GOOD, **change}))
    with pytest.raises(SchemaError, match=message):
        slim(chain(), ratio=0.5, criterion="l1", schema=schema, example_input=torch.rand(2, 3, 1, 1))


class Heads(nn.Module):
    """Whose forward reads an integer, and an item of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
        self.width, self.parts = 8, [3, 5]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat(self.a(x).view(2, self.width, -1).split(self.parts, 1), 1)
        return self.head(y.mean(2))


def test_attributes_that_are_sizes_are_part_of_the_schema():
    model, example = Heads(), torch.rand(2, 3, 4, 4)
    schema = loads(dumps(trace(model, example)))
    assert {key: len(channels) for key, channels in schema.attributes[""].items()} == {
        "width": 8, "parts[0]": 3, "parts[1]": 5,
    }  # fmt: skip
    keep = np.array([True, False, True, False, False, True, True, True])
    result = result_from_keep(model, schema, keep)
    assert result.attributes[""] == {"width": 5, "parts": (2, 3)}
    small = apply_result(model, result)
    assert (small.width, small.parts) == (5, [2, 3]) and small(example).shape == (2, 2)
    assert verify(model, result, example).exact


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("width", 16), ("width", True), ("width", None), ("parts", 8), ("parts", [3]), ("parts", [5, 3])],
)
def test_a_schema_of_other_attributes_is_refused(attribute, value):
    model, example = Heads(), torch.rand(2, 3, 4, 4)
    schema = trace(model, example)
    setattr(model, attribute, value)
    with pytest.raises(SchemaError, match=rf"{attribute}.*Trace the model anew"):
        schema.check(model)


@pytest.mark.parametrize("attributes", ['{"": ["width"]}', '{"": {"width": "nothing"}}', '{"": {"a b": "a"}}', "[]"])
def test_attributes_of_another_form_are_refused(attributes):
    text = (
        f'{{"format": "zoo_slim.schema", "version": 1, "groups": {{"a": {{"width": 8}}}}, "attributes": {attributes}}}'
    )
    with pytest.raises(SchemaError, match="attributes"):
        loads(text)


def test_outputs_of_a_depthwise_convolution_go_with_its_inputs():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 2, 1))
    groups = {"a": {"width": 8}, "b": {"width": 16}}
    layers = {"0": {"out": "a"}, "1": {"in": "a", "out": "a*2", "groups": 8}, "2": {"in": "a*2"}}
    document = {"format": "zoo_slim.schema", "version": 1, "groups": groups, "layers": layers}
    loads(json.dumps(document)).axes(model)
    layers["1"]["out"], layers["2"]["in"] = "b", "b"
    with pytest.raises(SchemaError, match="1: is a depthwise convolution, whose outputs go with its inputs"):
        loads(json.dumps(document)).axes(model)


def test_a_key_that_occurs_twice_is_refused():
    text = dumps(
        trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)), torch.rand(2, 3, 4, 4))
    )
    twice = text.replace('"layers": {', '"layers": {"0": {"out": "0"},')
    with pytest.raises(SchemaError, match="the key '0' occurs twice"):
        loads(twice)
