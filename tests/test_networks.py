"""Networks as they are found: wrapped, compiled, after training, with activations left on them. None is changed."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torchvision.models.feature_extraction import create_feature_extractor

import zoo_slim
from zoo_slim._errors import SlimmingError
from zoo_slim.slimming import count_macs

IMAGES = torch.rand(2, 3, 8, 8)


@zoo_slim.register("wrapped-test-net", input_size=(3, 8, 8))
def named_chain() -> nn.Module:
    return chain()


def chain(first: nn.Module | None = None) -> nn.Sequential:
    first = nn.Conv2d(3, 16, 3) if first is None else first
    second = [nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.Flatten()]
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), *second)


class KeepsFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = chain()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.net[:3](x)
        self.seen = [self.features]
        return self.net[3:](self.features)


def compiled() -> nn.Module:
    model = chain()
    model.compile(backend="eager")
    return model


class FirstOf(nn.Module):
    """One of the tensors that a network returns in a dict."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["7"]  # type: ignore[no-any-return]


def pruned() -> nn.Module:
    conv = nn.Conv2d(3, 16, 3)
    prune.random_unstructured(conv, "weight", 0.2)
    return chain(conv)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "an activation on itself": KeepsFeatures,
    "compiled in place": compiled,
    "compiled in parts": lambda: chain(torch.compile(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), backend="eager")),
    "a frozen script inside": lambda: chain(
        nn.Sequential(nn.Conv2d(3, 16, 3), torch.jit.freeze(torch.jit.script(nn.Sequential(nn.ReLU()).eval())))
    ),
    "an extractor of features": lambda: FirstOf(create_feature_extractor(chain().eval(), ["3", "7"])),
    "parametrised spectral_norm": lambda: chain(parametrizations.spectral_norm(nn.Conv2d(3, 16, 3))),
    "spectral_norm": lambda: chain(spectral_norm(nn.Conv2d(3, 16, 3))),
    "weight_norm": lambda: chain(weight_norm(nn.Conv2d(3, 16, 3))),
    "pruned weights": pruned,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:ratio 0.5 of this")
@pytest.mark.parametrize("kind", NETWORKS)
def test_slimming_after_training_changes_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[kind]()
    model(IMAGES).sum().backward()
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    slim, result = zoo_slim.slim(model, ratio=0.5, example_input=IMAGES)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
    modes = ([getattr(module, "training", None) for module in network.modules()] for network in (slim, model))
    assert next(modes) == next(modes)
    assert zoo_slim.verify(model, result, IMAGES).exact
    slim(IMAGES).sum().backward()


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_of_a_wrapped_network_the_one_inside_is_slimmed(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    model = wrap(zoo_slim.load("wrapped-test-net", pretrained=False))
    slim, result = zoo_slim.slim(model, ratio=0.5)
    assert type(slim) is nn.Sequential
    assert len(zoo_slim.find_cliff(model).scales) == 32
    folded, folding = zoo_slim.fold_constants(model, result)
    assert folding.targets and not folding.left and type(folded) is nn.Sequential
    assert zoo_slim.verify(model, result, IMAGES).exact
    zoo_slim.save(slim, tmp_path / "slim")
    again = zoo_slim.load(f"local-dir:{tmp_path / 'slim'}")
    assert torch.equal(again(IMAGES), slim.eval()(IMAGES))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: torch.jit.script(chain()), "is a script, which cannot be taken apart: give the network that it was"),
        (lambda: nn.DataParallel(torch.jit.script(chain())), "is a script, which cannot be taken apart"),
        (lambda: chain().state_dict(), "a OrderedDict is no network: give an nn.Module"),
        (lambda: chain, "a function is no network"),
        (lambda: nn.Conv2d, "the class Conv2d is no network"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_network_is_named(given: Callable[[], Any], message: str) -> None:
    with pytest.raises(SlimmingError, match=message):
        zoo_slim.slim(given(), ratio=0.5, example_input=IMAGES)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (IMAGES.numpy(), "of type ndarray: give what the model is called with, a tensor"),
        ("cat.jpg", "of type str"),
        ((2, 3, 8, 8), r"the numbers \[2, 3, 8, 8\]"),
        (IMAGES.shape, r"the numbers \[2, 3, 8, 8\]"),
        (IMAGES[:0], r"empty, of shape \[0, 3, 8, 8\]: give a batch of 2"),
    ],
)
def test_what_is_no_example_is_named(example: Any, message: str) -> None:
    with pytest.raises(SlimmingError, match="example_input is " + message):
        zoo_slim.slim(chain(), ratio=0.5, example_input=example)


def test_what_a_forward_takes_is_an_example() -> None:
    model = ByNumber()
    slim, result = zoo_slim.slim(model, ratio=0.5, criterion="l1", example_input=(2,))
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
    assert zoo_slim.verify(model, result, (2,)).exact


class ByNumber(nn.Module):
    """As many images as it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seed = chain(), nn.Parameter(torch.randn(1, 3, 8, 8))

    def forward(self, count: int) -> Tensor:
        return self.net(self.seed.expand(count, -1, -1, -1))  # type: ignore[no-any-return]


class Scales(nn.Module):
    """In training it draws a number for each channel, and then scales all at random."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.training:
            self.kept = torch.rand(x.shape[1]) > 0.1
            x = x * float(torch.rand(()))
        return self.head(x)  # type: ignore[no-any-return]


def test_random_numbers_for_fewer_channels_are_no_fault() -> None:
    model = Scales()
    slim, result = zoo_slim.slim(model, ratio=0.5, criterion="l1", example_input=IMAGES)
    assert slim.stem.out_channels < 16
    assert zoo_slim.verify(model, result, IMAGES).exact


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = chain()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y if float(y.mean()) < 1e6 else 2 * y


@pytest.mark.parametrize("blocks", [None, "needed"])
def test_the_macs_of_a_network_that_looks_at_values_can_be_bounded(blocks: str | None) -> None:
    model = LooksAtValues()
    slim, result = zoo_slim.slim(model, macs=0.5, example_input=IMAGES, remove_blocks=blocks)
    counts = [count_macs(network, IMAGES) for network in (slim, model, model.net)]
    assert counts[1] == counts[2] and 0 < counts[0] <= counts[1] / 2
    assert zoo_slim.verify(model, result, IMAGES).exact


def test_without_weights_values_cannot_be_looked_at() -> None:
    with pytest.raises(SlimmingError, match="MACs of this LooksAtValues cannot be counted without weights"):
        count_macs(LooksAtValues().to("meta"), IMAGES)


def test_a_network_that_does_not_run_has_no_macs() -> None:
    with pytest.raises(SlimmingError, match=r"MACs of this Sequential cannot be counted: .*channels"):
        count_macs(chain(), IMAGES[:, :2])


def test_what_cannot_be_copied_is_named() -> None:
    model = chain()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(SlimmingError, match=r"cannot be copied: .*lock"):
        zoo_slim.slim(model, ratio=0.5, example_input=IMAGES)


class ByWidth(nn.Module):
    def __init__(self, number: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.number = number
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x / self.number(x))


@pytest.mark.parametrize(
    "number",
    [
        lambda x: math.log(x.shape[1]),
        lambda x: math.log2(x.shape[1]),
        lambda x: math.isqrt(x.shape[1]),
        lambda x: math.gcd(x.shape[1], 48),
        lambda x: math.comb(x.shape[1], 2),
        lambda x: ~x.shape[1],
        lambda x: 3 | x.shape[1],
        lambda x: x.shape[1].bit_length(),
        lambda x: x.shape[1].numerator,
        lambda x: x[0].nbytes / 256,
    ],
)
def test_a_width_that_is_used_as_a_number_stays(number: Callable[[Tensor], float]) -> None:
    model = ByWidth(number)
    with pytest.warns(UserWarning, match=r"ratio 0\.6 of this ByWidth: removed none of the channels"):
        slim, result = zoo_slim.slim(model, ratio=0.6, criterion="l1", example_input=IMAGES)
    assert slim.stem.out_channels == 32
    assert zoo_slim.verify(model, result, IMAGES).exact
    assert math.log.__module__ == "math"


@pytest.mark.parametrize(
    "number",
    [
        lambda x: len(range(x.shape[1])),
        lambda x: x.shape[1:].numel() / 64,
        lambda x: 1.0 / x.shape[1],
        lambda x: 2.0 * x.shape[1],
        lambda x: np.zeros(x.shape[1]).size,
        lambda x: torch.tensor(1.0 / x.shape[1]),
    ],
)
def test_widths_that_tracing_cannot_see_are_refused(number: Callable[[Tensor], float]) -> None:
    refusal = r"the slim ByWidth computes aten\.\w+\.\w+ in the model with .*, the original with"
    with pytest.raises(SlimmingError, match=refusal):
        zoo_slim.slim(ByWidth(number), ratio=0.6, criterion="l1", example_input=IMAGES)


class TwoTasks(nn.Module):
    """The second head runs on demand, the third in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()[:6]
        self.net[4].weight.data = torch.arange(16.0)
        self.first, self.second, self.auxiliary = (nn.Conv2d(16, 2, 1) for _ in range(3))

    def forward(self, x: Tensor, second: bool = False) -> tuple[Tensor, ...]:
        x = self.net(x)
        outputs = (self.second(x) if second else self.first(x),)
        return (*outputs, self.auxiliary(x)) if self.training else outputs


def test_layers_that_the_example_does_not_reach_are_named() -> None:
    network = TwoTasks()
    with pytest.warns(UserWarning, match="TwoTasks does not use second on the example input: what is not used stays"):
        slim_network, _ = zoo_slim.slim(network, ratio=0.5, example_input=IMAGES)
    assert slim_network.second.weight.shape == network.second.weight.shape
    assert slim_network.auxiliary.weight.shape[1] == slim_network.first.weight.shape[1] < 16


def test_of_many_unreached_layers_some_are_named() -> None:
    network = TwoTasks()
    network.spare = nn.ModuleList(nn.Linear(2, 2) for _ in range(7))
    with pytest.warns(UserWarning, match=r"use second, spare\.0, spare\.1, spare\.2, spare\.3 and 3 more on"):
        zoo_slim.trace(network, IMAGES)


class Detector(nn.Module):
    """In training mode it wants targets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor:
        if self.training and targets is None:
            raise ValueError("targets should not be none when in training mode")
        return self.head(self.norm(self.conv(images)))


@pytest.mark.filterwarnings("error")
def test_what_training_needs_is_asked_for() -> None:
    with pytest.warns(UserWarning, match=r"Detector .*\(targets should .*example_input=\[images, targets\]\)\.$"):
        zoo_slim.trace(Detector(), IMAGES)
    zoo_slim.trace(Detector(), [IMAGES, torch.zeros(2)])


@pytest.mark.filterwarnings("error")
def test_layers_that_the_example_reaches_are_not_named() -> None:
    network = TwoTasks()
    del network.second
    network.temperature = nn.Parameter(torch.ones(()))
    network.first.token = nn.Parameter(torch.ones(1, 16))
    zoo_slim.trace(network, IMAGES)
