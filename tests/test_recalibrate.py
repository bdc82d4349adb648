import copy

import pytest
import torch
from torch import nn

from zoo_slim import recalibrate
from zoo_slim._errors import SlimmingError


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 1),
        nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(180, 2),
    )  # fmt: skip
    model[1].weight.data.uniform_()
    for norm in (model[1], model[5]):
        norm.num_batches_tracked.fill_(17)
    model.train()
    model[3].eval()
    return model


def batches(count: int = 3, size: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 8, 8, generator=generator) * 3 + 1 for _ in range(count)]


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_statistics_are_those_of_the_batches_and_nothing_else_changes():
    model = network()
    before, given = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    assert recalibrate(model, batches()) == 3
    first = [before[0](images) for images in batches()]
    mean = torch.stack([y.mean((0, 2, 3)) for y in first]).mean(0)
    variance = torch.stack([y.transpose(0, 1).flatten(1).var(1) for y in first]).mean(0)
    assert torch.allclose(model[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    assert torch.allclose(model[1].running_var, variance, rtol=1e-4)
    after = [before[4](before[2](before[1](y))) for y in first]  # no dropout in between, which is in training mode
    assert torch.allclose(
        model[5].running_mean, torch.stack([y.mean((0, 2, 3)) for y in after]).mean(0), rtol=1e-4, atol=1e-5
    )
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, given[key])}
    assert changed == {f"{norm}.running_{which}" for norm in "15" for which in ("mean", "var")}
    assert modes(model) == modes(before) and model[1].momentum == 0.3 and model[5].momentum == 0.1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_in_training_mode_is_not_applied():
    model = network()
    model[3].train()
    again = copy.deepcopy(model)
    state = torch.get_rng_state()
    recalibrate(model, batches())
    assert torch.equal(torch.get_rng_state(), state) and model[3].training
    recalibrate(again, batches())
    assert all(torch.equal(one, two) for one, two in zip(model.buffers(), again.buffers(), strict=True))


def test_batches_may_be_what_a_loader_gives():
    model, other = network(), network()
    recalibrate(model, batches())
    recalibrate(other, torch.utils.data.DataLoader(list(zip(torch.cat(batches()), range(18), strict=True)), 6))
    assert all(torch.equal(one, two) for one, two in zip(model.buffers(), other.buffers(), strict=True))


def test_keyword_arguments_and_norms_that_are_not_reached():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.auxiliary = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
            self.auxiliary.running_mean.fill_(5)

        def forward(self, *, values):
            return self.norm(values) if not self.training else self.auxiliary(values)

    model = Named()
    recalibrate(model, [{"values": torch.tensor([[1.0, 2.0], [3.0, 6.0]])}])
    assert model.norm.running_mean.tolist() == [2, 4] and model.norm.running_var.tolist() == [2, 8]
    assert model.auxiliary.running_mean.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no batch"),
        ([*batches(), torch.zeros(2, 1, 8, 8)], "batch 3.*fails"),
        ([*batches(), 4], "batch 3 is a int"),
        ([batches()[0] * torch.nan], "not finite"),
        ((batch if number < 2 else 1 / 0 for number, batch in enumerate(batches())), None),
    ],
)
def test_statistics_and_modes_come_back_after_an_error(given, message):
    model = network()
    before, mode = copy.deepcopy(model.state_dict()), modes(model)
    with pytest.raises(SlimmingError if message else ZeroDivisionError, match=message):
        recalibrate(model, given)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert modes(model) == mode and (model[1].momentum, model[5].momentum) == (0.3, 0.1)


def test_nothing_to_measure():
    with pytest.raises(SlimmingError, match="no BatchNorm with running statistics"):
        recalibrate(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), batches())


def test_batches_without_a_sample_are_passed_over():
    model, other = network(), network()
    assert recalibrate(model, [torch.rand(0, 3, 8, 8), *batches(), torch.rand(0, 3, 8, 8)]) == 3
    recalibrate(other, batches())
    assert torch.equal(model[5].running_mean, other[5].running_mean)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SlimmingError, match="there is no batch"):
        recalibrate(model, [torch.rand(0, 3, 8, 8)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_batch_norms_with_another_buffer_or_without_a_count():
    model, other = network(), network()
    model[1].register_buffer("extra", torch.tensor(3))
    model[5].num_batches_tracked = None
    assert recalibrate(model, batches()) == recalibrate(other, batches())
    assert int(model[1].extra) == 3 and int(model[1].num_batches_tracked) == 17
    assert model[5].num_batches_tracked is None
    for norm in (1, 5):
        assert torch.equal(model[norm].running_var, other[norm].running_var)
    with pytest.raises(SlimmingError, match="BatchNorm '1': the statistics measured are not finite"):
        recalibrate(model, [torch.full((2, 3, 8, 8), float("inf"))])
    assert model[5].num_batches_tracked is None and torch.equal(model[5].running_var, other[5].running_var)
