"""Networks that people write, and that a tracer can stumble over: slim networks are right, or channels stay."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from equivalence import difference, outputs, zeroed
from torch import Tensor, nn

import zoo_slim
from zoo_slim import slim, trace, verify
from zoo_slim.slimming import TOLERANCE, score

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """Two convolutions with a BatchNorm and something odd between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        nn.init.uniform_(self.norm.weight, 0.1, 1)
        nn.init.uniform_(self.norm.bias, -1, 1)
        self.make()

    def make(self) -> None:
        pass

    def odd(self, y: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.odd(self.norm(self.a(x)))).mean((2, 3))


class Affine(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(shape)), nn.Parameter(torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class OfOwnAffine(Base):
    def make(self) -> None:
        self.affine = Affine((1, 8, 1, 1))

    def odd(self, y: Tensor) -> Tensor:
        return self.affine(y)


class BlurConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype, device=x.device) / 9
        return super().forward(F.conv2d(x, kernel.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1]))


class Blurred(Base):
    def make(self) -> None:
        self.blur = BlurConv(8, 8, 1)

    def odd(self, y: Tensor) -> Tensor:
        return self.blur(y)


class ByKeyword(Base):
    def odd(self, y: Tensor) -> Tensor:
        y = torch.unflatten(input=y, dim=1, sizes=(2, -1)).flatten(1, 2)
        return torch.narrow(input=y, dim=2, start=0, length=8)


class AddedInPlace(Base):
    def make(self) -> None:
        self.c, self.d = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def odd(self, y: Tensor) -> Tensor:
        h = self.d(self.c(y)).mean((2, 3))
        h.addmm_(y.mean((2, 3)), self.weight)
        return h[:, :, None, None]


class Tempered(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.temperature = nn.Parameter(torch.full((1,), 0.7))
        nn.init.uniform_(self.weight, 0.1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.temperature


class OfTemperedNorm(Base):
    def make(self) -> None:
        self.norm = Tempered(8)


class WeightDrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 6, batch_first=True)
        self.rnn.weight_hh_l0_raw = nn.Parameter(self.rnn._parameters.pop("weight_hh_l0").data)

    def forward(self, x: Tensor) -> Tensor:
        rnn = self.rnn
        rnn.weight_hh_l0 = rnn.weight_hh_l0_raw * 1.0
        rnn._flat_weights = [getattr(rnn, name) for name in rnn._flat_weights_names]
        return rnn(x)[0]


class OfWeightDrop(Base):
    def make(self) -> None:
        self.rnn, self.b = WeightDrop(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.rnn(self.norm(self.a(x)).flatten(2).mT).mean(1))


class ManyKernels(nn.Conv2d):
    def __init__(self, inputs: int, written: int, kernels: int) -> None:
        super().__init__(inputs, written, 1)
        self.weight = nn.Parameter(torch.randn(kernels, written, inputs, 1, 1))
        self.mix = nn.Parameter(torch.ones(kernels))

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.mix.view(-1, 1, 1, 1, 1) * self.weight).sum(0)
        return F.conv2d(x, weight.view(self.out_channels, self.in_channels, 1, 1), self.bias)


class BesideManyKernels(Base):
    def make(self) -> None:
        self.many, self.before = ManyKernels(6, 6, 4), nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), self.many(self.before(x)).mean((2, 3))


class Plain(Tensor):
    pass


class OfANewParameter(Base):
    def odd(self, y: Tensor) -> Tensor:
        return y * nn.Parameter(y.detach()).mean(1, keepdim=True)


class OfASubclass(Base):
    def odd(self, y: Tensor) -> Tensor:
        return y * torch.sigmoid(y.as_subclass(Plain).mean(1, keepdim=True)).as_subclass(Tensor)


class Loop(Base):
    def odd(self, y: Tensor) -> Tensor:
        for _ in range(y.shape[1]):
            y = y * 0.9
        return y


class Branch(Base):
    def odd(self, y: Tensor) -> Tensor:
        return y * 2 if 1.0 * y.shape[1] > 6 else y


FOLLOWED = (OfOwnAffine, Blurred, ByKeyword, AddedInPlace, OfTemperedNorm, OfWeightDrop, BesideManyKernels)
HELD = (OfANewParameter, OfASubclass, Loop, Branch)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_what_is_followed(kind: Callable[[], nn.Module]) -> None:
    model = kind().double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrow, result = slim(model, ratio=0.5, example_input=IMAGES.double())
    assert 0 in result.kept["a.weight"] and verify(model, result, IMAGES.double()).exact
    masked = zeroed(model, result, {"weight": 0, "rnn.rnn.weight_ih_l0": 1})
    assert difference(outputs(narrow, IMAGES.double()), outputs(masked, IMAGES.double())) < TOLERANCE
    assert trace(model, IMAGES.double()).check(model) is None


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.filterwarnings("ignore:all channels")
def test_what_is_not_followed_stays(kind: Callable[[], nn.Module]) -> None:
    model = kind().eval()
    try:
        _, result = slim(model, ratio=0.5, example_input=IMAGES)
    except zoo_slim.ZooSlimError as error:
        assert "cannot be followed" in str(error) or "nothing" in str(error) or "none of" in str(error), error
    else:
        assert verify(model, result, IMAGES).exact


def test_a_huge_constant_does_not_hide_a_difference() -> None:
    class Masked(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.a(x))
            y = y * (1.0 / y.shape[1])
            return self.b(y).mean((2, 3)).masked_fill(torch.tensor([0, 0, 0, 0, 1], device=x.device) > 0, -1e9)

    model = Masked().eval()
    schema = trace(Base(), IMAGES)
    right = slim(Base().eval(), ratio=0.5, example_input=IMAGES)[1]
    assert not verify(model, right, IMAGES).exact
    assert verify(Base().eval(), right, IMAGES).exact and schema.channels == 8


def test_a_weight_that_is_read_by_its_first_axis_is_no_layer() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), None

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    class OfProduct(Base):
        def make(self) -> None:
            self.product, self.b = Product(), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.product(self.norm(self.a(x)).mean((2, 3))))

    model = OfProduct().eval()
    schema = trace(model, IMAGES)
    assert "product" not in schema.layers and set(schema.parameters["product.weight"]) == {0, 1}
    (first, _) = schema.members().values()
    alone = score(model, schema, "l1")[first]
    model.product.weight.data.mul_(100)
    assert (score(model, schema, "l1")[first] == alone).all()
