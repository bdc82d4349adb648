import dataclasses
import json
import re
import shutil
import warnings

import pytest
import torch
from cli_helpers import NAME as TINY
from cli_helpers import load_script, register_tiny
from test_training_data import write_fashion, write_images
from torch import nn
from typer.testing import CliRunner

from zoo_slim import find_cliff, slim, slimming, trace
from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.checkpoint import origin_of, read_config, save
from zoo_slim.checkpoint._origin import part_tested
from zoo_slim.cli import app
from zoo_slim.loading import load
from zoo_slim.registry import registry
from zoo_slim.schema import write_schema
from zoo_slim.training import Settings, TrainingError, _pipeline, _run_all, evaluate, load_dataset
from zoo_slim.training._after_slimming import WAYS, each_way
from zoo_slim.training._pipeline import Data, finetune, measure, train
from zoo_slim.training._run_all import run_all
from zoo_slim.training._sources import compare_classes, example_of
from zoo_slim.training._state import digest_of

SETTINGS = Settings(epochs=1, batch_size=8, sparsity=1e-3, device="cpu", seed=1)
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
NAME, OPTIONS = "resnet18", {"stem": "cifar"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_fashion(root, train=16, test=16)
    return Data("fashion-mnist", root)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "base"
    saved = train(NAME, data, SETTINGS, folder, options=OPTIONS, command="zoo-slim train …")
    assert saved == folder / "model"
    return saved


def test_checkpoint_says_how_it_was_trained(trained, data):
    config = read_config(trained)
    assert config.architecture == NAME
    assert dict(config.options) == {"stem": "cifar", "num_classes": 10}
    assert config.classes[9] == "Ankle boot"
    dataset = data.load()
    assert config.input == {"size": [3, 32, 32], "mean": list(dataset.mean), "std": list(dataset.std)}
    model = load(f"local-dir:{trained}")
    assert config.metrics["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert config.metrics["macs"] > 10**8
    assert config.metrics["test_accuracy"] == evaluate(model, dataset)["accuracy"]
    assert config.training["command"] == "zoo-slim train …"
    assert (config.training["dataset"], config.training["seed"], config.training["epochs"]) == ("fashion-mnist", 1, 1)
    assert torch.__version__.startswith(config.training["versions"]["torch"])
    assert config.training["seconds_per_epoch"] > 0


@pytest.mark.parametrize("limit", [0, 5])
def test_checkpoint_says_how_much_was_tested(data, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(_pipeline, "fit", lambda *arguments, **keywords: [{"seconds": 1.0}])
    settings = dataclasses.replace(SETTINGS, limit=limit)
    config = read_config(train(NAME, data, settings, tmp_path, options=OPTIONS))
    found = config.training["evaluation"]
    assert (found["count"], found["of"]) == (limit or 16, 16)
    which = "5 of 16 test images" if limit else "every test image"
    assert found["images"] == f"{which} once, whole and unmirrored"
    assert part_tested(config.training) == ((5, 16) if limit else None)


def test_images_of_a_folder_are_as_large_as_the_checkpoint_says(tmp_path, monkeypatch):
    seen = []

    def look(model, dataset, *arguments, **keywords):
        seen.append(dataset.input_size)
        return [{"seconds": 1.0}]

    for module in (_pipeline, _run_all):
        monkeypatch.setattr(module, "fit", look)
    for split in ("train", "val"):
        write_images(tmp_path / "data", split, {"cat": 8, "dog": 8})
    register_tiny()
    folder = Data("image_folder", tmp_path / "data")
    base = train(TINY, dataclasses.replace(folder, size=40), SETTINGS, tmp_path / "base")
    macs = read_config(base).metrics["macs"]
    assert measure(base, folder, device="cpu")["macs"] == macs
    assert measure(base, dataclasses.replace(folder, size=48), device="cpu")["macs"] > macs
    assert read_config(finetune(base, folder, SETTINGS, tmp_path / "tuned")).input["size"] == [3, 40, 40]
    train(TINY, folder, SETTINGS, tmp_path / "again", start=base)
    run_all(None, folder, SETTINGS, SETTINGS, [0.5], tmp_path / "run", base=base)
    run_all(None, folder, SETTINGS, None, [], tmp_path / "on", start=base)
    finetune(base, dataclasses.replace(folder, size=48), SETTINGS, tmp_path / "larger")
    assert seen == [(3, 40, 40)] * 5 + [(3, 48, 48)]
    words = "slim", str(base), "--ratio", "0.5", "--dataset", "image_folder", "--data", str(folder.root)
    result = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "slim")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "resized to 46 pixels" in read_config(tmp_path / "slim").training["evaluation"]["images"]
    plain = tmp_path / "plain"
    save(registry().find(TINY).build(num_classes=2), plain, architecture=TINY, options={"num_classes": 2})
    assert measure(plain, folder, device="cpu")["macs"] > 20 * macs, "224 x 224 where no size is recorded"


def test_resuming_a_finished_run_saves_again(trained, data):
    before = load(f"local-dir:{trained}").state_dict()
    train(NAME, data, SETTINGS, trained.parent, options=OPTIONS, resume=True, command="zoo-slim train …")
    after = load(f"local-dir:{trained}").state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with pytest.raises(TrainingError, match="already holds a run"):
        train(NAME, data, SETTINGS, trained.parent, options=OPTIONS)


def test_resuming_with_another_source_is_refused(trained, data, tmp_path):
    finetune(trained, data, SETTINGS, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["model"]["architecture"] == NAME and described["model"]["options"]["stem"] == "cifar"
    assert described["dataset"]["input_size"] == [3, 32, 32]
    with pytest.raises(TrainingError, match="source_sha256"):
        finetune(tmp_path / "run" / "model", data, SETTINGS, tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match=r"options = .*zero_init_residual"):
        train(NAME, data, SETTINGS, trained.parent, options={**OPTIONS, "zero_init_residual": True}, resume=True)


def test_classes_must_fit(data, tmp_path):
    with pytest.raises(TrainingError, match="num_classes is 7, but fashion-mnist has 10 classes"):
        train(NAME, data, SETTINGS, tmp_path, options={"num_classes": 7})


def test_classes_are_compared_by_number_order_and_name(data):
    dataset = data.load()
    names = list(dataset.classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_classes(names, dataset)
        compare_classes((), dataset)
    with pytest.raises(TrainingError, match="the teacher tells 9 classes apart, fashion-mnist has 10"):
        compare_classes(names[1:], dataset, "teacher")
    swapped = [names[0], names[2], names[1], *names[3:]]
    with pytest.raises(TrainingError, match=r"class 1 of the model is 'Pullover', of fashion-mnist 'Trouser'.*order"):
        compare_classes(swapped, dataset)
    with pytest.warns(UserWarning, match="class 9 of the model is 'boot', of fashion-mnist 'Ankle boot'; is it"):
        compare_classes([*names[:-1], "boot"], dataset)


def test_the_classes_of_networks_and_teachers_are_compared(trained, data, tmp_path):
    dataset = data.load()
    turned = dataclasses.replace(dataset, classes=dataset.classes[::-1])
    with pytest.raises(TrainingError, match=r"of the model is 'T-shirt/top'.*another order"):
        measure(trained, turned)
    with pytest.raises(TrainingError, match=r"of the model is 'T-shirt/top'.*another order"):
        finetune(trained, turned, SETTINGS, tmp_path)
    with pytest.raises(TrainingError, match=r"of the teacher is 'T-shirt/top'.*another order"):
        train(NAME, turned, SETTINGS, tmp_path, options=OPTIONS, teacher=trained)


def test_finetuning_again_and_again_keeps_all_steps(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(_pipeline, "fit", lambda *arguments, **keywords: [{"seconds": 1.0}])
    source = trained
    for step in range(6):
        source = finetune(source, data, SETTINGS, tmp_path / str(step), command=f"step {step}")
    found = read_config(source).training
    assert found["command"] == "step 5"
    assert [step["command"] for step in found["before"]] == [
        "step 4", "step 3", "step 2", "step 1", "step 0", read_config(trained).training["command"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vit_b_16",
            {},
            "vit_b_16 does not take batches of 2 images of size 3x32x32 .fashion-mnist.: Wrong image height",
        ),
        ("inception_v3", {}, "inception_v3 does not take .*size"),
        ("timm/resnet18", {"in_chans": 1}, "timm/resnet18 does not take .* channels"),
    ],
)
def test_network_that_cannot_take_the_images_is_refused(data, tmp_path, name, options, message):
    with pytest.raises(TrainingError, match=message):
        train(name, data, SETTINGS, tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["foo", pytest.param("cuda", marks=NO_CUDA)])
def test_unknown_device_is_refused(trained, data, device):
    with pytest.raises(TrainingError, match=f"device .*{device}"):
        measure(trained, data, device=device)


def test_name_that_contradicts_the_checkpoint_is_refused(trained, data, tmp_path):
    for keywords in ({"base": trained}, {"start": trained}):
        with pytest.raises(TrainingError, match="holds a resnet18, but vgg11_bn was asked for"):
            run_all("vgg11_bn", data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", **keywords)
    with pytest.raises(TrainingError, match="holds a resnet18, but vgg11_bn was asked for"):
        measure(trained, data, architecture="vgg11_bn")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_says_what_is_trained_on(trained, data, tmp_path):
    summary = run_all(None, data, SETTINGS, None, [], tmp_path, start=trained)
    saved = read_config(summary["saved"])
    assert (saved.architecture, saved.options) == (NAME, read_config(trained).options)
    assert summary["architecture"] == NAME
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["model"]["source_sha256"] == digest_of(load(f"local-dir:{trained}").state_dict())
    with pytest.raises(TrainingError, match="nothing to train: name an architecture, or a trained checkpoint"):
        run_all(None, data, SETTINGS, None, [], tmp_path / "none")


def test_parts_of_the_fine_tuning_are_checked_before_training(data, tmp_path):
    tuning = dataclasses.replace(SETTINGS, batch_size=7, mixup=0.2)
    with pytest.raises(TrainingError, match=r"7 images a step .*mixup and cutmix need an even number"):
        run_all(NAME, data, SETTINGS, tuning, [0.5], tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()


def test_networks_that_could_not_be_saved_are_refused_before_training(data, tmp_path, monkeypatch):
    for module in (_pipeline, _run_all):
        monkeypatch.setattr(module, "fit", lambda *arguments, **keywords: pytest.fail("trained"))
    register_tiny()
    source = tmp_path / "start"
    save(registry().find(TINY).build(num_classes=12), source, architecture=TINY, options={"num_classes": 12})
    message = "start was built with num_classes=12, but fashion-mnist has 10 classes: finetune with --new-head, or "
    with pytest.raises(TrainingError, match=message):
        finetune(source, data, SETTINGS, tmp_path / "run")
    with pytest.raises(TrainingError, match=message):
        run_all(None, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", base=source)
    assert not (tmp_path / "run").exists() and measure(source, data, device="cpu")["count"] == 16


def test_a_base_is_tried_before_it_is_slimmed(data, tmp_path):
    register_tiny()
    save(registry().find(TINY).build(num_classes=3), tmp_path / "start", architecture=TINY, options={"num_classes": 3})
    with pytest.raises(TrainingError, match=r"start returns logits of shape \[2, 3\] .* has 10 classes"):
        run_all(None, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", base=tmp_path / "start")


def test_the_fine_tuning_is_shared_out_before_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(_pipeline, "fit", lambda *arguments, **keywords: pytest.fail("trained"))
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    tuning = dataclasses.replace(SETTINGS, batch_size=6)
    with pytest.raises(TrainingError, match="6 images cannot be shared out among 2 processes"):
        run_all(NAME, data, SETTINGS, tuning, [0.5], tmp_path / "run", options=OPTIONS)
    monkeypatch.undo()
    registry().register("tiny_flat", flat, input_size=(3, 32, 32))
    try:
        tuning = dataclasses.replace(SETTINGS, accumulate=8)
        with pytest.raises(TrainingError, match="tiny_flat cannot be trained on 1 image at a time"):
            run_all("tiny_flat", data, SETTINGS, tuning, [0.5], tmp_path / "run")
    finally:
        registry()._registered.pop("tiny_flat")
    assert not (tmp_path / "run").exists()


def flat(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.BatchNorm1d(4), nn.Linear(4, num_classes))


@pytest.mark.parametrize("ratio", [75, 1.0, -0.1, float("nan")])
def test_wrong_ratio_is_refused_before_training(data, tmp_path, ratio):
    with pytest.raises(TrainingError, match="0 <= ratio < 1"):
        run_all(NAME, data, SETTINGS, SETTINGS, [0.5, ratio], tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()


def test_auto_and_a_schema_exclude_each_other(data, tmp_path):
    with pytest.raises(TrainingError, match="the ratio auto follows"):
        run_all(NAME, data, SETTINGS, SETTINGS, ["auto"], tmp_path / "run", options=OPTIONS, schema="schema.json")
    assert not (tmp_path / "run").exists()


def test_wrong_group_ratios_are_refused_before_training(data, tmp_path):
    asked = {"options": OPTIONS, "group_ratios": {"layer9.*": 0.5}}
    with pytest.raises(SchemaError, match=r"no channel group is called 'layer9.\*'"):
        run_all(NAME, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", **asked)
    with pytest.raises(TrainingError, match="a schema file says the ratios of its groups itself"):
        run_all(NAME, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", **asked, schema="schema.json")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "schema.json"),
        (json.dumps({"format": "other"}), "schema.json"),
        ("vgg", "does not have"),
    ],
)
def test_wrong_schema_is_refused_before_training(data, tmp_path, content, message):
    file = tmp_path / "schema.json"
    if content == "vgg":
        vgg = registry().find("vgg11_bn")
        write_schema(trace(vgg.build(num_classes=10), vgg.example_input(size=32)), file)
    elif content is not None:
        file.write_text(content)
    for tuning in (SETTINGS, None):
        with pytest.raises(SchemaError, match=message):
            run_all(NAME, data, SETTINGS, tuning, [0.5], tmp_path / "run", options=OPTIONS, schema=file)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_all_in_one(trained, data, tmp_path):
    folder = tmp_path / "runs" / "low"
    tuning = Settings(epochs=1, batch_size=8, learning_rate=0.001, device="cpu")
    options = {
        "base": trained,
        "after_slimming": "both",
        "rounding": "eight",
        "group_ratios": {"layer1.*": 0.75},
        "distill": True,
        "dtype": "float16",
        "command": "zoo-slim run --data data",
    }
    summary = run_all(None, data, SETTINGS, tuning, [0.5], folder, **options)
    assert summary == json.loads((folder / "summary.json").read_text())
    slim = summary["variants"]["0.5"]
    assert summary["base"] == dict(read_config(trained).metrics)
    assert slim["params"] < summary["base"]["params"] and slim["macs"] < summary["base"]["macs"]
    assert set(slim["after_slimming"]) == {"plain", "folded", "recalibrated", "both"}
    assert slim["test_accuracy_before_finetuning"] == slim["after_slimming"]["both"]
    variant = folder / "model" / "pruned-0.5"
    assert summary["saved"] == str(variant)
    config = read_config(variant)
    assert config.stored_dtype == "float16" and config.training["evaluation"]["stored"] == "float16"
    for size in (256, 5):
        measured = measure(variant, data, batch_size=size)
        assert measured["accuracy"] == slim["test_accuracy"] and measured["params"] == slim["params"]
    origin = origin_of(load(f"local-dir:{variant}"))
    assert origin.variant == "0.5" and origin.base == summary["base"] and origin.result is not None
    assert origin.training["teacher_sha256"] == digest_of(load(f"local-dir:{trained}").state_dict())

    assert run_all(None, data, SETTINGS, tuning, [0.5], folder, **options, resume=True) == summary
    with pytest.raises(TrainingError, match="after_slimming = 'both', now it is None"):
        run_all(None, data, SETTINGS, tuning, [0.5], folder, **{**options, "after_slimming": "plain"}, resume=True)
    with pytest.raises(TrainingError, match="teacher_sha256"):
        run_all(None, data, SETTINGS, tuning, [0.5], folder, **{**options, "distill": False}, resume=True)
    (slimming,) = origin.training["before"]
    assert (slimming["ratio"], slimming["criterion"], slimming["after_slimming"]) == (0.5, "bn_scale", "both")
    assert (slimming["rounding"], slimming["group_ratios"]) == ("eight", ["layer1.*=0.75"])
    kept = origin.result.kept["layer1.0.conv1.weight"]
    assert len(kept[0]) == 16  # of 64
    assert slimming["recalibrated"] == {"dataset": "fashion-mnist", "batches": 1, "batch_size": 16, "seed": 0}
    assert slimming["folded"]["layers"] > 0
    assert origin.training["base"] == read_config(trained).training
    tuned = finetune(variant, data, tuning, tmp_path / "runs" / "more", teacher=trained, command="zoo-slim finetune x")
    again = origin_of(load(f"local-dir:{tuned}"))
    assert again.result == origin.result and again.base == origin.base
    last = {key: value for key, value in origin.training.items() if key not in ("before", "base")}
    assert again.training["before"] == [last, slimming] and again.training["epochs"] == 1
    assert again.training["base"] == origin.training["base"]
    assert again.metrics["after_slimming"] == slim["after_slimming"]

    second = run_all(None, data, SETTINGS, tuning, [0.25], tmp_path / "second", base=tuned)  # of a slim network
    twice = origin_of(load(f"local-dir:{second['saved']}"))
    assert second["base"] == again.metrics and twice.base == origin.base and twice.variant == "0.5-0.25"
    assert len(twice.result.kept["layer1.0.conv1.weight"][0]) < 16
    assert twice.training["base"]["before"] == [last, slimming]

    table = load_script("table")
    page = table.page(tmp_path / "runs", "fashion-mnist", 16)
    row = next(line for line in page.splitlines() if line.startswith("| resnet18 | 0.5 |")).split(" | ")
    assert [f"{100 * slim['after_slimming'][way]:.2f}" for way in WAYS] == row[3:7]
    assert f"{100 * again.metrics['test_accuracy']:.2f}" == row[7] and "94.80" in row
    assert re.fullmatch(r"1, \d+ \+ 1, \d+", row[13])
    assert "| resnet18 | not trained |" in page and "| vgg11_bn | not trained |" in page
    assert "    zoo-slim run --data data\n    zoo-slim finetune x\n" in page
    assert "| resnet18 | 0.5 |" not in table.page(tmp_path / "runs")


def test_the_ratio_of_auto_is_found_out(trained, data):
    whole, dataset = load(f"local-dir:{trained}"), data.load()
    with torch.no_grad():
        whole.layer1[0].bn1.weight[:20] = 0
        whole.layer2[0].bn1.weight[:50] = 0
    _, result, share = _run_all._slim(whole, "auto", None, dataset)
    assert share == find_cliff(whole, example_input=example_of(dataset)).ratio > 0
    assert result == _run_all._slim(whole, share, None, dataset)[1]


def test_channels_kept_are_rounded(trained, data):
    whole, dataset = load(f"local-dir:{trained}"), data.load()
    network, result, _ = _run_all._slim(whole, 0.4, None, dataset, "eight")
    widths = [norm.num_features for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert result.kept and all(width % 8 == 0 for width in widths)
    plain = _run_all._slim(whole, 0.4, None, dataset)[0]
    assert any(norm.num_features % 8 for norm in plain.modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_rounding_is_checked_before_anything_is_trained(data, tmp_path):
    with pytest.raises(SlimmingError, match="rounding 'ten' is unknown"):
        run_all(NAME, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", rounding="ten")
    with pytest.raises(TrainingError, match="a schema file says its rounding itself"):
        run_all(NAME, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", rounding="eight", schema="schema.json")
    assert not (tmp_path / "run").exists()


def test_a_way_that_cannot_be_had_ends_the_run(trained, data, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise SlimmingError("constants vary")

    monkeypatch.setattr(slimming, "fold_constants", refuse)
    with pytest.raises(TrainingError, match="cannot be used both after slimming: constants vary"):
        run_all(None, data, SETTINGS, SETTINGS, [0.5], tmp_path, base=trained, after_slimming="both")


def test_a_data_set_that_lacks_something_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="str is no data set: it has no name, classes"):
        train(NAME, "cifar10", SETTINGS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_way_that_cannot_be_had_says_why(data):
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    dataset = data.load()
    plain, result = slim(whole, ratio=0.5, criterion="l1", example_input=example_of(dataset))
    found = {each.way: each for each in each_way(whole, plain, result, dataset, SETTINGS)}
    assert set(found) == set(WAYS) and found["plain"].network is plain
    assert found["recalibrated"].network is None and "no BatchNorm" in found["recalibrated"].reason
    assert found["both"].network is None and found["both"].reason


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"after_slimming": "mended"}, "plain, folded, recalib"),
        ({"dtype": "int8"}, "can be saved as float32"),
    ],
)
def test_wrong_ways_are_refused_before_training(data, tmp_path, given, message):
    with pytest.raises(TrainingError, match=message):
        run_all(NAME, data, SETTINGS, SETTINGS, [0.5], tmp_path / "run", options=OPTIONS, **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_on_the_command_line(data, tmp_path):
    words = f"run --net resnet18 --dataset fashion-mnist --data {data.root} --save_dir {tmp_path} --sparsity_train"
    more = "--epochs 1 --fine_tune --fine_tune_epochs 1 --prune_ratio 0.75 --batch_size 8 --device cpu"
    result = CliRunner().invoke(app, [*words.split(), *more.split()], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"saved {tmp_path / 'model' / 'pruned-0.75'}\n")
    assert {"config.json", "model.safetensors", "pruned-0.75"} <= {file.name for file in (tmp_path / "model").iterdir()}
    tested = CliRunner().invoke(
        app, ["eval", str(tmp_path / "model"), "--dataset", "fashion-mnist", "--data", str(data.root), "--json"]
    )
    count = load_dataset("fashion-mnist", data.root).test_count
    assert json.loads(tested.stdout)["count"] == count


def test_checkpoints_of_no_run_are_not_replaced(trained, data, tmp_path):
    own = tmp_path / "net" / "model"
    shutil.copytree(trained, own)
    before = (own / "config.json").read_bytes()
    for call in (
        lambda: finetune(own, data, SETTINGS, tmp_path / "net"),
        lambda: train(NAME, data, SETTINGS, tmp_path / "net", options=OPTIONS),
    ):
        with pytest.raises(TrainingError, match="net/model exists already, and is of no run"):
            call()
    (own / "pruned-0.5").mkdir()
    with pytest.raises(TrainingError, match=r"pruned-0\.5 exists already, and is of no run"):
        run_all(None, data, SETTINGS, SETTINGS, [0.75, 0.5], tmp_path / "net", base=own)
    assert (own / "config.json").read_bytes() == before and not (tmp_path / "net" / "finetune-0.75").exists()


def test_images_of_a_folder_are_normalised_as_the_network_expects(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 1})
    folder = Data("image_folder", tmp_path)
    plain = folder.load()
    given = folder.load({"size": [3, 40, 40], "mean": [0.5] * 3, "std": [0.25] * 3})
    assert (given.mean, given.std, given.input_size) == ((0.5,) * 3, (0.25,) * 3, (3, 40, 40))
    (own, _), (images, _) = (
        next(iter(found.test_batches(1, device=torch.device("cpu"))))
        for found in (folder.load({"size": [3, 40, 40]}), given)
    )
    pixels = own * torch.tensor(plain.std).view(3, 1, 1) + torch.tensor(plain.mean).view(3, 1, 1)
    torch.testing.assert_close(images, (pixels - 0.5) / 0.25)


def test_a_network_without_scales_is_told_before_it_is_trained(data, tmp_path):
    def plain(num_classes: int = 10):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, num_classes))

    registry().register("plain_perceptron", plain, input_size=(3, 32, 32))
    try:
        settings = dataclasses.replace(SETTINGS, sparsity=0.0)
        with pytest.raises(TrainingError, match=r"no BatchNorm scales to slim by.*--criterion l2"):
            run_all("plain_perceptron", data, settings, settings, [0.5], tmp_path / "run")
        assert not (tmp_path / "run").exists()
    finally:
        registry()._registered.pop("plain_perceptron")


def test_images_in_memory_are_normalised_as_the_network_expects(tmp_path, data):
    own, expected = data.load(), {"size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    given = data.load(expected)
    assert (given.mean, given.std) == ((0.5,) * 3, (0.25,) * 3) != (own.mean, own.std)
    register_tiny()
    torch.manual_seed(0)
    model = registry().find(TINY).build(num_classes=10).eval()
    saved = save(model, tmp_path / "net", architecture=TINY, options={"num_classes": 10}, input=expected)
    assert measure(saved, data, device="cpu")["loss"] == pytest.approx(evaluate(model, given)["loss"])
    assert evaluate(model, own)["loss"] != pytest.approx(evaluate(model, given)["loss"])


def test_training_on_from_a_checkpoint_says_what_was_before(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(_pipeline, "fit", lambda *arguments, **keywords: [{"seconds": 1.0}])
    settings = dataclasses.replace(SETTINGS, epochs=3)
    on = read_config(train(NAME, data, settings, tmp_path / "on", options=OPTIONS, start=trained)).training
    tuned = read_config(finetune(trained, data, settings, tmp_path / "tuned")).training
    assert on["before"] == tuned["before"] and [on["epochs"], *(step["epochs"] for step in on["before"])] == [3, 1]


def test_a_summary_compares_accuracies_of_the_same_images(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(_run_all, "fit", lambda *arguments, **keywords: [{"seconds": 1.0}])
    settings = dataclasses.replace(SETTINGS, limit=5)
    summary = run_all(None, data, settings, settings, [0.5], tmp_path, base=trained)
    expected = evaluate(load(f"local-dir:{trained}"), data.load().limited(5))["accuracy"]
    assert expected != read_config(trained).metrics["test_accuracy"]
    assert summary["base"]["test_accuracy"] == read_config(summary["saved"]).base["test_accuracy"] == expected
