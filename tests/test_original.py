"""The original tool's schemas, rules, interface and results."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from equivalence import difference, outputs, zeroed
from torch import nn
from torchvision.models import resnet18

from zoo_slim import PruningResult, SlimPruner, slim, trace, update_bn_grad, verify
from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.schema import convert_original, parse_original, read_original
from zoo_slim.slimming import from_original, randomize, to_original


def set_gammas(model: nn.Module, **gammas: list[float]) -> None:
    """Set the scales of BatchNorms; names with "__" for dots."""
    with torch.no_grad():
        for name, values in gammas.items():
            model.get_submodule(name.replace("__", ".")).weight.copy_(torch.tensor(values))


def kept(model: nn.Module, schema: dict[str, Any], ratio: float) -> dict[str, list[int]]:
    """What each BatchNorm keeps."""
    entries = SlimPruner(model, schema).run(prune_ratio=ratio)
    return {entry["name"]: entry["keep_idxes"] for entry in entries if "keep_idxes" in entry}


class Plain(nn.Module):
    """Two convolutions, and a linear layer on the flattened 2x2 picture."""

    def __init__(self, first: int = 4, second: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, first, 1), nn.BatchNorm2d(first)
        self.conv2, self.bn2 = nn.Conv2d(first, second, 1), nn.BatchNorm2d(second)
        self.fc = nn.Linear(second * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().flatten(1))


PLAIN = {
    "prefix": "",
    "modules": [
        {"name": "conv1", "prev_bn": "", "next_bn": "bn1"},
        {"name": "conv2", "prev_bn": "bn1", "next_bn": "bn2"},
        {"name": "fc", "prev_bn": "bn2", "next_bn": ""},
    ],
    "shortcuts": [],
}
PICTURE = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))


# The threshold.


def test_threshold_is_the_value_at_the_index_and_what_equals_it_goes():
    model = Plain()
    set_gammas(model, bn1=[0.1, -0.4, 0.4, 0.9], bn2=[0.2, 0.8, 0.3, 0.7])
    # Sorted: .1 .2 .3 .4 .4 .7 .8 .9. Ratio 0.4: index int(3.2) = 3, threshold .4; both .4 go, five in all.
    assert kept(model, PLAIN, 0.4) == {"bn1": [3], "bn2": [1, 3]}
    # Ratio 0.35: index int(2.8) = 2, threshold .3; what equals it goes too.
    assert kept(model, PLAIN, 0.35) == {"bn1": [1, 2, 3], "bn2": [1, 3]}
    # Ratio 0: the smallest of all is the threshold, and goes.
    assert kept(model, PLAIN, 0.0) == {"bn1": [1, 2, 3], "bn2": [0, 1, 2, 3]}


def test_a_batchnorm_that_would_lose_all_keeps_its_two_percent_or_two():
    model = Plain(4, 120)
    set_gammas(model, bn1=[0.02, 0.03, 0.01, 0.02], bn2=[0.5 + index / 1000 for index in range(120)])
    # Ratio 0.5: index 62 of 124, threshold .558: bn1 would keep none: max(int(0.08), 2) = 2: its largest, .03 and the
    # first .02. bn2 keeps 59 to 119.
    assert kept(model, PLAIN, 0.5) == {"bn1": [0, 1], "bn2": list(range(59, 120))}
    set_gammas(model, bn1=[1.0, 2.0, 3.0, 4.0], bn2=[0.5] * 120)
    # All of bn2 equal the threshold: max(int(2.4), 2) = 2 stay; 150 channels keep int(3.0) = 3.
    assert kept(model, PLAIN, 0.5) == {"bn1": [0, 1, 2, 3], "bn2": [0, 1]}
    wide = Plain(4, 150)
    set_gammas(wide, bn1=[1.0, 2.0, 3.0, 4.0], bn2=[0.5] * 150)
    assert len(kept(wide, PLAIN, 0.5)["bn2"]) == 3


def test_every_batchnorm2d_counts_for_the_threshold_and_others_do_not():
    model = Plain()
    set_gammas(model, bn1=[0.1, 0.2, 0.3, 0.4], bn2=[0.5, 0.6, 0.7, 0.8])
    only_first = {"modules": [PLAIN["modules"][0], {"name": "conv2", "prev_bn": "bn1", "next_bn": ""}]}
    # bn2 is not in the schema, and is not slimmed; its gammas are among the eight: index 4 is .5, and bn1 loses all but
    # its two largest.
    assert kept(model, only_first, 0.5) == {"bn1": [2, 3], "bn2": [0, 1, 2, 3]}
    model.bn3d = nn.BatchNorm3d(8)
    with torch.no_grad():
        model.bn3d.weight.fill_(0.0)
    # Index 2 of the eight, not of sixteen: .3.
    assert kept(model, only_first, 0.25)["bn1"] == [3]


# Merging. A residual block: bn1 and bn2 are added.


class Residual(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x))
        return self.fc((x + self.bn2(self.conv2(x))).mean((2, 3)))


def residual(method: str, **more: Any) -> dict[str, Any]:
    return {"modules": PLAIN["modules"], "shortcuts": [{"names": ["bn1", "bn2"], "method": method}], **more}


@pytest.mark.parametrize("method, expected", [("or", [0, 2, 3]), ("and", [2])])
def test_union_and_intersection(method, expected):
    model = Residual()
    set_gammas(model, bn1=[0.9, 0.1, 0.8, 0.2], bn2=[0.3, 0.4, 0.7, 0.6])
    # Ratio 0.375: index 3 of .1 .2 .3 .4 .6 .7 .8 .9 is .4: bn1 keeps 0 and 2, bn2 keeps 2 and 3.
    assert kept(model, residual(method), 0.375) == {"bn1": expected, "bn2": expected}


def test_an_empty_intersection_keeps_five_percent():
    model = Residual(40)
    low, high = [0.1 + i / 1000 for i in range(20)], [0.8 + i / 1000 for i in range(20)]
    set_gammas(model, bn1=low + high, bn2=high + low)
    # Half of each lies above the threshold, and never the same half. int(40 * 0.05) = 2 stay: those whose smaller
    # gamma is largest, 19 (.119 and .819) and 39 (.819 and .119).
    assert kept(model, residual("and"), 0.5) == {"bn1": [19, 39], "bn2": [19, 39]}
    small = Residual(4)
    set_gammas(small, bn1=[0.1, 0.2, 0.8, 0.9], bn2=[0.9, 0.8, 0.2, 0.1])
    assert kept(small, residual("and"), 0.375) == {"bn1": [1], "bn2": [1]}  # max(int(0.2), 1)


def test_sets_that_share_a_name_are_one():
    schema = {
        "modules": [],
        "shortcuts": [{"names": ["a", "b"], "method": "and"}, {"names": ["c", "d"], "method": "or"}],
        "depthwise_conv_adjacent_bn": [{"names": ["b", "c"], "method": "or"}, {"names": ["e", "f"]}],
    }
    assert parse_original(schema).shortcuts == [(("a", "b", "c", "d"), "and"), (("e", "f"), "or")]


# The later keys.


@pytest.mark.parametrize("name", ["bn1", ["bn1"]])
def test_fixed_ratio_comes_before_merging(name):
    model = Residual()
    set_gammas(model, bn1=[0.1, 0.2, 0.3, 0.4], bn2=[0.5, 0.9, 0.6, 0.7])
    schema = residual("and", fixed_bn_ratio=[{"name": name, "ratio": 0.5}])
    # Ratio 0.5: index 4 is .5. bn2 keeps 1, 2 and 3; bn1 would keep its two largest anyway: at ratio 0.5 of its own it
    # keeps 2 and 3.
    assert kept(model, schema, 0.5) == {"bn1": [2, 3], "bn2": [2, 3]}
    schema["fixed_bn_ratio"][0]["ratio"] = 0.25
    assert kept(model, schema, 0.5) == {"bn1": [1, 2, 3], "bn2": [1, 2, 3]}
    plain = {**PLAIN, "fixed_bn_ratio": [{"name": name, "ratio": 0}]}
    model = Plain()
    set_gammas(model, bn1=[0.1, 0.2, 0.3, 0.4], bn2=[0.5, 0.9, 0.6, 0.7])
    assert kept(model, plain, 0.5) == {"bn1": [0, 1, 2, 3], "bn2": [1, 2, 3]}


@pytest.mark.parametrize(
    "rounding, expected", [("none", [7, 8, 9]), ("eight", [2, 3, 4, 5, 6, 7, 8, 9]), ("two_pow", [6, 7, 8, 9])]
)
def test_rounding_keeps_the_largest(rounding, expected):
    model = Plain(10, 4)
    set_gammas(model, bn1=[index / 10 for index in range(10)], bn2=[5.0, 6.0, 7.0, 8.0])
    # Ratio 0.45: index int(6.3) = 6, threshold .6.
    assert kept(model, {**PLAIN, "channel_rounding": rounding}, 0.45)["bn1"] == expected
    assert kept(model, {**PLAIN, "channel_rounding": rounding}, 0.45)["bn2"] == [0, 1, 2, 3]


class Dense(nn.Module):
    """conv3 reads the outputs of bn2 and bn1, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(7, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x))
        y = self.bn2(self.conv2(x))
        return self.fc(self.bn3(self.conv3(torch.cat([y, x], 1))).mean((2, 3)))


def test_a_concatenation_is_read_in_its_order():
    model = randomize(Dense()).eval()
    schema = {
        "modules": [
            {"name": "conv1", "prev_bn": "", "next_bn": "bn1"},
            {"name": "conv2", "prev_bn": "bn1", "next_bn": "bn2"},
            {"name": "conv3", "prev_bn": "", "next_bn": "bn3"},
            {"name": "fc", "prev_bn": "bn3", "next_bn": ""},
        ],
        "cats": [{"names": ["cat"], "input_bn_names": ["bn2", "bn1"], "output_conv_names": ["conv3"]}],
    }
    set_gammas(model, bn1=[0.1, 0.9, 0.2], bn2=[0.8, 0.1, 0.2, 0.7], bn3=[1.0, 2.0, 3.0, 4.0])
    pruner = SlimPruner(model, schema)
    entries = {entry["name"]: entry for entry in pruner.run(0.3)}  # index 3 of .1 .1 .2 .2 .7 …: threshold .2
    assert entries["bn1"]["keep_idxes"] == [1] and entries["bn2"]["keep_idxes"] == [0, 3]
    assert entries["conv3"]["in_channels_keep_idxes"] == [0, 3, 4 + 1]
    assert difference(outputs(pruner.pruned_model, PICTURE), outputs(zeroed(model, pruner.result), PICTURE)) < 1e-5


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.depthwise, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn2(self.depthwise(self.bn1(self.conv1(x)))).mean((2, 3)))


def test_depthwise_convolutions():
    model = randomize(Separable()).eval()
    schema = {
        "modules": [
            {"name": "conv1", "prev_bn": "", "next_bn": "bn1"},
            {"name": "depthwise", "prev_bn": "bn1", "next_bn": "bn2"},
            {"name": "fc", "prev_bn": "bn2", "next_bn": ""},
        ],
        "depthwise_conv_adjacent_bn": [{"names": ["bn1", "bn2"], "method": "or"}],
    }
    set_gammas(model, bn1=[0.1, 0.9, 0.2, 0.3], bn2=[0.1, 0.2, 0.8, 0.1])
    # Index 4 of .1 .1 .1 .2 .2 .3 .8 .9 is .2: bn1 keeps 1 and 3, bn2 keeps 2; together 1, 2 and 3.
    pruner = SlimPruner(model, schema)
    entries = {entry["name"]: entry for entry in pruner.run(0.5)}
    assert entries["bn1"]["keep_idxes"] == entries["bn2"]["keep_idxes"] == [1, 2, 3]
    assert pruner.pruned_model.depthwise.groups == 3
    assert difference(outputs(pruner.pruned_model, PICTURE), outputs(zeroed(model, pruner.result), PICTURE)) < 1e-5
    again = SlimPruner(model)
    again.apply_pruning_result(list(entries.values()))
    assert again.result == pruner.result


def test_prefix_and_a_linear_layer_on_flattened_channels():
    model = nn.Sequential()
    model.add_module("model", randomize(Plain()).eval())
    set_gammas(model.model, bn1=[1.0, 2.0, 3.0, 4.0], bn2=[0.1, 0.8, 0.2, 0.7])
    pruner = SlimPruner(model, {**PLAIN, "prefix": "model."})
    entries = {entry["name"]: entry for entry in pruner.run(0.125)}  # index 1: threshold .2
    assert entries["model.bn2"]["keep_idxes"] == [1, 3]
    # Each channel is four of the features in a row.
    assert entries["model.fc"]["in_features_keep_idxes"] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert entries["model.conv2"] == {
        "name": "model.conv2",
        "in_channels_keep_idxes": [0, 1, 2, 3],
        "out_channels_keep_idxes": [1, 3],
    }
    assert difference(outputs(pruner.pruned_model, PICTURE), outputs(zeroed(model, pruner.result), PICTURE)) < 1e-5


# ResNet-18, as its users slim it.


def resnet18_schema(method: str) -> dict[str, Any]:
    modules = [{"name": "conv1", "prev_bn": "", "next_bn": "bn1"}]
    shortcuts = []
    before = "bn1"
    for stage in range(1, 5):
        names = ["bn1"] if stage == 1 else []
        for block in range(2):
            path = f"layer{stage}.{block}"
            modules.append({"name": f"{path}.conv1", "prev_bn": before, "next_bn": f"{path}.bn1"})
            modules.append({"name": f"{path}.conv2", "prev_bn": f"{path}.bn1", "next_bn": f"{path}.bn2"})
            if stage > 1 and block == 0:
                down = f"{path}.downsample"
                modules.append({"name": f"{down}.0", "prev_bn": before, "next_bn": f"{down}.1"})
                names.append(f"{down}.1")
            names.append(f"{path}.bn2")
            before = f"{path}.bn2"
        shortcuts.append({"names": names, "method": method})
    modules.append({"name": "fc", "prev_bn": before, "next_bn": ""})
    return {"prefix": "", "modules": modules, "shortcuts": shortcuts}


@pytest.mark.parametrize("method", ["or", "and"])
def test_resnet18_by_hand(method):
    model = randomize(resnet18(num_classes=10)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(2.0)
        # In the residual stream of the first stage three ranges of 30 channels are small, shifted by 10.
        model.bn1.weight[0:30] = 0.5
        model.layer1[0].bn2.weight[10:40] = -0.5
        model.layer1[1].bn2.weight[20:50] = 0.5
        model.layer1[0].bn1.weight[5:25] = 0.5
        # Two whole norms lie below everything else.
        model.layer1[1].bn1.weight.copy_(0.3 + torch.arange(64) / 1000)
        model.layer4[1].bn1.weight.copy_(0.3 + torch.arange(512) / 5000)
    # 4800 gammas: 576 below .5, then 110 of .5, then 2. Ratio 0.14: index 672, threshold .5.
    found = kept(model, resnet18_schema(method), 0.14)
    stream = [*range(20), *range(30, 64)] if method == "or" else list(range(50, 64))
    assert found["bn1"] == found["layer1.0.bn2"] == found["layer1.1.bn2"] == stream
    assert found["layer1.0.bn1"] == [*range(5), *range(25, 64)]
    assert found["layer1.1.bn1"] == [62, 63]  # max(int(1.28), 2)
    assert found["layer4.1.bn1"] == list(range(502, 512))  # int(10.24)
    rest = set(found) - {"bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.1.bn1", "layer1.1.bn2", "layer4.1.bn1"}
    assert len(found) == 20 and all(found[name] == list(range(len(found[name]))) for name in rest)
    pruner = SlimPruner(model, resnet18_schema(method))
    pruner.run(0.14)
    assert pruner.pruned_model.layer1[1].conv1.weight.shape == (2, len(stream), 3, 3)
    assert pruner.pruned_model.layer2[0].downsample[0].in_channels == len(stream)
    image = torch.rand(1, 3, 64, 64)
    assert difference(outputs(pruner.pruned_model, image), outputs(zeroed(model, pruner.result), image)) < 1e-4


# The flow that the original's README documents.


def test_the_flow_of_the_readme(tmp_path):
    torch.manual_seed(0)
    restored_model = randomize(resnet18(num_classes=10))
    path = tmp_path / "resnet18.json"
    path.write_text(json.dumps(resnet18_schema("or")))

    pruner = SlimPruner(restored_model, str(path))
    pruning_result = pruner.run(prune_ratio=0.75)
    saved = json.dumps(pruning_result)
    optimizer = torch.optim.SGD(pruner.pruned_model.parameters(), lr=1e-3)
    image = torch.rand(2, 3, 64, 64)
    pruner.pruned_model.train()(image).square().mean().backward()
    update_bn_grad(pruner.pruned_model, s=0.0001)
    optimizer.step()
    pruned_state_dict = pruner.pruned_model.state_dict()

    again = SlimPruner(resnet18(num_classes=10))
    again.apply_pruning_result(json.loads(saved))
    again.pruned_model.load_state_dict(pruned_state_dict)
    assert again.result == pruner.result
    assert torch.equal(again.pruned_model.eval()(image), pruner.pruned_model.eval()(image))
    assert repr(again.pruned_model) == repr(pruner.pruned_model)
    small = sum(parameter.numel() for parameter in pruner.pruned_model.parameters())
    assert small < 0.8 * sum(parameter.numel() for parameter in restored_model.parameters())


def test_the_result_is_a_list_of_plain_dicts():
    model = randomize(Plain())
    before = copy.deepcopy(model.state_dict())
    result = SlimPruner(model, PLAIN).run(0.5)
    assert json.loads(json.dumps(result)) == result
    assert [entry["name"] for entry in result] == ["conv1", "bn1", "conv2", "bn2", "fc"]
    assert [set(entry) - {"name"} for entry in result] == [
        {"in_channels_keep_idxes", "out_channels_keep_idxes"},
        {"keep_idxes"},
        {"in_channels_keep_idxes", "out_channels_keep_idxes"},
        {"keep_idxes"},
        {"in_features_keep_idxes"},
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert to_original(from_original(result, model), model) == result


def test_our_own_results_and_schemas_work_too():
    from zoo_slim import trace

    model = randomize(Plain()).eval()
    schema = trace(model, PICTURE)
    pruner = SlimPruner(model, schema)
    pruner.run(0.5)
    other = SlimPruner(model)
    other.apply_pruning_result(pruner.result)
    assert torch.equal(other.pruned_model(PICTURE), pruner.pruned_model(PICTURE))
    assert other.pruned_model is not pruner.pruned_model


def test_an_original_schema_says_what_tracing_finds():
    from zoo_slim import trace

    model = resnet18()
    ours, theirs = (
        trace(model, torch.rand(2, 3, 64, 64)),
        convert_original(parse_original(resnet18_schema("or")), model),
    )
    assert sorted(part.width for part in ours.groups.values()) == sorted(part.width for part in theirs.groups.values())
    ours_axes, their_axes = ours.axes(model), theirs.axes(model)
    assert {name: sorted(axes) for name, axes in ours_axes.items()} == {
        name: sorted(axes) for name, axes in their_axes.items()
    }
    pairs = {
        (int(one), int(other))
        for name, axes in ours_axes.items()
        for axis, part in axes.items()
        for one, other in zip(part, their_axes[name][axis], strict=True)
    }
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs}) == ours.channels


# Errors.

BAD = {
    "no modules": ({}, "modules"),
    "an unknown key": ({"modules": [], "cuts": []}, "'cuts'"),
    "modules that are no list": ({"modules": {}}, "modules"),
    "a module that is a name": ({"modules": ["conv1"]}, r"modules\[0\]"),
    "a module without a name": ({"modules": [{"prev_bn": ""}]}, r"modules\[0\].name"),
    "an unknown field": ({"modules": [{"name": "conv1", "bn": "x"}]}, r"modules\[0\]"),
    "a shortcut without names": ({"modules": [], "shortcuts": [{"method": "or"}]}, r"shortcuts\[0\].names"),
    "an unknown method": ({"modules": [], "shortcuts": [{"names": ["a"], "method": "xor"}]}, r"shortcuts\[0\].method"),
    "a fixed ratio of 1": (
        {"modules": [], "fixed_bn_ratio": [{"name": "a", "ratio": 1}]},
        r"fixed_bn_ratio\[0\].ratio",
    ),
    "a fixed ratio without a name": ({"modules": [], "fixed_bn_ratio": [{"ratio": 0.5}]}, r"fixed_bn_ratio\[0\].name"),
    "an unknown rounding": ({"modules": [], "channel_rounding": "ten"}, "channel_rounding"),
    "a prefix that is a number": ({"modules": [], "prefix": 3}, "prefix"),
    "cats without inputs": ({"modules": [], "cats": [{"output_conv_names": ["a"]}]}, r"cats\[0\].input_bn_names"),
    "a list": ([], "modules"),
}


@pytest.mark.parametrize("document, field", BAD.values(), ids=BAD)
def test_bad_schemas_are_refused_with_the_field_named(document, field, tmp_path):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SchemaError, match=rf"net\.json.*{field}"):
        read_original(path)
    with pytest.raises(SchemaError, match=rf"net\.json.*{field}"):
        SlimPruner(Plain(), path)


def test_files_that_are_no_schema(tmp_path):
    with pytest.raises(SchemaError, match="missing"):
        SlimPruner(Plain(), tmp_path / "missing.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(SchemaError, match=r"text\.json is not JSON"):
        SlimPruner(Plain(), tmp_path / "text.json")


@pytest.mark.parametrize(
    "modules, shortcuts, message",
    [
        ([{"name": "conv9", "next_bn": "bn1"}], [], "'conv9'.*does not have"),
        ([{"name": "bn1", "next_bn": "bn1"}], [], "'bn1'.*BatchNorm2d.*convolution or a Linear"),
        ([{"name": "conv1", "next_bn": "bn9"}], [], "'bn9'.*does not have"),
        ([{"name": "conv1", "next_bn": "conv2"}], [], "'conv2'.*Conv2d"),
        ([{"name": "conv2", "next_bn": "bn1"}], [], "conv2.weight"),
        ([{"name": "fc", "prev_bn": "bn3"}], [], "fc: 24 features.*5"),
        ([], [{"names": ["bn1", "bn2"], "method": "or"}], r"bn1, bn2.*\[4, 6\]"),
    ],
)
def test_schemas_that_do_not_fit_the_model(modules, shortcuts, message):
    model = Plain(4, 6)
    model.bn3 = nn.BatchNorm2d(5)
    with pytest.raises(SchemaError, match=message):
        SlimPruner(model, {"modules": modules, "shortcuts": shortcuts}).run(0.5)


@pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan")])
def test_ratios_out_of_range(ratio):
    with pytest.raises(SlimmingError, match="prune_ratio"):
        SlimPruner(Plain(), PLAIN).run(ratio)


def test_what_has_to_be_done_first():
    with pytest.raises(SlimmingError, match="no schema"):
        SlimPruner(Plain()).run(0.5)
    with pytest.raises(SlimmingError, match=r"run.*apply_pruning_result"):
        _ = SlimPruner(Plain(), PLAIN).pruned_model


def test_a_model_without_batchnorm():
    with pytest.raises(SlimmingError, match="no BatchNorm2d"):
        SlimPruner(nn.Sequential(nn.Conv2d(3, 4, 1)), {"modules": [{"name": "0"}]}).run(0.5)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"name": "module.bn1", "keep_idxes": [0]}, "'module.bn1'.*prefix"),
        ({"name": "bn1", "keep_idxes": [0, 4]}, "bn1: keep_idxes.*below 4"),
        ({"name": "bn1", "keep_idxes": [1, 0]}, "bn1: keep_idxes"),
        ({"name": "bn1", "keep_idxes": [1, 1]}, "bn1: keep_idxes"),
        ({"name": "bn1", "keep_idxes": [-1]}, "bn1: keep_idxes"),
        ({"name": "bn1", "keep_idxes": []}, "bn1: keep_idxes"),
        ({"name": "bn1", "keep_idxes": [True]}, "bn1: keep_idxes"),
        ({"name": "bn1", "keep_idxes": "01"}, "bn1: keep_idxes"),
        ({"name": "bn1"}, "bn1: keep_idxes"),
        ({"name": "conv1", "out_channels_keep_idxes": [0]}, "conv1: in_channels_keep_idxes"),
        ({"name": "fc", "in_features_keep_idxes": [16]}, "fc: in_features_keep_idxes.*below 16"),
        ({"keep_idxes": [0]}, "entry 0"),
        ("bn1", "entry 0"),
    ],
)
def test_results_that_do_not_fit(entry, message):
    with pytest.raises(SlimmingError, match=message):
        SlimPruner(Plain()).apply_pruning_result([entry])


def test_what_the_original_form_has_no_words_for():
    model = nn.Sequential(nn.PReLU(4), nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(SlimmingError, match=r"0\.weight"):
        to_original(PruningResult({"0.weight": {0: torch.tensor([0])}}), model)
    rows = torch.tensor([[0], [1]])
    with pytest.raises(SlimmingError, match=r"1\.weight.*groups"):
        to_original(PruningResult({"1.weight": {1: rows}}), model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_the_network_inside_a_wrapper_is_slimmed(wrap):
    model = randomize(Plain()).eval()
    set_gammas(model, bn1=[1.0, 2.0, 3.0, 4.0], bn2=[0.1, 0.8, 0.2, 0.7])
    plain = SlimPruner(model, PLAIN)
    entries = plain.run(0.125)
    wrapped = wrap(model)
    prefix = "module." if isinstance(wrapped, nn.DataParallel) else "_orig_mod."
    for schema in (PLAIN, {**PLAIN, "prefix": prefix}, trace(model, PICTURE)):
        pruner = SlimPruner(wrapped, schema)
        pruner.run(0.125)
        assert isinstance(pruner.pruned_model, Plain)
    named = [{**entry, "name": prefix + entry["name"]} for entry in entries]
    for given in (entries, named, plain.result):
        again = SlimPruner(wrapped)
        again.apply_pruning_result(given)
        assert again.result == plain.result


def test_transposed_convolutions_in_the_originals_form():
    parts = (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 6, 2), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))
    model = randomize(nn.Sequential(*parts)).eval()
    set_gammas(model, **{"1": [1.0, 0.1, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0], "3": [0.1, 1.0, 1.0, 0.1, 1.0, 1.0]})
    pruner = SlimPruner(model, trace(model, PICTURE))
    entries = {entry["name"]: entry for entry in pruner.run(0.36)}
    assert entries["2"]["in_channels_keep_idxes"] == [0, 4, 5, 6, 7]
    assert entries["2"]["out_channels_keep_idxes"] == [1, 2, 4, 5]
    again = SlimPruner(model)
    again.apply_pruning_result(list(entries.values()))
    assert again.result == pruner.result
    assert difference(outputs(again.pruned_model, PICTURE), outputs(zeroed(model, pruner.result), PICTURE)) < 1e-5


def test_depthwise_transposed_convolutions_in_the_originals_form():
    up = nn.ConvTranspose2d(8, 8, 2, 2, groups=8)
    model = randomize(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), up, nn.Conv2d(8, 2, 1))).eval()
    pruner = SlimPruner(model, trace(model, PICTURE))
    entries = {entry["name"]: entry for entry in pruner.run(0.5)}
    assert entries["2"]["in_channels_keep_idxes"] == entries["2"]["out_channels_keep_idxes"]
    assert pruner.pruned_model[2].groups == pruner.pruned_model[2].out_channels == 4
    again = SlimPruner(model)
    again.apply_pruning_result(list(entries.values()))
    assert again.result == pruner.result
    assert difference(outputs(again.pruned_model, PICTURE), outputs(zeroed(model, pruner.result), PICTURE)) < 1e-5


def test_a_width_that_the_network_itself_holds_has_no_words():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.fc, self.width = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Linear(16, 4), 16

        def forward(self, x):
            return self.fc(self.bn(self.conv(x)).relu().view(len(x), self.width, -1).mean(2))

    pruner = SlimPruner(model := randomize(Own()), trace(model, PICTURE))
    with pytest.raises(SlimmingError, match=r"width of the network became \d+, which the original's form has no words"):
        pruner.run(0.5)
    assert pruner.result is None


def test_a_schema_file_slims_what_the_originals_form_has_no_words_for():
    from zoo_slim.slimming._pruner import slim_by_schema

    parts = (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, groups=2), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    model = randomize(nn.Sequential(*parts)).eval()
    schema = trace(model, PICTURE)
    with pytest.raises(SlimmingError, match=r"2\.weight: its groups"):
        SlimPruner(model, schema).run(0.3)
    _, result = slim_by_schema(model, schema, 0.3, PICTURE)
    assert verify(model, result, PICTURE).exact


def test_a_batchnorm_without_scales_has_indices_too():
    parts = (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 2, 1))
    model = randomize(nn.Sequential(*parts)).eval()
    pruner = SlimPruner(model, trace(model, PICTURE))
    entries = {entry["name"]: entry for entry in pruner.run(0.5)}
    assert entries["2"] == {**entries["1"], "name": "2"} and len(entries["2"]["keep_idxes"]) == 4
    again = SlimPruner(model)
    again.apply_pruning_result(list(entries.values()))
    assert again.result == pruner.result


# What a schema or a result gets wrong.


GROUPED = {
    "modules": [{"name": "0", "prev_bn": "", "next_bn": "1"}, {"name": "2", "prev_bn": "1", "next_bn": ""}],
}


def test_a_grouped_convolution_whose_inputs_stay():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))
    randomize(model, 0)
    model[1].weight.data = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.2, 0.15])
    with pytest.raises(SlimmingError, match=r"0\.weight: its groups would keep \[0, 4\].*zoo_slim\.slim does"):
        SlimPruner(model, GROUPED).run(prune_ratio=0.4)
    images = torch.rand(2, 4, 8, 8)
    narrow, result = slim(
        model, ratio=0.5, schema=convert_original(parse_original(GROUPED), model), example_input=images
    )
    assert narrow[0].out_channels == 4 and verify(model, result, images).exact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fixed_bn_ratio": [{"name": "bn9", "ratio": 0.5}]}, "fixed_bn_ratio names 'bn9', which no layer"),
        (
            {"cats": [{"names": ["a"], "input_bn_names": ["bn1"], "output_conv_names": ["nope"]}]},
            "cats name the layer 'nope'",
        ),
        ({"modules": [*PLAIN["modules"], PLAIN["modules"][0]]}, r"modules\[3\]: the layer 'conv1' is there twice"),
        ({"shortcuts": [{"names": []}]}, r"shortcuts\[0\]\.names must not be empty"),
        ({"modules": [{"name": "conv1", "prev_bn": None}]}, "None is not the name of a module .give '' for none"),
    ],
)
def test_names_that_mean_nothing_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(SchemaError, match=message):
        SlimPruner(Plain(), {**PLAIN, **change}).run(prune_ratio=0.5)


def test_indices_may_be_arrays():
    model = Plain()
    randomize(model, 0)
    entries = SlimPruner(model, PLAIN).run(prune_ratio=0.5)
    expected = from_original(entries, model)
    for kind in (np.array, torch.tensor, lambda indices: [np.int64(index) for index in indices]):
        given = [{key: value if key == "name" else kind(value) for key, value in entry.items()} for entry in entries]
        assert from_original(given, model) == expected


def test_scales_that_are_not_finite_are_refused():
    model = Plain()
    model.bn2.weight.data[:] = float("nan")
    with pytest.raises(SlimmingError, match="bn2: 4 of 4 channels have weights that are not finite"):
        SlimPruner(model, PLAIN).run(prune_ratio=0.5)
