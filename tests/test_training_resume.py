"""A run that goes on ends as one that was never interrupted; another run is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from training_toys import (
    SETTINGS,
    assert_same_state,
    changed,
    interrupted,
    metrics,
    told_to_stop,
    toy_data,
    toy_model,
    without_times,
)  # fmt: skip

from zoo_slim.training import Settings, TrainingError, _claim, fit
from zoo_slim.training import _loop as loop
from zoo_slim.training import _step as stepper
from zoo_slim.training._optimise import make_optimizer
from zoo_slim.training._optimizer_state import pack_optimizer, restore_optimizer
from zoo_slim.training._state import digest_of, read_state, write_state


@pytest.mark.parametrize("step", [0, 1, 5, 6, 11, 17])
def test_resumed_run_ends_with_the_same_numbers(tmp_path, uninterrupted, step):
    whole, whole_folder, lines = uninterrupted
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
    assert without_times(resumed) == without_times(lines)


@pytest.mark.parametrize(("seconds", "saved"), [(0, 18), (1e9, 1)])
def test_the_state_is_saved_when_it_is_time_and_at_the_end(tmp_path, uninterrupted, monkeypatch, seconds, saved):
    written = []
    write = loop.write_state
    monkeypatch.setattr(loop, "write_state", lambda *arguments: written.append(arguments) or write(*arguments))
    lines = fit(toy_model(), toy_data(), changed(checkpoint_seconds=seconds), tmp_path)
    assert len(written) == saved and read_state(tmp_path / "state")[1]["epoch"] == SETTINGS.epochs
    assert without_times(lines) == without_times(uninterrupted[2])


@pytest.mark.skipif(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, reason="somebody handles SIGTERM")
@pytest.mark.parametrize(
    ("step", "where", "place"), [(7, "step 2 of epoch 2", (1, 2)), (11, "epoch 2", (2, 0)), (17, None, (3, 0))]
)
def test_a_run_told_to_stop_saves_its_state_first(tmp_path, uninterrupted, monkeypatch, step, where, place):
    model, sent = toy_model(), []
    monkeypatch.setattr(signal, "raise_signal", sent.append)
    hook = told_to_stop(model, step)
    if where is None:  # too late: what comes after the training is to end
        fit(model, toy_data(), changed(checkpoint_seconds=1e9), tmp_path)
    else:
        with pytest.raises(TrainingError, match=f"stopped by SIGTERM after {where}; its state is saved: .* --resume"):
            fit(model, toy_data(), changed(checkpoint_seconds=1e9), tmp_path)
    hook.remove()
    assert sent == ([] if where else [signal.SIGTERM]) and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    position = read_state(tmp_path / "state")[1]
    assert (position["epoch"], position["step"]) == place
    fresh = toy_model(seed=9)
    fit(fresh, toy_data(), SETTINGS, tmp_path, resume=True)
    assert_same_state(fresh, uninterrupted[0])
    assert metrics(tmp_path) == metrics(uninterrupted[1])


@pytest.mark.skipif(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, reason="somebody handles SIGTERM")
def test_a_handler_of_the_program_is_left_alone(tmp_path):
    came, model = [], toy_model()
    told_to_stop(model, 3)
    signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        fit(model, toy_data(), SETTINGS, tmp_path)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert came == [1] and read_state(tmp_path / "state")[1]["epoch"] == 3


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
        fit(model, toy_data(), changed(checkpoint_seconds=0), tmp_path)
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


def test_another_teacher_is_refused(tmp_path):
    settings = changed(epochs=1, warmup_epochs=0)
    fit(toy_model(), toy_data(), settings, tmp_path, teacher=toy_model(seed=1))
    for teacher in (toy_model(seed=2), None):
        with pytest.raises(TrainingError, match="model teacher_sha256"):
            fit(toy_model(), toy_data(), settings, tmp_path, resume=True, teacher=teacher)


@pytest.mark.filterwarnings("ignore:.*opt_einsum")  # kron asks for it, and does without
@pytest.mark.parametrize(
    "opt", ["momentum", "sgd", "adamw", "nadamw", "lamb", "lion", "rmsproptf", "lookahead_lamb", "adafactorbv", "kron"]
)
def test_state_of_timms_optimisers_is_whole(opt, monkeypatch):
    if opt in ("adafactorbv", "kron"):
        names = pytest.importorskip("timm.optim").list_optimizers()
        if opt not in names:
            pytest.skip(f"timm has no {opt}")
    if opt == "kron":  # which compiles itself, for a minute
        monkeypatch.setattr("timm.optim.kron.has_dynamo", False)

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
    tensors, rest = pack_optimizer(optimizer)
    restore_optimizer(again, {name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(rest)))
    for seed in range(6):
        for pair in ((model, optimizer), (other, again)):
            torch.manual_seed(seed)
            step(*pair)
    assert_same_state(model, other)


class Odd(torch.optim.SGD):
    """Keeps more than tensors."""

    kept: object = None

    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["seen"] = [self.param_groups[0].get("seen", [0])[0] + 1, "text"]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["odd"] = self.kept


def odd(model, kept, monkeypatch):
    optimizer = Odd(model.parameters(), lr=0.1)
    optimizer.kept = kept
    monkeypatch.setattr(stepper, "make_optimizer", lambda *arguments: optimizer)
    return optimizer


def test_lists_of_an_optimiser_are_kept(tmp_path, monkeypatch):
    model, fresh = toy_model(), toy_model(seed=9)
    odd(model, [torch.arange(2.0), (3, None, torch.ones(1))], monkeypatch)
    hook = interrupted(model, 8)
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_data(), changed(checkpoint_seconds=0), tmp_path)
    hook.remove()
    again = odd(fresh, [], monkeypatch)
    monkeypatch.setattr(loop._Run, "train_epoch", lambda self: pytest.fail("restored"))
    with pytest.raises(pytest.fail.Exception, match="restored"):
        fit(fresh, toy_data(), changed(checkpoint_seconds=0), tmp_path, resume=True)
    first, (number, nothing, last) = again.state[fresh[0].weight]["odd"]
    assert (first.tolist(), number, nothing, last.tolist()) == ([0, 1], 3, None, [1])
    assert again.param_groups[0]["seen"] == [8, "text"]


@pytest.mark.parametrize("kept", [{0.5}, {"a": 1}, "text", [object()]])
def test_what_cannot_be_kept_of_an_optimiser_is_refused(tmp_path, monkeypatch, kept):
    model = toy_model()
    odd(model, kept, monkeypatch)
    with pytest.raises(TrainingError, match=r"the optimiser Odd keeps optimizer\.0\.odd.* cannot be saved"):
        fit(model, toy_data(), SETTINGS, tmp_path)
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("seconds", [0, 1e9])
def test_tensorboard_repeats_nothing(tmp_path, seconds):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = toy_model()
    hook = interrupted(model, 9)
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_data(), changed(tensorboard=True, checkpoint_seconds=seconds), tmp_path)
    hook.remove()
    assert (tmp_path / "state" / "state.json").exists() == (seconds == 0)
    fit(toy_model(), toy_data(), changed(tensorboard=True), tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("test_loss")]
    assert losses == [(line["epoch"], pytest.approx(line["test_loss"])) for line in metrics(tmp_path)]


CHILD = textwrap.dedent(
    """
    import sys
    import torch
    sys.path.insert(0, sys.argv[1])
    from training_toys import changed, kill_at, toy_data, toy_model
    from zoo_slim.training import fit
    torch.set_num_threads(1)
    model = toy_model()
    kill_at(model, int(sys.argv[3]))
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


def started(folder) -> subprocess.Popen:
    """Start a process that trains in ``folder``, with a forked worker, and waits in its first step."""
    script = textwrap.dedent(
        """
        import os, sys, time
        sys.path.insert(0, sys.argv[1])
        from training_toys import SETTINGS, toy_data, toy_model
        from zoo_slim.training import fit
        def wait(module, inputs):
            if module.training and not inputs[0].is_meta:
                if os.fork() == 0:
                    sys.stdin.read()
                    os._exit(0)
                print("trains", flush=True)
                sys.stdin.read()
                raise SystemExit
        model = toy_model()
        model.register_forward_pre_hook(wait)
        fit(model, toy_data(), SETTINGS, sys.argv[2], resume=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, os.path.dirname(__file__), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "trains\n"
    return process


@pytest.mark.skipif(_claim.fcntl is None, reason="needs flock")
def test_two_processes_do_not_train_in_one_folder(tmp_path, uninterrupted):
    process = started(tmp_path)
    try:
        for resume in (True, False):
            with pytest.raises(TrainingError, match=r"another process trains in .*wait for it, or choose another"):
                fit(toy_model(), toy_data(), SETTINGS, tmp_path, resume=resume)
    finally:
        process.kill()
        process.wait()
    model = toy_model()
    fit(model, toy_data(), SETTINGS, tmp_path, resume=True)  # though the killed one's child still lives
    process.stdin.close()
    process.stdout.close()
    assert_same_state(model, uninterrupted[0])


@pytest.mark.skipif(_claim.fcntl is None, reason="needs flock")
def test_a_run_excludes_another_until_it_ends(tmp_path):
    model = toy_model()

    def train_too(module, inputs):
        if module.training:
            fit(toy_model(), toy_data(), SETTINGS, tmp_path, resume=True)

    hook = model.register_forward_pre_hook(train_too)
    with pytest.raises(TrainingError, match="another process trains in"):
        fit(model, toy_data(), SETTINGS, tmp_path)
    hook.remove()
    for _ in range(2):
        fit(model, toy_data(), SETTINGS, tmp_path, resume=True)
    assert not _claim._held


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no locks")

    for without in (None, type("fcntl", (), {"LOCK_EX": 2, "LOCK_NB": 4, "flock": staticmethod(refuse)})):
        monkeypatch.setattr(_claim, "fcntl", without)
        fit(toy_model(), toy_data(), changed(epochs=1, warmup_epochs=0), tmp_path / str(without))


def test_a_state_of_an_unknown_run_is_refused(tmp_path):
    fit(toy_model(), toy_data(), changed(epochs=1, warmup_epochs=0), tmp_path)
    (tmp_path / "run.json").unlink()
    for resume in (True, False):
        with pytest.raises(TrainingError, match=r"run.json, which says of which, is missing"):
            fit(toy_model(), toy_data(), SETTINGS, tmp_path, resume=resume)


def test_finished_run_returns_at_once(uninterrupted, monkeypatch):
    whole, folder, lines = uninterrupted
    monkeypatch.setattr(loop._Run, "train_epoch", lambda self: pytest.fail("trained again"))
    model = toy_model(seed=5)
    assert fit(model, toy_data(), SETTINGS, folder, resume=True) == lines
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


def test_images_normalised_otherwise_are_another_run(tmp_path):
    fit(toy_model(), toy_data(), SETTINGS, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["dataset"]["mean"] == list(toy_data().mean)
    other = dataclasses.replace(toy_data(), mean=(0.1, 0.2, 0.3))
    with pytest.raises(TrainingError, match=r"dataset mean = \[.*now it is \[0\.1, 0\.2, 0\.3\]"):
        fit(toy_model(), other, SETTINGS, tmp_path, resume=True)
