"""Every way in which channels meet: how many can be removed, and that removing them equals masking them."""

import copy
import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from equivalence import difference, doubled, drawn, outputs, zeroed
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_networks import CASES, Net, conv
from torch import nn

from zoo_slim import apply_result, trace
from zoo_slim._errors import SlimmingError
from zoo_slim.schema import PruningSchema, dumps, loads
from zoo_slim.slimming import TOLERANCE, randomize, result_from_keep, select, slim, training_step, verify
from zoo_slim.tracing import Trace, run_trace, schema_of
from zoo_slim.tracing._attributes import follow_attributes
from zoo_slim.tracing._state import TraceState

pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def traced(name: str) -> tuple[nn.Module, Any, Trace, PruningSchema]:
    """The case's network with random weights, its example, and what tracing says; the schema went through a file."""
    case = CASES[name]
    torch.manual_seed(0)
    model = randomize(case.build(), 1).double().eval()
    example = doubled(case.example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = run_trace(model, example)
    return model, example, facts, loads(dumps(schema_of(model, facts)))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.removable is not None])
def test_as_many_can_be_removed_as_by_hand(name):
    _, _, facts, _ = traced(name)
    assert int((~facts.inexact).sum()) == CASES[name].removable


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(ratio=st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.95]), seed=st.integers(0, 2**32 - 1))
def test_removing_equals_masking(name, ratio, seed):
    model, example, facts, schema = traced(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    small, result = slim(model, ratio=ratio, criterion=drawn(seed), example_input=example, schema=schema, minimum=1)
    assert difference(outputs(small, example), outputs(zeroed(model, result, CASES[name].reads), example)) < TOLERANCE
    assert verify(model, result, example, trace=facts).exact
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    if any(parameter.requires_grad for parameter in small.parameters()):
        training_step(small, example)


@pytest.mark.parametrize("name", CASES)
def test_inexact_channels_leave_a_network_that_runs_and_trains(name):
    model, example, facts, schema = traced(name)
    if not facts.inexact.any():
        assert not any(group.inexact for group in schema.groups.values())
        return
    small, result = slim(
        model, ratio=0.5, criterion=drawn(3), example_input=example, schema=schema, minimum=1, allow_inexact=True
    )
    assert result.kept
    assert [out.shape for out in outputs(small, example)] == [out.shape for out in outputs(model, example)]
    training_step(small, example)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_groups_keep_equally_many_but_not_the_same(ratio):
    model, example, _, schema = traced("grouped of four")
    small, result = slim(model, ratio=ratio, criterion=drawn(5), example_input=example, schema=schema)
    assert result.kept["a.weight"][0].numel() == small.a.out_channels < 8
    _, wide_result = slim(
        wide := nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=4), nn.Flatten(), nn.Linear(128, 2)),
        ratio=ratio,
        criterion=drawn(5),
        example_input=torch.rand(2, 3, 4, 4),
    )
    rows = wide_result.kept["1.weight"][1]
    assert rows.shape[0] == 4 and len({tuple(row.tolist()) for row in rows}) > 1
    per_group = wide_result.kept["0.weight"][0].reshape(4, -1)
    assert torch.equal(per_group - 8 * torch.arange(4)[:, None], rows)
    assert wide[1].groups == apply_result(wide, wide_result)[1].groups == 4


def test_the_traced_model_is_neither_run_nor_changed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2)).train()
    before = copy.deepcopy(model.state_dict())
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    schema = trace(model, torch.rand(2, 3, 8, 8))
    assert schema.channels == 8 and model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, int):
                assert value == attributes[name][key] and type(value) is type(attributes[name][key])
    assert not model[1]._forward_hooks and not model[1]._forward_pre_hooks


def test_slim_attributes_are_plain_integers():
    model, example, _, schema = traced("squeeze and excite by convolution")
    small, result = slim(model, ratio=0.5, criterion=drawn(1), example_input=example, schema=schema)
    values = [value for attributes in result.attributes.values() for value in attributes.values()]
    assert values and all(type(value) is int for value in values)
    assert small.a.out_channels == small.a.weight.shape[0] == small.down.in_channels


def test_reasons_name_the_layer_and_the_operation():
    _, _, facts, _ = traced("unknown operation")
    assert any("fft" in reason and count == 8 for reason, count in facts.reasons)
    net = Net(lambda m, x: m.body(x), body=lambda: None)
    net.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 36, 2))
    reasons = run_trace(net, torch.rand(2, 3, 8, 8)).reasons
    assert any("normalisation over channels" in reason and "body.1" in reason for reason, _ in reasons)


def test_training_mode_that_fails_is_reported_and_freezes_what_only_it_uses():
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        if m.training:
            m.c(m.b(y))
            raise RuntimeError("no training here")
        return m.head(y.mean((2, 3)))

    net = Net(run, a=conv(3, 8)(), b=conv(8, 6)(), c=conv(6, 4)(), head=nn.Linear(8, 5))
    facts = run_trace(net, torch.rand(2, 3, 8, 8))
    assert facts.training == "no training here"
    assert facts.classes == 0  # b reads the channels of a, and nobody knows what for


def test_a_model_that_cannot_run_is_an_error_that_says_why():
    net = nn.Sequential(nn.Conv2d(4, 8, 3))
    with pytest.raises(SlimmingError, match=r"Sequential cannot be traced.*channels.*example input"):
        trace(net, torch.rand(2, 3, 8, 8))


def test_what_a_script_module_reads_stays():
    net = Net(lambda m, x: m.head(m.b(m.a(x)).mean((2, 3))), a=conv(3, 8)(), b=conv(8, 6)(), head=nn.Linear(6, 5))
    net.b = torch.jit.script(nn.Sequential(net.b, nn.ReLU()))
    facts = run_trace(net, torch.rand(2, 3, 8, 8))
    assert facts.classes == 0 and any("script" in reason for reason, _ in facts.reasons)


def test_a_cyclic_output_does_not_hang():
    class Cyclic:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.itself = tensor, self

    net = Net(lambda m, x: Cyclic(m.a(x)), a=conv(3, 8)())
    assert trace(net, torch.rand(2, 3, 8, 8)).channels == 0


def test_frozen_groups_stay_when_everything_else_goes():
    model, _, _, schema = traced("zero-padded shortcut")
    keep = select(schema, np.zeros(schema.channels), 0.99, minimum=1)
    kept = result_from_keep(model, schema, keep).kept
    assert kept["a.weight"][0].numel() == 1
    assert kept["b.weight"][0].tolist() == [0, 1, 2 + int(kept["a.weight"][0]), 10, 11]


def test_a_cache_of_sizes_does_not_outlive_a_trace():
    """As einops has one: what it computed from the sizes of a trace is given out again for equal sizes."""

    @functools.lru_cache
    def split(shape, heads):
        return shape[0], shape[1], heads, shape[2] // heads

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.qkv, self.out = 4, nn.Linear(8, 48), nn.Linear(16, 8)

        def forward(self, x):
            q, k, v = (part.view(split(part.shape, self.heads)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
            return self.out(((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model, example = randomize(Heads()).eval(), torch.rand(2, 5, 8)
    first = dumps(trace(model, example))
    assert dumps(trace(model, example)) == first
    for _ in range(2):
        _, result = slim(model, ratio=0.5, criterion="l1", example_input=example)
        assert verify(model, result, example).exact and result.kept


def test_slices_that_mix_sizes_and_numpys_integers():
    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.size = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), 6

        def forward(self, x):
            return self.b(self.a(x)[:, :, np.int64(1) : self.size]).mean((2, 3))

    model, example = randomize(Sliced()).eval(), torch.rand(2, 3, 8, 8)
    _, result = slim(model, ratio=0.5, criterion="l1", example_input=example)
    assert verify(model, result, example).exact and "b.weight" in result.kept


def test_a_list_of_many_positions_is_no_list_of_widths():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    model.order, model.widths = list(range(4096)), [8, 4]
    state = TraceState()
    assert follow_attributes(model, state)[""].keys() == {"widths[0]", "widths[1]"} and len(state.ids) < 100
