import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import zoo_slim.checkpoint
from zoo_slim import fold_constants, slim, trace, verify
from zoo_slim._errors import SlimmingError
from zoo_slim.slimming import randomize

IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.double)


class Net(nn.Module):
    def __init__(self, run, **parts) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def cnn(inputs: int, outputs: int, size: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **options)


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = cnn(channels, 3), cnn(3, channels)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def plain(activation, bias=False):
    return nn.Sequential(
        cnn(3, 8, bias=bias), nn.BatchNorm2d(8), activation, cnn(8, 8, bias=bias), nn.BatchNorm2d(8), activation,
        nn.MaxPool2d(2), cnn(8, 6, 3, bias=bias), nn.BatchNorm2d(6), activation, nn.Flatten(), nn.Linear(96, 4),
    )  # fmt: skip


def residual(self, x):
    x = F.relu(self.bn1(self.stem(x)))
    x = F.relu(x + self.bn3(self.outer(F.silu(self.bn2(self.inner(x))))))
    return self.head(x).mean((2, 3))


def concatenated(self, x):
    a, b = F.gelu(self.bn1(self.one(x))), F.leaky_relu(self.bn2(self.two(x)), 0.3)
    return self.head(self.bn3(self.joint(torch.cat([a, b.flip(1), a], 1))))


def depthwise(self, x):
    x = F.hardswish(self.bn1(self.one(x)))
    x = F.relu6(self.bn2(self.deep(x)))
    return self.head(self.bn3(self.two(x)))


NETWORKS = {
    "relu": lambda: plain(nn.ReLU()),
    "silu with biases": lambda: plain(nn.SiLU(), bias=True),
    "sigmoid, not 0 at 0": lambda: plain(nn.Sigmoid()),
    "residual": lambda: Net(
        residual,
        stem=cnn(3, 8),
        bn1=nn.BatchNorm2d(8),
        inner=cnn(8, 6, bias=False),
        bn2=nn.BatchNorm2d(6),
        outer=cnn(6, 8),
        bn3=nn.BatchNorm2d(8),
        head=cnn(8, 5),
    ),
    "concatenated": lambda: Net(
        concatenated,
        one=cnn(3, 6),
        bn1=nn.BatchNorm2d(6),
        two=cnn(3, 8),
        bn2=nn.BatchNorm2d(8),
        joint=cnn(20, 7, bias=False),
        bn3=nn.BatchNorm2d(7),
        head=cnn(7, 2),
    ),
    "depthwise": lambda: Net(
        depthwise,
        one=cnn(3, 8),
        bn1=nn.BatchNorm2d(8),
        deep=cnn(8, 8, 3, padding=1, groups=8),
        bn2=nn.BatchNorm2d(8),
        two=cnn(8, 7, bias=False),
        bn3=nn.BatchNorm2d(7),
        head=cnn(7, 2),
    ),
    "grouped": lambda: nn.Sequential(
        cnn(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        cnn(8, 12, groups=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        cnn(12, 4),
    ),
    "transposed": lambda: nn.Sequential(
        cnn(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 1),
    ),
    "transposed and depthwise": lambda: nn.Sequential(
        cnn(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        cnn(8, 4),
    ),
    "linear with positions": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(3, 8, 1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 6, 3),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(852, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 3),
    ),
}


def sparse(model: nn.Module) -> nn.Module:
    """Random weights, and scales of which every other one is exactly zero, so that sums and groups lose them too."""
    randomize(model)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.weight[::2] = 0
                norm.bias.add_(0.7)
    return model.double().eval()


def far(model: nn.Module, other: nn.Module, images: torch.Tensor = IMAGES) -> float:
    with torch.no_grad():
        one, two = model(images), other(images)
    return float((one - two).abs().max() / two.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_equals_the_unmasked_original(name):
    model = sparse(NETWORKS[name]())
    if name == "transposed":
        with torch.no_grad():  # a kernel of as many taps as the stride: each output sees one, of another weight
            model[3].weight.copy_(model[3].weight[:, :, :1, :1].expand(-1, -1, 2, 2))
    before = copy.deepcopy(model.state_dict())
    plainly, result = slim(model, ratio=0.45, example_input=IMAGES)
    assert verify(model, result, IMAGES).exact
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.folded > 2 and not folding.varying and not folding.left
    assert far(plainly, model) > 1e-3
    assert far(folded, model) < 1e-9
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())
    assert {key: tensor.shape for key, tensor in folded.state_dict().items()} == {
        key: tensor.shape for key, tensor in plainly.state_dict().items()
    }


def test_only_biases_and_means_change():
    model = sparse(plain(nn.ReLU()))
    plainly, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    own = plainly.state_dict()
    changed = {name for name, tensor in folded.state_dict().items() if not torch.equal(tensor, own[name])}
    assert changed == set(folding.targets.values()) == {"4.running_mean", "8.running_mean", "11.bias"}
    assert folding.targets == {"3.weight": "4.running_mean", "7.weight": "8.running_mean", "11.weight": "11.bias"}


def test_padding_is_right_in_the_interior_only():
    model = sparse(
        nn.Sequential(
            cnn(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), cnn(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8), nn.ReLU(), cnn(8, 5),
        )
    )  # fmt: skip
    plainly, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.at_borders == {"3.weight"}
    with torch.no_grad():
        full, cut, given = (net(IMAGES) for net in (model, plainly, folded))
    inner = (..., slice(1, -1), slice(1, -1))
    assert (given[inner] - full[inner]).abs().max() < 1e-9 * full.abs().max() < (cut[inner] - full[inner]).abs().max()
    assert (given - full).abs().max() > 1e-3


def test_a_strided_transposed_convolution_gets_the_mean():
    model = sparse(
        nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2), nn.BatchNorm2d(8))
    )
    plainly, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.uneven == folding.targets.keys() == {"3.weight"} and not folding.at_borders
    assert far(folded, model) < far(plainly, model)


class Unpooled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)


def upsampling() -> nn.Module:
    return nn.ConvTranspose2d(8, 8, 2, 2, groups=8)


@pytest.mark.parametrize(
    "layer, channels",
    [
        (upsampling, 8),
        (lambda: parametrizations.weight_norm(upsampling()), 8),
        (Unpooled, 8),
        (lambda: nn.PixelShuffle(2), 2),
    ],
)
@pytest.mark.parametrize("betas", ["other", "zero"])
def test_what_is_read_behind_an_upsampling_gets_the_mean(layer, channels, betas):
    model = sparse(nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), layer(), cnn(channels, 5)))
    if betas == "zero":  # what is removed shows nothing where the scales are 0, and something around that
        with torch.no_grad():
            model[1].bias.zero_()
            model[1].weight[::2] = 1e-3
    criterion = {2: lambda model, schema: np.array([0.0, 1.0])}.get(channels, "bn_scale")
    _, result = slim(model, ratio=0.5, example_input=IMAGES, criterion=criterion, minimum=1)
    assert 0 < len(result.kept["4.weight"][1]) < channels
    _, folding = fold_constants(model, result, IMAGES)
    assert folding.uneven == folding.targets.keys() == {"4.weight"} and not folding.at_borders


def test_an_upsampling_that_gives_each_position_the_same_is_exact():
    model = sparse(nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), upsampling(), cnn(8, 5)))
    _, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.uneven and far(folded, model) > 1e-3
    with torch.no_grad():
        model[3].weight.copy_(model[3].weight[:, :, :1, :1].expand(-1, -1, 2, 2))
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.targets == {"4.weight": "4.bias"} and not folding.uneven and far(folded, model) < 1e-9


def test_what_is_no_constant_makes_nothing_uneven():
    def joined(m, x):
        skip = m.bn(m.stem(x)).relu()
        return m.head(torch.cat([m.up(F.avg_pool2d(skip, 2)), skip], 1))

    parts = {"stem": cnn(3, 8), "bn": nn.BatchNorm2d(8), "up": nn.ConvTranspose2d(8, 6, 2, 2)}
    model = sparse(Net(joined, **parts, head=cnn(14, 5, 3, padding=1)))
    schema = trace(model, IMAGES)
    scores = dict(zip(schema.members(), ([1.0] * 8, [1.0] * 6), strict=True))

    def criterion(model, schema):
        found = np.full(schema.channels, 1.0)
        stem, up = (schema.members()[name] for name in scores)
        found[stem[::2]], found[up[:2]] = 0.0, 0.1
        return found

    _, result = slim(model, ratio=6 / 14, criterion=criterion, example_input=IMAGES, schema=schema)
    assert len(result.kept["stem.weight"][0]) == len(result.kept["up.weight"][1]) == 4
    _, folding = fold_constants(model, result, IMAGES)
    assert folding.varying and "head.weight" in folding.at_borders and "head.weight" not in folding.uneven


def test_means_come_closer_than_nothing():
    for layer in (upsampling, Unpooled):
        model = sparse(nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), layer(), cnn(8, 5)))
        plainly, result = slim(model, ratio=0.45, example_input=IMAGES)
        folded, _ = fold_constants(model, result, IMAGES)
        with torch.no_grad():
            errors = [(network(IMAGES) - model(IMAGES)).square().mean() for network in (folded, plainly)]
        assert errors[0] < 0.9 * errors[1]


def test_borders_do_not_hide_in_a_pooling_that_counts_its_padding():
    model = sparse(
        nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(3, 1, 1), cnn(8, 5)),
    )
    _, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.at_borders == {"4.weight"} and not folding.varying
    with torch.no_grad():
        full, given = (net(IMAGES)[..., 1:-1, 1:-1] for net in (model, folded))
    assert (given - full).abs().max() < 1e-9 * full.abs().max()


def test_gates_are_left_alone_and_their_readers_said():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.bn1, self.gate = cnn(3, 8), nn.BatchNorm2d(8), Gate(8)
            self.two, self.head = cnn(8, 4), cnn(4, 2)

        def forward(self, x):
            return self.head(self.two(self.gate(self.bn1(self.one(x)).relu())).relu())

    model = sparse(Gated())
    _, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.targets == {"gate.down.weight": "gate.down.bias"} and folding.left.keys() == {"two.weight"}
    assert "not constant" in folding.left["two.weight"] and folding.varying == 3
    with torch.no_grad():
        full = model.gate.down(model.bn1(model.one(IMAGES)).relu())
        given = folded.gate.down(folded.bn1(folded.one(IMAGES)).relu())
    assert torch.allclose(given, full, rtol=1e-9)


def test_no_place_for_a_bias():
    def run(self, x):
        y = self.two(self.bn1(self.one(x)).relu())
        return self.head(self.bn2(y) + y)  # y is not the BatchNorm's alone

    def twice(self, x):
        return self.head(self.bn2(self.two(self.bn1(self.one(x)).relu())) + self.bn2(self.side(x)))

    def functional(self, x):
        x = self.bn1(self.one(x)).relu()
        return torch.einsum("nchw,oc->nohw", x, self.matrix)

    parts = dict(one=cnn(3, 8), bn1=nn.BatchNorm2d(8), two=cnn(8, 6, bias=False), bn2=nn.BatchNorm2d(6), head=cnn(6, 2))
    for function, more, reason in (
        (run, {}, "neither|no bias"),
        (twice, {"side": cnn(3, 6, bias=False)}, "other tensors"),
        (functional, {"matrix": nn.Parameter(torch.rand(4, 8))}, "not called as a layer"),
    ):
        own = parts if function is not functional else {"one": parts["one"], "bn1": parts["bn1"]}
        model = sparse(Net(function, **copy.deepcopy(own), **more))
        plainly, result = slim(model, ratio=0.2, example_input=IMAGES)
        folded, folding = fold_constants(model, result, IMAGES)
        (name,) = {"two.weight", "matrix"} & folding.left.keys()
        assert any(part in folding.left[name] for part in reason.split("|"))
        assert far(folded, plainly) == 0 or folding.targets


def test_scales_that_are_not_zero_give_the_mean():
    model = sparse(nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.SiLU(), cnn(8, 5)))
    with torch.no_grad():
        model[1].weight[::2] = torch.tensor([0.4, -0.3, 0.2, 0.1])
        model[1].weight[1::2] = 1
    plainly, result = slim(model, ratio=0.5, example_input=IMAGES)
    folded, _ = fold_constants(model, result, IMAGES)
    z = torch.linspace(-8, 8, 4001, dtype=torch.double)
    density = torch.exp(-z.square() / 2)
    values = F.silu(model[1].bias[::2, None] + model[1].weight[::2, None] * z)
    expected = (values * density).sum(1) / density.sum()
    shift = folded[3].bias - plainly[3].bias
    assert torch.allclose(shift, model[3].weight[:, ::2, 0, 0] @ expected, rtol=1e-6)


def test_a_layer_called_twice_on_one_constant_is_folded_once():
    def run(self, x):
        one, other = (self.bn1(self.one(part)).relu() for part in (x, x.flip(3)))
        return self.head(one) + self.head(other)

    model = sparse(Net(run, one=cnn(3, 8), bn1=nn.BatchNorm2d(8), head=cnn(8, 2)))
    plainly, result = slim(model, ratio=0.45, example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.folded == 3 and far(folded, model) < 1e-9 < far(plainly, model)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn1, self.two, self.bn2 = cnn(8, 6), nn.BatchNorm2d(6), cnn(6, 8), nn.BatchNorm2d(8)

    def forward(self, x):
        return (x + self.bn2(self.two(self.bn1(self.one(x)).relu()))).relu()


def test_blocks_that_were_taken_out_add_nothing():
    model = sparse(nn.Sequential(cnn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Block(), Block(), cnn(8, 5)))
    plainly, result = slim(model, ratio=0.45, remove_blocks=["4"], example_input=IMAGES)
    folded, folding = fold_constants(model, result, IMAGES)
    assert folding.targets == {"3.one.weight": "3.one.bias", "3.two.weight": "3.two.bias", "5.weight": "5.bias"}
    model[4] = nn.ReLU()
    assert far(folded, model) < 1e-9 < far(plainly, model)


def test_the_origin_goes_along():
    model = zoo_slim.checkpoint.attach_origin(sparse(plain(nn.ReLU())), zoo_slim.checkpoint.Origin("my_net"))
    _, result = slim(model, ratio=0.45, example_input=IMAGES, schema=trace(model, IMAGES))
    folded, _ = fold_constants(model, result, IMAGES)
    assert folded.zoo_slim_origin.result == result and folded.training is model.training


def test_a_model_that_does_not_run_says_so():
    model = sparse(plain(nn.ReLU()))
    _, result = slim(model, ratio=0.45, example_input=IMAGES)
    with pytest.raises(SlimmingError, match="cannot be measured"):
        fold_constants(model, result, IMAGES[:, :2])
    with pytest.raises(SlimmingError, match="example_input"):
        fold_constants(model, result)


@pytest.mark.parametrize(
    "example",
    [
        torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8),
        torch.full((2, 3, 12, 12), 7, dtype=torch.uint8),
        torch.zeros(2, 3, 12, 12, dtype=torch.uint8),
        IMAGES,
    ],
    ids=["uint8", "one number", "zeros", "float"],
)
def test_what_depends_on_the_input_is_no_constant_whatever_its_dtype(example):
    def run(self, x):
        x = self.bn1(self.one((x.double() - 120.5) / 64)).relu()
        return self.head(self.gate(x))

    model = sparse(Net(run, one=cnn(3, 8), bn1=nn.BatchNorm2d(8), gate=Gate(8), head=cnn(8, 2)))
    _, result = slim(model, ratio=0.45, example_input=example)
    _, folding = fold_constants(model, result, example)
    assert "head.weight" in folding.left and folding.varying


def test_only_readers_are_left():
    def run(self, x):
        x = self.bn1(self.one(x)).relu() * self.scale
        return self.head(x)

    parts = dict(one=cnn(3, 8), bn1=nn.BatchNorm2d(8), head=cnn(8, 2), scale=nn.Parameter(torch.rand(1, 8, 1, 1)))
    model = sparse(Net(run, **parts))
    _, result = slim(model, ratio=0.4, example_input=IMAGES)
    assert result.kept["scale"]
    _, folding = fold_constants(model, result, IMAGES)
    assert not folding.left and folding.targets == {"head.weight": "head.bias"}
