"""The original tool's interface and rules, on examples worked out by hand."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from zoo_slim import SlimPruner, ZooSlimError, update_bn_grad
from zoo_slim.schema import convert_original, parse_original
from zoo_slim.slimming import randomize, training_step, verify


def set_scales(model: nn.Module, scales: dict[str, list[float]]) -> None:
    modules = dict(model.named_modules())
    for name, values in scales.items():
        weight = modules[name].weight
        assert isinstance(weight, nn.Parameter) and weight.shape == (len(values),)
        weight.data = torch.tensor(values)


def chain(*widths: int, classes: int = 3) -> nn.Sequential:
    """conv0, bn0, conv1, bn1, … and a classifier of the mean."""
    layers: list[tuple[str, nn.Module]] = []
    before = 3
    for number, width in enumerate(widths):
        layers += [(f"conv{number}", nn.Conv2d(before, width, 3, padding=1)), (f"bn{number}", nn.BatchNorm2d(width))]
        before = width
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(before, classes))]
    return randomize(nn.Sequential(OrderedDict(layers)))  # type: ignore[return-value]


def chain_schema(count: int, **keys: Any) -> dict[str, Any]:
    modules = [{"name": f"conv{n}", "prev_bn": f"bn{n - 1}" if n else "", "next_bn": f"bn{n}"} for n in range(count)]
    modules.append({"name": "fc", "prev_bn": f"bn{count - 1}", "next_bn": ""})
    return {"modules": modules, **keys}


def kept(entries: list[dict[str, Any]]) -> dict[str, list[int]]:
    return {entry["name"]: entry["keep_idxes"] for entry in entries if "keep_idxes" in entry}


def test_threshold_is_the_value_at_n_times_ratio_and_only_greater_stays() -> None:
    model = chain(4, 4)
    set_scales(model, {"bn0": [0.1, -0.5, 0.3, 0.8], "bn1": [0.2, 0.4, -0.6, 0.7]})
    # sorted |gamma|: .1 .2 .3 .4 .5 .6 .7 .8; index int(8 * 0.5) = 4 is 0.5; 0.5 itself goes
    entries = SlimPruner(model, chain_schema(2)).run(prune_ratio=0.5)
    assert kept(entries) == {"bn0": [3], "bn1": [2, 3]}
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["conv0"] == {"name": "conv0", "in_channels_keep_idxes": [0, 1, 2], "out_channels_keep_idxes": [3]}
    assert by_name["conv1"] == {"name": "conv1", "in_channels_keep_idxes": [3], "out_channels_keep_idxes": [2, 3]}
    assert by_name["fc"] == {"name": "fc", "in_features_keep_idxes": [2, 3]}


def test_index_is_rounded_down() -> None:
    model = chain(4, 4)
    set_scales(model, {"bn0": [0.1, 0.5, 0.3, 0.8], "bn1": [0.2, 0.4, 0.6, 0.7]})
    # int(8 * 0.49) = 3 is 0.4
    assert kept(SlimPruner(model, chain_schema(2)).run(prune_ratio=0.49)) == {"bn0": [1, 3], "bn1": [2, 3]}


def test_a_norm_that_would_keep_none_keeps_its_two_largest_or_two_percent() -> None:
    model = chain(4, 150)
    large = [1.0 + n / 1000 for n in range(150)]
    set_scales(model, {"bn0": [0.4, 0.1, 0.3, 0.2], "bn1": large})
    assert kept(SlimPruner(model, chain_schema(2)).run(prune_ratio=0.5))["bn0"] == [0, 2]
    set_scales(model, {"bn0": [9.0, 9.0, 9.0, 9.0], "bn1": [n / 1000 for n in range(150)]})
    # 154 scales, int(154 * 0.98) = 150 is a 9, which is not greater than itself: both keep their largest,
    # bn1 max(int(150 * 0.02), 2) = 3 of them
    found = kept(SlimPruner(model, chain_schema(2)).run(prune_ratio=0.98))
    assert found["bn1"] == [147, 148, 149]
    assert found["bn0"] == [0, 1]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = x + self.bn2(self.conv2(x))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def residual_schema(method: str, **keys: Any) -> dict[str, Any]:
    return {
        "modules": [
            {"name": "conv1", "prev_bn": "", "next_bn": "bn1"},
            {"name": "conv2", "prev_bn": "bn1", "next_bn": "bn2"},
            {"name": "fc", "prev_bn": "bn2", "next_bn": ""},
        ],
        "shortcuts": [{"names": ["bn1", "bn2"], "method": method}],
        **keys,
    }


# the scales at index int(8 * 0.5) = 4 is 0.5: bn1 alone would keep 0 and 3, bn2 alone 3
SCALES = {"bn1": [0.9, 0.1, 0.2, 0.8], "bn2": [0.3, 0.5, 0.4, 0.7]}


@pytest.mark.parametrize(("method", "expected"), [("or", [0, 3]), ("and", [3])])
def test_merged_norms_keep_the_union_or_the_intersection(method: str, expected: list[int]) -> None:
    model = randomize(Residual())
    set_scales(model, SCALES)
    pruner = SlimPruner(model, residual_schema(method))
    entries = pruner.run(prune_ratio=0.5)
    assert kept(entries) == {"bn1": expected, "bn2": expected}
    # a Linear after a flatten of 2 x 2 positions reads each channel four times
    spread = [4 * channel + position for channel in expected for position in range(4)]
    assert entries[-1] == {"name": "fc", "in_features_keep_idxes": spread}
    assert pruner.result is not None
    assert verify(model, pruner.result, torch.rand(2, 3, 8, 8)).exact
    training_step(pruner.pruned_model, torch.rand(2, 3, 8, 8))


def test_an_empty_intersection_keeps_the_same_five_percent_in_both() -> None:
    model = randomize(Residual())
    set_scales(model, {"bn1": [0.9, 0.8, 0.1, 0.2], "bn2": [0.1, 0.2, 0.85, 0.7]})
    # index 4 is 0.7: bn1 would keep 0 and 1, bn2 would keep 2; of the smaller of both scales,
    # .1 .2 .1 .2, the first largest is channel 1, and max(int(4 * 0.05), 1) = 1 stays
    assert kept(SlimPruner(model, residual_schema("and")).run(prune_ratio=0.5)) == {"bn1": [1], "bn2": [1]}


def test_fixed_ratio_is_applied_to_its_norm_before_merging() -> None:
    model = randomize(Residual())
    set_scales(model, SCALES)
    fixed = [{"name": ["bn2"], "ratio": 0.25}]
    # bn2 loses its smallest quarter, channel 0; bn1 keeps 0 and 3 by the threshold
    entries = SlimPruner(model, residual_schema("and", fixed_bn_ratio=fixed)).run(prune_ratio=0.5)
    assert kept(entries) == {"bn1": [3], "bn2": [3]}
    entries = SlimPruner(model, residual_schema("or", fixed_bn_ratio=fixed)).run(prune_ratio=0.5)
    assert kept(entries) == {"bn1": [0, 1, 2, 3], "bn2": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("none", [5, 7, 9, 11, 13]),
        ("two_pow", [5, 7, 9, 10, 11, 12, 13, 14]),
        ("eight", [5, 7, 9, 10, 11, 12, 13, 14]),
    ],
)
def test_rounding_keeps_the_next_largest(rounding: str, expected: list[int]) -> None:
    model = chain(16, 16)
    first = [0.01 * n for n in range(16)]
    for channel in (5, 7, 9, 11, 13):
        first[channel] = 2.0 + channel
    first[15] = 0.0
    set_scales(model, {"bn0": first, "bn1": [1.0] * 16})
    # 32 scales: 11 below 1, sixteen of 1, five above; index int(32 * 0.8) = 25 is a 1
    found = kept(SlimPruner(model, chain_schema(2, channel_rounding=rounding)).run(prune_ratio=0.8))
    assert found["bn0"] == expected


def test_cats_read_the_norms_in_order() -> None:
    class Cat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn_a = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
            self.b, self.bn_b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.c, self.bn_c = nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn_c(self.c(torch.cat([self.bn_a(self.a(x)), self.bn_b(self.b(x))], 1)))

    model = randomize(Cat())
    set_scales(model, {"bn_a": [0.1, 0.9], "bn_b": [0.8, 0.2, 0.7], "bn_c": [5.0, 5.0, 5.0]})
    schema = {
        "modules": [
            {"name": "a", "prev_bn": "", "next_bn": "bn_a"},
            {"name": "b", "prev_bn": "", "next_bn": "bn_b"},
            {"name": "c", "prev_bn": "", "next_bn": ""},
        ],
        "cats": [{"input_bn_names": ["bn_a", "bn_b"], "output_conv_names": ["c"]}],
    }
    pruner = SlimPruner(model, schema)
    entries = {entry["name"]: entry for entry in pruner.run(prune_ratio=0.25)}  # int(8 * 0.25) = 2 is 0.7
    assert entries["bn_a"]["keep_idxes"] == [1] and entries["bn_b"]["keep_idxes"] == [0]
    assert entries["c"]["in_channels_keep_idxes"] == [1, 2]
    assert pruner.result is not None and verify(model, pruner.result, torch.rand(2, 3, 4, 4)).exact


def test_depthwise_convolutions_follow_their_norms() -> None:
    model = randomize(
        nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, 4, 1),
                bn1=nn.BatchNorm2d(4),
                dw=nn.Conv2d(4, 4, 3, groups=4),
                bn2=nn.BatchNorm2d(4),
                out=nn.Conv2d(4, 2, 1),
            )
        )
    )
    set_scales(model, SCALES)
    schema = {
        "prefix": "",
        "modules": [
            {"name": "conv", "prev_bn": "", "next_bn": "bn1"},
            {"name": "dw", "prev_bn": "bn1", "next_bn": "bn2"},
            {"name": "out", "prev_bn": "bn2", "next_bn": ""},
        ],
        "depthwise_conv_adjacent_bn": [{"names": ["bn1", "bn2"], "method": "or"}],
    }
    pruner = SlimPruner(model, schema)
    assert kept(pruner.run(prune_ratio=0.5)) == {"bn1": [0, 3], "bn2": [0, 3]}
    depthwise = pruner.pruned_model.dw
    assert isinstance(depthwise, nn.Conv2d) and depthwise.groups == depthwise.in_channels == 2
    assert pruner.result is not None and verify(model, pruner.result, torch.rand(2, 3, 6, 6)).exact


def test_sets_that_share_a_norm_are_joined() -> None:
    sets = [{"names": ["a", "b"], "method": "and"}, {"names": ["c", "d"], "method": "or"}]
    parsed = parse_original(
        {"modules": [], "shortcuts": sets, "depthwise_conv_adjacent_bn": [{"names": ["b", "e"], "method": "or"}]}
    )
    assert sorted((sorted(names), method) for names, method in parsed.shortcuts) == [
        (["a", "b", "e"], "and"),
        (["c", "d"], "or"),
    ]


def resnet18_schema(prefix: str = "") -> dict[str, Any]:
    modules = [{"name": "conv1", "prev_bn": "", "next_bn": "bn1"}]
    shortcuts, before = [], "bn1"
    for layer in range(1, 5):
        names = ["bn1"] if layer == 1 else []
        for block in range(2):
            place = f"layer{layer}.{block}"
            modules.append({"name": f"{place}.conv1", "prev_bn": before, "next_bn": f"{place}.bn1"})
            modules.append({"name": f"{place}.conv2", "prev_bn": f"{place}.bn1", "next_bn": f"{place}.bn2"})
            if layer > 1 and block == 0:
                name = f"{place}.downsample"
                modules.append({"name": f"{name}.0", "prev_bn": before, "next_bn": f"{name}.1"})
                names.append(f"{name}.1")
            before = f"{place}.bn2"
            names.append(before)
        shortcuts.append({"names": names, "method": "or"})
    modules.append({"name": "fc", "prev_bn": before, "next_bn": ""})
    return {"prefix": prefix, "modules": modules, "shortcuts": shortcuts}


def test_resnet18_keeps_what_the_rules_imply(tmp_path: Path) -> None:
    """All scales are 0.01 but those set here, and 0.5 in layer4, so that the threshold at 0.5 is 0.01."""
    model = randomize(torchvision.models.resnet18(num_classes=10))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(0.5 if name.startswith("layer4") else 0.01)
    # 4800 scales, 2560 of them in layer4: index int(4800 * 0.4) = 1920 lies among the 2240 of 0.01
    scales = dict(model.named_modules())
    scales["bn1"].weight.data[3] = 1.0  # type: ignore[union-attr, operator, index]
    scales["layer1.0.bn2"].weight.data[7] = -1.0  # type: ignore[union-attr, operator, index]
    scales["layer1.1.bn2"].weight.data[[3, 60]] = 1.0  # type: ignore[union-attr, operator, index]
    scales["layer1.0.bn1"].weight.data[[10, 20]] = 1.0  # type: ignore[union-attr, operator, index]
    file = tmp_path / "resnet18.json"
    file.write_text(json.dumps(resnet18_schema()))
    pruner = SlimPruner(model, str(file))
    entries = pruner.run(prune_ratio=0.4)
    found = kept(entries)
    assert found["bn1"] == found["layer1.0.bn2"] == found["layer1.1.bn2"] == [3, 7, 60]  # the union
    assert found["layer1.0.bn1"] == [10, 20]
    assert found["layer1.1.bn1"] == [0, 1]  # none is greater: max(int(64 * 0.02), 2) = 2 stay
    assert found["layer2.0.bn1"] == [0, 1]  # likewise max(int(128 * 0.02), 2) = 2
    assert found["layer3.0.bn1"] == list(range(5))  # int(256 * 0.02) = 5
    assert found["layer4.0.bn1"] == list(range(512))
    assert pruner.result is not None and verify(model, pruner.result, torch.rand(2, 3, 64, 64)).exact


def test_documented_flow() -> None:
    model = randomize(torchvision.models.resnet18(num_classes=10))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = SlimPruner(model, resnet18_schema())
    pruning_result = json.loads(json.dumps(pruner.run(prune_ratio=0.75)))
    slim_state = pruner.pruned_model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    again = SlimPruner(torchvision.models.resnet18(num_classes=10))
    again.apply_pruning_result(pruning_result)
    again.pruned_model.load_state_dict(slim_state)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.pruned_model.eval()(images), pruner.pruned_model.eval()(images))

    again.pruned_model.train()(images).sum().backward()
    update_bn_grad(again.pruned_model, s=0.0001)


def test_update_bn_grad_adds_s_times_the_sign() -> None:
    norm = nn.BatchNorm2d(3)
    norm.weight.data = torch.tensor([2.0, -3.0, 0.0])
    norm.weight.grad = torch.tensor([1.0, 1.0, 1.0])
    update_bn_grad(norm, s=0.5)
    assert norm.weight.grad.tolist() == [1.5, 0.5, 1.0]
    assert norm.bias.grad is None


def test_prefix_is_put_before_every_name() -> None:
    model = nn.Sequential(OrderedDict(model=torchvision.models.resnet18(num_classes=10)))
    schema = convert_original(parse_original(resnet18_schema("model.")), model)
    assert all(name.startswith("model.") for name in (*schema.layers, *schema.norms, *schema.groups))
    SlimPruner(model, resnet18_schema("model.")).run(prune_ratio=0.5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modules": "conv1"}, "modules"),
        ({"modules": [{"name": ""}]}, r"modules\[0\].name"),
        ({"modules": [{"name": "conv1", "prev": "bn1"}]}, r"modules\[0\]"),
        ({"modules": [{"name": "conv9", "prev_bn": "", "next_bn": ""}]}, "conv9"),
        ({"modules": [{"name": "conv1", "prev_bn": "", "next_bn": "conv2"}]}, "conv2"),
        ({"modules": [{"name": "bn1", "prev_bn": "", "next_bn": ""}]}, "bn1"),
        ({"shortcuts": [{"names": ["bn1"], "method": "xor"}]}, "xor"),
        ({"shortcuts": [{"names": "bn1", "method": "or"}]}, "names"),
        ({"fixed_bn_ratio": [{"name": "bn1", "ratio": 1.5}]}, "1.5"),
        ({"channel_rounding": "ten"}, "ten"),
        ({"prefix": 3}, "prefix"),
        ({"extra": []}, "extra"),
    ],
)
def test_bad_schemas_name_the_entry(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ZooSlimError, match=named):
        SlimPruner(Residual(), {**residual_schema("or"), **change}).run(prune_ratio=0.5)


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "bn9", "keep_idxes": [0]}],
        [{"name": "bn1", "keep_idxes": [4]}],
        [{"name": "bn1", "keep_idxes": [1, 0]}],
        [{"name": "bn1", "keep_idxes": [0, 0]}],
        [{"name": "bn1", "keep_idxes": [-1]}],
        [{"name": "bn1", "keep_idxes": []}],
        [{"name": "conv1", "out_channels_keep_idxes": [0]}],
        ["bn1"],
    ],
)
def test_bad_results_are_refused(entries: list[Any]) -> None:
    with pytest.raises(ZooSlimError):
        SlimPruner(Residual()).apply_pruning_result(entries)


def test_steps_out_of_order_say_what_to_do() -> None:
    with pytest.raises(ZooSlimError, match="run"):
        SlimPruner(Residual()).pruned_model  # noqa: B018
    with pytest.raises(ZooSlimError, match="schema"):
        SlimPruner(Residual()).run(prune_ratio=0.5)
    with pytest.raises(ZooSlimError, match="prune_ratio"):
        SlimPruner(Residual(), residual_schema("or")).run(prune_ratio=1.0)
