import dataclasses
import json
import sys
from pathlib import Path

import pytest
from cli_helpers import load_script
from typer.testing import CliRunner

from zoo_slim._errors import DataError
from zoo_slim.cli import _checkpoints, app, main
from zoo_slim.training import Settings, TrainingError, _pipeline, _run_all


@pytest.fixture
def called(monkeypatch):
    """Record what the commands ask the pipeline for, instead of doing it."""
    calls = {}

    def recorder(name, returns):
        def record(*arguments, **keywords):
            calls[name] = (arguments, keywords)
            return returns

        return record

    monkeypatch.setattr(_pipeline, "train", recorder("train", "runs/x/model"))
    monkeypatch.setattr(_pipeline, "finetune", recorder("finetune", "runs/y/model"))
    monkeypatch.setattr(_pipeline, "measure", recorder("measure", {"accuracy": 0.5, "count": 1000}))
    monkeypatch.setattr(
        _checkpoints, "find_folder", lambda name, pruned=None, **how: f"{name}@{pruned}" if pruned else name
    )
    variant = {"test_accuracy": 0.8, "params": 1234, "after_slimming": {"plain": 0.25, "both": 0.75}}
    summary = {"base": {"test_accuracy": 0.9}, "variants": {"0.75": variant}, "saved": "output/model"}
    monkeypatch.setattr(_run_all, "run_all", recorder("run_all", summary))
    return calls


def invoke(*words: str):
    result = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


DATA = ("--dataset", "fashion-mnist", "--data", "here")


def test_train(called):
    command = "train resnet18 --epochs 8 --batch-size 128 --lr 0.05 --sparsity 1e-3 --seed 7 --output runs/x --resume"
    shape = "--stem cifar --num-classes 10 --option width=2 --option zero-init-residual=true --option rate=0.5"
    output = invoke(*command.split(), *shape.split(), *DATA, "--limit", "9", "--no-channels-last", "--amp", "bf16")
    assert output == "saved runs/x/model\n"
    (name, data, settings, folder), keywords = called["train"]
    assert (name, data.name, str(data.root), str(folder)) == ("resnet18", "fashion-mnist", "here", "runs/x")
    assert settings == Settings(
        epochs=8,
        batch_size=128,
        learning_rate=0.05,
        sparsity=1e-3,
        seed=7,
        limit=9,
        channels_last=False,
        amp="bf16",
    )
    assert keywords["options"] == {
        "stem": "cifar",
        "num_classes": 10,
        "width": 2,
        "zero_init_residual": True,
        "rate": 0.5,
    }
    assert keywords["resume"] is True


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("my data", "'my data'"),
        ("../data/x", "../data/x"),
        ("/home/ann/my data/", "'my data'"),
        ("~/data", "data"),
        ("C:\\Users\\ann\\data", "data"),
        ("--output=/home/ann/runs/x", "--output=x"),
        ("-o/home/ann/runs/x", "-ox"),
        ("local-dir:/home/ann/model", "local-dir:model"),
        ("--teacher=local-dir:~/model", "--teacher=local-dir:model"),
        ("hf-hub:ann/net@v1", "hf-hub:ann/net@v1"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("/", "/"),
    ],
)
def test_command_line_is_recorded_without_where_files_lie(called, monkeypatch, typed, recorded):
    monkeypatch.setattr(sys, "argv", ["zoo-slim", "train", "resnet18", typed])
    invoke("train", "resnet18", *DATA, "--output", "x")
    assert called["train"][1]["command"] == f"zoo-slim train resnet18 {recorded}"


def test_finetune(called):
    invoke("finetune", "runs/x/model", *DATA, "--save_dir", "runs/y", "--learning_rate", "0.002", "--epochs", "3")
    (source, _, settings, folder), _ = called["finetune"]
    assert (source, str(folder)) == ("runs/x/model", "runs/y")
    assert (settings.learning_rate, settings.epochs) == (0.002, 3)


def test_eval(called):
    assert invoke("eval", "runs/x/model", *DATA) == "  accuracy  0.5000\n     count  1,000\n"
    assert json.loads(invoke("eval", "runs/x/model", *DATA, "--json")) == {"accuracy": 0.5, "count": 1000}


def test_variants_are_named(called):
    invoke("eval", "resnet18", "--pruned", "0.75", *DATA)
    assert called["measure"][0][0] == "resnet18@0.75"
    invoke("finetune", "resnet18", "--pruned", "0.75", *DATA, "--output", "x")
    assert called["finetune"][0][0] == "resnet18@0.75"


@pytest.mark.parametrize("command", ["train", "finetune", "eval", "run"])
def test_help_ends_with_an_example(command):
    assert f"Example: zoo-slim {command} " in " ".join(invoke(command, "--help").split())


def test_run_takes_the_original_command(called):
    original = """--save_dir output --dataset cifar10 --net resnet18 --epochs 120 --batch_size 64 --learning_rate 0.01
        --sparsity_train --s 0.0001 --fine_tune --prune_schema ./schema/resnet18.json --fine_tune_epochs 120
        --fine_tune_learning_rate 0.001 --prune_ratio 0.75"""
    output = invoke("run", *original.split())
    assert "0.75: test_accuracy 0.8000, params 1,234, after_slimming plain 0.2500 both 0.7500\n" in output
    assert output.endswith("saved output/model\n")
    (name, data, settings, tuning, ratios, folder), keywords = called["run_all"]
    assert (name, data.name, ratios, str(folder)) == ("resnet18", "cifar10", [0.75], "output")
    assert settings == Settings(epochs=120, learning_rate=0.01, sparsity=1e-4)
    assert tuning == Settings(epochs=120, learning_rate=0.001)
    assert str(keywords["schema"]) == "schema/resnet18.json" and keywords["base"] is keywords["start"] is None


def test_fine_tuning_has_settings_of_its_own(called):
    more = "--prune-ratio 0.5 --prune-ratio auto --after-slimming both --distill --save-dtype float16 --ema-decay 0.99"
    tuning = "--fine-tune-lr 0.02 --fine-tune-batch-size 32 --fine-tune-weight-decay 1e-4 --fine-tune-epochs 7"
    training = "--epochs 9 --batch-size 128 --warmup-epochs 1 --sparsity-epochs 8 --sparsity-schedule linear"
    invoke("run", "resnet18", "--sparsity-train", "--fine-tune", *f"{more} {tuning} {training}".split())
    (_, _, settings, tuned, ratios, _), keywords = called["run_all"]
    common = {"ema_decay": 0.99, "sparsity_schedule": "linear"}
    assert settings == Settings(epochs=9, batch_size=128, warmup_epochs=1, sparsity=1e-4, sparsity_epochs=8, **common)
    assert tuned == Settings(epochs=7, batch_size=32, learning_rate=0.02, weight_decay=1e-4, **common)
    assert ratios == [0.5, "auto"] and keywords["distill"] is True
    assert (keywords["after_slimming"], keywords["dtype"]) == ("both", "float16")


def test_every_setting_is_an_option_of_three_commands(called):
    texts = {"opt": "adamw", "sched": "poly", "penalty": "proximal", "sparsity_schedule": "cosine"}
    texts |= {"amp": "bf16", "device": "cpu"}
    words, expected = [], {}
    for field in dataclasses.fields(Settings):
        if field.name in ("nesterov", "warmup_epochs"):
            continue
        name, kind = field.name.replace("_", "-"), type(field.default)
        if kind is bool:
            words.append(f"--no-{name}" if field.default else f"--{name}")
            expected[field.name] = not field.default
        else:
            text = texts.get(field.name, "2" if kind is int else "0.5")
            words += [f"--{name}", text]
            expected[field.name] = kind(text)
    wanted = Settings(**expected)
    invoke("train", "resnet18", *DATA, "--output", "x", "--teacher", "t", *words)
    assert called["train"][0][2] == wanted
    invoke("finetune", "a", *DATA, "--output", "x", "--teacher", "t", *words)
    assert called["finetune"][0][2] == wanted
    invoke("run", "resnet18", "--sparsity-train", "--fine-tune", "--fine-tune-lr", "0.5", "--distill", *words)
    assert called["run_all"][0][2] == wanted


def test_teacher(called):
    invoke("finetune", "a", "--pruned", "0.5", "--teacher", "b", *DATA, "--output", "x", "--save-dtype", "float16")
    arguments, keywords = called["finetune"]
    assert (arguments[0], keywords["teacher"], keywords["dtype"]) == ("a@0.5", "b", "float16")
    for words in (("train", "resnet18"), ("finetune", "a")):
        invoke(*words, "--teacher", "b", "--teacher-pruned", "0.75", *DATA, "--output", "x")
        assert called.pop(words[0])[1]["teacher"] == "b@0.75"


def test_the_commands_that_train_the_table(called):
    script = load_script("train_table")
    for net in script.NETWORKS:
        command = script.command_of(net, Path("here"), Path("runs"), 12, ["--device", "cpu", "--amp", "no"])
        invoke(*command[command.index("run") :])
        (name, data, settings, tuning, ratios, folder), keywords = called.pop("run_all")
        assert (name, data.name, str(data.root), folder) == (net, "cifar10", "here", Path("runs") / net)
        assert (settings.epochs, settings.sparsity_epochs, tuning.epochs, ratios) == (12, 2, 12, [0.5, 0.75])
        assert settings.sparsity and settings.amp == "no" and keywords["resume"]
        assert keywords["options"] == ({"stem": "cifar"} if "resnet" in net else {})
        assert keywords["group_ratios"] == ({"classifier.*": 0.875} if net == "vgg11_bn" else {})
        assert settings.learning_rate == (0.02 if net == "vgg11_bn" else 0.1)


def test_run_only_does_what_it_is_told(called):
    invoke("run", "vgg11_bn", "--dataset", "cifar10")
    (name, _, settings, tuning, *_), _ = called.pop("run_all")
    assert (name, settings.sparsity, tuning) == ("vgg11_bn", 0.0, None)
    invoke("run", "resnet18", "--net", "resnet18", "--ckpt", "a", "--batch_size", "32", "--device", "cpu", *DATA)
    (source, _), keywords = called.pop("measure")
    assert (source, keywords["batch_size"], keywords["device"]) == ("a", 32, "cpu")
    invoke("run", "--net", "resnet18", "--ckpt", "a", "--ckpt_pruned", "a/pruned-0.75")
    assert called.pop("measure")[0][0] == "a/pruned-0.75"
    invoke("run", "--ckpt", "a", "--fine-tune", "--batch-size", "32", "--opt", "adamw", "--fine-tune-epochs", "3")
    assert called["run_all"][1]["base"] == "a" and called["run_all"][1]["start"] is None
    assert called["run_all"][0][3] == Settings(epochs=3, batch_size=32, learning_rate=0.001, opt="adamw")
    invoke("run", "--ckpt", "a", "--fine-tune", "--rounding", "eight")
    assert called["run_all"][1]["rounding"] == "eight" and called["run_all"][1]["group_ratios"] == {}
    invoke("run", "--ckpt", "a", "--fine-tune", "--group-ratio", "fc.*=0.9", "--group-ratio", "conv1=0")
    assert called["run_all"][1]["group_ratios"] == {"fc.*": 0.9, "conv1": 0.0}
    invoke("run", "--net", "resnet18", "--ckpt", "a", "--sparsity-train")
    assert called["run_all"][1]["start"] == "a" and called["run_all"][1]["base"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "name the architecture"),
        (("train", "resnet18", *DATA, "--output", "x", "--option", "stem"), "key=value"),
        (("train", "resnet18", *DATA, "--output", "x", "--epochs", "0"), "--epochs"),
        (("train", "resnet18", *DATA, "--output", "x", "--image-size", "0"), "--image-size"),
        (("train", "resnet18", *DATA, "--output", "x", "--seed", "-1"), "--seed"),
        (("run", "resnet18", "--prune-ratio", "half", "--fine-tune"), "--prune-ratio takes a share of the channels"),
        (
            ("run", "resnet18", "--sparsity", "0.1", "--penalty", "proximal"),
            "--sparsity and --penalty would have no effect",
        ),
        (("run", "resnet18", "--prune-ratio", "0.5", "--fine-tune-lr", "1"), "would have no effect: add --fine-tune"),
        (("run", "resnet18", "--group-ratio", "conv1=0"), "--group-ratio would have no effect: add --fine-tune"),
        (("run", "resnet18", "--rounding", "eight"), "--rounding would have no effect: add --fine-tune"),
        (("run", "resnet18", "--ckpt-pruned", "x", "--fine-tune"), "--ckpt-pruned is a network to test"),
        (("run", "resnet18", "--net", "vgg11_bn"), "two architectures; give one of them"),
        *(
            ((*words, *DATA, "--output", "x", *idle), f"would have no effect: add {needed}")
            for words in (("train", "resnet18"), ("finetune", "a"))
            for idle, needed in (
                (("--penalty", "proximal"), "--sparsity"),
                (("--weight-groups",), "--sparsity"),
                (("--sparsity-schedule", "linear"), "--sparsity"),
                (("--sparsity-epochs", "1"), "--sparsity"),
                (("--distill-weight", "0.9"), "--teacher"),
                (("--distill-temperature", "2"), "--teacher"),
                (("--teacher-pruned", "0.5"), "--teacher"),
            )
        ),
        (("run", "resnet18", "--fine-tune", "--distill-weight", "0.9"), "--distill-weight would have no effect"),
        *(
            (("run", "--ckpt", "x", "--fine-tune", *idle), f"{idle[0]} would have no effect: add --sparsity-train")
            for idle in (
                ("--epochs", "7"),
                ("--learning-rate", "0.5"),
                ("--warmup-epochs", "2"),
                ("--stem", "cifar"),
                ("--num-classes", "10"),
                ("--option", "foo=1"),
                ("--batch-size", "32", "--fine-tune-batch-size", "64"),
            )
        ),
        *(
            (("run", "--ckpt", "x", *more, *idle), f"{idle[0]} would have no effect: add --ckpt with")
            for more in ((), ("--ckpt-pruned", "y"))
            for idle in (
                ("--epochs", "99"),
                ("--output", "o"),
                ("--resume",),
                ("--save-dtype", "nonsense"),
                ("--option", "zzz"),
                ("--prune-ratio", "0.5"),
            )
        ),
    ],
)
def test_wrong_usage_exits_with_2(called, words, message):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split())
    assert not called


@pytest.mark.parametrize("error", [TrainingError("already holds a run"), DataError("no such data")])
def test_a_users_mistake_is_one_line(monkeypatch, capsys, error):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(_pipeline, "train", fail)
    monkeypatch.setattr(sys, "argv", ["zoo-slim", "train", "resnet18", *DATA, "--output", "x"])
    with pytest.raises(SystemExit) as exit:
        main()
    captured = capsys.readouterr()
    assert exit.value.code == 1
    assert captured.err == f"zoo-slim: {error}\n" and not captured.out


def test_wrong_setting_is_one_line(capsys, monkeypatch):
    words = ["zoo-slim", "train", "resnet18", *DATA, "--output", "x", "--lr", "-1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "zoo-slim: learning_rate must be a finite number that is not negative, not -1.0\n"


def test_the_lowest_rate_of_fine_tuning_is_no_more_than_its_highest(called):
    invoke("run", "resnet18", "--sparsity-train", "--lr", "0.1", "--min-lr", "0.01")
    assert called.pop("run_all")[0][3] is None
    invoke("run", "resnet18", "--sparsity-train", "--fine-tune", "--lr", "0.1", "--min-lr", "0.01")
    (_, _, settings, tuning, *_), _ = called.pop("run_all")
    assert (settings.min_lr, tuning.min_lr, tuning.learning_rate) == (0.01, 0.001, 0.001)


def test_the_penalty_of_the_table_is_as_strong_with_few_epochs(called):
    script = load_script("train_table")
    for net, (strength, _) in script.NETWORKS.items():
        for epochs in (1, 12, 60):
            command = script.command_of(net, Path("here"), Path("runs"), epochs, ["--device", "cpu", "--amp", "no"])
            invoke(*command[command.index("run") :])
            settings = called.pop("run_all")[0][2]
            assert settings.sparsity * epochs == pytest.approx(strength) and settings.warmup_epochs < epochs
