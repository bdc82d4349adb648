"""What `verify` compares, and what it cannot."""

import random

import pytest
import torch
import torch.nn.functional as F
from rule_networks import Net, conv
from torch import nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult
from zoo_slim.slimming import randomize, slim, verify


def network(draw):
    """A network whose training-only branch is what ``draw`` makes of it."""
    return Net(
        lambda m, x: m.head((m.a(x) + (draw(m.b(x)) if m.training else m.b(x))).mean((2, 3))),
        a=conv(3, 8)(),
        b=conv(3, 8)(),
        head=nn.Linear(8, 5),
    )


def whole_samples(y: torch.Tensor) -> torch.Tensor:
    return y * y.new_empty((len(y), 1, 1, 1)).bernoulli_(0.5)


@pytest.mark.parametrize(
    ("draw", "compared"), [(whole_samples, False), (torch.sin, True)], ids=["random", "deterministic"]
)
@pytest.mark.parametrize("seed", range(4))
def test_branches_that_are_random_are_not_compared(draw, compared, seed):
    torch.manual_seed(seed)
    model, example = randomize(network(draw), 1), torch.rand(2, 3, 8, 8)
    _, result = slim(model, ratio=0.4, criterion="random", example_input=example)
    before = torch.get_rng_state()
    found = verify(model, result, example)
    assert found.exact and found.training_compared == compared
    assert torch.equal(before, torch.get_rng_state())


def noisy(place):
    """A network that adds noise in evaluation mode: to its output, or to channels that can go."""
    noise = {
        "output": lambda m, x: (y := m.head(m.a(x).mean((2, 3)))) + torch.randn_like(y) + random.random(),
        "channels": lambda m, x: m.head((y := m.a(x).mean((2, 3))) + torch.randn_like(y)),
    }
    return Net(noise[place], a=conv(3, 8)(), head=nn.Linear(8, 5))


def slimmed(model, example=None):
    """A randomised network, what was kept of half of it, and its example."""
    example = torch.rand(2, 3, 8, 8) if example is None else example
    _, result = slim(randomize(model, 1).eval(), ratio=0.5, criterion="l1", example_input=example)
    assert result.kept
    return model, result, example


def shifted(result):
    """Another result, in which the head reads the wrong channels."""
    kept = result.kept["head.weight"][1]
    return PruningResult({**result.kept, "head.weight": {1: ((kept + 1) % 8).sort().values}}, result.attributes)


def test_both_draw_the_same_random_numbers():
    model, result, example = slimmed(noisy("output"))
    states = torch.get_rng_state(), random.getstate()
    assert verify(model, result, example).exact
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()


def test_a_wrong_result_is_told_from_noise():
    model, result, example = slimmed(noisy("output"))
    assert verify(model, shifted(result), example).max_relative_difference > 1e-3


def test_a_wrong_result_is_told_from_a_state_that_moves():
    model = Net(
        lambda m, x: (setattr(m, "mean", m.mean * 0.9 + (y := m.head(m.a(x))).mean()), y + m.mean)[1],
        a=conv(3, 8)(),
        head=nn.Conv2d(8, 5, 1),
        mean=torch.zeros(()),
    )
    model, result, example = slimmed(model)
    assert verify(model, result, example).exact
    assert verify(model, shifted(result), example).max_relative_difference > 1e-3


def test_noise_on_channels_that_go_cannot_be_compared():
    with pytest.raises(SlimmingError, match="draws random numbers in evaluation mode, and others for fewer channels"):
        verify(*slimmed(noisy("channels")))


MADE = {
    "zeros": lambda m, y: m.rnn(y.flatten(2).mT, torch.zeros(1, len(y), 5, device=y.device))[0],
    "numbers": lambda m, y: F.conv2d(y, torch.tensor([[[[1.0, -1.0]]]], device=y.device).expand(5, 5, 1, 2)),
    "positions": lambda m, y: F.grid_sample(
        y, torch.linspace(-1, 1, 4, device=y.device).expand(len(y), 3, 2, 4).mT, align_corners=False
    ),
    "complex zeros": lambda m, y: torch.zeros(5, dtype=torch.cfloat, device=y.device)[:, None, None] + y * m.phase,
}


@pytest.mark.filterwarnings("ignore:Net does not use rnn")
@pytest.mark.parametrize("kind", MADE)
def test_what_a_forward_makes_by_default_is_double(kind):
    model = Net(
        lambda m, x: MADE[kind](m, m.head(m.a(x))),
        a=conv(3, 8)(),
        head=nn.Conv2d(8, 5, 1),
        rnn=nn.GRU(5, 5, batch_first=True),
        phase=nn.Parameter(torch.rand(5, 1, 1, dtype=torch.cfloat)),
    )
    model, result, example = slimmed(model)
    assert verify(model, result, example).exact
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_infinities_in_the_same_places_are_equal(value):
    model = Net(
        lambda m, x: m.head(m.a(x)).masked_fill(torch.eye(8, dtype=torch.bool, device=x.device), value),
        a=conv(3, 8)(),
        head=nn.Conv2d(8, 5, 1),
    )
    model, result, example = slimmed(model)
    found = verify(model, result, example)
    assert found.exact and found.training_compared
    assert not verify(model, shifted(result), example).exact


def test_infinities_in_other_places_are_not():
    model = Net(lambda m, x: (y := m.head(m.a(x))) / (y > y.mean()), a=conv(3, 8)(), head=nn.Conv2d(8, 5, 1))
    model, result, example = slimmed(model)
    assert verify(model, result, example).exact
    model.run = lambda m, x: (y := m.head(m.a(x))) / (y > y.mean() * len(m.a.bias) / 8)
    assert verify(model, result, example).max_relative_difference == float("inf")


def test_an_output_without_a_number_is_nothing_to_compare():
    model = Net(lambda m, x: m.head(m.a(x)) * float("nan"), a=conv(3, 8)(), head=nn.Conv2d(8, 5, 1))
    with pytest.raises(SlimmingError, match="nothing to compare"):
        verify(*slimmed(model))


def test_outputs_of_nothing_but_zeros_are_nothing_to_compare():
    model = network(torch.sin)
    with torch.no_grad():
        for part in model.head.parameters():
            part.zero_()
    _, result = slim(model, ratio=0.4, criterion="random", example_input=(example := torch.rand(2, 3, 8, 8)))
    with pytest.raises(SlimmingError, match=r"nothing to compare.*randomize"):
        verify(model, result, example)
    assert verify(randomize(model), result, example).exact


def test_a_slim_network_that_does_not_train_is_told():
    model = randomize(network(lambda y: y * y.new_ones(y.shape[1], 1, 1)))
    model, result, example = slimmed(model)
    model.run = lambda m, x: m.head((m.a(x) * (torch.ones(8, 1, 1) if m.training else 1)).mean((2, 3)))
    with pytest.raises(SlimmingError, match="the slim network does not run in float64 in training mode"):
        verify(model, result, example)
