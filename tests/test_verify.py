"""What `verify` compares, and what it cannot."""

import pytest
import torch
from rule_networks import Net, conv
from torch import nn

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
