"""slim, schema, verify and export."""

import hashlib
import json

import numpy as np
import pytest
import torch
from cli_helpers import (
    CLASSES,
    INPUT,
    NAME,
    Segmenter,
    build_tiny,
    register_tiny,
    run,
    run_exported,
    save_base,
    save_picture,
    save_slim,
)
from torch import nn

from zoo_slim import SlimPruner, checkpoint, loading, slim, trace
from zoo_slim.cli import _check, _export
from zoo_slim.cli._channels import kept_per_group, removed
from zoo_slim.registry import registry
from zoo_slim.schema import dumps, read_schema, write_schema
from zoo_slim.slimming import result_from_keep

ORIGINAL = {
    "modules": [
        {"name": "conv1", "prev_bn": "", "next_bn": "bn1"},
        {"name": "conv2", "prev_bn": "bn1", "next_bn": "bn2"},
        {"name": "fc", "prev_bn": "bn2", "next_bn": ""},
    ]
}


@pytest.fixture
def zoo_slim(capsys, monkeypatch, tmp_path):
    register_tiny()
    monkeypatch.setenv(loading.NAMESPACE, "")
    monkeypatch.chdir(tmp_path)
    return lambda *words: run(capsys, monkeypatch, *words)


@pytest.fixture
def base(tmp_path):
    save_base(tmp_path / "base")
    return tmp_path / "base"


def test_slim_saves_a_variant(zoo_slim, base):
    ran = zoo_slim("slim", "base", "--ratio", "0.5")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("saved base/pruned-0.5\n") and "conv1" in ran.out and "of 8" in ran.out
    model = loading.load(f"local-dir:{base}", "0.5")
    origin = checkpoint.origin_of(model)
    kept = [len(origin.result.kept[f"bn{i}.weight"][0]) for i in (1, 2)]
    assert sum(kept) == 8
    assert origin.metrics["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert origin.base["params"] == 851 and origin.base["test_accuracy"] == 0.9 and origin.base["macs"] > 0
    assert origin.base["file_bytes"] == (base / "model.safetensors").stat().st_size
    assert origin.training["criterion"] == "bn_scale" and origin.training["base"]["dataset"] == "pictures"
    assert origin.classes == ("ankle boot", "bag", "coat")
    for number, count in zip((1, 2), kept, strict=True):
        assert f"conv{number}" in ran.out and f"{count} of 8" in ran.out


def test_slim_meets_budgets(zoo_slim, base):
    assert zoo_slim("slim", "base", "--params", "0.5", "--output", "half").code == 0
    config = checkpoint.read_config("half")
    assert config.variant == "params-0.5" and config.metrics["params"] <= 851 / 2
    assert zoo_slim("slim", base, "--macs", "40k", "--variant", "small", "--rounding", "two_pow").code == 0
    config = checkpoint.read_config(base / "pruned-small")
    assert config.metrics["macs"] <= 40_000
    result = checkpoint.origin_of(loading.load(f"local-dir:{base}", "small")).result
    assert all(len(result.kept[f"bn{i}.weight"][0]) in (1, 2, 4) for i in (1, 2))


def test_slim_by_ratios_of_groups(zoo_slim, base):
    ratios = ("--group-ratio", "conv*=0.5", "--group-ratio", "conv1=0.25")
    assert zoo_slim("slim", "base", *ratios).code == 0
    origin = checkpoint.origin_of(loading.load(f"local-dir:{base}", "groups"))
    assert [len(origin.result.kept[f"bn{i}.weight"][0]) for i in (1, 2)] == [6, 4]
    assert origin.training["group_ratios"] == ["conv*=0.5", "conv1=0.25"] and "ratio" not in origin.training
    said = zoo_slim("info", "base", "--pruned", "groups").out
    assert "group_ratios: conv*=0.5, conv1=0.25" in said
    assert zoo_slim("slim", "base", *ratios, *ratios[:2], "--variant", "last").code == 0  # the last that fits counts
    result = checkpoint.origin_of(loading.load(f"local-dir:{base}", "last")).result
    assert [len(result.kept[f"bn{i}.weight"][0]) for i in (1, 2)] == [4, 4]
    assert zoo_slim("slim", "base", "--ratio", "0.5", "--group-ratio", "conv1=0").code == 0
    origin = checkpoint.origin_of(loading.load(f"local-dir:{base}", "0.5"))
    assert "bn1.weight" not in origin.result.kept and len(origin.result.kept["bn2.weight"][0]) == 4


@pytest.mark.filterwarnings("ignore:ratio 0.9 of this TinyNet")
def test_slim_keeps_a_minimum_and_leaves_weights_out(zoo_slim, base):
    assert zoo_slim("slim", "base", "--ratio", "0.9", "--minimum", "3", "--no-weights").code == 0
    assert not (base / "pruned-0.9" / "model.safetensors").exists()
    result = checkpoint.origin_of(loading.load(f"local-dir:{base}", "0.9")).result
    assert [len(result.kept[f"bn{i}.weight"][0]) for i in (1, 2)] == [3, 3]


def test_slim_says_what_it_did_not_do(zoo_slim, base):
    with pytest.warns(UserWarning, match=r"removed none of the channels, not 50 %: 2 of 2 groups are at their minimum"):
        assert zoo_slim("slim", "base", "--ratio", "0.5", "--minimum", "1000").code == 0
    ran = zoo_slim("slim", "base", "--ratio", "0.5", "--remove-blocks", "dead")
    assert ran.code == 0 and "\nno block was taken out\n" in ran.out


def test_slim_by_a_schema(zoo_slim, base, tmp_path):
    file = tmp_path / "schema.json"
    write_schema(trace(build_tiny(), torch.rand(2, 3, 32, 32)), file)
    document = json.loads(file.read_text())
    document["groups"]["conv1"]["ratio"] = 0.25
    file.write_text(json.dumps(document))
    assert zoo_slim("slim", "base", "--ratio", "0.5", "--schema", file).code == 0
    result = checkpoint.origin_of(loading.load(f"local-dir:{base}", "0.5")).result
    assert [len(result.kept[f"bn{i}.weight"][0]) for i in (1, 2)] == [6, 4]


@pytest.mark.parametrize("extra", [{}, {"fixed_bn_ratio": [{"name": "bn1", "ratio": 0.25}]}])
def test_slim_by_an_original_schema_follows_its_rules(zoo_slim, base, tmp_path, extra):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({**ORIGINAL, **extra}))
    model = checkpoint.load_folder(base)
    with torch.no_grad():
        model.bn1.weight.fill_(0.01)  # all below the threshold: the original keeps two of them, our minimum one
        model.bn2.weight.copy_(torch.linspace(0.1, 1, 8))
    checkpoint.save(model, tmp_path / "uneven")
    pruner = SlimPruner(model, file)
    pruner.run(prune_ratio=0.6)
    ran = zoo_slim("slim", "uneven", "--ratio", "0.6", "--schema", file)
    assert ran.code == 0 and "of 8" in ran.out
    slimmed = loading.load(f"local-dir:{tmp_path / 'uneven'}", "0.6")
    kept = checkpoint.origin_of(slimmed).result.kept
    assert kept.keys() == pruner.result.kept.keys()
    for name, axes in pruner.result.kept.items():
        assert all(torch.equal(kept[name][axis], index) for axis, index in axes.items())
    # the threshold is the tenth of the 16 scales, and only what is greater stays
    assert [len(kept[f"bn{i}.weight"][0]) for i in (1, 2)] == [6 if extra else 2, 6]
    assert torch.equal(slimmed.bn2.weight, pruner.pruned_model.bn2.weight)


def test_an_original_schema_that_breaks_the_network_is_refused(zoo_slim, base, tmp_path):
    broken = {"modules": [*ORIGINAL["modules"][:2], {"name": "fc", "prev_bn": "", "next_bn": ""}]}
    (tmp_path / "schema.json").write_text(json.dumps(broken))
    ran = zoo_slim("slim", "base", "--ratio", "0.5", "--schema", "schema.json")
    assert (ran.code, ran.out) == (1, "") and "Traceback" not in ran.err and ran.err.startswith("zoo-slim: ")
    assert sorted(path.name for path in base.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--params", "0.5"), "--params"),
        (("--macs", "0.5"), "--macs"),
        (("--ratio", "0.5", "--criterion", "bn_scale"), "--criterion"),
        (("--ratio", "0.5", "--group-ratio", "conv1=0.5"), "--group-ratio"),
        (("--ratio", "0.5", "--minimum", "3", "--rounding", "eight"), "--minimum and --rounding"),
    ],
)
def test_an_original_schema_takes_the_ratio_alone(zoo_slim, base, tmp_path, words, named):
    (tmp_path / "schema.json").write_text(json.dumps(ORIGINAL))
    ran = zoo_slim("slim", "base", "--schema", "schema.json", *words)
    assert (ran.code, ran.out) == (2, "") and f"{named} cannot be given" in " ".join(ran.err.split())


def test_slim_measures_accuracy(zoo_slim, tmp_path):
    from test_training_data import write_fashion

    write_fashion(tmp_path / "data", train=16, test=10)
    register_tiny()
    torch.manual_seed(0)
    checkpoint.save(build_tiny(num_classes=10), tmp_path / "ten", architecture=NAME, options={"num_classes": 10})
    words = "slim", "ten", "--ratio", "0.25", "--criterion", "l1", "--dataset", "fashion-mnist", "--data", "data"
    ran = zoo_slim(*words)
    assert ran.code == 0 and "before fine-tuning" in ran.out
    from zoo_slim.training import evaluate, load_dataset

    data = load_dataset("fashion-mnist", tmp_path / "data")
    checkpoint.save(
        build_tiny(num_classes=10), tmp_path / "turned", architecture=NAME, options={"num_classes": 10},
        classes=data.classes[::-1],
    )  # fmt: skip
    refused = zoo_slim("slim", "turned", *words[2:])
    assert refused.code == 1 and "the same classes in another order" in " ".join(refused.err.split())

    model = loading.load(f"local-dir:{tmp_path / 'ten'}", "0.25")
    expected = evaluate(model, data)["accuracy"]
    origin = checkpoint.origin_of(model)
    assert origin.metrics["test_accuracy"] == expected
    assert origin.training["dataset"] == "fashion-mnist"
    assert (origin.training["evaluation"]["count"], origin.training["evaluation"]["of"]) == (10, 10)


@pytest.mark.parametrize(
    ("training", "shown"),
    [
        ({"dataset": "fashion-mnist", "evaluation": {"count": 10}}, True),
        ({"dataset": "fashion-mnist", "evaluation": {"count": 10, "of": 10}}, True),
        ({"dataset": "fashion-mnist", "evaluation": {"count": 4, "of": 10}}, False),
        ({"dataset": "mnist", "evaluation": {"count": 10}}, False),
        ({"dataset": "fashion-mnist"}, False),
    ],
)
def test_slim_shows_accuracies_of_the_same_images_beside_each_other(zoo_slim, tmp_path, training, shown):
    from test_training_data import write_fashion

    write_fashion(tmp_path / "data", train=16, test=10)
    checkpoint.save(
        build_tiny(num_classes=10), tmp_path / "ten", architecture=NAME, options={"num_classes": 10},
        metrics={"test_accuracy": 0.6789}, training=training,
    )  # fmt: skip
    ran = zoo_slim("slim", "ten", "--ratio", "0.25", "--fold", "--dataset", "fashion_mnist", "--data", "data")
    rows = [line for line in ran.out.splitlines() if line.split()[:2] == ["test", "accuracy"]]
    assert len(rows) == 2 and all(("67.89 %" in row, "—" in row) == (shown, not shown) for row in rows)
    origin = checkpoint.origin_of(loading.load(f"local-dir:{tmp_path / 'ten'}", "0.25"))
    assert origin.base["test_accuracy"] == 0.6789 and origin.training["dataset"] == "fashion-mnist"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "give exactly one of --ratio, --params and --macs, not none"),
        (("--ratio", "0.5", "--macs", "0.5"), 2, "not --ratio and --macs"),
        (("--ratio", "1.5"), 1, "ratio 1.5 is not a share"),
        (("--ratio", "nan"), 1, "ratio nan is not a share"),
        (("--ratio", "-0.1"), 1, "ratio -0.1 is not a share"),
        (("--ratio", "0.5", "--picture", "base.png"), 1, "base.png: is a folder"),
        (("--params", "many"), 2, "--params takes a number"),
        (("--params", "2"), 1, "or let whole residual blocks go (remove_blocks='needed', --remove-blocks"),
        (
            ("--ratio", "0.5", "--output", "base/config.json/x"),
            1,
            "base/config.json: is no folder that x can be",
        ),
        (("--ratio", "0.5", "--minimum", "few"), 2, "--minimum takes a number"),
        *[
            (("--ratio", "0.5", "--minimum", text), 2, "--minimum takes a number")
            for text in ("nan", "inf", "-inf", "-5", "-0.1", "1.5", "1e3")
        ],
        (("--ratio", "0.5", "--criterion", "luck"), 1, "choose one of"),
        (("--ratio", "0.5", "--rounding", "three"), 1, "rounding 'three' is unknown"),
        (("--group-ratio", "conv1=0"), 2, "or say what goes with --group-ratio or --remove-blocks"),
        (("--ratio", "0.5", "--group-ratio", "conv1"), 2, "--group-ratio takes NAME=SHARE"),
        (("--ratio", "0.5", "--group-ratio", "conv1=half"), 2, "not 'conv1=half'"),
        (("--ratio", "0.5", "--group-ratio", "=0.5"), 2, "not '=0.5'"),
        (("--ratio", "0.5", "--group-ratio", "conv9=0.5"), 1, "no channel group is called 'conv9': there are conv1,"),
        (("--ratio", "0.5", "--group-ratio", "conv1=2"), 1, "the ratio 2.0 of group 'conv1' is not a share"),
        (("--ratio", "0.5", "--schema", "nowhere.json"), 1, "nowhere.json"),
        (("--ratio", "0.5", "--variant", "../up"), 1, "--variant"),
        (("--ratio", "0.5", "--output", "base"), 1, "exists already"),
        (("--ratio", "0.5", "--dataset", "mnist"), 2, "belong together"),
        (("--ratio", "0.5", "--dataset", "mnist", "--data", "nowhere"), 1, "no mnist in nowhere"),
    ],
)
def test_slim_refuses(zoo_slim, base, words, code, message):
    base.with_suffix(".png").mkdir()
    ran = zoo_slim("slim", "base", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split()) and "Traceback" not in ran.err
    assert sorted(path.name for path in base.iterdir()) == ["config.json", "model.safetensors"]


def test_a_variant_is_slimmed_further(zoo_slim, tmp_path):
    once = save_slim(tmp_path / "both")
    ran = zoo_slim("slim", "both", "--pruned", "0.5", "--ratio", "0.25")
    assert (ran.code, ran.err) == (0, "") and ran.out.endswith("saved both/pruned-0.5-0.25\n")
    twice = loading.load(f"local-dir:{tmp_path / 'both'}", "0.5-0.25")
    images = torch.rand(2, 3, 32, 32)
    expected, step = slim(once, ratio=0.25, example_input=images)
    assert torch.equal(twice(images), expected.eval()(images))
    origin, before = checkpoint.origin_of(twice), checkpoint.origin_of(once)
    assert origin.result == before.result.then(step)
    kept = [len(origin.result.kept[f"bn{i}.weight"][0]) for i in (1, 2)]
    assert sum(kept) == 6 and origin.metrics["params"] < before.metrics["params"]
    assert origin.base == before.base  # of the network that both were made from
    assert origin.training["ratio"] == 0.25 and origin.training["base"] == before.training
    assert "0.875" in str(before.metrics) and "test_accuracy" not in origin.metrics

    assert checkpoint.read_config(tmp_path / "both" / "pruned-0.5-0.25").stored_dtype == "float16"  # as the first one

    for words in (("both/pruned-0.5",), ("both/pruned-0.5", "--pruned", "0.5")):
        ran = zoo_slim("slim", *words, "--ratio", "0.25")
        assert ran.code == 1 and "is slim itself and holds no variants; say with --output" in ran.err
    ran = zoo_slim("slim", "both", "--pruned", "0.5", "--ratio", "0.125", "--no-weights")
    assert ran.code == 2 and "leave out --no-weights" in ran.err
    assert zoo_slim("slim", "both/pruned-0.5", "--ratio", "0.25", "--output", "again").code == 0
    again = loading.load(f"local-dir:{tmp_path / 'again'}")
    assert checkpoint.origin_of(again).variant == "0.5-0.25" and torch.equal(again(images), twice(images))


def test_a_tag_that_would_be_too_long_is_refused_before_slimming(zoo_slim, base, monkeypatch):
    assert zoo_slim("slim", "base", "--ratio", "0.5", "--variant", "x" * 60).code == 0
    monkeypatch.setattr("zoo_slim.slim", None)
    ran = zoo_slim("slim", "base", "--pruned", "x" * 60, "--ratio", "0.25")
    assert ran.code == 1 and "'--variant': expected a tag of at most 64 letters" in ran.err and "x-0.25" in ran.err


def test_a_variant_of_a_base_elsewhere_is_slimmed_further(zoo_slim, base, tmp_path, monkeypatch):
    assert zoo_slim("slim", "base", "--ratio", "0.5").code == 0
    model, file = loading.load(f"local-dir:{base}", "0.5"), base / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    elsewhere = checkpoint.BaseWeights("me/base", "a" * 40, "model.safetensors", digest, file.stat().st_size)
    checkpoint.save(model, tmp_path / "cut" / "pruned-0.5", base_weights=elsewhere, base_file=file)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "fetch_base", lambda *place: file)
        assert zoo_slim("slim", "cut", "--pruned", "0.5", "--ratio", "0.25").code == 0
    images = torch.rand(2, 3, 32, 32)
    again = loading.load(f"local-dir:{tmp_path / 'cut'}", "0.5-0.25")
    assert torch.equal(again(images), slim(model, ratio=0.25, example_input=images)[0].eval()(images))


def test_a_bundled_variant_is_slimmed_further(zoo_slim, tmp_path):
    assert zoo_slim("slim", "resnet18", "--pruned", "0.75", "--ratio", "0.3").code == 0
    config = checkpoint.read_config(tmp_path / "resnet18" / "pruned-0.75-0.3")
    first = loading.load("resnet18", "0.75")
    assert config.variant == "0.75-0.3" and config.base == checkpoint.origin_of(first).base
    assert config.metrics["params"] < 450_000 and config.files["model.safetensors"].bytes < 1_000_000
    result = checkpoint.origin_of(loading.load("local-dir:resnet18", "0.75-0.3")).result
    assert set(result.kept["conv1.weight"][0].tolist()) <= set(
        checkpoint.origin_of(first).result.kept["conv1.weight"][0].tolist()
    )


def test_a_variant_without_weights_is_slimmed_further(zoo_slim, base):
    assert zoo_slim("slim", "base", "--ratio", "0.5", "--no-weights").code == 0
    assert zoo_slim("slim", "base", "--pruned", "0.5", "--ratio", "0.25", "--no-weights").code == 0
    assert sorted(path.name for path in (base / "pruned-0.5-0.25").iterdir()) == ["config.json", "pruning.safetensors"]
    once, twice = (loading.load(f"local-dir:{base}", tag) for tag in ("0.5", "0.5-0.25"))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(twice(images), slim(once, ratio=0.25, example_input=images)[0].eval()(images))


def test_channels_removed_are_counted():
    model = build_tiny()
    schema = trace(model, torch.rand(2, 3, 32, 32))
    keep = np.ones(schema.channels, dtype=bool)
    keep[[0, 3, 9]] = False
    gone = removed(schema, model, result_from_keep(model, schema, keep))
    assert np.array_equal(gone, ~keep)
    assert kept_per_group(schema, gone) == {"conv1": (6, 8), "conv2": (7, 8)}


def test_schema_is_printed_alone(zoo_slim, tmp_path):
    ran = zoo_slim("schema", NAME, "--option", "width=4")
    document = json.loads(ran.out)
    assert ran.code == 0 and document["architecture"] == NAME
    assert {name: group["width"] for name, group in document["groups"].items()} == {"conv1": 4, "conv2": 4}
    assert "traced, 2 groups, 8 channels" in ran.err
    ran = zoo_slim("schema", NAME, "--output", "tiny.json")
    assert ran.out == "" and "saved tiny.json" in ran.err
    assert read_schema(tmp_path / "tiny.json").channels == 16


def test_schema_from_the_original_format(zoo_slim, tmp_path):
    (tmp_path / "original.json").write_text(json.dumps(ORIGINAL))
    ran = zoo_slim("schema", NAME, "--from-original", "original.json")
    document = json.loads(ran.out)
    assert ran.code == 0 and "converted" in ran.err
    assert document["layers"]["conv2"] == {"in": "bn1", "out": "bn2"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing",), 1, "no architecture is called"),
        ((NAME, "--option", "depth=3"), 1, "no option 'depth'; its options are: num_classes, width"),
        ((NAME, "--option", "width"), 2, "key=value"),
        ((NAME, "--option", "width=-1"), 1, "width"),
        ((NAME, "--from-original", "nowhere.json"), 1, "nowhere.json"),
        ((NAME, "--from-original", "x.json", "--trace"), 2, "contradict"),
        ((NAME, "--output", "nowhere/x.json"), 1, "zoo-slim: nowhere/x.json: No such file or directory"),
        ((NAME, "--output", "."), 1, "zoo-slim: .: is a folder; name a file"),
        ((NAME, "--output", "/"), 1, "zoo-slim: /: is a folder; name a file"),
        ((NAME, "--output", "/dev/null"), 1, "zoo-slim: /dev/null: is no regular file"),
    ],
)
def test_schema_refuses(zoo_slim, tmp_path, words, code, message):
    ran = zoo_slim("schema", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split()) and "Traceback" not in ran.err
    assert not list(tmp_path.iterdir())


def test_verify(zoo_slim, tmp_path):
    ran = zoo_slim("verify", NAME, "tiny_cli*", "--criterion", "bn_scale", "--jsonl", "found.jsonl")
    assert ran.code == 0 and "1 of 1 exact" in ran.out
    (report,) = map(json.loads, (tmp_path / "found.jsonl").read_text().splitlines())
    assert report["name"] == NAME and report["exact"] and report["training_step"] == "ok"
    assert report["max_relative_difference"] < 1e-12
    assert (report["removable"], report["removed"]) == (16, 8)
    assert report["params"] == 851 > report["slim_params"] and report["input"] == [3, 32, 32]


def test_verify_takes_options_and_size(zoo_slim, tmp_path):
    ran = zoo_slim("verify", NAME, "--option", "width=4", "--size", "20", "--ratio", "0.25", "--jsonl", "x.jsonl")
    report = json.loads((tmp_path / "x.jsonl").read_text())
    assert ran.code == 0
    assert (report["removable"], report["removed"], report["input"]) == (8, 2, [3, 20, 20])


def test_options_say_how_many_channels_images_have(zoo_slim):
    ran = zoo_slim("schema", "timm/resnet18", "--option", "in_chans=1")
    assert ran.code == 0 and len(json.loads(ran.out)["groups"]) == 12
    assert zoo_slim("verify", "timm/resnet18", "--option", "in_chans=1", "--size", "32").code == 0


def test_verify_a_variant(zoo_slim, tmp_path):
    save_slim(tmp_path / "model")
    ran = zoo_slim("verify", "model", "--pruned", "0.5", "--jsonl", "x.jsonl")
    report = json.loads((tmp_path / "x.jsonl").read_text())
    assert ran.code == 0 and report["exact"] and report["removed"] == 8
    ran = zoo_slim("verify", "model", "--pruned", "0.5", "--ratio", "0.9", "--criterion", "l1")
    assert ran.code == 2 and "--pruned contradicts --ratio and --criterion" in " ".join(ran.err.split())


def test_verify_fails_where_slimming_is_wrong(zoo_slim, monkeypatch, tmp_path):
    def wrong(model, result, example, *, trace):
        shifted = {name: {axis: (index + 1) % 8 for axis, index in axes.items()} for name, axes in result.kept.items()}
        only_one = {**result.kept, "bn1.bias": {0: shifted["bn1.bias"][0].sort().values}}
        return right(model, type(result)(only_one, result.attributes), example, trace=trace)

    right = _check.verify
    monkeypatch.setattr(_check, "verify", wrong)
    ran = zoo_slim("verify", NAME, "--jsonl", "x.jsonl")
    assert ran.code == 1 and "NOT EXACT" in ran.out and "0 of 1 exact" in ran.out
    assert json.loads((tmp_path / "x.jsonl").read_text())["ok"] is False


def test_verify_falls_back_to_the_networks_own_size(zoo_slim, tmp_path, monkeypatch):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4 * 14 * 14, 2)

        def forward(self, images):
            return self.fc(self.conv(images).relu().flatten(1))

    register = registry().register
    register("tiny_fixed_net", Fixed, input_size=(3, 112, 112))
    try:
        ran = zoo_slim("verify", "tiny_fixed_net", "--jsonl", "x.jsonl")
        assert ran.code == 0
        assert json.loads((tmp_path / "x.jsonl").read_text())["input"] == [3, 112, 112]
        ran = zoo_slim("verify", "tiny_fixed_net", "--size", "96")
        assert ran.code == 1 and "cannot be traced" in ran.out and "0 of 1 exact" in ran.out
    finally:
        registry()._registered.pop("tiny_fixed_net")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing",), 1, "no architecture is called"),
        (("nothing*",), 1, "no architecture matches"),
        ((NAME, "--ratio", "1"), 2, "--ratio is a share"),
        ((NAME, "--criterion", "luck"), 1, "choose one of"),
        ((NAME, "--option", "depth=3"), 1, "no option 'depth'"),
        ((NAME, "--option", "width=4", "--pruned", "0.5"), 2, "contradict"),
        ((NAME, "--pruned", "0.5"), 1, "could not be found"),
        ((NAME, "--jsonl", "nowhere/x.jsonl"), 1, "nowhere"),
    ],
)
def test_verify_refuses(zoo_slim, words, code, message):
    ran = zoo_slim("verify", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split()) and "Traceback" not in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_export(zoo_slim, tmp_path, format):
    model = save_slim(tmp_path / "model")
    file = tmp_path / f"tiny.{format}"
    ran = zoo_slim("export", "model", "--pruned", "0.5", "--format", format, "--output", file.name)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"saved {file.name}")
    images = torch.rand(5, 3, 32, 32)
    found, note = run_exported(file, images)
    assert note == {"architecture": NAME, "variant": "0.5", "input": INPUT, "classes": list(CLASSES)}
    assert np.allclose(found, model(images).detach().numpy(), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_export_of_a_fixed_batch(zoo_slim, tmp_path, format):
    model = save_slim(tmp_path / "model")
    file = tmp_path / f"tiny.{format}"
    ran = zoo_slim("export", "model", "--pruned", "0.5", "--batch-size", "2", "--output", file.name)
    assert ran.code == 0, ran.err
    images = torch.rand(2, 3, 32, 32)
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == [2, 3, 32, 32] and session.get_outputs()[0].shape[0] == 2
        (found,) = session.run(None, {"images": images.numpy()})
    else:
        program = torch.export.load(str(file)).module()
        found = program(images).detach().numpy()
        with pytest.raises((RuntimeError, AssertionError)):
            program(images[:1])
    assert np.allclose(found, model(images).detach().numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_export_with_the_normalisation(zoo_slim, tmp_path, format):
    model = save_slim(tmp_path / "model")
    file = tmp_path / f"tiny.{format}"
    ran = zoo_slim("export", "model", "--pruned", "0.5", "--normalize", "--output", file.name)
    assert ran.code == 0, ran.err
    pixels = torch.rand(2, 3, 32, 32)
    found, note = run_exported(file, pixels)
    expected = model((pixels - 0.25) / 0.5)
    assert np.allclose(found, expected.detach().numpy(), atol=1e-5)
    assert note["input"] == INPUT | {"mean": [0, 0, 0], "std": [1, 1, 1]}


def test_export_puts_in_no_normalisation_that_is_not_recorded(zoo_slim, tmp_path):
    checkpoint.save(build_tiny(), tmp_path / "model", architecture=NAME, options={}, input={"size": [3, 32, 32]})
    ran = zoo_slim("export", "model", "--normalize", "--output", "x.pt2")
    assert (ran.code, ran.err) == (
        1,
        "zoo-slim: model: its checkpoint records no mean and std of its images: leave out --normalize, or save it "
        "with the right input=\n",
    )
    assert not (tmp_path / "x.pt2").exists()


@pytest.mark.slow
def test_export_for_an_opset(zoo_slim, tmp_path):
    onnx = pytest.importorskip("onnx")
    save_slim(tmp_path / "model")
    for opset in (18, 20):
        assert zoo_slim("export", "model", "--opset", str(opset), "--output", "x.onnx").code == 0
        assert [(kind.domain, kind.version) for kind in onnx.load("x.onnx").opset_import] == [("", opset)]
    before = (tmp_path / "x.onnx").read_bytes()
    assert zoo_slim("export", "model", "--opset", "17", "--output", "x.onnx").code == 2
    ran = zoo_slim("export", "model", "--opset", "99", "--output", "x.onnx")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1 and "opset" in ran.err
    assert (tmp_path / "x.onnx").read_bytes() == before
    ran = zoo_slim("export", "model", "--opset", "18", "--output", "x.pt2")
    assert ran.code == 1 and "--opset 18 is for ONNX, and x.pt2 is to be pt2" in ran.err


def test_export_refuses(zoo_slim, tmp_path, monkeypatch):
    save_slim(tmp_path / "model")
    assert zoo_slim("export", "model", "--output", "x.onnx", "--format", "exe").code == 2
    ran = zoo_slim("export", "model", "--output", "nowhere/x.pt2", "--format", "pt2")
    assert ran.code == 1 and "there is no folder nowhere" in ran.err
    for words, message in (
        (("x.txt",), "--output x.txt: the ending must be .onnx or .pt2"),
        (("x.onnx", "--format", "pt2"), "contradict each other"),
    ):
        ran = zoo_slim("export", "model", "--output", *words)
        assert ran.code == 1 and message in ran.err
    for folder in (".", "/", "model"):
        ran = zoo_slim("export", "model", "--output", folder)
        assert (ran.code, ran.err) == (1, f"zoo-slim: {folder}: is a folder; name a file to be written\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = zoo_slim("export", "model", "--output", "x.onnx")
    assert ran.code == 1 and "pip install onnx onnxscript onnxruntime" in ran.err
    assert not (tmp_path / "x.onnx").exists()


def test_a_wrong_export_is_not_kept(zoo_slim, tmp_path, monkeypatch):
    def export(model, batches, file, note):
        file.write_bytes(b"something else")
        return 0.5

    save_slim(tmp_path / "model")
    monkeypatch.setattr(_export, "_pt2", export)
    ran = zoo_slim("export", "model", "--output", "x.pt2")
    assert ran.code == 1 and "differ by 5.0e-01" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def segmenter(zoo_slim, tmp_path):
    registry().register("tiny_segmenter", Segmenter, input_size=(3, 8, 8))
    yield checkpoint.save(Segmenter().eval(), tmp_path / "seg", architecture="tiny_segmenter")
    registry()._registered.pop("tiny_segmenter")


def test_export_compares_all_outputs(zoo_slim, segmenter, tmp_path):
    ran = zoo_slim("export", "seg", "--output", "seg.pt2", "--format", "pt2")
    assert ran.code == 0 and "its outputs differ by" in ran.out
    model = checkpoint.load_folder(segmenter)
    images = torch.rand(3, 3, 8, 8)
    wrong = {name: output + (name == "aux") for name, output in model(images).items()}
    assert _export._difference(model, images, model(images)) == 0 < 0.1 < _export._difference(model, images, wrong)
    assert _export._difference(model, images, [wrong["out"]]) == float("inf")
    assert _export._names(model, images) == ["out", "aux"]
    assert _export._names(model.out, torch.rand(1, 4, 2, 2)) == ["logits"]


def test_predict_names_a_network_that_is_no_classifier(zoo_slim, segmenter, tmp_path):
    save_picture(tmp_path / "a.png")
    ran = zoo_slim("predict", "seg", "a.png")
    said = (
        "zoo-slim: seg: a classifier must return logits of shape [N, classes], perhaps with auxiliary ones, not a dict"
    )
    assert ran.code == 1 and f"{said} of out: a tensor of shape [1, 2, 8, 8], aux: a tensor" in ran.err


@pytest.mark.slow
def test_export_names_the_outputs(zoo_slim, segmenter, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert zoo_slim("export", "seg", "--output", "seg.onnx").code == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "seg.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["out", "aux"]


def test_what_cannot_be_exported_is_told(zoo_slim, tmp_path, monkeypatch):
    def export(model, batches, file, note):
        try:
            raise ValueError("data-dependent\nand more")
        except ValueError as error:
            raise RuntimeError("\x1b[96mFailed\x1b[0m in step 1 of 3. Next steps:") from error

    save_slim(tmp_path / "model")
    monkeypatch.setattr(_export, "_pt2", export)
    ran = zoo_slim("export", "model", "--output", "x.pt2", "--format", "pt2")
    assert (ran.code, ran.err) == (
        1,
        "zoo-slim: model: cannot be exported to pt2: ValueError: data-dependent; if it takes batches of one size only,"
        " add --batch-size\n",
    )


def test_deploy_merges_what_can_be_merged(zoo_slim, tmp_path, monkeypatch):
    save_slim(tmp_path / "model")
    ran = zoo_slim("export", "model", "--deploy", "--output", "x.pt2")
    assert ran.code == 1 and f"a {NAME} has no deploy() to merge by: leave out --deploy" in ran.err
    given = []

    def export(model, batches, file, note):
        given.append(model)
        file.write_bytes(b"done")
        return 0.0

    monkeypatch.setattr(_export, "_pt2", export)
    for words in ((), ("--deploy",)):
        assert zoo_slim("export", "RepVGG-A0-woid", "--pruned", "0.75", *words, "--output", "x.pt2").code == 0
    norms = [sum(isinstance(part, nn.BatchNorm2d) for part in model.modules()) for model in given]
    assert norms[0] > norms[1] == 0


def test_verify_looks_at_the_schema_that_slim_uses(zoo_slim, tmp_path):
    model = registry().find(NAME).build()
    document = json.loads(dumps(trace(model, torch.rand(2, 3, 32, 32))))
    del document["fingerprint"]
    document["layers"]["conv2"]["in"] += "[7,6,5,4,3,2,1,0]"
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    registry().register("tiny_wrong", build_tiny, input_size=(3, 32, 32), schema=tmp_path / "wrong.json")
    try:
        assert zoo_slim("verify", NAME).code == 0 and zoo_slim("verify", "tiny_wrong").code == 1
    finally:
        registry()._registered.pop("tiny_wrong")
