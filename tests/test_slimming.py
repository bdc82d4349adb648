"""Scores, selection, budgets, and what slimming leaves as it was."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo_slim
from zoo_slim import ZooSlimError
from zoo_slim.registry import registry
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import Group, PruningSchema
from zoo_slim.slimming import count_macs, count_params, randomize, score, select, slim, verify
from zoo_slim.slimming._select import rounded, tie
from zoo_slim.tracing import meta_copy, trace

IMAGES = torch.rand(2, 3, 8, 8)


def chain(*widths: int) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    before = 3
    for number, width in enumerate(widths):
        layers += [(f"conv{number}", nn.Conv2d(before, width, 3, padding=1)), (f"bn{number}", nn.BatchNorm2d(width))]
        before = width
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(before, 3))]
    model = nn.Sequential(OrderedDict(layers))
    randomize(model)
    return model


def set_scales(model: nn.Module, **scales: list[float]) -> None:
    for name, values in scales.items():
        model.get_submodule(name).weight.data = torch.tensor(values)


def test_the_lowest_scales_of_all_groups_go() -> None:
    model = chain(4, 4)
    set_scales(model, bn0=[0.1, -0.8, 0.3, 0.7], bn1=[0.9, 0.2, -0.05, 1.0])
    _, result = slim(model, ratio=0.5, example_input=IMAGES, minimum=1)
    # the four smallest of eight: .05 .1 .2 .3
    assert result.kept["conv0.weight"][0].tolist() == [1, 3]
    assert result.kept["bn1.weight"][0].tolist() == [0, 3]
    assert result.kept["conv1.weight"][1].tolist() == [1, 3]
    assert result.kept["fc.weight"][1].tolist() == [0, 3]
    assert result.attributes["conv1"] == {"in_channels": 2, "out_channels": 2}
    assert result.attributes["bn0"] == {"num_features": 2}
    assert result.attributes["fc"] == {"in_features": 2}


@given(ratio=st.floats(0, 0.9))
@settings(max_examples=25, deadline=None)
def test_the_share_removed_is_the_ratio(ratio: float) -> None:
    schema = PruningSchema({"a": Group(40), "b": Group(60)})
    keep = select(schema, np.random.default_rng(0).permutation(100).astype(float), ratio, minimum=1)
    assert (~keep).sum() == int(100 * ratio + 1e-9)


def test_minimum_is_kept_of_every_group() -> None:
    schema = PruningSchema({"a": Group(10), "b": Group(100), "c": Group(4, minimum=3)})
    scores = np.concatenate([np.arange(10) / 1000, np.arange(100) + 1.0, np.arange(4) / 1000])
    keep = select(schema, scores, 0.5)
    assert keep[:10].nonzero()[0].tolist() == [8, 9]  # max(int(10 * 0.02), 2)
    assert keep[110:].nonzero()[0].tolist() == [1, 2, 3]
    assert select(schema, scores, 0.9, minimum=0.5)[:10].sum() == 5


def test_groups_with_a_ratio_of_their_own_do_not_count_for_the_threshold() -> None:
    schema = PruningSchema({"a": Group(10, ratio=0.0), "b": Group(10), "c": Group(10, ratio=0.8)})
    scores = np.arange(30, dtype=float)
    keep = select(schema, scores, 0.5, minimum=1)
    assert keep[:10].all()
    assert keep[10:20].nonzero()[0].tolist() == [5, 6, 7, 8, 9]
    assert keep[20:].nonzero()[0].tolist() == [8, 9]


def test_merge_or_takes_the_largest_scale_and_and_the_smallest() -> None:
    model = registry().find("resnet18").build(num_classes=4)
    schema = trace(model, torch.rand(2, 3, 64, 64))
    model.bn1.weight.data.fill_(0.3)
    model.layer1[0].bn2.weight.data.fill_(-0.9)
    model.layer1[1].bn2.weight.data.fill_(0.6)
    members = schema.members()["conv1"]
    assert score(model, schema, "bn_scale")[members] == pytest.approx(np.full(64, 0.9))
    assert score(model, schema.with_groups(merge="and"), "bn_scale")[members] == pytest.approx(np.full(64, 0.3))


@pytest.mark.parametrize(
    ("keep", "width", "rounding", "expected"),
    [(5, 64, "none", 5), (5, 64, "eight", 8), (8, 64, "eight", 8), (61, 62, "eight", 62), (5, 64, "two_pow", 8),
     (1, 64, "two_pow", 1), (33, 64, "two_pow", 64), (33, 48, "two_pow", 48)],
)  # fmt: skip
def test_rounding(keep: int, width: int, rounding: str, expected: int) -> None:
    assert rounded(keep, width, rounding) == expected


def test_rounded_networks_are_exact() -> None:
    model = chain(32, 24)
    _, result = slim(model, ratio=0.6, criterion="l2", example_input=IMAGES, rounding="eight")
    assert result.kept["conv0.weight"][0].numel() % 8 == 0
    assert verify(model, result, IMAGES).exact


@given(
    rows=st.integers(2, 5),
    width=st.integers(2, 8),
    stay=st.integers(0, 3),
    seed=st.integers(0, 1000),
    ratio=st.floats(0, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_balanced_rows_stay_equal_whatever_is_removed(
    rows: int, width: int, stay: int, seed: int, ratio: float
) -> None:
    """Two constraints that cut the same channels differently, with some positions that stay."""
    generator = np.random.default_rng(seed)
    count = rows * width
    first = np.arange(count).reshape(rows, width)
    second = generator.permutation(count).reshape(width, rows)
    first = np.where(np.arange(count).reshape(rows, width) < stay, -1, first)
    schema = PruningSchema({"g": Group(count)}, equal=[first, second])
    keep = np.append(select(schema, generator.random(count), ratio, minimum=1), True)
    for constraint in (first, second):
        assert len(set(keep[constraint].sum(axis=1).tolist())) == 1


def test_tied_channels_have_equal_ranks() -> None:
    schema = PruningSchema({"g": Group(6)}, equal=[np.arange(6).reshape(2, 3)])
    units, stay = tie(schema, np.array([3.0, 1.0, 2.0, 10.0, 30.0, 20.0]))
    assert not stay.any()
    assert units[1] == units[3] and units[2] == units[5] and units[0] == units[4]
    assert len(set(units.tolist())) == 3


def test_grouped_convolutions_keep_different_channels_in_equal_numbers() -> None:
    model = randomize(
        nn.Sequential(OrderedDict(a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 16, 3, groups=4), c=nn.Conv2d(16, 2, 1)))
    )
    torch.manual_seed(0)
    network, result = slim(model, ratio=0.5, criterion="random", example_input=IMAGES)
    rows = result.kept["b.weight"][1]
    assert rows.shape == (4, 2) and len({tuple(row) for row in rows.tolist()}) > 1
    assert network.get_submodule("b").groups == 4
    assert verify(model, result, IMAGES).exact


@pytest.mark.parametrize("limit", [100_000, 0.3])
@pytest.mark.parametrize("kind", ["params", "macs"])
def test_budgets_are_met_and_nearly_used(kind: str, limit: int | float) -> None:
    model = chain(64, 96, 64)
    measure = {"params": count_params, "macs": lambda m: count_macs(m, IMAGES[:1])}[kind]
    whole = measure(model)
    target = limit * whole if isinstance(limit, float) else min(limit, whole // 2)
    network, result = slim(
        model, **{kind: limit if isinstance(limit, float) else target}, criterion="l1", example_input=IMAGES
    )
    assert 0.9 * target < measure(network) <= target
    assert verify(model, result, IMAGES).exact


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "exactly one"),
        ({"ratio": 0.5, "params": 10}, "ratio and params"),
        ({"ratio": 1.0}, "1.0"),
        ({"ratio": -0.1}, "-0.1"),
        ({"ratio": float("nan")}, "nan"),
        ({"ratio": 0.5, "criterion": "beauty"}, "beauty"),
        ({"ratio": 0.5, "criterion": lambda model, schema: np.zeros(3)}, "shape"),
        ({"ratio": 0.5, "rounding": "ten"}, "ten"),
        ({"params": 10}, "cannot be met"),
        ({"ratio": 0.5, "example_input": torch.rand(2, 5, 8, 8)}, "example input"),
        ({"ratio": 0.5, "example_input": None}, "example_input"),
    ],
)
def test_mistakes_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(ZooSlimError, match=named):
        slim(chain(8, 8), **{"example_input": IMAGES, **arguments})


def test_a_network_that_nothing_scores_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    with pytest.raises(ZooSlimError, match="l1"):
        slim(model, ratio=0.5, example_input=IMAGES)


def test_the_given_model_stays_as_it_is() -> None:
    model = chain(8, 8).train()
    hook = model.conv0.register_forward_hook(lambda *_: None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network, _ = slim(model, ratio=0.5, example_input=IMAGES)
    assert model.training and network.training
    assert list(model.conv0._forward_hooks) == [hook.id]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for parameter in network.parameters():
        parameter.data.fill_(7.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_frozen_parameters_stay_frozen() -> None:
    model = chain(8, 8)
    model.conv1.weight.requires_grad_(False)
    network, _ = slim(model, ratio=0.5, example_input=IMAGES)
    assert not network.conv1.weight.requires_grad and network.conv0.weight.requires_grad


def test_slimming_twice_is_one_result() -> None:
    model = registry().find("resnext50_32x4d").build(num_classes=3)
    randomize(model)
    images = torch.rand(2, 3, 64, 64)
    once, first = slim(model, ratio=0.3, criterion="random", example_input=images)
    twice, second = slim(once, ratio=0.3, criterion="random", example_input=images)
    both = first.then(second)
    assert torch.equal(apply_result(model, both).eval()(images), twice.eval()(images))
    assert verify(model, both, images).exact


def test_a_result_needs_neither_schema_nor_weights() -> None:
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    network, result = slim(model, ratio=0.5, example_input=torch.rand(2, 3, 64, 64))
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    ghost = apply_result(meta_copy(model), result)
    assert {name: tensor.shape for name, tensor in ghost.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in ghost.state_dict().values())


def test_results_that_do_not_fit_name_the_place() -> None:
    model = chain(4)
    with pytest.raises(ZooSlimError, match="nowhere"):
        apply_result(model, PruningResult({"nowhere.weight": {0: torch.tensor([0])}}))
    with pytest.raises(ZooSlimError, match=r"conv0\.weight"):
        apply_result(model, PruningResult({"conv0.weight": {0: torch.tensor([9])}}))
    with pytest.raises(ZooSlimError, match="stride_of_joy"):
        apply_result(model, PruningResult({}, {"conv0": {"stride_of_joy": 1}}))


def test_verify_sees_a_wrong_result() -> None:
    model = chain(6, 6)
    _, result = slim(model, ratio=0.5, example_input=IMAGES)
    kept = {name: dict(axes) for name, axes in result.kept.items()}
    right = kept["conv1.weight"][1]
    kept["conv1.weight"][1] = ((right + 1) % 6).sort().values
    assert verify(model, result, IMAGES).exact
    assert not verify(model, PruningResult(kept, result.attributes), IMAGES).exact


def test_verify_sees_a_wrong_auxiliary_head() -> None:
    model = registry().find("googlenet").build(num_classes=3)
    randomize(model)
    images = torch.rand(2, 3, 64, 64)
    _, result = slim(model, ratio=0.5, criterion="random", example_input=images)
    assert verify(model, result, images).exact and verify(model, result, images).training_compared
    kept = {name: dict(axes) for name, axes in result.kept.items()}
    axes = kept["aux1.conv.conv.weight"]
    axes[1] = ((axes[1] + 1) % model.aux1.conv.conv.weight.shape[1]).sort().values
    assert not verify(model, PruningResult(kept, result.attributes), images).exact


def test_origins_follow_the_network() -> None:
    model = zoo_slim.load("resnet18", pretrained=False, num_classes=3)
    network, result = slim(model, ratio=0.5)
    assert network.zoo_slim_origin.architecture == "resnet18"
    assert network.zoo_slim_origin.result == result
    assert model.zoo_slim_origin.result is None
