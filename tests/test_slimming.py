"""Slimming: what is removed, within which bounds, and what it leaves untouched."""

import copy
import itertools

import numpy as np
import pytest
import torch
from equivalence import difference, drawn, outputs, zeroed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo_slim
from zoo_slim import PruningResult, PruningSchema, apply_result, slim, trace, update_bn_grad, verify
from zoo_slim._errors import SlimmingError
from zoo_slim.result import slice_tensor
from zoo_slim.schema import Group
from zoo_slim.slimming import TOLERANCE, count_macs, count_params, randomize, result_from_keep, score, select
from zoo_slim.slimming._select import tie
from zoo_slim.tracing import meta_copy

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def chain(*widths: int) -> nn.Sequential:
    """Convolutions with a BatchNorm each, nothing shared between them."""
    layers: list[nn.Module] = []
    for inputs, outputs_ in itertools.pairwise((3, *widths)):
        layers += [nn.Conv2d(inputs, outputs_, 3, padding=1, bias=False), nn.BatchNorm2d(outputs_), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))


class Mixed(nn.Module):
    """A residual, a grouped and a depthwise convolution, a shared weight and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.one, self.two = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.two.weight = self.one.weight
        self.act = nn.PReLU(16)
        self.register_buffer("shift", torch.rand(16, 1, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        x = x + self.depthwise(self.grouped(x))
        x = self.two(self.act(self.one(x)).relu()) + self.shift
        return self.fc(x.mean((2, 3)))


def kept_channels(result: PruningResult, name: str, width: int) -> list[int]:
    index = result.kept.get(name, {}).get(0)
    return list(range(width)) if index is None else index.tolist()


# How many, and which.


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.integers(4, 20), min_size=1, max_size=4), ratio=st.floats(0, 0.99), seed=st.integers(0, 999))
def test_the_share_removed_is_the_ratio(widths, ratio, seed):
    schema = trace(chain(*widths), IMAGE)
    scores = np.random.default_rng(seed).permutation(float(sum(widths)) * np.arange(sum(widths)))
    keep = select(schema, scores, ratio, minimum=1)
    lowest = np.sort(scores)[: int(len(scores) * ratio + 1e-9)]
    groups = np.split(keep, np.cumsum(widths)[:-1])
    emptied = [part for part in np.split(scores, np.cumsum(widths)[:-1]) if np.isin(part, lowest).all()]
    assert (~keep).sum() == len(lowest) - len(emptied)  # of a group that would go, the best stays
    assert set(scores[~keep]) <= set(lowest)
    assert all(part.any() for part in groups)


def test_one_threshold_for_all_layers_by_hand():
    model = chain(4, 4)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.1, -0.5, 0.9, 0.3]))
        model[4].weight.copy_(torch.tensor([0.2, 0.8, -0.05, 0.6]))
    # Half of the eight: .05, .1, .2 and .3 go.
    small, result = slim(model, ratio=0.5, example_input=IMAGE)
    first, second = torch.tensor([1, 2]), torch.tensor([1, 3])
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = {f"1.{local}": {0: first} for local in norm} | {f"4.{local}": {0: second} for local in norm}
    expected |= {"0.weight": {0: first}, "3.weight": {0: second, 1: first}, "8.weight": {1: second}}
    attributes = {"0": {"out_channels": 2}, "1": {"num_features": 2}, "4": {"num_features": 2}, "8": {"in_features": 2}}
    attributes["3"] = {"in_channels": 2, "out_channels": 2}
    assert result == PruningResult(expected, attributes)
    assert torch.equal(small[3].weight, model[3].weight[[1, 3]][:, [1, 2]])
    assert torch.equal(small[8].weight, model[8].weight[:, [1, 3]]) and torch.equal(small[8].bias, model[8].bias)


@pytest.mark.parametrize("criterion, kept", [("l1", [0, 2]), ("l2", [0, 3])])
def test_weight_norms_by_hand(criterion, kept):
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():  # means: 3, 1, 2.5, 2; root mean squares: 3, 1, 2.5, 2.8
        model[0].weight.copy_(torch.tensor([[3.0, -3], [1, 1], [2.5, 2.5], [4, 0]]).reshape(4, 2, 1, 1))
    _, result = slim(model, ratio=0.5, criterion=criterion, example_input=torch.rand(2, 2, 1, 1))
    assert result.kept["0.weight"][0].tolist() == kept


def test_random_scores_follow_the_seed():
    def kept(seed: int) -> PruningResult:
        torch.manual_seed(seed)
        return slim(chain(32), ratio=0.5, criterion="random", example_input=IMAGE)[1]

    assert kept(1) == kept(1) != kept(2)


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("absolute", [False, True])
def test_budgets_are_met_and_tight(kind, share, absolute):
    model = chain(16, 24)
    schema = trace(model, IMAGE)
    scores = score(model, schema, drawn(4))

    def cost(network: nn.Module) -> float:
        return count_params(network) if kind == "params" else count_macs(network, IMAGE) / len(IMAGE)

    limit = int(cost(model) * share) if absolute else share
    target = cost(model) * share
    small, _ = slim(model, **{kind: limit}, criterion=drawn(4), schema=schema, example_input=IMAGE)
    every = [
        cost(apply_result(model, result_from_keep(model, schema, select(schema, scores, removed / 40 + 1e-6))))
        for removed in range(40)
    ]
    assert cost(small) == max(found for found in every if found <= target)


def test_a_budget_that_is_already_met_removes_nothing():
    model = chain(8)
    for options, unit in (({"params": count_params(model)}, "parameters"), ({"macs": 10**12}, "MACs")):
        with pytest.warns(UserWarning, match=f"nothing was removed from this .* {unit} are within the budget of"):
            assert slim(model, **options, example_input=IMAGE, criterion="l1")[1] == PruningResult()


def test_macs_by_hand():
    assert count_macs(nn.Conv2d(3, 8, 3, padding=1, groups=1), torch.zeros(2, 3, 5, 5)) == 2 * 25 * 8 * 3 * 9
    assert count_macs(nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.zeros(2, 8, 5, 5)) == 2 * 25 * 8 * 9
    assert count_macs(nn.Linear(6, 4), torch.zeros(3, 6)) == 3 * 6 * 4
    assert count_params(Mixed()) == 448 + 32 + 592 + 160 + 256 + 2 * 16 + 16 + 85  # the shared weight once


# Errors.


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "exactly one of ratio, params and macs, not none"),
        ({"ratio": 0.5, "params": 100}, "ratio and params"),
        ({"ratio": 1.0}, "ratio 1.0"),
        ({"ratio": -0.1}, "ratio -0.1"),
        ({"ratio": float("nan")}, "ratio nan"),
        ({"params": float("nan")}, "params=nan"),
        ({"macs": float("inf")}, "macs=inf"),
        ({"params": 0}, "params=0"),
        ({"params": 1.0}, "params=1.0"),
        ({"macs": -5}, "macs=-5"),
        ({"params": True}, "params=True"),
        ({"params": "0.5"}, "params='0.5'"),
        ({"params": 3}, "cannot be met.*minimum"),
        ({"macs": 1e-9}, "cannot be met"),
        ({"ratio": 0.5, "criterion": "l3"}, "'l3'.*bn_scale, l1, l2, random"),
        ({"ratio": 0.5, "criterion": lambda model, schema: np.zeros(3)}, r"shape \(3,\) for 8 channels"),
        ({"ratio": 0.5, "criterion": None}, "criterion=None"),
        ({"ratio": 0.5, "rounding": "ten"}, "rounding 'ten'"),
        ({"ratio": 0.5, "minimum": 8.0}, "minimum=8.0"),
        ({"ratio": 0.5, "minimum": "8"}, "minimum='8'"),
        ({"ratio": 0.5, "minimum": -3}, "minimum=-3"),
        ({"ratio": 0.5, "minimum": float("nan")}, "minimum=nan"),
        ({"ratio": 0.5, "schema": "s.json"}, "schema='s.json'.*read_schema"),
        ({"ratio": 0.5, "example_input": torch.rand(2, 7, 8, 8)}, "cannot be traced"),
        ({"ratio": 0.5, "example_input": None}, "example_input=torch.zeros"),
    ],
)
def test_errors_say_what_was_wrong(options, message):
    with pytest.raises(SlimmingError, match=message):
        slim(chain(8), **{"example_input": IMAGE, **options})


def test_budgets_and_scores_may_be_numbers_of_numpy():
    slimmed, _ = slim(chain(8, 16), params=np.float32(0.5), minimum=np.int64(2), example_input=IMAGE)
    assert count_params(slimmed) <= count_params(chain(8, 16)) / 2
    lowest = np.where(np.arange(24) % 3 == 0, -np.inf, np.arange(24.0))
    _, result = slim(chain(8, 16), ratio=1 / 3, criterion=lambda model, schema: lowest, minimum=2, example_input=IMAGE)
    assert sum(len(result.kept[name][0]) for name in ("0.weight", "3.weight")) == 16
    assert result.kept["0.weight"][0].tolist() == [1, 2, 4, 5, 7]


def test_a_criterion_with_nothing_to_say_is_an_error():
    with pytest.raises(SlimmingError, match="bn_scale"):
        slim(nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten(), nn.Linear(8, 2)), ratio=0.5, example_input=IMAGE)


def test_a_model_whose_schema_is_wrong_does_not_pass_as_slim():
    model = nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten(), nn.Linear(8, 2))
    good = trace(model, IMAGE)
    bad = PruningSchema(good.groups, {"0": good.layers["0"]})  # nobody reads what is removed
    with pytest.raises(SlimmingError, match="does not run"):
        slim(model, ratio=0.5, criterion="l1", schema=bad, example_input=IMAGE)


# What stays as it is.


@pytest.mark.parametrize("training", [True, False])
def test_the_given_model_is_untouched_and_shares_nothing(training):
    model = randomize(Mixed()).train(training)
    model.fc.weight.requires_grad_(False)
    called: list[int] = []
    before = copy.deepcopy(model)
    model.stem.register_forward_hook(lambda *_: called.append(1))
    small, _ = slim(model, ratio=0.5, criterion=drawn(1), example_input=IMAGE)
    for (name, one), (_, other) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert repr(model) == repr(before)
    assert model.training is training and small.training is training
    assert len(model.stem._forward_hooks) == 1 and not model.stem._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    theirs = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    ours = {tensor.untyped_storage().data_ptr() for tensor in small.state_dict().values()}
    assert not theirs & ours
    assert small.two.weight is small.one.weight
    assert not small.fc.weight.requires_grad and small.one.weight.requires_grad
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(9.0)
    assert torch.equal(model.one.weight, before.one.weight)


def test_a_slim_network_says_its_widths():
    model = randomize(Mixed()).eval()
    small, result = slim(model, ratio=0.5, criterion=drawn(2), example_input=IMAGE)
    width, mid, after = small.stem.out_channels, small.grouped.out_channels, small.one.out_channels
    assert 1 < width < 16 and 1 < mid < 16 and 1 < after < 16 and width % 4 == 0
    assert repr(small.stem) == repr(nn.Conv2d(3, width, 3, padding=1))
    assert repr(small.norm) == repr(nn.BatchNorm2d(width))
    assert repr(small.grouped) == repr(nn.Conv2d(width, mid, 3, padding=1, groups=4))
    assert repr(small.depthwise) == repr(nn.Conv2d(width, width, 3, padding=1, groups=width))
    assert repr(small.one) == repr(small.two) == repr(nn.Conv2d(width, after, 1))
    assert repr(small.act) == repr(nn.PReLU(after))
    assert repr(small.fc) == repr(nn.Linear(after, 5))
    assert small.shift.shape == (after, 1, 1)
    assert result.attributes["depthwise"] == {"groups": width, "in_channels": width, "out_channels": width}


def test_a_slim_network_is_slimmed_again():
    model = randomize(Mixed()).double().eval()
    image = IMAGE.double()
    once, _ = slim(model, ratio=0.3, criterion=drawn(3), example_input=image)
    twice, result = slim(once, ratio=0.4, criterion=drawn(4), example_input=image)
    assert count_params(twice) < count_params(once) < count_params(model)
    assert difference(outputs(twice, image), outputs(zeroed(once, result), image)) < TOLERANCE
    assert verify(once, result, image).exact


# Rows that must keep equally many.


@st.composite
def balanced(draw) -> tuple[PruningSchema, np.ndarray]:
    """A schema with arrays of rows over one group, some positions of which stay, and scores, some of which are NaN."""
    rows = draw(st.integers(1, 4))
    columns = draw(st.integers(1, 5))
    width = rows * columns + draw(st.integers(0, 4))
    equal = []
    for _ in range(draw(st.integers(1, 3))):
        order = np.asarray(draw(st.permutations(range(width)))[: rows * columns])
        stays = np.asarray(draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)))
        equal.append(np.where(stays & draw(st.booleans()), -1, order).reshape(rows, columns))
    scores = draw(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=width, max_size=width))
    return PruningSchema({"group": Group(width)}, equal=equal), np.asarray(scores)


@settings(deadline=None)
@given(balanced(), st.floats(0, 0.99))
def test_whatever_is_removed_rows_stay_equal(drawn_schema, ratio):
    schema, scores = drawn_schema
    units, stay = tie(schema, scores)
    # Any set of whole units may go, but those tied to what stays.
    for seed in range(3):
        gone = np.random.default_rng(seed).random(len(scores) + 1) < ratio
        keep = ~gone[units] | stay
        for rows in schema.equal:
            counts = np.where(rows < 0, True, keep[rows]).sum(axis=1)
            assert len(set(counts.tolist())) == 1
    keep = select(schema, scores, ratio)
    assert keep[np.isnan(scores)].all()
    for rows in schema.equal:
        assert len(set(np.where(rows < 0, True, keep[rows]).sum(axis=1).tolist())) == 1


def test_rows_are_tied_by_rank():
    schema = PruningSchema({"group": Group(6)}, equal=[np.asarray([[0, 1, 2], [3, 4, 5]])])
    units, stay = tie(schema, np.asarray([0.3, 0.1, 0.2, 0.5, 0.9, 0.4]))
    # ranks: 1, 2, 0 and 5, 3, 4
    assert units[1] == units[5] and units[2] == units[3] and units[0] == units[4]
    assert len(set(units.tolist())) == 3 and not stay.any()
    keep = select(schema, np.asarray([0.3, 0.1, 0.2, 0.5, 0.9, 0.4]), 0.34)
    assert np.flatnonzero(~keep).tolist() == [1, 5]


# Results.


def test_a_result_is_enough_without_the_schema():
    model = randomize(Mixed()).eval()
    small, result = slim(model, ratio=0.5, criterion=drawn(5), example_input=IMAGE)
    again = apply_result(model, result)
    assert repr(again) == repr(small)
    assert torch.equal(again(IMAGE), small(IMAGE))
    assert all(torch.equal(one, other) for one, other in zip(again.buffers(), small.buffers(), strict=True))
    bare = apply_result(Mixed().eval(), result)
    bare.load_state_dict(small.state_dict())
    assert torch.equal(bare(IMAGE), small(IMAGE))


def test_a_result_applies_on_meta():
    model = Mixed()
    small, result = slim(model, ratio=0.5, criterion=drawn(6), example_input=IMAGE)
    on_meta = apply_result(meta_copy(model), result)
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    assert {name: tensor.shape for name, tensor in on_meta.state_dict().items()} == shapes
    assert on_meta(IMAGE.to("meta")).shape == (2, 5)


def test_equality_of_results():
    def result(*indices: int, width: int = 3, axis: int = 0) -> PruningResult:
        return PruningResult({"a": {axis: torch.tensor(indices)}}, {"b": {"out_channels": width}})

    assert result(0, 2) == result(0, 2)
    assert result(0, 2) != result(0, 1)
    assert result(0, 2) != result(0, 1, 2)
    assert result(0, 2) != result(0, 2, width=4)
    assert result(0, 2) != result(0, 2, axis=1)
    assert result(0, 2) != PruningResult() and PruningResult() == PruningResult()
    assert result(0) != "a"


def test_slices_of_tensors():
    weight = torch.arange(24.0).reshape(4, 6)
    assert torch.equal(slice_tensor(weight, {0: torch.tensor([1, 3])}), weight[[1, 3]])
    assert torch.equal(slice_tensor(weight, {0: torch.tensor([1, 3]), 1: torch.tensor([0])}), weight[[1, 3]][:, :1])
    rows = torch.tensor([[0, 1], [2, 5]])
    expected = torch.cat([weight[:2][:, [0, 1]], weight[2:][:, [2, 5]]])
    assert torch.equal(slice_tensor(weight, {1: rows}), expected)
    whole = slice_tensor(weight, {})
    assert torch.equal(whole, weight) and whole.data_ptr() != weight.data_ptr()
    for axes in ({2: torch.tensor([0])}, {0: torch.tensor([4])}, {0: torch.tensor([-1])}, {0: rows}):
        with pytest.raises(SlimmingError):
            slice_tensor(weight, axes)


def test_a_list_stays_a_list_of_its_own():
    model = nn.Module()
    model.sizes, model.pair, model.groups = [8, 8], (4, 4), 2
    small = apply_result(model, PruningResult({}, {"": {"sizes": (3, 5), "pair": (1, 2), "groups": 1}}))
    assert (small.sizes, small.pair, small.groups) == ([3, 5], (1, 2), 1)
    assert (model.sizes, model.pair, model.groups) == ([8, 8], (4, 4), 2)


@pytest.mark.parametrize(
    "result, message",
    [
        (PruningResult({"lost.weight": {0: torch.tensor([0])}}), "lost.weight"),
        (PruningResult({"fc.weight": {1: torch.tensor([99])}}), "fc.weight.*16 positions.*99"),
        (PruningResult({}, {"lost": {"groups": 1}}), "'lost'"),
        (PruningResult({}, {"fc": {"forward": 1}}), "'fc'.*'forward'"),
    ],
)
def test_results_that_do_not_fit(result, message):
    with pytest.raises(SlimmingError, match=message):
        apply_result(Mixed(), result)


# Verification finds what is wrong.


def test_verify_sees_a_result_that_is_not_equivalent():
    model = randomize(chain(8, 8)).eval()
    _, result = slim(model, ratio=0.5, example_input=IMAGE)
    assert verify(model, result, IMAGE).exact
    other = {name: dict(axes) for name, axes in result.kept.items()}
    wrong = result.kept["1.weight"][0].clone()
    wrong[0] = next(index for index in range(8) if index not in wrong)
    other["3.weight"][1] = wrong.sort().values
    report = verify(model, PruningResult(other, result.attributes), IMAGE)
    assert not report.exact and report.max_relative_difference > 1e-3


def test_verify_sees_channels_that_pass_a_norm_over_channels():
    model = randomize(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(512, 4))).eval()
    with pytest.raises(SlimmingError):  # no BatchNorm to score by
        slim(model, ratio=0.5, example_input=IMAGE, allow_inexact=True)
    small, result = slim(model, ratio=0.5, criterion="l1", example_input=IMAGE, allow_inexact=True)
    assert small[0].out_channels == 4
    assert verify(model, result, IMAGE).max_relative_difference > 1e-3


# Sparsity.


def test_update_bn_grad_by_hand():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(2), nn.BatchNorm2d(2, affine=False), nn.Conv2d(1, 1, 1))
    frozen = nn.BatchNorm2d(2)
    model.append(frozen)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -0.5, 0.0]))
    model[0].weight.grad = torch.tensor([1.0, 1.0, 1.0])
    model[0].bias.grad = torch.tensor([1.0, 1.0, 1.0])
    model[1].weight.grad = torch.tensor([0.0, -1.0])
    model[3].weight.grad = torch.ones(1, 1, 1, 1)
    update_bn_grad(model, s=0.25)
    assert model[0].weight.grad.tolist() == [1.25, 0.75, 1.0]
    assert model[0].bias.grad.tolist() == [1.0, 1.0, 1.0]
    assert model[1].weight.grad.tolist() == [0.25, -0.75]
    assert model[3].weight.grad.item() == 1.0 and frozen.weight.grad is None
    assert zoo_slim.update_bn_grad is update_bn_grad


# What scores do not decide, and scores that are none.


def test_equal_scores_leave_all_groups_evenly():
    model = chain(16, 32, 64)
    _, result = slim(model, ratio=0.5, example_input=IMAGE)
    assert [len(kept_channels(result, f"{name}.weight", width)) for name, width in ((1, 16), (4, 32), (7, 64))] == [
        8, 16, 32
    ]  # fmt: skip
    randomize(model, 0)
    for norm in (model[1], model[4], model[7]):
        norm.weight.data.abs_().add_(1)[::2] = 0
    for ratio, widths in ((0.25, [12, 24, 48]), (0.5, [8, 16, 32])):
        _, result = slim(model, ratio=ratio, example_input=IMAGE)
        kept = [len(kept_channels(result, f"{name}.weight", width)) for name, width in ((1, 16), (4, 32), (7, 64))]
        assert kept == widths


@pytest.mark.parametrize("criterion", ["bn_scale", "l1", "l2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(criterion, value):
    model = chain(8, 8)
    (model[4] if criterion == "bn_scale" else model[3]).weight.data[2] = value
    layer = "4" if criterion == "bn_scale" else "3"
    message = rf"{layer}: 1 of 8 channels have weights that are not finite: the training diverged"
    with pytest.raises(SlimmingError, match=message):
        slim(model, ratio=0.5, criterion=criterion, example_input=IMAGE)
    if criterion == "bn_scale":
        with pytest.raises(SlimmingError, match=message):
            slim(model, ratio="auto", example_input=IMAGE)


@pytest.mark.parametrize("ratio", [[0.5], "half", None, torch.tensor(0.5)])
def test_a_ratio_is_a_number(ratio):
    with pytest.raises(SlimmingError, match="ratio"):
        slim(chain(8, 8), ratio=ratio, example_input=IMAGE)


def test_a_function_may_return_a_tensor_of_a_graph():
    model = chain(8, 8)
    _, result = slim(
        model, ratio=0.5, example_input=IMAGE,
        criterion=lambda model, schema: torch.cat([model[1].weight, model[4].weight]) * torch.arange(16),
    )  # fmt: skip
    assert kept_channels(result, "4.weight", 8) == list(range(8)) and kept_channels(result, "1.weight", 8) == [6, 7]


class Scaled(nn.Module):
    """Takes a number or a table besides its images, or images one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = chain(16, 16)

    def forward(self, *given):
        factor, images = given if len(given) == 2 else (1, given[0])
        return self.network(torch.stack(images) if isinstance(images, list) else images) * factor


@pytest.mark.parametrize("example", [(2, IMAGE), ([*IMAGE],), (torch.tensor(2.0), IMAGE), (IMAGE,)])
def test_macs_count_per_sample_whatever_else_is_given(example):
    model = Scaled()
    randomize(model, 0)
    whole = count_macs(model, IMAGE[:1])
    narrow, _ = slim(model, macs=int(0.6 * whole), example_input=example)
    assert 0.5 * whole < count_macs(narrow, IMAGE[:1]) <= 0.6 * whole


def test_the_channels_of_the_default_example_are_those_of_the_options():
    model = zoo_slim.load("timm/resnet18", pretrained=False, in_chans=1)
    narrow, _ = slim(model, macs=0.5)
    assert count_macs(narrow, torch.rand(1, 1, 224, 224)) <= 0.5 * count_macs(model, torch.rand(1, 1, 224, 224))
