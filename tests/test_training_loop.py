import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from zoo_slim.training import (
    ImageTensors,
    Settings,
    TrainingError,
    classification_loss,
    evaluate,
    fit,
    seed_everything,
)
from zoo_slim.training import _loop as loop
from zoo_slim.training._distill import distillation_loss
from zoo_slim.training._optimise import make_optimizer
from zoo_slim.training._optimizer_state import optimizer_numbers, optimizer_tensors, restore_optimizer
from zoo_slim.training._preflight import check_forward
from zoo_slim.training._state import digest_of, read_state, write_state

TIMES = ("seconds", "images_per_second")


def toy_data(count: int = 48, seed: int = 0, size: int = 8) -> ImageTensors:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 100
    test_images, test_labels = images.flip(0).roll(1, 3), labels.flip(0)
    return ImageTensors("toy", ("r", "g", "b"), images, labels, test_images, test_labels, (0.4,) * 3, (0.2,) * 3)


def toy_model(seed: int = 0, width: int = 6) -> nn.Module:
    seed_everything(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(width, 3),
    )


SETTINGS = Settings(
    epochs=3,
    batch_size=8,
    learning_rate=0.1,
    warmup_epochs=1,
    sparsity=1e-3,
    label_smoothing=0.1,
    clip_norm=5.0,
    nesterov=True,
    seed=3,
    device="cpu",
)


def changed(**values) -> Settings:
    return Settings(**{**SETTINGS.as_dict(), **values})


def metrics(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    model = toy_model()
    last = fit(model, toy_data(), SETTINGS, folder)
    return model, folder, last


def test_training_learns_and_is_recorded(uninterrupted):
    model, folder, last = uninterrupted
    lines = metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] > 0.9 > lines[-1]["train_loss"]
    assert {key: last[key] for key in lines[-1]} == lines[-1]
    assert lines[0]["learning_rate"] < 0.1 and 0 < lines[-1]["learning_rate"] < 0.03
    assert sum(lines[0]["gamma_histogram"]) == 6 and lines[0]["sparsity"] == 1e-3
    assert not model.training
    assert evaluate(model, toy_data())["accuracy"] == last["test_accuracy"]
    assert json.loads((folder / "run.json").read_text())["settings"] == SETTINGS.as_dict()


def interrupted(model, step):
    """Interrupt the training of ``model`` after so many forward passes."""
    seen = 0

    def interrupt(module, inputs):
        nonlocal seen
        if module.training:
            if seen == step:
                raise KeyboardInterrupt
            seen += 1

    return model.register_forward_pre_hook(interrupt)


@pytest.mark.parametrize("step", [0, 1, 5, 6, 11, 17])
def test_resumed_run_ends_with_the_same_numbers(tmp_path, uninterrupted, step):
    whole, whole_folder, last = uninterrupted
    model = toy_model()
    hook = interrupted(model, step)
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_data(), changed(checkpoint_seconds=0), tmp_path)
    hook.remove()
    fresh = toy_model(seed=0 if step == 0 else 99)
    torch.rand(7)
    resumed = fit(fresh, toy_data(), SETTINGS, tmp_path, resume=True)
    assert_same_state(fresh, whole)
    assert metrics(tmp_path) == metrics(whole_folder)
    assert {key: resumed[key] for key in resumed if key not in TIMES} == metrics(whole_folder)[-1]
    assert set(last) == set(resumed)


RECIPES = {
    "averaged": {"ema_decay": 0.9},
    "proximal": {
        "penalty": "proximal", "weight_groups": True, "sparsity": 0.05, "sparsity_schedule": "cosine",
        "sparsity_epochs": 2, "opt": "momentum", "nesterov": False,
    },
    "in parts": {"accumulate": 4, "amp": "bf16"},
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "cutout": 3, "sched": "poly", "min_lr": 1e-4},
    "adaptive": {"opt": "lookahead_adamw", "nesterov": False, "learning_rate": 0.01, "decay_norms": False},
    "taught": {"distill_weight": 0.7, "distill_temperature": 2.0, "ema_decay": 0.8},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_part_of_a_recipe_resumes(tmp_path, name):
    settings = changed(**RECIPES[name])
    teacher = {"teacher": toy_model(seed=7)} if name == "taught" else {}
    whole, model, fresh = toy_model(), toy_model(), toy_model(seed=99)
    fit(whole, toy_data(), settings, tmp_path / "whole", **teacher)
    plain = toy_model()
    fit(plain, toy_data(), SETTINGS, tmp_path / "plain")
    assert not torch.equal(whole[0].weight, plain[0].weight), "the recipe changes something"
    hook = interrupted(model, 9 * settings.accumulate + settings.accumulate - 1)
    saving = Settings(**{**settings.as_dict(), "checkpoint_seconds": 0})
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_data(), saving, tmp_path / "cut", **teacher)
    hook.remove()
    torch.rand(7)
    fit(fresh, toy_data(), settings, tmp_path / "cut", resume=True, **teacher)
    assert_same_state(fresh, whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    first, second = (read_state(tmp_path / folder / "state")[0] for folder in ("cut", "whole"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    if name == "proximal":
        assert metrics(tmp_path / "whole")[0]["sparsity"] < metrics(tmp_path / "whole")[1]["sparsity"]
        assert metrics(tmp_path / "whole")[2]["sparsity"] == 0.05


def test_folder_of_an_older_version_resumes(tmp_path, uninterrupted):
    model = toy_model()
    hook = interrupted(model, 6)
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_data(), SETTINGS, tmp_path)
    hook.remove()
    old = (
        "epochs batch_size learning_rate momentum nesterov weight_decay warmup_epochs label_smoothing clip_norm "
        "sparsity seed limit amp channels_last device workers checkpoint_seconds"
    )
    run = json.loads((tmp_path / "run.json").read_text())
    run["settings"] = {name: run["settings"][name] for name in old.split()}
    (tmp_path / "run.json").write_text(json.dumps(run))
    state = json.loads((tmp_path / "state" / "state.json").read_text())
    for name in ("strength", "optimizer"):
        del state[name]
    (tmp_path / "state" / "state.json").write_text(json.dumps(state))
    with pytest.raises(TrainingError, match=r"settings ema_decay = 0.0, now it is 0.5"):
        fit(toy_model(), toy_data(), changed(ema_decay=0.5), tmp_path, resume=True)
    fresh = toy_model(seed=9)
    fit(fresh, toy_data(), SETTINGS, tmp_path, resume=True)
    assert_same_state(fresh, uninterrupted[0])


def test_averaged_weights_are_tested_and_kept(tmp_path):
    model = toy_model()
    last = fit(model, toy_data(), changed(ema_decay=0.9, epochs=2), tmp_path)
    tensors, _ = read_state(tmp_path / "state")
    assert torch.equal(model[0].weight, tensors["average.0.weight"])
    assert not torch.equal(tensors["model.0.weight"], tensors["average.0.weight"])
    assert evaluate(model, toy_data())["loss"] == pytest.approx(last["test_loss"], rel=1e-6)


def test_parts_of_a_batch_make_the_same_step(tmp_path):
    """Without BatchNorm and dropout, which see one part at a time."""
    weights = []
    for parts in (1, 4):
        seed_everything(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        settings = changed(sparsity=0.0, accumulate=parts)
        fit(model, toy_data(), settings, tmp_path / str(parts))
        weights.append(model[0].weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    with pytest.raises(TrainingError, match="8 images cannot be cut into 3 equal parts"):
        fit(toy_model(), toy_data(), changed(accumulate=3), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_compiled_network_is_saved_under_its_own_names(tmp_path, monkeypatch, uninterrupted):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or partial(model))
    model = toy_model()
    fit(model, toy_data(), changed(compile=True), tmp_path)
    assert compiled == [model]
    assert_same_state(model, uninterrupted[0])
    assert set(read_state(tmp_path / "state")[0]) == set(read_state(uninterrupted[1] / "state")[0])


def test_narrow_strided_convolution_trains(tmp_path):
    """In channels-last, torch 2.15 crashes here on the CPU."""
    model = nn.Sequential(
        nn.Conv2d(3, 5, 1, stride=2), nn.Conv2d(5, 512, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    formats = set()
    model[0].register_forward_hook(lambda module, inputs, output: formats.add(inputs[0].is_contiguous()))
    fit(model, toy_data(), changed(sparsity=0.0, epochs=2, learning_rate=1e-3, batch_size=16), tmp_path)
    assert formats == {True} and model[1].weight.isfinite().all()


def test_another_teacher_is_refused(tmp_path):
    settings = changed(epochs=1, warmup_epochs=0)
    fit(toy_model(), toy_data(), settings, tmp_path, teacher=toy_model(seed=1))
    for teacher in (toy_model(seed=2), None):
        with pytest.raises(TrainingError, match="model teacher_sha256"):
            fit(toy_model(), toy_data(), settings, tmp_path, resume=True, teacher=teacher)


def test_distillation_loss():
    logits, taught = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student, teacher = (logits / 3).softmax(1), (taught / 3).softmax(1)
    expected = 9 * (teacher * (teacher / student).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, taught, 3.0), expected)
    assert distillation_loss(taught, taught, 3.0).abs() < 1e-12


@pytest.mark.parametrize("opt", ["momentum", "sgd", "adamw", "nadamw", "lamb", "lion", "rmsproptf", "lookahead_lamb"])
def test_state_of_timms_optimisers_is_whole(opt):
    def step(model, optimizer):
        torch.nn.functional.mse_loss(model(torch.ones(4, 3, 8, 8)), torch.ones(4, 3)).backward()
        optimizer.step()
        optimizer.zero_grad()

    settings = Settings(opt=opt, nesterov=opt == "sgd", learning_rate=0.01)
    model, other = toy_model().eval(), toy_model(seed=4).eval()
    optimizer, again = make_optimizer(model, settings), make_optimizer(other, settings)
    for _ in range(7):
        step(model, optimizer)
    other.load_state_dict(model.state_dict())
    numbers = json.loads(json.dumps(optimizer_numbers(optimizer)))
    restore_optimizer(again, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}, numbers)
    for _ in range(6):
        step(model, optimizer)
        step(other, again)
    assert_same_state(model, other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"opt": "sgdd", "nesterov": False}, "no optimiser 'sgdd'"),
        ({"sched": "cosin"}, "no schedule 'cosin'"),
        ({"sched": "plateau"}, "needs more than the number of the step"),
    ],
)
def test_unknown_names_are_refused_before_a_run_begins(tmp_path, values, message):
    with pytest.raises(TrainingError, match=message):
        fit(toy_model(), toy_data(), changed(**values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_repeats_nothing(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = toy_model()
    hook = interrupted(model, 9)
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_data(), changed(tensorboard=True), tmp_path)
    hook.remove()
    fit(toy_model(), toy_data(), changed(tensorboard=True), tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("test_loss")]
    assert losses == [(line["epoch"], pytest.approx(line["test_loss"])) for line in metrics(tmp_path)]


CHILD = textwrap.dedent(
    """
    import os, signal, sys
    import torch
    sys.path.insert(0, sys.argv[1])
    from test_training_loop import changed, toy_data, toy_model
    from zoo_slim.training import fit
    torch.set_num_threads(1)
    left = int(sys.argv[3])

    def die(module, inputs):
        global left
        if module.training and not inputs[0].is_meta:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    model = toy_model()
    model.register_forward_pre_hook(die)
    fit(model, toy_data(), changed(checkpoint_seconds=0), sys.argv[2], resume=True)
    """
)


def child(folder, steps=-1) -> subprocess.CompletedProcess:
    """Train in a process of its own, which kills itself after so many steps."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHILD, os.path.dirname(__file__), str(folder), str(steps)]
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [(1, 4), (6, 1), (11, 6)])
def test_killed_run_goes_on(tmp_path, first, second):
    for steps in (first, second):
        killed = child(tmp_path / "killed", steps)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    _, position = read_state(tmp_path / "killed" / "state")
    assert 6 * position["epoch"] + position["step"] == first + second
    finals = []
    for name in ("killed", "whole"):
        done = child(tmp_path / name)
        assert done.returncode == 0, done.stderr.decode()
        finals.append(read_state(tmp_path / name / "state"))
    (killed, _), (whole, _) = finals
    assert all(torch.equal(tensor, whole[name]) for name, tensor in killed.items())
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert len(list((tmp_path / "killed" / "state").glob("tensors-*"))) == 1


def test_finished_run_returns_at_once(uninterrupted, monkeypatch):
    whole, folder, last = uninterrupted
    monkeypatch.setattr(loop._Run, "train_epoch", lambda self: pytest.fail("trained again"))
    model = toy_model(seed=5)
    assert fit(model, toy_data(), SETTINGS, folder, resume=True) == last
    assert_same_state(model, whole)


@pytest.mark.parametrize(
    ("model", "data", "settings", "message"),
    [
        ({}, {}, {"sparsity": 0.0}, "settings sparsity = 0.001, now it is 0.0"),
        ({}, {}, {"epochs": 4}, "settings epochs = 3, now it is 4"),
        ({}, {"count": 24}, {}, "dataset train_count = 48, now it is 24"),
        ({}, {"size": 9}, {}, r"dataset input_size = \[3, 8, 8\], now it is \[3, 9, 9\]"),
        ({"width": 7}, {}, {}, "model shapes_sha256"),
    ],
)
def test_resuming_another_run_is_refused(uninterrupted, model, data, settings, message):
    with pytest.raises(TrainingError, match=message):
        fit(toy_model(**model), toy_data(**data), changed(**settings), uninterrupted[1], resume=True)


def test_identity_must_stay_the_same(tmp_path):
    short = changed(epochs=1, warmup_epochs=0)
    given = {"architecture": "toy", "options": {"width": 6}, "source_sha256": None}
    first = fit(toy_model(), toy_data(), short, tmp_path, identity=given)
    for other, message in (
        ({**given, "architecture": "other"}, "model architecture = 'toy', now it is 'other'"),
        ({**given, "options": {}}, r"model options = \{'width': 6\}, now it is \{\}"),
        ({**given, "source_sha256": "0"}, "model source_sha256 = None, now it is '0'"),
        (None, "model architecture = 'toy', now it is None"),
    ):
        with pytest.raises(TrainingError, match=message):
            fit(toy_model(), toy_data(), short, tmp_path, resume=True, identity=other)
    assert fit(toy_model(), toy_data(), short, tmp_path, resume=True, identity=given) == first


def test_digest_depends_on_names_shapes_dtypes_and_values():
    states = [
        {"a": torch.zeros(2, 3), "b": torch.tensor(0)},
        {"a": torch.zeros(3, 2), "b": torch.tensor(0)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.tensor(0)},
        {"a": torch.zeros(2, 3), "c": torch.tensor(0)},
        {"a": torch.zeros(2, 3), "b": torch.tensor(1)},
    ]
    assert len({digest_of(state) for state in states}) == len(states)
    assert digest_of({"a": torch.eye(3).t()}) == digest_of({"a": torch.eye(3)})


def test_folder_with_a_run_is_refused(uninterrupted):
    with pytest.raises(TrainingError, match=r"already holds a run: resume it \(--resume\), or choose another folder"):
        fit(toy_model(), toy_data(), SETTINGS, uninterrupted[1])


def test_seed_decides(tmp_path, uninterrupted):
    for name, settings in (("same", SETTINGS), ("other", changed(seed=4))):
        model = toy_model()
        fit(model, toy_data(), settings, tmp_path / name)
        if name == "same":
            assert_same_state(model, uninterrupted[0])
        else:
            assert not torch.equal(model[0].weight, uninterrupted[0][0].weight)


def test_limit(tmp_path):
    fit(toy_model(), toy_data(), changed(limit=16, epochs=2), tmp_path)
    state = read_state(tmp_path / "state")
    assert int(state[0]["model.1.num_batches_tracked"]) == 4


def test_sparsity_shrinks_scales(tmp_path):
    sizes = []
    for sparsity in (0.0, 0.05):
        model = toy_model(width=16)
        fit(model, toy_data(), changed(sparsity=sparsity, clip_norm=0.0), tmp_path / str(sparsity))
        sizes.append(float(model[1].weight.detach().abs().sum()))
    assert sizes[1] < sizes[0] - 0.1


def test_one_step_is_sgd_with_the_l1_subgradient(tmp_path):
    data = toy_data(8)
    settings = Settings(epochs=1, batch_size=8, learning_rate=0.1, sparsity=0.01, device="cpu", channels_last=False)
    model, reference = toy_model(), toy_model()
    model[5].p = reference[5].p = 0.0
    reference.train()
    images, labels = next(data.train_batches(8, seed=0, epoch=0, device=torch.device("cpu")))
    functional.cross_entropy(reference(images), labels).backward()
    for name, parameter in reference.named_parameters():
        step = parameter.grad + 5e-4 * parameter.detach()
        if name == "1.weight":
            step = step + 0.01 * parameter.detach().sign()
        parameter.data -= 0.1 * step
    fit(model, data, settings, tmp_path)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_diverging_run_keeps_the_last_good_state(tmp_path):
    data = toy_data()
    model = toy_model()
    seen = 0

    def poison(module, inputs, output):
        nonlocal seen
        seen += module.training
        return output * float("nan") if seen == 9 else output

    model.register_forward_hook(poison)
    with pytest.raises(TrainingError, match=r"no longer finite in epoch 2.*the last good state is in"):
        fit(model, data, changed(checkpoint_seconds=0), tmp_path)
    tensors, position = read_state(tmp_path / "state")
    assert (position["epoch"], position["step"]) == (1, 2)
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())


def test_bfloat16_trains_and_tests_in_float32(tmp_path):
    model = toy_model()
    dtypes = set()
    model[0].register_forward_hook(lambda module, inputs, output: dtypes.add((module.training, output.dtype)))
    last = fit(model, toy_data(), changed(amp="bf16"), tmp_path)
    assert dtypes == {(True, torch.bfloat16), (False, torch.float32)}
    assert last["test_accuracy"] > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_evaluate_restores_modes_and_counts():
    model, data = toy_model(), toy_data(20)
    model.train()
    model[1].eval()
    first, again = evaluate(model, data, batch_size=7), evaluate(model, data, batch_size=20)
    assert model.training and not model[1].training and model[5].training
    assert first["count"] == 20 and first["accuracy"] == again["accuracy"]
    model.eval()
    images, labels = next(data.test_batches(20, device=torch.device("cpu")))
    logits = model(images).detach()
    assert first["accuracy"] == (logits.argmax(1) == labels).double().mean()
    assert first["loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)


def test_state_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    write_state(tmp_path, {"a": torch.arange(3)}, {"step": 1})
    replace = type(tmp_path).replace

    def crash(self, target):
        if target.name == "state.json":
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write_state(tmp_path, {"a": torch.arange(4)}, {"step": 2})
    monkeypatch.undo()
    tensors, position = read_state(tmp_path)
    assert position["step"] == 1 and tensors["a"].tolist() == [0, 1, 2]
    (tmp_path / ".tensors-0.safetensors.123").write_bytes(b"killed while writing")
    write_state(tmp_path, {"a": torch.arange(5)}, {"step": 3})
    assert len(list(tmp_path.iterdir())) == 2, "what the crash left behind is gone"


def test_damaged_state_is_refused(tmp_path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, {"a": torch.arange(3)}, {"step": 1})
    file = next(tmp_path.glob("tensors-*"))
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(TrainingError, match="its sha256 is not the recorded one"):
        read_state(tmp_path)
    file.unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        read_state(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    for damaged, message in (
        ({**state, "tensors": {"file": "../x", "sha256": ""}}, "no file beside it"),
        ({**state, "tensors": 3}, "does not say where"),
        ({**state, "version": 2}, "no training state of version 1"),
    ):
        (tmp_path / "state.json").write_text(json.dumps(damaged))
        with pytest.raises(TrainingError, match=message):
            read_state(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_state(tmp_path)


GoogLeNet = namedtuple("GoogLeNet", ["logits", "aux_logits2", "aux_logits1"])


def test_auxiliary_logits():
    generator = torch.Generator().manual_seed(0)
    main, aux, other = torch.randn(3, 4, 5, generator=generator)
    labels = torch.tensor([0, 1, 2, 3])
    losses = [functional.cross_entropy(logits, labels) for logits in (main, aux, other)]
    cases = [
        (main, losses[0]),
        ((main, None), losses[0]),
        ((main, aux), losses[0] + 0.4 * losses[1]),
        (GoogLeNet(main, aux, other), losses[0] + 0.3 * losses[1] + 0.3 * losses[2]),
        ({"aux": aux, "logits": main}, losses[0] + 0.4 * losses[1]),
    ]
    for outputs, expected in cases:
        torch.testing.assert_close(classification_loss(outputs, labels), expected)
    smooth = functional.cross_entropy(main, labels, label_smoothing=0.1)
    torch.testing.assert_close(classification_loss(main, labels, 0.1), smooth)
    for wrong in (torch.rand(4, 5, 2, 2), {"x": main}, (None, main), [main] * 4, "logits"):
        with pytest.raises(TrainingError):
            classification_loss(wrong, labels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"sparsity": -1.0}, "sparsity must be"),
        ({"warmup_epochs": 10}, "warmup_epochs"),
        ({"amp": "fp8"}, "amp must be one of no, bf16, fp16"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"seed": -1}, "seed must lie within"),
        ({"seed": 2**63}, "seed must lie within"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(TrainingError, match=message):
        Settings(**values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_device_is_said(tmp_path):
    with pytest.raises(TrainingError, match="device cuda is not available"):
        fit(toy_model(), toy_data(), changed(device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fp16_on_the_cpu_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="amp fp16 has no effect on the CPU"):
        fit(toy_model(), toy_data(), changed(amp="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_probe_leaves_the_model_and_the_generator_alone():
    class Fussy(nn.Module):
        """Runs on real tensors only."""

        def __init__(self):
            super().__init__()
            self.inner = toy_model()

        def forward(self, images):
            return self.inner(images * float(images.max() > 0))

    for model in (toy_model(), Fussy()):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes, drawn = [module.training for module in model.modules()], torch.get_rng_state()
        check_forward(model, toy_data(), "toy")
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert modes == [module.training for module in model.modules()]
        assert torch.equal(drawn, torch.get_rng_state())
    with pytest.raises(TrainingError, match=r"logits of shape \[2, 2\].*toy has 3 classes"):
        check_forward(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), toy_data(), "short")


def test_diverging_at_once_names_no_state(tmp_path):
    model = toy_model()
    model[6].weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"no longer finite in epoch 1.*or warm it up$"):
        fit(model, toy_data(), SETTINGS, tmp_path)
