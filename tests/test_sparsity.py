import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zoo_slim import trace, update_bn_grad
from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.sparsity import PENALTIES, group_weights, make_penalty, strength_at


class Residual(nn.Module):
    """Two branches into one sum, and a norm whose channels are the model's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.inner, self.bn2 = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.outer, self.bn3 = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)
        self.head, self.bn4 = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.bn1(self.stem(x)).relu()
        x = (x + self.bn3(self.outer(self.bn2(self.inner(x)).relu()))).relu()
        return self.bn4(self.head(x))


IMAGES = torch.rand(2, 3, 4, 4)


def set_scale(norm: nn.Module, values: list[float]) -> None:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(values))


def test_subgradient_by_hand():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(2), nn.Conv2d(1, 1, 1))
    set_scale(model[0], [2.0, -0.5, 0.0])
    model[0].weight.grad = torch.ones(3)
    penalty = make_penalty("subgradient", model, {"0": torch.tensor([1.0, 0.5, 1.0])})
    penalty.before_step(0.25)
    assert model[0].weight.grad.tolist() == [1.25, 0.875, 1.0]
    assert model[1].weight.grad is None
    penalty.after_step(0.25, 0.1)
    assert model[0].weight.tolist() == [2.0, -0.5, 0.0]


def test_subgradient_is_what_update_bn_grad_does():
    model = Residual()
    model(IMAGES).square().mean().backward()
    other = copy.deepcopy(model)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        two.grad = one.grad.clone()
    make_penalty("subgradient", model).before_step(1e-2)
    update_bn_grad(other, s=1e-2)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    update_bn_grad(nn.Conv2d(1, 1, 1))  # nothing to do is no error here


def test_proximal_by_hand():
    model = nn.Sequential(nn.BatchNorm2d(5), nn.BatchNorm2d(1))
    set_scale(model[0], [1.0, -1.0, 0.01, -0.01, 0.0])
    model[1].weight.requires_grad_(False)
    penalty = make_penalty("proximal", model, {"0": torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])})
    penalty.before_step(0.5)
    penalty.after_step(0.5, 0.125)
    assert model[0].weight.tolist() == [0.9375, -0.9375, 0.0, 0.0, 0.0]
    assert model[1].weight.item() == 1.0


@given(st.floats(-3, 3, width=32), st.floats(0, 2), st.floats(0, 1), st.floats(0, 1))
def test_proximal_minimises_its_definition(gamma, strength, rate, weight):
    model = nn.BatchNorm1d(1).double()
    set_scale(model, [gamma])
    make_penalty("proximal", model, {"": torch.tensor([weight], dtype=torch.double)}).after_step(strength, rate)
    found = model.weight.item()

    def objective(value: float) -> float:
        return strength * rate * weight * abs(value) + (value - gamma) ** 2 / 2

    grid = torch.linspace(-3, 3, 601, dtype=torch.double).tolist()
    assert all(objective(found) <= objective(value) + 1e-12 for value in [*grid, found + 1e-4, found - 1e-4, 0.0])


def test_proximal_reaches_exact_zeros_where_the_subgradient_does_not():
    zeros = {}
    for name in PENALTIES:
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1))
        x = torch.randn(64, 8)
        penalty, optimizer = make_penalty(name, model), torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            (model(x)[:, 0] - x[:, :2].sum(1)).square().mean().backward()
            penalty.before_step(0.2)
            optimizer.step()
            penalty.after_step(0.2, 0.05)
        zeros[name] = (model[0].weight == 0).tolist()
    assert zeros == {"subgradient": [False] * 8, "proximal": [False] * 2 + [True] * 6}


def test_shared_scales_are_penalised_once():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    model[1].weight = model[0].weight
    make_penalty("proximal", model).after_step(1.0, 0.25)
    assert model[0].weight.tolist() == [0.75, 0.75]


def test_weights_follow_the_scales():
    model = nn.BatchNorm2d(2)
    penalty = make_penalty("proximal", model, {"": torch.tensor([1.0, 0.0])})
    model.double()
    penalty.after_step(0.5, 0.5)
    assert model.weight.tolist() == [0.75, 1.0] and model.weight.dtype == torch.double
    model.to("meta")
    penalty.after_step(0.5, 0.5)  # no value is asked for: nothing waits for a device


def test_a_residual_group_counts_once():
    model = Residual()
    weights = group_weights(model, trace(model, IMAGES))
    assert {name: weight.tolist() for name, weight in weights.items()} == {
        "bn1": [0.5] * 4,
        "bn2": [1.0] * 6,
        "bn3": [0.5] * 4,
        "bn4": [0.0] * 2,
    }
    schema = trace(model, IMAGES).with_groups(inexact=True)
    assert not any(weight.any() for weight in group_weights(model, schema).values())
    with pytest.raises(SchemaError):
        group_weights(nn.Sequential(nn.BatchNorm2d(3)), schema)


def test_share_of_scales_within_a_distance():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(2))
    model[0].weight.data = torch.tensor([0.0, 0.4, -0.9, 1.0])
    model[1].weight.data = torch.tensor([0.1, 0.7])
    weights = {"0": torch.tensor([1.0, 1.0, 0.5, 0.0]), "1": torch.tensor([1.0, 1.0])}
    penalty = make_penalty("proximal", model, weights)  # one is 0 already, one is not penalised: four count
    assert [penalty.within(distance) for distance in (0.05, 0.5, 0.7, 2.0)] == [0.0, 0.5, 0.75, 1.0]


def test_schedules():
    assert [strength_at("constant", 2.0, step, 4) for step in range(6)] == [2.0] * 6
    assert [strength_at("linear", 2.0, step, 4) for step in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    cosine = [strength_at("cosine", 2.0, step, 4) for step in range(6)]
    assert cosine == pytest.approx([1 - math.cos(math.pi * min(step, 4) / 4) for step in range(6)])
    assert strength_at("linear", 2.0, 0, 0) == 2.0


def test_errors_name_what_was_wrong():
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(SlimmingError, match=r"'l2'.*subgradient, proximal"):
        make_penalty("l2", model)
    with pytest.raises(SlimmingError, match="no BatchNorm scales"):
        make_penalty("proximal", nn.Conv2d(1, 1, 1))
    with pytest.raises(SlimmingError, match="'bn9'"):
        make_penalty("proximal", model, {"bn9": torch.ones(3)})
    with pytest.raises(SlimmingError, match=r"\[2\] for 3 scales"):
        make_penalty("proximal", model, {"0": torch.ones(2)})
    with pytest.raises(SlimmingError, match=r"'quadratic'.*constant, linear, cosine"):
        strength_at("quadratic", 1.0, 0, 1)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(strength):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(SlimmingError, match="give 0 or more"):
        make_penalty("proximal", model).after_step(strength, 0.1)
    assert torch.equal(model[1].weight, torch.ones(4))


def test_weights_of_a_wrapped_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    schema = trace(model, torch.rand(2, 3, 4, 4))
    assert group_weights(nn.DataParallel(model), schema).keys() == group_weights(model, schema).keys() == {"1"}
