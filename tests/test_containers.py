"""Whatever a model takes and returns, its outputs keep their channels, and what is compared is all of it."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import zoo_slim
from zoo_slim._containers import tensors_in, with_tensors
from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult

IMAGES = torch.rand(2, 3, 8, 8)


@dataclasses.dataclass(slots=True)
class Slotted:
    masks: Tensor
    boxes: Tensor


class Plain:
    def __init__(self, masks: Tensor, boxes: Tensor) -> None:
        self.masks, self.boxes = masks, boxes


class Pair(NamedTuple):
    one: Tensor
    other: Tensor


def generated(*parts: Tensor) -> Iterator[Tensor]:
    yield from parts


class TwoHeads(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap
        self.stem, self.masks, self.boxes = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 6, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).relu()
        return self.wrap(self.masks(x), self.boxes(x))


WRAPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "list": lambda a, b: [a, b],
    "slots": Slotted,
    "object": Plain,
    "named tuple": Pair,
    "views of a dict": lambda a, b: {"a": a, "b": b}.values(),
    "deque": lambda a, b: collections.deque([a, b]),
    "mapping": lambda a, b: MappingProxyType({"a": a, "b": [b]}),
    "generator": generated,
    "map": lambda a, b: map(torch.abs, (a, b)),
}


@pytest.mark.parametrize("kind", WRAPS)
def test_outputs_keep_their_channels_in_any_container(kind: str) -> None:
    torch.manual_seed(0)
    slim, result = zoo_slim.slim(TwoHeads(WRAPS[kind]), ratio=0.5, criterion="l1", example_input=IMAGES)
    assert (slim.masks.out_channels, slim.boxes.out_channels) == (6, 4)
    assert slim.stem.out_channels < 16
    assert zoo_slim.verify(TwoHeads(WRAPS[kind]), result, IMAGES).exact


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(SlimmingError, match="returns no tensor on the example input but NoneType"):
        zoo_slim.slim(TwoHeads(lambda a, b: None), ratio=0.5, criterion="l1", example_input=IMAGES)


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.seg, self.cls = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor, task: Any = "cls") -> Tensor:
        x = self.stem(x).relu()
        return self.seg(x) if task == "seg" else self.cls(x).mean((2, 3))


@pytest.mark.parametrize("task", ["seg", None, True, 1.5])
def test_keyword_arguments_that_are_no_tensors_are_passed_on(task: object) -> None:
    model, example = Task(), {"x": IMAGES, "task": task}
    slim, result = zoo_slim.slim(model, ratio=0.5, criterion="l1", example_input=example)
    assert slim.stem.out_channels < 16
    assert slim(**example).shape == model(**example).shape
    assert zoo_slim.verify(model, result, example).exact


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, pair: Any) -> Tensor:
        one, other = pair if isinstance(pair, (tuple, list)) else (pair.masks, pair.boxes)
        return self.head(self.stem(one) + self.stem(other))


@pytest.mark.parametrize("pair", [[IMAGES, IMAGES], Pair(IMAGES, IMAGES), Slotted(IMAGES, IMAGES)])
def test_tensors_inside_arguments_are_followed(pair: object) -> None:
    slim, result = zoo_slim.slim(Siamese(), macs=0.5, criterion="l1", example_input=(pair,))
    assert slim.stem.out_channels <= 8
    assert zoo_slim.verify(Siamese(), result, (pair,)).exact


class Casting(nn.Module):
    def __init__(self, out: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.out = out
        self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.head(self.stem(x.float() / 255).relu().to(torch.float32)))


def test_a_forward_that_casts_is_compared_in_float64() -> None:
    model, example = Casting(), (IMAGES * 255).byte()
    _, result = zoo_slim.slim(model, ratio=0.5, criterion="l1", example_input=example)
    assert zoo_slim.verify(model, result, example).exact


@pytest.mark.parametrize("out", [torch.fft.rfft2, lambda x: x.argmax(1), lambda x: x > 0])
def test_a_wrong_result_is_found_whatever_the_outputs_are(out: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Casting(out)
    _, result = zoo_slim.slim(model, ratio=0.5, criterion="random", example_input=IMAGES * 255)
    assert zoo_slim.verify(model, result, IMAGES * 255).exact
    kept = {name: dict(axes) for name, axes in result.kept.items()}
    kept["head.weight"][1] = ((kept["head.weight"][1] + 1) % 16).sort().values
    wrong = PruningResult(kept, result.attributes)
    assert not zoo_slim.verify(model, wrong, IMAGES * 255).exact


def test_nothing_to_compare_is_an_error() -> None:
    model = Casting(lambda x: x[x > 1e9])
    _, result = zoo_slim.slim(Casting(), ratio=0.5, criterion="l1", example_input=IMAGES)
    with pytest.raises(SlimmingError, match="nothing to compare"):
        zoo_slim.verify(model, result, IMAGES)


def test_tensors_are_found_as_often_as_they_are_held_and_changed_in_place_of_the_old() -> None:
    one, other = torch.zeros(1), torch.ones(2)
    value = {"a": [one, (other, "text")], "b": Pair(one, other), "c": None}
    assert [tensor.numel() for tensor in tensors_in(value)] == [1, 2, 1, 2]
    doubled = with_tensors(value, lambda tensor: tensor.double())
    assert [tensor.dtype for tensor in tensors_in(doubled)] == [torch.float64] * 4
    assert isinstance(doubled["b"], Pair) and doubled["a"][1][1] == "text"
    assert one.dtype == torch.float32


def test_an_item_that_is_an_attribute_too_is_found_once() -> None:
    class Output(dict[str, Any]):
        def __init__(self, **items: Any) -> None:
            super().__init__(items)
            self.__dict__.update(items, more=torch.ones(3))

    assert [tensor.numel() for tensor in tensors_in(Output(a=torch.ones(1), b=torch.ones(2)))] == [1, 2, 3]
