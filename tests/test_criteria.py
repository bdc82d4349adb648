"""Criteria: the formulas, finding them by name, and what they leave alone."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from cli_helpers import NAME, build_tiny, register_tiny, run
from equivalence import difference, outputs, zeroed
from torch import nn

from zoo_slim import checkpoint, slim, trace
from zoo_slim._errors import SlimmingError
from zoo_slim.slimming import TOLERANCE, list_criteria, over_batches, randomize, score
from zoo_slim.slimming._score import find_criterion

FIRST_PARTY = ["bn_scale", "l1", "l2", "random", "taylor"]
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


class Gated(nn.Module):
    """A plain, a residual and a grouped part; ``gates`` multiply what the readers see."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.grouped = nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.fc = nn.Linear(4, 4)
        self.gates: dict[str, torch.Tensor] = {}

    def gate(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x * self.gates[name].reshape(1, -1, *[1] * (x.ndim - 2)) if name in self.gates else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.norm(self.stem(x)))
        x = x + self.outer(self.gate("inner", self.inner(self.gate("stem", x)).relu()))
        x = self.grouped(self.gate("stem", x)).sigmoid().mean((2, 3))
        return self.fc(self.gate("grouped", x))


def backward(model: nn.Module, images: torch.Tensor = IMAGES, labels: torch.Tensor = LABELS) -> None:
    nn.functional.cross_entropy(model(images), labels).backward()


# The formulas.


def test_taylor_is_the_squared_derivative_by_a_gate_in_front_of_the_readers():
    model = randomize(Gated()).double().eval()
    schema = trace(model, IMAGES.double())
    backward(model, IMAGES.double())
    found = score(model, schema, "taylor")
    gated = copy.deepcopy(model)
    gated.gates = {
        name: torch.ones(width, dtype=torch.float64, requires_grad=True)
        for name, width in (("stem", 8), ("inner", 6), ("grouped", 4))
    }
    backward(gated, IMAGES.double())
    members = schema.members()
    assert sum(map(len, members.values())) == 18 == len(found)
    for name, gate in gated.gates.items():
        assert np.allclose(found[members[name]], gate.grad.square().numpy(), rtol=1e-9, atol=0)
    assert len(set(found.tolist())) == 18


def test_taylor_by_hand():
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    model[1].weight.grad = torch.tensor([[0.5, -1.0], [1.0, 0.25]])
    schema = trace(model, torch.rand(2, 1))
    # first: 1 * .5 + 3 * 1 = 3.5; second: 2 * -1 + 4 * .25 = -1
    assert score(model, schema, "taylor").tolist() == [3.5**2, 1.0]


def test_taylor_needs_gradients_of_the_weights_that_read():
    model = randomize(Gated()).eval()
    schema = trace(model, IMAGES)
    with pytest.raises(SlimmingError, match=r"call loss.backward\(\) first"):
        slim(model, ratio=0.5, criterion="taylor", example_input=IMAGES)
    model.outer.weight.requires_grad_(False)
    backward(model)
    found = score(model, schema, "taylor")
    inner = schema.members()["inner"]
    assert np.isnan(found[inner]).all() and np.isfinite(np.delete(found, inner)).all()
    _, result = slim(model, ratio=0.5, criterion="taylor", example_input=IMAGES)
    assert "inner.weight" not in result.kept or 0 not in result.kept["inner.weight"]


def test_a_weight_that_the_loss_does_not_depend_on_does_not_count():
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.used, self.spare = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.first(x).relu()
            return self.used(x), self.spare(x)

    model = randomize(Branched())
    images = torch.rand(4, 3)
    schema = trace(model, images)
    model(images)[0].square().sum().backward()
    assert model.spare.weight.grad is None
    product = (model.used.weight.grad * model.used.weight).sum(0).square()
    assert np.allclose(score(model, schema, "taylor"), product.detach().numpy())


def test_over_batches_is_the_mean_of_the_scores_and_leaves_the_model_alone():
    model = randomize(Gated()).train()
    model.norm.momentum = 0.5
    schema = trace(model, IMAGES)
    model.fc.weight.grad = torch.full_like(model.fc.weight, 7.0)
    before = copy.deepcopy(model.state_dict())
    batches = [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])]
    expected = []
    for batch in batches:
        probe = copy.deepcopy(model).eval()
        probe.zero_grad()
        backward(probe, *batch)
        expected.append(score(probe, schema, "taylor"))
    with torch.no_grad():
        found = score(model, schema, over_batches("taylor", iter(batches)))
    assert np.array_equal(found, np.mean(expected, axis=0))
    assert model.training and (model.fc.weight.grad == 7).all() and model.stem.weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(SlimmingError, match="no batch"):
        score(model, schema, over_batches("taylor", []))


def test_over_batches_takes_any_loss_and_criterion():
    model = randomize(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    inputs = torch.rand(5, 3)
    schema = trace(model, inputs)

    def steepness(network: nn.Module, schema) -> np.ndarray:
        return network[0].weight.grad.abs().sum(1).double().numpy()

    criterion = over_batches(steepness, [(inputs, 3.0)], lambda out, target: (out - target).square().sum())
    (model(inputs) - 3.0).square().sum().backward()
    assert np.allclose(score(model, schema, criterion), steepness(model, schema))


def test_gradients_stay_behind():
    model = randomize(Gated()).eval()
    backward(model)
    small, _ = slim(model, ratio=0.5, criterion="taylor", example_input=IMAGES)
    assert all(parameter.grad is None for parameter in small.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


# What has no BatchNorm.


@pytest.mark.parametrize("criterion", ["l1", "l2", "random", "taylor"])
def test_the_other_criteria_slim_a_transformer_and_a_cnn_without_batch_norm(criterion):
    vit = timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=4)
    cnn = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 3), nn.GELU(), nn.Flatten(), nn.Linear(1440, 4)
    )
    for model, widths in ((vit, {"blocks.0.mlp.fc1", "blocks.1.mlp.fc1"}), (cnn, {"0", "2"})):
        model = randomize(model).double().eval()
        images = torch.rand(6, 3, 16, 16, dtype=torch.float64)
        with pytest.raises(SlimmingError, match="scores none"):
            slim(model, ratio=0.5, criterion="bn_scale", example_input=images)
        backward(model, images)
        small, result = slim(model, ratio=0.5, criterion=criterion, example_input=images)
        for name in widths:
            assert 0 < len(result.kept[f"{name}.weight"][0]) < model.get_submodule(name).weight.shape[0]
        assert difference(outputs(small, images), outputs(zeroed(model, result), images)) < TOLERANCE


def test_bn_scale_leaves_groups_without_batch_norm_alone():
    model = randomize(Gated()).eval()
    schema = trace(model, IMAGES)
    scores = score(model, schema, "bn_scale")
    members = schema.members()
    assert np.isfinite(scores[members["stem"]]).all()
    assert np.isnan(scores[members["inner"]]).all() and np.isnan(scores[members["grouped"]]).all()
    small, _ = slim(model, ratio=0.5, example_input=IMAGES)
    assert (small.stem.out_channels, small.inner.out_channels, small.grouped.out_channels) == (4, 6, 4)


def test_a_network_without_batch_norm_is_told_of_another_criterion():
    with pytest.raises(SlimmingError, match=r'choose criterion="l2" \(on the command line --criterion l2\)\.$'):
        slim(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), ratio=0.5, example_input=IMAGES)


# Finding them.


def install(folder: Path, name: str, code: str, entry_points: dict[str, str]) -> str:
    """Put a distribution of one module into ``folder``, as an installer would leave it; return how it is named."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"{point} = {name}:{target}" for point, target in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[zoo_slim.criteria]", *lines, ""]))
    return f"({name} 1.2)"


def test_the_first_party_ones_are_entry_points_like_others(tmp_path, monkeypatch):
    assert list_criteria() == FIRST_PARTY
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "backwards_criterion", "def last(model, schema): return range(schema.channels)", {"last": "last"})
    assert list_criteria() == sorted([*FIRST_PARTY, "last"])
    model = randomize(nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)))
    _, result = slim(model, ratio=0.5, criterion="last", example_input=torch.rand(2, 3), minimum=1)
    assert result.kept["0.weight"][0].tolist() == [3, 4, 5]


def test_a_plugin_that_fails_is_named_and_harms_no_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    label = install(tmp_path, "broken_criterion", "import no_such_module", {"broken": "rank", "worse": "rank"})
    assert "broken" in list_criteria()
    assert find_criterion("l1").__name__ == "l1"
    with pytest.raises(SlimmingError) as caught:
        find_criterion("broken")
    assert f"broken = broken_criterion:rank {label}" in str(caught.value) and "no_such_module" in str(caught.value)
    number = install(tmp_path, "number_criterion", "rank = 3", {"number": "rank"})
    with pytest.raises(SlimmingError, match="loads to 3; a function") as caught:
        find_criterion("number")
    assert number in str(caught.value)


def test_two_plugins_that_claim_a_name_are_both_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "def l1(model, schema): ..."
    other = install(tmp_path, "other_criterion", code, {"l1": "l1"})
    with pytest.raises(SlimmingError) as caught:
        slim(nn.Linear(2, 2), ratio=0.5, criterion="l1", example_input=torch.rand(2, 2))
    assert f"l1 = other_criterion:l1 {other}" in str(caught.value)
    assert "l1 = zoo_slim.slimming._criteria:l1 (zoo_slim " in str(caught.value)
    assert find_criterion("l2").__name__ == "l2"


def test_a_named_criterion_that_raises_is_named_and_a_function_raises_what_it_does(tmp_path, monkeypatch):
    def fails(model, schema):
        raise ZeroDivisionError("by hand")

    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "failing_criterion", "def fails(model, schema): return 1 / 0", {"fails": "fails"})
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    with pytest.raises(SlimmingError, match="'fails' failed: ZeroDivisionError"):
        slim(model, ratio=0.5, criterion="fails", example_input=torch.rand(2, 2))
    with pytest.raises(ZeroDivisionError, match="by hand"):
        slim(model, ratio=0.5, criterion=fails, example_input=torch.rand(2, 2))


# The command line.


@pytest.fixture
def zoo_slim(capsys, monkeypatch, tmp_path):
    from test_training_data import write_fashion

    register_tiny()
    monkeypatch.chdir(tmp_path)
    write_fashion(tmp_path / "data", train=150, test=10)
    torch.manual_seed(0)
    checkpoint.save(build_tiny(num_classes=10), tmp_path / "ten", architecture=NAME, options={"num_classes": 10})
    return lambda *words: run(capsys, monkeypatch, *words)


def test_slim_by_gradients_of_training_images(zoo_slim, tmp_path):
    from zoo_slim.training import load_dataset

    data = "--dataset", "fashion-mnist", "--data", "data"
    ran = zoo_slim("slim", "ten", "--ratio", "0.5", "--criterion", "taylor", "--batches", "2", "--seed", "3", *data)
    assert ran.code == 0, ran.err
    model = checkpoint.load_folder(tmp_path / "ten")
    device = torch.device("cpu")
    batches = list(load_dataset("fashion-mnist", tmp_path / "data").train_batches(64, seed=3, epoch=0, device=device))
    assert len(batches) == 2
    _, expected = slim(model, ratio=0.5, criterion=over_batches("taylor", batches))
    saved = checkpoint.origin_of(checkpoint.load_folder(tmp_path / "ten" / "pruned-0.5"))
    assert saved.result == expected and saved.training["criterion"] == "taylor"
    ran = zoo_slim("slim", "ten", "--ratio", "0.5", "--criterion", "taylor", "--output", "again")
    assert (ran.code, ran.out) == (2, "") and "give --dataset and --data" in " ".join(ran.err.split())
    assert not (tmp_path / "again").exists()


def test_verify_by_gradients_of_a_random_network(zoo_slim):
    ran = zoo_slim("verify", NAME, "--criterion", "taylor")
    assert ran.code == 0 and "1 of 1 exact" in ran.out


def test_the_help_and_the_error_list_what_there_is(zoo_slim):
    for command in ("slim", "verify"):
        assert ", ".join(FIRST_PARTY) in " ".join(zoo_slim(command, "--help").out.split())
    ran = zoo_slim("slim", "ten", "--ratio", "0.5", "--criterion", "luck")
    assert ran.code == 1 and f"choose one of {', '.join(FIRST_PARTY)}" in ran.err


def test_a_record_of_training_stays_plain_data(zoo_slim, tmp_path):
    assert zoo_slim("slim", "ten", "--ratio", "0.5", "--criterion", "l2").code == 0
    config = json.loads((tmp_path / "ten" / "pruned-0.5" / "config.json").read_text())
    assert config["training"]["criterion"] == "l2" and config["training"]["ratio"] == 0.5
