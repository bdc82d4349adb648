"""Residual blocks taken out whole: which are found, that what is left is exact, and what is refused."""

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from equivalence import difference, drawn, outputs, zeroed
from torch import nn
from torch.nn import functional

import zoo_slim
from zoo_slim import PruningResult, apply_result, slim, trace, verify
from zoo_slim._errors import SlimmingError
from zoo_slim._replacement import Removed, Zeros
from zoo_slim.checkpoint import origin_of
from zoo_slim.slimming import TOLERANCE, count_macs, count_params, find_blocks, randomize, score, training_step

IMAGES = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))


def conv(inputs: int = 6, outputs_: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs_, 3, padding=1), nn.BatchNorm2d(outputs_))


class Block(nn.Module):
    """``act(x + outer(relu(inner(x))))``, or whatever ``join`` makes of the two."""

    def __init__(self, join: Any = None, width: int = 5, outputs_: int = 6) -> None:
        super().__init__()
        self.inner, self.outer, self.join = conv(6, width), conv(width, outputs_), join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.outer(self.inner(x).relu())
        return self.join(x, branch) if self.join is not None else x + branch


class Net(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = conv(), nn.Sequential(*blocks), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def exact(model: nn.Module, result: PruningResult, last: list[str], example: torch.Tensor, slimmed: nn.Module) -> bool:
    """Whether a slim network is the original with the last layers of the removed branches zero, and readers masked."""
    original = copy.deepcopy(model).double().eval()
    masked = zeroed(original, result)
    with torch.no_grad():
        for block in result.removed:
            for path in last:
                layer = masked.get_submodule(block).get_submodule(path.removesuffix(".-1"))
                for parameter in (layer[-1] if path.endswith(".-1") else layer).parameters():
                    parameter.zero_()
    found = outputs(apply_result(original, result), example.double())
    same = outputs(copy.deepcopy(slimmed).double().eval(), example.double())
    assert difference(found, same) < 1e-6  # the network that slim gave is the one that its result gives
    return difference(found, outputs(masked, example.double())) < TOLERANCE


# Whole architectures.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "last", "count", "becomes"),
    [
        ("resnet18", 64, ["bn2"], 5, "ReLU"),
        ("resnet50", 48, ["bn3"], 12, "ReLU"),
        ("mobilenet_v3_small", 64, ["block.-1"], 6, "Identity"),
        ("efficientnet_b0", 48, ["block.-1"], 9, "Identity"),
        ("regnet_y_400mf", 48, ["f.c.1"], 12, "ReLU"),
        ("convnext_tiny", 32, ["block.5"], 18, "Identity"),
        ("timm/vit_tiny_patch16_224", 224, ["attn.proj", "mlp.fc2"], 12, "Identity"),
        ("timm/resnet26d", 48, ["bn3"], 4, "ReLU"),
    ],
)
def test_every_other_block_of_a_known_network(name, size, last, count, becomes):
    model = randomize(zoo_slim.load(name, pretrained=False))
    example = torch.rand(2, 3, size, size)
    blocks = find_blocks(model, example)
    assert len(blocks) == count and set(blocks.values()) == {becomes}
    chosen = list(blocks)[::2]
    small, result = slim(model, remove_blocks=chosen, ratio=0.3, criterion=drawn(1), example_input=example)
    assert dict(result.removed) == {block: becomes for block in chosen}
    assert not any(tensor.startswith(tuple(f"{block}." for block in chosen)) for tensor in result.kept)
    assert not any(tensor.startswith(tuple(f"{block}." for block in chosen)) for tensor in small.state_dict())
    assert exact(model, result, last, example, small)
    training_step(small, example)


def test_verify_masks_the_blocks():
    model = randomize(zoo_slim.load("resnet18", pretrained=False))
    example = torch.rand(2, 3, 64, 64)
    _, result = slim(
        model, remove_blocks=["layer1.0", "layer4.1"], ratio=0.3, criterion=drawn(1), example_input=example
    )
    report = verify(model, result, example)
    assert report.exact and report.training_compared and report.slim_params < report.params
    wrong = PruningResult(result.kept, result.attributes, {**result.removed, "layer4.1": "SiLU"})
    assert verify(model, wrong, example).max_relative_difference > 1e-3


@pytest.mark.parametrize("depth_drop", [0.0, 0.5])
def test_branches_of_a_transformer(depth_drop):
    model = randomize(
        timm.models.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=4, drop_path_rate=depth_drop
        )
    )
    example = torch.rand(2, 3, 16, 16)
    names = ["blocks.0.attn", "blocks.1.mlp", "blocks.2.mlp", "blocks.2.attn"]
    small, result = slim(model, remove_blocks=names, ratio=0.4, criterion="l1", example_input=example)
    assert result.removed == {"blocks.0.attn": "Zeros", "blocks.1.mlp": "Zeros", "blocks.2": "Identity"}
    assert isinstance(small.blocks[2], (Removed, nn.Identity)) and isinstance(small.blocks[0].attn, Zeros)
    assert len(result.kept["blocks.0.mlp.fc1.weight"][0]) < 96
    last = {"blocks.0.attn": "proj", "blocks.1.mlp": "fc2"}
    masked = zeroed(copy.deepcopy(model).double().eval(), result)
    with torch.no_grad():
        for layer in (*(f"{block}.{name}" for block, name in last.items()), "blocks.2.attn.proj", "blocks.2.mlp.fc2"):
            for parameter in masked.get_submodule(layer).parameters():
                parameter.zero_()
    slimmed = apply_result(model.double().eval(), result)
    assert difference(outputs(slimmed, example.double()), outputs(masked, example.double())) < TOLERANCE
    training_step(small, example)
    again, later = slim(small, ratio=0.4, criterion="l1", example_input=example)
    assert count_params(again) < count_params(small) and verify(small, later, example).exact
    assert set(result.then(later).removed) == set(result.removed)


# Which are blocks.


class Scaled(Block):
    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.shortcut + super().forward(x) - x


class Gamma(Block):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gamma * (super().forward(x) - x).tanh()


class WithoutScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x))


class TakesMore(Block):
    def forward(self, x: torch.Tensor, size: tuple[int, int] = (1, 1), *, mask: Any = None) -> torch.Tensor:
        return super().forward(x) if mask is None else super().forward(x * mask)


@pytest.mark.parametrize(
    ("block", "becomes", "kind"),
    [
        (Block(), "Identity", nn.Identity),
        (Block(lambda x, branch: functional.relu(x + branch)), "ReLU", nn.ReLU),
        (Block(lambda x, branch: functional.silu(x + 0.2 * branch)), "SiLU", nn.SiLU),
        (Block(lambda x, branch: functional.hardswish(branch + x)), "Hardswish", nn.Hardswish),
        (Block(lambda x, branch: x.add_(branch)), "Identity", nn.Identity),
        (Gamma(), "Identity", nn.Identity),
        (TakesMore(), "Identity", Removed),
        (nn.Sequential(Block()), None, "name the blocks in it"),
        (Block(lambda x, branch: branch), None, "not residual"),
        (Block(lambda x, branch: 2 * x + branch), None, "scales what passes"),
        (Block(lambda x, branch: x * branch.sigmoid()), None, "not residual"),
        (Block(lambda x, branch: x + branch + 1), None, "not residual"),
        (Scaled(), None, "scales what passes"),
        (WithoutScale(), None, "not residual"),
        (Block(lambda x, branch: torch.cat([x, branch], 1)[:, 3:9]), None, "not residual"),
        (Block(lambda x, branch: (x + branch, branch)[:1]), None, "gives a tuple"),
        (Block(lambda x, branch: (x + branch)[..., ::2, ::2]), None, r"\[2, 6, 8, 8\], its output \[2, 6, 4, 4\]"),
    ],
)
def test_what_is_a_block(block, becomes, kind):
    class OneBlock(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.blocks[0](self.stem(x))
            return self.head((x[0] if isinstance(x, tuple) else x).mean((2, 3)))

    model = randomize(OneBlock(copy.deepcopy(block)))
    assert find_blocks(model, IMAGES).get("blocks.0") == becomes
    if becomes is None:
        with pytest.raises(SlimmingError, match=f"'blocks.0' is no residual block: .*{kind}"):
            slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)
        return
    small, result = slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)
    assert type(small.blocks[0]) is kind and result.removed == {"blocks.0": becomes}
    masked = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in (*masked.blocks[0].outer.parameters(), *masked.blocks[0].parameters(recurse=False)):
            parameter.zero_()
    assert difference(outputs(small.eval(), IMAGES), outputs(masked, IMAGES)) < 1e-6
    training_step(small, IMAGES)


def test_blocks_in_blocks():
    class Outer(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.one, self.two, self.scale = Block(), Block(), scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x)) if self.scale == 0 else x + self.scale * (self.two(self.one(x)) - x)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.mix = Block(), conv()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mix(self.block(x))

    model = randomize(Net(Outer(0), Around()))
    blocks = find_blocks(model, IMAGES)
    assert list(blocks) == ["blocks.0.one", "blocks.0.two", "blocks.1", "blocks.1.block"]
    with pytest.raises(SlimmingError, match=r"'blocks.0' .*consists of blocks: .*'blocks.0.(one|two)'"):
        slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)
    _, result = slim(model, remove_blocks=["blocks.1.block", "blocks.1"], example_input=IMAGES)
    assert result.removed == {"blocks.1": "Identity"} and verify(model, result, IMAGES).exact
    _, result = slim(model, remove_blocks=["blocks.1.block"], ratio=0.3, example_input=IMAGES)
    assert result.removed == {"blocks.1.block": "Identity"} and verify(model, result, IMAGES).exact


def test_a_block_that_is_called_twice_goes_twice():
    class Twice(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.blocks[0](x))

    model = randomize(Twice(Block(), Block()))
    small, result = slim(model, remove_blocks=["blocks.0"], ratio=0.3, example_input=IMAGES)
    assert exact(model, result, ["outer"], IMAGES, small) and verify(model, result, IMAGES).exact
    shared = Block()
    model = randomize(Net(shared, Block(), shared))
    small, result = slim(model, remove_blocks=["blocks.0"], ratio=0.3, example_input=IMAGES)
    assert small.blocks[0] is small.blocks[2] and isinstance(small.blocks[2], nn.Identity)
    assert exact(model, result, ["outer"], IMAGES, small)
    with pytest.raises(SlimmingError, match=r"'blocks.2' is no residual block: the model has no such module"):
        slim(model, remove_blocks=["blocks.2"], example_input=IMAGES)


def test_a_block_that_something_else_refers_to_is_refused():
    class Curious(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * len(self.blocks[1].inner)

    model = randomize(Curious(Block(), Block()))
    assert list(find_blocks(model, IMAGES)) == ["blocks.0"]
    with pytest.raises(SlimmingError, match=r"'blocks.1' cannot be taken out: .*does not run: AttributeError"):
        slim(model, remove_blocks=["blocks.1"], example_input=IMAGES)
    assert slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)[1].removed == {"blocks.0": "Identity"}


def test_a_block_in_a_container_that_is_indexed():
    class Indexed(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for index in range(1, len(self.blocks)):
                x = self.blocks[-index](x)
            return self.head(self.blocks[0](x).mean((2, 3)))

    model = randomize(Indexed(Block(), Block(), Block()))
    small, result = slim(model, remove_blocks=["blocks.1"], ratio=0.3, example_input=IMAGES)
    assert len(small.blocks) == 3 and exact(model, result, ["outer"], IMAGES, small)


def test_a_block_that_shares_a_parameter_is_refused():
    model = randomize(Net(Block(), Block()))
    model.blocks[1].inner[0].bias = model.blocks[0].inner[0].bias
    assert find_blocks(model, IMAGES) == {}
    with pytest.raises(SlimmingError, match=r"'blocks.1' .* shares a parameter or buffer with 'blocks.0.inner.0'"):
        slim(model, remove_blocks=["blocks.1"], example_input=IMAGES)


def test_an_output_that_is_changed_in_place_is_not_given_the_input():
    class InPlace(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.blocks[0](x)
            y.mul_(3)
            return self.head((x + y).mean((2, 3)))

    model = randomize(InPlace(Block()))
    with pytest.raises(SlimmingError, match=r"changed in place later on"):
        slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)
    model = randomize(InPlace(Block(lambda x, branch: (x + branch).relu())))  # an activation makes a new tensor
    small, result = slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)
    assert exact(model, result, ["outer"], IMAGES, small)


class Dropped(Block):
    def __init__(self) -> None:
        super().__init__()
        self.drop = torchvision.ops.StochasticDepth(0.5, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(super().forward(x) - x)


def test_stochastic_depth_counts_as_in_evaluation():
    model = randomize(
        Net(*(Block(lambda x, y: x + torchvision.ops.stochastic_depth(y, 0.5, "row", False)) for _ in "ab"))
    )
    small, result = slim(model, remove_blocks=["blocks.0"], example_input=IMAGES)
    assert result.removed == {"blocks.0": "Identity"} and exact(model, result, ["outer"], IMAGES, small)


# Which blocks go.


def graded(*scales: float) -> Net:
    """Blocks whose inner channels have BatchNorm scales of the given sizes."""
    model = randomize(Net(*(Block() for _ in scales)))
    with torch.no_grad():
        for block, scale in zip(model.blocks, scales, strict=True):
            block.inner[1].weight.copy_(torch.linspace(0.9, 1.1, 5) * scale)
            block.outer[1].weight.fill_(10.0)
        model.stem[1].weight.fill_(10.0)
    return model


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


# Results.


def test_one_result_after_another():
    model = graded(0.5, 0.1, 2.0).eval()
    once, first = slim(model, remove_blocks=["blocks.1"], ratio=0.2, example_input=IMAGES)
    twice, second = slim(once, remove_blocks=["blocks.0"], ratio=0.2, example_input=IMAGES)
    both = first.then(second)
    assert both.removed == {"blocks.1": "Identity", "blocks.0": "Identity"}
    assert not any(name.startswith("blocks.0") for name in (*both.kept, *both.attributes))
    assert torch.equal(apply_result(model, both)(IMAGES), twice(IMAGES))
    assert both != PruningResult(both.kept, both.attributes, {"blocks.1": "Identity"})
    assert both != PruningResult(both.kept, both.attributes, {"blocks.1": "Identity", "blocks.0": "ReLU"})
    for later in (
        PruningResult({"blocks.1.inner.0.weight": {0: torch.tensor([0])}}),
        PruningResult({}, {"blocks.1": {"width": 1}}),
        PruningResult(removed={"blocks.1": "Identity"}),
        PruningResult(removed={"blocks.1.inner": "Zeros"}),
    ):
        with pytest.raises(SlimmingError, match=r"but the first removes 'blocks.1'"):
            first.then(later)
    outer = PruningResult(removed={"blocks.1.inner": "Zeros"}).then(PruningResult(removed={"blocks.1": "Identity"}))
    assert outer.removed == {"blocks.1": "Identity"}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (PruningResult(removed={"blocks.7": "Identity"}), "'blocks.7', which does not exist"),
        (PruningResult(removed={"": "Identity"}), "'', which does not exist"),
        (
            PruningResult(removed={"blocks.0": "Dropout"}),
            "'blocks.0': it cannot become 'Dropout', only one of",
        ),
        (PruningResult({}, {"blocks.0": {"width": 1}}, {"blocks.0": "Identity"}), "names 'blocks.0', which lies in"),
        (
            PruningResult({"blocks.0.inner.0.weight": {0: torch.tensor([0])}}, {}, {"blocks.0": "Identity"}),
            "'blocks.0.inner.0.weight', which lies in 'blocks.0'",
        ),
        (
            PruningResult(removed={"blocks.0": "Identity", "blocks.0.inner": "Zeros"}),
            "'blocks.0.inner', which lies in 'blocks.0'",
        ),
    ],
)
def test_results_that_do_not_fit(result, message):
    with pytest.raises(SlimmingError, match=message):
        apply_result(graded(1.0, 2.0), result)


def test_a_container_is_no_block():
    model = Net(Block())
    model.blocks = nn.ModuleList([Block()])
    with pytest.raises(SlimmingError, match=r"a ModuleList takes no tensor"):
        apply_result(model, PruningResult(removed={"blocks": "Identity"}))


def test_the_originals_form_has_no_words_for_it():
    from zoo_slim.slimming import to_original

    model = graded(1.0, 2.0)
    _, result = slim(model, remove_blocks=1, example_input=IMAGES)
    with pytest.raises(SlimmingError, match=r"'blocks.0' was removed"):
        to_original(result, model)


# Checkpoints and the command line.


@pytest.fixture
def registered():
    from zoo_slim.registry import registry

    @zoo_slim.register("blocks-test-net", input_size=(6, 8, 8))
    def build(num_classes: int = 3) -> nn.Module:
        return Net(Block(), Block(lambda x, y: (x + y).relu()), TakesMore())

    yield "blocks-test-net"
    registry()._registered.pop("blocks-test-net")


def test_what_was_saved_loads_bit_for_bit(tmp_path, registered):
    model = randomize(zoo_slim.load(registered, pretrained=False)).eval()
    names = ["blocks.1", "blocks.2"]
    small, _ = slim(model, remove_blocks=names, ratio=0.3, example_input=IMAGES)
    bare, _ = slim(model, remove_blocks=names, example_input=IMAGES)
    zoo_slim.save(model, tmp_path / "net")
    zoo_slim.save(small, tmp_path / "net" / "pruned-a")
    zoo_slim.save(bare, tmp_path / "net" / "pruned-b", weights=False)
    assert not (tmp_path / "net" / "pruned-b" / "model.safetensors").exists()
    for tag, expected in (("a", small), ("b", bare)):
        again = zoo_slim.load(f"local-dir:{tmp_path / 'net'}", tag)
        assert repr(again) == repr(expected) and torch.equal(again(IMAGES), expected(IMAGES))
        assert list(again.state_dict()) == list(expected.state_dict())
    assert origin_of(again).result.removed == {"blocks.1": "ReLU", "blocks.2": "Identity"}
    assert type(again.blocks[2]) is Removed
    once = zoo_slim.load(f"local-dir:{tmp_path / 'net'}", "a")
    twice, _ = slim(once, remove_blocks=["blocks.0"], example_input=IMAGES)
    zoo_slim.save(twice, tmp_path / "twice")
    assert torch.equal(zoo_slim.load(f"local-dir:{tmp_path / 'twice'}")(IMAGES), twice(IMAGES))


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path, registered):
    from cli_helpers import run

    monkeypatch.chdir(tmp_path)
    zoo_slim.save(randomize(zoo_slim.load(registered, pretrained=False)), tmp_path / "base")
    return lambda *words: run(capsys, monkeypatch, *words)


@pytest.mark.parametrize(
    ("words", "tag", "removed"),
    [
        (("--remove-blocks", "blocks.0, blocks.2"), "blocks-2", ["blocks.0", "blocks.2"]),
        (("--remove-blocks", "1", "--criterion", "l1"), "blocks-1", 1),
        (("--remove-blocks", "1", "--ratio", "0.25"), "0.25-blocks-1", 1),
        (("--remove-blocks", "needed", "--params", "0.4", "--minimum", "0.9"), "params-0.4-needed-blocks", 2),
        (("--remove-blocks", "dead", "--ratio", "0.1"), "0.1-dead-blocks", 0),
    ],
)
def test_slim_from_the_command_line(shell, tmp_path, words, tag, removed):
    ran = shell("slim", "base", *words)
    assert ran.code == 0, ran.err
    model = zoo_slim.load(f"local-dir:{tmp_path / 'base'}", tag)
    found = origin_of(model).result.removed
    assert list(found) == removed if isinstance(removed, list) else len(found) == removed
    assert ("blocks taken out: " in ran.out) == bool(found) and all(name in ran.out for name in found)
    info = shell("info", "base", "--pruned", tag)
    assert info.code == 0 and all(name in info.out for name in found)
    report = shell("report", "base", "--pruned", tag, "--output", "kept.svg")
    assert report.code == 0 and (tmp_path / "kept.svg").exists()
    checked = shell("verify", "base", "--pruned", tag)
    assert checked.code == 0 and "1 of 1 exact" in checked.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--remove-blocks", "stem"), 1, "'stem' is no residual block"),
        (("--remove-blocks", "blocks.0,"), 2, "--remove-blocks takes names"),
        (("--remove-blocks", "dead"), 2, "give exactly one of --ratio, --params and --macs, not none"),
        (("--remove-blocks", "needed", "--ratio", "0.5"), 1, "'needed' needs one of params, macs"),
        (("--remove-blocks", "9"), 1, "remove_blocks=9 is too many"),
    ],
)
def test_slim_refuses_from_the_command_line(shell, tmp_path, words, code, message):
    ran = shell("slim", "base", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split()) and "Traceback" not in ran.err
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["config.json", "model.safetensors"]
