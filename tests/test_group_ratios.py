"""Ratios of single channel groups, by name or pattern, and what ranks channels that no BatchNorm scales."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg11_bn

import zoo_slim
from zoo_slim import slim, trace, verify
from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.slimming import list_criteria
from zoo_slim.slimming._criteria import bn_scale, l2
from zoo_slim.slimming._score import by_weights

IMAGE = torch.rand(2, 3, 32, 32)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A VGG whose hidden layers have no BatchNorm, in float64, with scales that differ."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10)),
    )
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return model.double().eval()


def widths(model: nn.Module) -> tuple[int, ...]:
    return tuple(layer.weight.shape[0] for layer in model if isinstance(layer, (nn.Conv2d, nn.Linear)))


def slimmed(net: nn.Module, **options) -> tuple[int, ...]:
    small, result = slim(net, **{"example_input": IMAGE.double(), **options})
    assert verify(net, result, IMAGE.double()).max_relative_difference < 1e-9
    return widths(small)


def test_groups_have_ratios_of_their_own(net):
    free = slimmed(net, ratio=0.5)
    assert free[2:] == (40, 20, 10) and sum(free[:2]) == 12
    assert slimmed(net, ratio=0.5, group_ratios={"9": 0.75, "11": 0.5}) == (*free[:2], 10, 10, 10)
    assert slimmed(net, ratio=0.5, group_ratios={"0": 0}) == (8, 8, 40, 20, 10)
    assert slimmed(net, ratio=0.5, group_ratios={"0": 0, "4": 0.25, "[91]*": 0.9}) == (8, 12, 4, 2, 10)


def test_the_last_of_several_that_fit_counts(net):
    assert slimmed(net, group_ratios={"*": 0.5}) == (4, 8, 20, 10, 10)
    assert slimmed(net, group_ratios={"*": 0.5, "1*": 0}) == (4, 8, 20, 20, 10)
    assert slimmed(net, group_ratios={"1*": 0, "*": 0.5}) == (4, 8, 20, 10, 10)


def test_a_budget_is_met_by_the_other_groups(net):
    small, _ = slim(net, params=2000, group_ratios={"0": 0, "9": 0.5}, example_input=IMAGE.double())
    assert widths(small)[0] == 8 and widths(small)[2] == 20
    assert zoo_slim.slimming.count_params(small) <= 2000


@pytest.mark.parametrize("criterion", [name for name in list_criteria() if name in ("bn_scale", "l1", "l2", "random")])
def test_nothing_else_need_be_asked_for(net, criterion):
    assert slimmed(net, group_ratios={"9": 0.75}, criterion=criterion) == (8, 16, 10, 20, 10)


def test_what_no_batch_norm_scales_is_ranked_by_its_weights(net):
    schema = trace(net, IMAGE.double()).with_ratios({"9": 0.75, "11": 0, "4": 0.5})
    before = bn_scale(net, schema)
    scores = by_weights(net, schema, before)
    nine, eleven = schema.members()["9"], schema.members()["11"]
    assert np.isnan(before[nine]).all() and np.isnan(scores[eleven]).all()
    assert np.array_equal(scores[nine], l2(net, schema)[nine])
    others = np.setdiff1d(np.arange(schema.channels), nine)
    assert np.array_equal(scores[others], before[others], equal_nan=True)
    _, result = slim(net, ratio=0.0, group_ratios={"9": 0.75}, example_input=IMAGE.double())
    pruner = zoo_slim.SlimPruner(net, schema.with_ratios({"4": 0}))
    pruner.run(prune_ratio=0.0)
    assert pruner.result == result
    strongest = np.sort(np.argsort(-scores[nine])[:10])
    assert np.array_equal(result.kept["9.weight"][0].numpy(), strongest)


def test_the_cliff_looks_at_the_other_groups_only(net):
    plain = trace(net, IMAGE.double())
    cliff = zoo_slim.find_cliff(net, schema=plain)
    assert len(cliff.scales) == 24
    own = zoo_slim.find_cliff(net, schema=plain.with_ratios({"9": 0.5}))
    assert np.array_equal(own.scales, cliff.scales) and (own.dead, own.ratio) == (cliff.dead, cliff.ratio)
    assert len(zoo_slim.find_cliff(net, schema=plain.with_ratios({"4": 0.5, "9": 0.5})).scales) == 8


def test_what_cannot_go_is_told():
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="all channels of 0 stay, whatever their own ratios: they are inexact"):
        slim(model, group_ratios={"*": 0.5}, criterion="l2", example_input=torch.rand(2, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small, _ = slim(
            model, group_ratios={"*": 0.5}, criterion="l2", allow_inexact=True, example_input=torch.rand(2, 4)
        )
    assert small[0].out_features == 4 and small[2].out_features == 3
    with pytest.warns(UserWarning, match="or the ratio is less than one channel"):
        slim(model, group_ratios={"2": 0.1}, criterion="l2", example_input=torch.rand(2, 4))


@pytest.mark.parametrize(
    "ratios, message",
    [
        ({"hidden": 0.5}, "no channel group is called 'hidden': there are 0, 4, 9, 11"),
        ({"9": 1}, "the ratio 1 of group '9' is not a share"),
        ({"9": -0.1}, "the ratio -0.1 of group '9'"),
        ({"9": float("nan")}, "the ratio nan of group '9'"),
        ({"9": "0.5"}, "the ratio '0.5' of group '9'"),
        ({"9": True}, "the ratio True of group '9'"),
        ({9: 0.5}, r"ratios of groups are given by name.*not \{9: 0.5\}"),
        ([("9", 0.5)], r"ratios of groups are given by name.*not \[\('9', 0.5\)\]"),
    ],
)
def test_ratios_that_fit_nothing(net, ratios, message):
    with pytest.raises(SchemaError, match=message):
        slim(net, ratio=0.5, group_ratios=ratios, example_input=IMAGE.double())


def test_no_ratios_are_no_request(net):
    with pytest.raises(SlimmingError, match="exactly one of ratio, params and macs"):
        slim(net, group_ratios={}, example_input=IMAGE.double())
    with pytest.raises(SlimmingError, match="or say what goes with group_ratios or remove_blocks"):
        slim(net, group_ratios={"*": 0}, example_input=IMAGE.double())
    with pytest.raises(SlimmingError, match="let groups with ratios of their own lose more"):
        slim(net, params=0.2, group_ratios={"*": 0}, example_input=IMAGE.double())
    with pytest.raises(SlimmingError, match="not one of 0 channels without a ratio of their own"):
        slim(net, ratio="auto", group_ratios={"*": 0.5}, example_input=IMAGE.double())


class Block(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.b(self.norm(self.a(x)).relu()))


def test_blocks_are_not_chosen_by_what_ranks_a_group_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Block(True), Block(False), nn.Flatten(), nn.Linear(8 * 16, 3))
    images = torch.rand(2, 3, 4, 4)
    small, result = slim(model, remove_blocks=1, group_ratios={"2.a": 0.25}, example_input=images)
    assert list(result.removed) == ["1"] and small[2].a.out_channels == 6


def test_auto_stops_before_the_cliff_of_the_other_groups(net):
    sparse = copy.deepcopy(net)
    with torch.no_grad():
        sparse[1].weight[:3] = 0
    free = slimmed(sparse, ratio="auto")
    assert free[0] == 5 and slimmed(sparse, ratio="auto", group_ratios={"9": 0.5}) == (*free[:2], 20, 20, 10)


def test_a_real_vgg_loses_hidden_units():
    torch.manual_seed(0)
    model = vgg11_bn(num_classes=10).eval()
    small, _ = slim(model, ratio=0.5, group_ratios={"classifier.*": 0.875}, example_input=IMAGE)
    assert (small.classifier[0].out_features, small.classifier[3].out_features) == (512, 512)
    assert small.features[25].out_channels == 256 and small(IMAGE).shape == (2, 10)
