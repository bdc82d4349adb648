"""What the training loop computes and records."""

import json
import os
import subprocess
import sys
import textwrap
from collections import namedtuple
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_toys import SETTINGS, assert_same_state, changed, metrics, toy_data, toy_model, without_times

from zoo_slim.training import (
    Settings,
    TrainingError,
    classification_loss,
    evaluate,
    fit,
    seed_everything,
)
from zoo_slim.training._distill import distillation_loss
from zoo_slim.training._gammas import draw_histograms, gamma_statistics
from zoo_slim.training._preflight import check_forward
from zoo_slim.training._processes import join
from zoo_slim.training._reach import reach
from zoo_slim.training._state import read_state
from zoo_slim.training._step import Stepper


def test_training_learns_and_is_recorded(uninterrupted):
    model, folder, returned = uninterrupted
    lines = metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] > 0.9 > lines[-1]["train_loss"]
    assert without_times(returned) == lines and all(line["seconds"] > 0 for line in returned)
    assert lines[0]["learning_rate"] < 0.1 and 0 < lines[-1]["learning_rate"] < 0.03
    assert sum(lines[0]["gamma_histogram"]) == 6 and lines[0]["sparsity"] == 1e-3
    assert not model.training
    assert evaluate(model, toy_data())["accuracy"] == lines[-1]["test_accuracy"]
    assert json.loads((folder / "run.json").read_text())["settings"] == SETTINGS.as_dict()


def test_how_far_scales_can_move_is_said_before(tmp_path, capfd):
    """A BatchNorm that the forward leaves out gets no gradient: only the penalty moves its scales."""
    settings = changed(penalty="proximal", sparsity=0.5, sparsity_schedule="linear", sparsity_epochs=2, epochs=3)
    steps = toy_data().train_count // settings.batch_size
    distance = reach(settings, steps)
    model = toy_model()
    model[1].unused = nn.BatchNorm2d(4)
    model[1].unused.weight.data = torch.tensor([1.0, -1.0, distance / 2, 3.0])
    fit(model, toy_data(), settings, tmp_path)
    moved = torch.tensor([1 - distance, distance - 1, 0.0, 3 - distance])
    torch.testing.assert_close(model[1].unused.weight.data, moved, rtol=1e-5, atol=1e-5)
    said = f"a scale by at most {distance:.3g} in this run; {1 / 10:.0%} of the scales lie within that"
    assert 0 < distance < 1 and said in capfd.readouterr().err
    for decayed in (True, False):
        weak = changed(penalty="proximal", sparsity=1e-4, epochs=1, warmup_epochs=0, decay_norms=decayed)
        fit(toy_model(), toy_data(), weak, tmp_path / str(decayed))
        err = capfd.readouterr().err
        assert "0% of the scales lie within that" in err and ("Raise --sparsity" in err) is not decayed


def test_averaged_weights_are_tested_and_kept(tmp_path):
    model = toy_model()
    last = fit(model, toy_data(), changed(ema_decay=0.9, epochs=2), tmp_path)[-1]
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
    for values, message in (
        ({"accumulate": 3}, r"8 images a step \(--batch-size\) cannot be cut into 3 equal parts \(--accumulate\)"),
        ({"accumulate": 8, "mixup": 0.2}, r"8 images .*--batch-size.* in 8 parts .*--accumulate.* are 1 in each"),
        ({"batch_size": 7, "cutmix": 0.2}, r"7 images .* are 7 in each, but mixup and cutmix need an even number"),
    ):
        with pytest.raises(TrainingError, match=message):
            fit(toy_model(), toy_data(), changed(**values), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_settings_are_not_overridden_by_accelerates_environment(tmp_path, monkeypatch):
    plain, told = toy_model(), toy_model()
    fit(plain, toy_data(), changed(accumulate=2), tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    fit(told, toy_data(), changed(accumulate=2), tmp_path / "told")
    assert_same_state(told, plain)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    with pytest.raises(TrainingError, match="device cpu is asked for, but accelerate was told meta"):
        fit(toy_model(), toy_data(), SETTINGS, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_compile_with_shared_batch_norm_is_refused_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(TrainingError, match="add --no-sync-bn, or leave --compile out"):
        fit(toy_model(), toy_data(), changed(compile=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


def test_distillation_loss():
    logits, taught = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student, teacher = (logits / 3).softmax(1), (taught / 3).softmax(1)
    expected = 9 * (teacher * (teacher / student).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, taught, 3.0), expected)
    assert distillation_loss(taught, taught, 3.0).abs() < 1e-12


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


@pytest.mark.parametrize("name", ["4.running_mean", "1.weight", "average"])
@pytest.mark.parametrize(("step", "place"), [(8, (1, 2)), (11, (1, 5))])
def test_weights_that_are_no_longer_finite_are_not_saved(tmp_path, monkeypatch, name, step, place):
    """No loss is affected: the step that spoils them is the last one before the state, or the test."""
    model = toy_model()
    model[4] = nn.Sequential()
    model[4].register_buffer("running_mean", torch.zeros(3))
    update, seen = Stepper._update, 0

    def spoil(stepper):
        nonlocal seen
        update(stepper)
        if seen == step:
            network = stepper.average.module if name == "average" else stepper.model
            tensor = dict(network.state_dict())["1.bias" if name == "average" else name]
            tensor.view(-1)[1] = float("nan")
        seen += 1

    model[4].forward = lambda values: values.flatten(1)
    monkeypatch.setattr(Stepper, "_update", spoil)
    with pytest.raises(TrainingError, match=r"some weights are no longer finite in epoch 2.*the last good state is in"):
        fit(model, toy_data(), changed(checkpoint_seconds=0, ema_decay=0.9), tmp_path)
    tensors, position = read_state(tmp_path / "state")
    assert (position["epoch"], position["step"]) == place
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())


def test_a_mask_may_be_infinite(tmp_path):
    model = toy_model()
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    fit(model, toy_data(), changed(epochs=1, warmup_epochs=0), tmp_path)
    assert read_state(tmp_path / "state")[0]["model.mask"].isinf().any()


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    teacher = toy_model()
    teacher[6] = nn.Linear(6, 5)
    with pytest.raises(TrainingError, match="the teacher returns 5 logits, the network that is to imitate it 3"):
        fit(toy_model(), toy_data(), SETTINGS, tmp_path / "run", teacher=teacher)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("count", "values", "message"),
    [
        (48, {"accumulate": 8}, r"8 images a step \(--batch-size\) in 8 parts \(--accumulate\) leave no more"),
        (48, {"batch_size": 1}, r"1 images a step \(--batch-size\) leave no more; change this"),
        (48, {"limit": 1}, r"toy has 1 training image; take more \(--limit\)"),
        (1, {}, "toy has 1 training image"),
    ],
)
def test_as_many_images_as_are_computed_at_once_are_tried(count, values, message):
    images = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.BatchNorm1d(3))
    with pytest.raises(TrainingError, match=f"flat cannot be trained on 1 image at a time .Expected more.*{message}"):
        check_forward(images, toy_data(count), "flat", changed(**values))
    check_forward(images, toy_data(), "flat", changed(accumulate=4))
    check_forward(toy_model(), toy_data(count), "toy", changed(**values))
    with pytest.raises(TrainingError, match="short does not take batches of 1 images of size 3x8x8"):
        check_forward(nn.Linear(5, 3), toy_data(count), "short", changed(**values))


class Maps(nn.Module):
    def forward(self, images):
        return {"out": images}


def test_what_returns_no_logits_is_told_that_it_is_no_classifier():
    said = (
        r"commands cannot take maps: a classifier must return logits .* not a dict of out: .*\[2, 3, 8, 8\]\. Train it"
    )
    with pytest.raises(TrainingError, match=said):
        check_forward(Maps(), toy_data(), "maps")


FLAGS = textwrap.dedent(
    """
    import sys
    import torch
    from zoo_slim.training._evaluate import _full_precision
    exec(sys.argv[1])
    backends = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    with _full_precision(torch.device("cuda")):
        assert [backend.fp32_precision for backend in backends] == ["ieee"] * 3
    assert [backend.fp32_precision for backend in backends] == before
    if len(sys.argv) > 2:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32  # they raise where the two disagree
    """
)


@pytest.mark.parametrize(
    "words",
    [
        ["torch.backends.cuda.matmul.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'ieee'"],
        ["torch.backends.fp32_precision = 'tf32'; torch.set_float32_matmul_precision('high')"],
        ["torch.backends.cuda.matmul.allow_tf32 = True", "legacy"],
    ],
)
@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has the older flags only")
def test_tests_are_exact_however_the_flags_were_set(words):
    ran = subprocess.run([sys.executable, "-c", FLAGS, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_processes_wait_for_the_main_one_to_test_and_save(monkeypatch):
    given = {}

    def look(self, **keywords):
        given.update(keywords)
        raise ValueError("seen")

    monkeypatch.setattr("accelerate.Accelerator.__init__", look)
    with pytest.raises(TrainingError, match="seen"):
        join(SETTINGS)
    assert given["kwargs_handlers"][0].timeout.total_seconds() > 3600


def test_bfloat16_trains_and_tests_in_float32(tmp_path):
    model = toy_model()
    dtypes = set()
    model[0].register_forward_hook(lambda module, inputs, output: dtypes.add((module.training, output.dtype)))
    last = fit(model, toy_data(), changed(amp="bf16"), tmp_path)[-1]
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
        ({"epochs": 2.5}, "epochs must be of type int, not 2.5"),
        ({"epochs": float("nan")}, "epochs must be of type int, not nan"),
        ({"epochs": True}, "epochs must be of type int, not True"),
        ({"learning_rate": "0.1"}, "learning_rate must be of type float, not '0.1'"),
        ({"nesterov": 1}, "nesterov must be of type bool, not 1"),
        ({"min_lr": 0.02}, r"min_lr \(0.02\) must not exceed learning_rate \(0.01\)"),
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


def test_picture_of_the_scales_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")

    def break_off(self, target, **keywords):
        with open(target, "wb") if isinstance(target, os.PathLike) else target as stream:
            stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure.Figure, "savefig", break_off)
    picture = tmp_path / "gamma_histogram.png"
    picture.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        draw_histograms([{"epoch": 1, **gamma_statistics(toy_model())}], picture)
    assert picture.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_labels_of_mixed_images_are_not_rounded():
    logits, labels = torch.randn(4, 3), torch.tensor([[0.3017, 0.6983, 0.0]] * 4)
    exact = torch.nn.functional.cross_entropy(logits.bfloat16().float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert classification_loss(logits.bfloat16(), labels) == exact
