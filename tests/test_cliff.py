import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from block_networks import IMAGES as BLOCK_IMAGES
from block_networks import Block, Net
from torch import nn

from zoo_slim import SlimPruner, find_cliff, slim, trace
from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.cli._scales import scales_report
from zoo_slim.pictures import sorted_scales
from zoo_slim.slimming import randomize

IMAGES = torch.rand(2, 3, 8, 8)


def network(*scales: list[float]) -> nn.Module:
    """A chain of convolutions with BatchNorms of these scales."""
    layers, inputs = [], 3
    for values in scales:
        layers += [nn.Conv2d(inputs, len(values), 1), nn.BatchNorm2d(len(values)), nn.ReLU()]
        layers[-2].weight.data.copy_(torch.tensor(values))
        inputs = len(values)
    return nn.Sequential(*layers, nn.Conv2d(inputs, 2, 1)).eval()


def test_counts_and_curve_by_hand():
    # 16 channels. In the second group 8e-3 is below 1 % of the root mean square of 1.
    model = network([0.0, 0.0, 0.0, 0.3, 0.4, -1.2, 2.0, -2.0], [0.0, 8e-3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    cliff = find_cliff(model, example_input=IMAGES, tolerance=0.05)
    assert (cliff.dead, cliff.faint, len(cliff.scales)) == (4, 5, 16)
    assert cliff.scales[:7] == pytest.approx([0, 0, 0, 0, 0.008, 0.3, 0.4]) and cliff.scales[-1] == 2
    # Squares: .09, .16, 1.44, 4, 4 (9.69) and 6.4e-5 and six ones. Up to 7 channels the first group loses .25 / 9.69.
    # With an eighth, one of the second group goes: a sixth of its variance.
    lost = dict(zip(cliff.ratios, zip(cliff.lost, cliff.groups, strict=True), strict=True))
    assert lost[0.25][0] == 0
    assert lost[0.32] == (pytest.approx(6.4e-5 / 6.000064), "3")
    assert lost[0.44] == (pytest.approx(0.25 / 9.69), "0")
    assert lost[0.5] == (pytest.approx(1 / 6, rel=1e-4), "3")
    assert cliff.ratio == 7 / 16
    assert (np.diff(cliff.lost) >= 0).all()


def test_tolerance_moves_the_ratio():
    model = network([0.0, 0.1, 0.2, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0] * 8)
    ratios = [find_cliff(model, example_input=IMAGES, tolerance=tolerance).ratio for tolerance in (0, 2e-3, 0.01, 0.21)]
    assert ratios == [1 / 16, 2 / 16, 3 / 16, 4 / 16]


def test_the_worst_group_counts():
    # 2 of 2 + 20 channels: a tenth of all variance, but half of the first group's.
    model = network([0.5, 0.5, 0.5, 0.5], [0.0] * 2 + [1.0] * 18)
    assert find_cliff(model, example_input=IMAGES).ratio == 2 / 24


def test_sums_add_up_and_inexact_groups_do_not_count():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.bn1, self.two, self.bn2 = (
                nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4),
            )  # fmt: skip
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.bn1(self.one(x)).relu()
            return self.head((x + self.bn2(self.two(x))).relu())

    model = Residual()
    model.bn1.weight.data.copy_(torch.tensor([0.0, 0.3, 1.0, 1.0]))
    model.bn2.weight.data.copy_(torch.tensor([0.0, 0.4, 1.0, 1.0]))
    cliff = find_cliff(model, example_input=IMAGES, tolerance=0.06)  # .09 + .16 of 4.25 is .0588
    assert cliff.ratio == 0.5 and cliff.scales[1] == pytest.approx(0.4)
    assert find_cliff(model, example_input=IMAGES, tolerance=0.058).ratio == 0.25
    cliff = find_cliff(model, schema=trace(model, IMAGES).with_groups(inexact=True))
    assert cliff.ratio == 0 and not len(cliff.scales) and not cliff.lost.any()


def test_auto_slims_up_to_the_cliff():
    model = network([0.0] * 3 + [1.0] * 5, [0.0] * 2 + [1.0] * 6)
    small, result = slim(model, ratio="auto", example_input=IMAGES)
    assert (small[0].out_channels, small[3].out_channels) == (5, 6)
    pruner = SlimPruner(model, trace(model, IMAGES))
    pruner.run(prune_ratio="auto")
    assert pruner.result == result
    small, _ = slim(model, ratio="auto", example_input=IMAGES, minimum=7)
    assert (small[0].out_channels, small[3].out_channels) == (7, 7)


def test_the_loss_is_that_of_the_exact_ratio():
    # One of 304 channels may go; a hundredth are three, one more of the same group.
    model = network([0.1, 0.9, 0.9, 0.9], [1.0] * 300)
    cliff = find_cliff(model, example_input=IMAGES)
    assert cliff.ratio == 1 / 304 and cliff.lost[1] > 0.3
    assert cliff.at(cliff.ratio) == (pytest.approx(0.01 / 2.44), "0", 1)
    assert list(scales_report(cliff, cliff.ratio).columns[1].cells)[-1] == "0.4 % of the variance of group 0 is lost"
    assert list(scales_report(cliff, 0.0).columns[1].cells)[-1] == "no channel is removed"


def test_a_narrow_range_is_drawn_with_plain_numbers():
    figure = sorted_scales(find_cliff(network([1.0, 1.001, 1.002, 1.0025]), example_input=IMAGES), "narrow")
    figure.draw_without_rendering()
    upper = figure.axes[0].yaxis
    said = [label.get_text() for minor in (False, True) for label in upper.get_ticklabels(minor=minor)]
    assert any(said) and all(float(text) > 0 for text in said if text)


def test_refusals():
    dense = network([1.0] * 8, [1.0] * 8)
    assert find_cliff(dense, example_input=IMAGES).ratio == 0
    with pytest.raises(SlimmingError, match="not one of 16 channels"):
        slim(dense, ratio="auto", example_input=IMAGES)
    with pytest.raises(SlimmingError, match="'bn_scale'"):
        slim(dense, ratio="auto", criterion="l1", example_input=IMAGES)
    with pytest.raises(SlimmingError, match="'half'"):
        slim(dense, ratio="half", example_input=IMAGES)
    with pytest.raises(SlimmingError, match=r"tolerance 1\.5"):
        find_cliff(dense, example_input=IMAGES, tolerance=1.5)
    with pytest.raises(SlimmingError, match="scores none"):
        find_cliff(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), example_input=IMAGES)
    with pytest.raises(SchemaError):
        find_cliff(network([1.0] * 4), schema=trace(dense, IMAGES))
    rules = {"prefix": "", "modules": [{"name": "0", "prev_bn": "", "next_bn": "1"}], "shortcuts": []}
    with pytest.raises((SlimmingError, SchemaError)):
        SlimPruner(dense, rules).run(prune_ratio="auto")


def test_auto_does_not_warn_of_the_ratio_that_it_found():
    model = network([0.0] * 16, [1e-9] * 8 + [1.0] * 8)
    with pytest.warns(UserWarning, match="ratio 0.75"):
        slim(model, ratio=0.75, minimum=0.5, example_input=IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slim(model, ratio="auto", minimum=0.5, example_input=IMAGES)


def test_a_cliff_can_be_stored():
    cliff = find_cliff(network([0.0, 1.0, 2.0, 3.0]), example_input=IMAGES)
    assert pickle.loads(pickle.dumps(cliff)).at(0.5) == cliff.at(0.5)


def test_a_group_with_a_ratio_of_its_own_does_not_count():
    model = network([0.0] * 8 + [1.0] * 8, [0.6, 0.7, 0.8, 0.9])
    schema = trace(model, IMAGES)
    _, second = schema.groups
    own = replace(schema, groups={**schema.groups, second: replace(schema.groups[second], ratio=0.5)})
    assert find_cliff(model, schema=own).ratio == 0.5


def test_auto_looks_at_what_blocks_leave():
    model = randomize(Net(Block(width=64), Block(width=32)))
    with torch.no_grad():
        for norm in (model.stem[1], *(block.outer[1] for block in model.blocks)):
            norm.weight.fill_(1)
        model.blocks[0].inner[1].weight[4:] = 0
        model.blocks[1].inner[1].weight.copy_(torch.linspace(0.5, 1.5, 32))
    alone, _ = slim(model, ratio=0.0, remove_blocks=["blocks.0"], example_input=BLOCK_IMAGES)
    expected, _ = slim(alone, ratio="auto", example_input=BLOCK_IMAGES)
    left = expected.blocks[1].inner[0].out_channels
    assert 24 < left < 32 and find_cliff(model, example_input=BLOCK_IMAGES).ratio > 0.5
    for blocks in (["blocks.0"], 1):
        small, result = slim(
            model, ratio="auto", remove_blocks=blocks, criterion="bn_scale", example_input=BLOCK_IMAGES
        )
        assert small.blocks[1].inner[0].out_channels == left and list(result.removed) == ["blocks.0"]
    live = randomize(Net(Block(width=8), Block(width=8)))  # nothing can go before the cliff but what was named
    with torch.no_grad():
        for norm in (module for module in live.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.fill_(1)
    small, result = slim(live, ratio="auto", remove_blocks=["blocks.0"], example_input=BLOCK_IMAGES)
    assert list(result.removed) == ["blocks.0"] and small.blocks[1].inner[0].out_channels == 8
