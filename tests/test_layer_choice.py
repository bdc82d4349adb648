"""Which blocks go: a number, the dead ones, as many as a budget needs."""

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from block_networks import IMAGES, Block, Net, exact, graded
from torch import nn

from zoo_slim import apply_result, slim, trace, verify
from zoo_slim._errors import SlimmingError
from zoo_slim.slimming import count_macs, count_params, find_blocks, randomize, score


def test_a_number_removes_those_of_the_lowest_mean_score():
    model = graded(0.5, 0.1, 2.0, 0.3)
    for count, names in enumerate(([], ["blocks.1"], ["blocks.1", "blocks.3"])):
        _, result = slim(model, remove_blocks=count, example_input=IMAGES)
        assert list(result.removed) == names and not result.kept
    _, result = slim(model, remove_blocks=1, ratio=0.25, example_input=IMAGES)
    # A quarter of the 21 channels that are left: the five of the next block, of which two stay.
    assert list(result.removed) == ["blocks.1"]
    assert {name for name in result.kept if name.endswith("inner.0.weight")} == {"blocks.3.inner.0.weight"}
    assert len(result.kept["blocks.3.inner.0.weight"][0]) == 2
    with pytest.raises(SlimmingError, match=r"remove_blocks=5 is too many: the network has 4 residual blocks"):
        slim(model, remove_blocks=5, example_input=IMAGES)


def test_dead_blocks_are_those_that_would_lose_all_of_their_channels():
    model = graded(0.5, 0.1, 2.0, 0.3)
    # 26 channels are scored; the threshold of 11 of them takes blocks 1 and 3, and one channel of block 0.
    small, result = slim(model, ratio=11 / 26, remove_blocks="dead", example_input=IMAGES, minimum=2)
    assert set(result.removed) == {"blocks.1", "blocks.3"}
    assert result.kept["blocks.0.inner.0.weight"][0].tolist() == [1, 2, 3, 4]
    assert exact(model, result, ["outer"], IMAGES, small)
    assert slim(model, ratio=9 / 26, remove_blocks="dead", example_input=IMAGES)[1].removed.keys() == {"blocks.1"}
    assert not slim(model, ratio=4 / 26, remove_blocks="dead", example_input=IMAGES)[1].removed
    limit = count_params(small)
    alone = slim(model, params=limit, example_input=IMAGES, minimum=2)[1]
    with_dead = slim(model, params=limit, remove_blocks="dead", example_input=IMAGES, minimum=2)[1]
    assert not alone.removed and with_dead.removed
    assert count_params(apply_result(model, with_dead)) <= limit


def test_a_block_with_channels_that_have_no_score_is_dead_where_it_passes_nothing_on():
    class Excited(Block):
        def __init__(self) -> None:
            super().__init__(width=10)
            self.excite = torchvision.ops.SqueezeExcitation(10, 4)
            self.beside = nn.Conv2d(6, 3, 1)
            self.out = nn.Conv2d(3, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.outer(self.excite(self.inner(x).relu()))
            return x + self.out(self.beside(x).relu()) if self.passes else x

    for passes in (False, True):
        model = randomize(Net(Excited(), Block()))
        model.blocks[0].passes = passes
        with torch.no_grad():
            model.blocks[0].inner[1].weight.fill_(1e-3)
        schema = trace(model, IMAGES)
        assert np.isnan(score(model, schema, "bn_scale")[schema.members()["blocks.0.excite.fc1"]]).all()
        _, result = slim(model, ratio=0.5, remove_blocks="dead", example_input=IMAGES, schema=schema)
        assert list(result.removed) == ([] if passes else ["blocks.0"])


def test_dead_branches_go_alone():
    model = randomize(timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2))
    example = torch.rand(2, 3, 16, 16)
    schema = trace(model, example)

    def by_place(network: nn.Module, groups: Any) -> np.ndarray:
        scores = np.full(groups.channels, np.nan)
        for name, rank in (("blocks.0.mlp.fc1", 0.0), ("blocks.1.mlp.fc1", 1.0)):
            scores[groups.layers[name].outputs] = rank + np.linspace(0, 0.5, 96)
        return scores

    _, result = slim(
        model, ratio=0.6, remove_blocks="dead", criterion=by_place, example_input=example, schema=schema, minimum=4
    )
    assert result.removed == {"blocks.0.mlp": "Zeros"}  # its attention is alive
    assert len(result.kept["blocks.1.mlp.fc1.weight"][0]) == 96 - 19  # 115 of 192 go, 96 of them with the branch
    assert verify(model, result, example).exact


def test_a_budget_takes_as_few_blocks_as_it_needs():
    model = graded(0.5, 0.1, 2.0, 0.3)
    whole = count_params(model)
    schema = trace(model, IMAGES)
    with pytest.raises(SlimmingError, match=r"cannot be met.*remove_blocks='needed'"):
        slim(model, params=0.5, example_input=IMAGES, minimum=0.9, schema=schema)
    # Of 2655 parameters a block has 573.
    for share, minimum, count in ((0.95, 0.5, 0), (0.9, 1.0, 1), (0.6, 1.0, 2), (0.5, 1.0, 3), (0.5, 0.8, 1)):
        small, result = slim(
            model, params=share, remove_blocks="needed", example_input=IMAGES, minimum=minimum, schema=schema
        )
        assert count_params(small) <= share * whole == share * 2655
        assert list(result.removed) == ["blocks.1", "blocks.3", "blocks.0"][:count]
        if count:
            with pytest.raises(SlimmingError, match="cannot be met"):
                slim(
                    model,
                    params=share,
                    remove_blocks=count - 1,
                    example_input=IMAGES,
                    minimum=minimum,
                    schema=schema,
                )
    small, result = slim(model, macs=0.5, remove_blocks="needed", example_input=IMAGES, minimum=0.9, schema=schema)
    assert count_macs(small, IMAGES) <= 0.5 * count_macs(model, IMAGES) and len(result.removed) == 2
    with pytest.raises(SlimmingError, match=r"cannot be met"):
        slim(model, params=10, remove_blocks="needed", example_input=IMAGES)


def test_channels_of_a_removed_block_do_not_count():
    model = graded(0.5, 0.1)
    _, result = slim(model, remove_blocks=["blocks.1"], ratio=0.28, example_input=IMAGES, minimum=1)
    # Of the 11 channels left, three go, all of them of block 0.
    assert len(result.kept["blocks.0.inner.0.weight"][0]) == 2
    assert score(model, trace(model, IMAGES), "bn_scale").size == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_blocks": ["blocks.7"]}, "'blocks.7' is no residual block: the model has no such module.*blocks.0"),
        ({"remove_blocks": ["stem"]}, "'stem' is no residual block: a Sequential adds nothing"),
        ({"remove_blocks": ["blocks.0.inner"]}, "'blocks.0.inner' is no residual block: its input has shape"),
        ({"remove_blocks": "blocks.0"}, "'blocks.0' is no rule: give a list of names"),
        ({"remove_blocks": "dead"}, "'dead' needs one of ratio, params, macs"),
        ({"remove_blocks": "needed"}, "'needed' needs one of params, macs"),
        ({"remove_blocks": "needed", "ratio": 0.5}, "'needed' needs one of params, macs"),
        ({"remove_blocks": -1}, "remove_blocks=-1"),
        ({"remove_blocks": True}, "remove_blocks=True"),
        ({"remove_blocks": [1]}, r"remove_blocks=\[1\]"),
        ({"remove_blocks": 1.5}, "remove_blocks=1.5"),
        ({"remove_blocks": 1, "ratio": 0.5, "macs": 0.5}, "ratio and macs"),
        ({"remove_blocks": 1, "criterion": "luck"}, "'luck'"),
        ({"remove_blocks": ["blocks.0"], "example_input": torch.rand(2, 5, 8, 8)}, "cannot be traced"),
    ],
)
def test_errors_say_what_was_wrong(options, message):
    with pytest.raises(SlimmingError, match=message):
        slim(graded(1.0, 2.0), **{"example_input": IMAGES, **options})


def test_a_network_without_blocks_says_so():
    model = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())
    assert find_blocks(model, IMAGES) == {}
    with pytest.raises(SlimmingError, match=r"'0' is no residual block: .*This network has no residual blocks"):
        slim(model, remove_blocks=["0"], example_input=IMAGES)
    with pytest.raises(SlimmingError, match=r"does not run on the example input"):
        find_blocks(model, torch.rand(2, 5, 8, 8))


def test_the_given_model_is_untouched():
    model = graded(0.5, 0.1).train()
    before = copy.deepcopy(model)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    find_blocks(model, IMAGES)
    small, _ = slim(model, remove_blocks=1, ratio=0.2, example_input=IMAGES)
    assert torch.equal(state, torch.get_rng_state())
    assert repr(model) == repr(before) and model.training and small.training and small.blocks[1].training
    assert all(torch.equal(one, before.state_dict()[name]) for name, one in model.state_dict().items())
    assert not any(module._forward_hooks for module in (*model.modules(), *small.modules()))
