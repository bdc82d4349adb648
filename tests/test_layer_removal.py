"""Residual blocks taken out whole: which are found, that what is left is exact, and what is refused."""

import copy

import pytest
import timm
import torch
import torchvision
from block_networks import IMAGES, Block, Net, TakesMore, conv, exact
from equivalence import difference, drawn, outputs, zeroed
from torch import nn
from torch.nn import functional

import zoo_slim
from zoo_slim import PruningResult, apply_result, slim, verify
from zoo_slim._errors import SlimmingError
from zoo_slim._replacement import Removed, Zeros
from zoo_slim.slimming import TOLERANCE, count_params, find_blocks, randomize, training_step


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
    assert find_blocks(nn.DataParallel(model), example) == blocks
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


def test_activations_that_differ_far_out_are_told_apart():
    for join, becomes in (
        (lambda x, b: functional.relu6(x + b), "ReLU6"),
        (lambda x, b: functional.hardtanh(x + b, -6, 6), None),
    ):
        assert find_blocks(Net(Block(join)), IMAGES) == ({"blocks.0": becomes} if becomes else {})


def test_a_block_between_two_outputs_can_go():
    class Pyramid(Net):
        def forward(self, x):
            x = self.stem(x)
            return [x := block(x) for block in self.blocks]

    model = randomize(Pyramid(Block(), Block()))
    small, result = slim(model, remove_blocks=["blocks.1"], example_input=IMAGES)
    assert verify(model, result, IMAGES).exact and len(small(IMAGES)) == 2


def test_a_branch_that_is_a_layer_kept_no_channels():
    from zoo_slim.pictures import layer_widths

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

        def forward(self, x):
            return x + self.a(x) + self.b(x)

    model = randomize(Net(Two()))
    small, _ = slim(model, remove_blocks=["blocks.0.a"], example_input=IMAGES)
    widths = layer_widths(model, small)
    assert (widths["blocks.0.a"], widths["blocks.0.b"]) == ((0, 6), (6, 6))


def test_pictures_show_the_channels_that_transposed_layers_write():
    from zoo_slim.pictures import layer_widths

    up, deep = nn.ConvTranspose2d(6, 8, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2, groups=8)
    model = randomize(nn.Sequential(up, deep, nn.ConvTranspose2d(8, 4, 1, groups=2)))
    assert layer_widths(model, model) == {"0": (8, 8), "1": (8, 8), "2": (4, 4)}
    model = randomize(nn.Sequential(up, deep, nn.Conv2d(8, 4, 1)))
    small, _ = slim(model, ratio=0.5, criterion="l2", example_input=IMAGES)
    assert layer_widths(model, small) == {"0": (4, 8), "1": (4, 8), "2": (4, 4)}
