"""What tracing cannot see of a forward: the channels that it depends on stay, the others go."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo_slim
from zoo_slim.schema import Group, PruningSchema
from zoo_slim.slimming import count_params, find_cliff
from zoo_slim.slimming._follow import hold
from zoo_slim.slimming._select import select

IMAGES = torch.rand(2, 3, 8, 8)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


class TwoBlocks(nn.Module):
    """The sum's width is used in a way that tracing does not see; the branches' are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)
        self.blocks = nn.ModuleList(Residual() for _ in range(2))
        for layer in (self.stem, *(block.branch[2] for block in self.blocks)):
            layer.weight.data /= 100

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)) * (1.0 / x.shape[1]))  # type: ignore[no-any-return]


STAYS = (
    r"all channels of stem stay: with fewer of them the slim TwoBlocks computes aten\.mul\.Tensor in the model with "
    r"0\.\d+, the original with 0\.0625"
)


@pytest.mark.parametrize("blocks", [None, ["blocks.1"]])
@pytest.mark.parametrize("bound", [{"ratio": 0.6}, {"params": 0.4}, {"macs": 0.4}])
def test_the_channels_that_a_forward_depends_on_stay(blocks: list[str] | None, bound: dict[str, float]) -> None:
    model = TwoBlocks()
    with pytest.warns(UserWarning, match=STAYS):
        slim, result = zoo_slim.slim(model, criterion="l1", example_input=IMAGES, remove_blocks=blocks, **bound)
    assert slim.stem.out_channels == 16
    assert slim.blocks[0].branch[0].out_channels < 8
    assert list(result.removed) == (blocks or [])
    assert zoo_slim.verify(model, result, IMAGES).exact


@pytest.mark.filterwarnings("error")
def test_a_schema_that_lets_them_stay_is_not_warned_of() -> None:
    model = TwoBlocks()
    schema = hold(zoo_slim.trace(model, IMAGES), ["stem"])
    slim, _ = zoo_slim.slim(model, ratio=0.7, criterion="l1", schema=schema, example_input=IMAGES)
    assert slim.stem.out_channels == 16


class Branches(nn.Module):
    """Convolutions beside each other, a number made of their widths, and one convolution more."""

    def __init__(self, number: Callable[[list[int]], float]) -> None:
        super().__init__()
        self.number = number
        self.stem = nn.Conv2d(3, 12, 3)
        self.branches = nn.ModuleList(nn.Conv2d(12, 16, 1) for _ in range(3))
        self.heads = nn.ModuleList(nn.Conv2d(16, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(self.stem(x)) for branch in self.branches]
        number = self.number([output.shape[1] for output in outputs])
        return sum((head(output) for head, output in zip(self.heads, outputs, strict=True)), x.new_zeros(())) * number


@pytest.mark.parametrize(
    ("number", "stay"),
    [
        (lambda widths: 1.0 / widths[2], [False, False, True]),
        (lambda widths: 1.0 / (widths[0] + widths[2]), [True, False, True]),
        (lambda widths: max(np.zeros(width).size for width in widths[:2]), [False, True, False]),  # the other may go
    ],
)
def test_of_many_groups_those_are_found(number: Callable[[list[int]], float], stay: list[bool]) -> None:
    model = Branches(number)
    named = ", ".join(f"branches.{index}" for index, stays in enumerate(stay) if stays)
    with pytest.warns(UserWarning, match=f"all channels of {named} stay:"):
        slim, result = zoo_slim.slim(model, ratio=0.6, criterion="random", example_input=IMAGES)
    assert [branch.out_channels == 16 for branch in slim.branches] == stay
    assert slim.stem.out_channels < 12
    assert zoo_slim.verify(model, result, IMAGES).exact


def with_scales() -> tuple[nn.Module, Tensor]:
    """Half of the first convolution's channels are dead, and a quarter of the second's."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
            for norm, dead in zip(self.norms, (8, 4), strict=True):
                norm.weight.data = torch.where(torch.arange(16) < dead, 0.0, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norms[0](self.first(x)).relu()
            x = x * (1.0 / x.shape[1])
            return self.head(self.norms[1](self.second(x)).relu())  # type: ignore[no-any-return]

    return Net(), IMAGES


def test_auto_looks_for_the_cliff_of_those_that_may_go() -> None:
    model, images = with_scales()
    with pytest.warns(UserWarning, match="all channels of first stay"):
        slim, result = zoo_slim.slim(model, ratio="auto", example_input=images)
    assert (slim.first.out_channels, slim.second.out_channels) == (16, 12)
    assert zoo_slim.verify(model, result, images).exact


def test_a_group_of_ratio_0_is_left_alone_by_what_is_tied_to_it() -> None:
    tied = PruningSchema({"one": Group(4, ratio=0.0), "two": Group(4)}, equal=[np.arange(8).reshape(2, 4)])
    assert select(tied, np.arange(8.0), 0.5).all()


def test_a_group_of_ratio_0_has_no_scales_to_remove() -> None:
    model, images = with_scales()
    schema = hold(zoo_slim.trace(model, images), ["first"])
    cliff = find_cliff(model, schema=schema, example_input=images)
    assert (len(cliff.scales), cliff.dead) == (16, 4)
    assert count_params(model) == 3 * 16 * 9 + 16 + 16 * 16 * 9 + 16 + 64 + 16 * 4 + 4
