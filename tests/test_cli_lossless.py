import numpy as np
import pytest
import torch
from cli_helpers import NAME, build_tiny, register_tiny, run
from PIL import Image

from zoo_slim import checkpoint, find_cliff, fold_constants, loading, slim
from zoo_slim.slimming import randomize


@pytest.fixture
def zoo_slim(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(loading.NAMESPACE, "")
    monkeypatch.chdir(tmp_path)
    return lambda *words: run(capsys, monkeypatch, *words)


@pytest.fixture
def sparse(tmp_path):
    """A base network with 3 and 2 of 8 scales at zero, and data for it."""
    from test_training_data import write_fashion

    write_fashion(tmp_path / "data", train=160, test=40)
    register_tiny()
    model = randomize(build_tiny(num_classes=10)).eval()
    with torch.no_grad():
        model.bn1.weight[:3], model.bn2.weight[5:7] = 0, 0
        model.bn1.weight[3:], model.bn2.weight[:5], model.bn2.weight[7:] = 1, 1, 1
    checkpoint.save(model, tmp_path / "ten", architecture=NAME, options={"num_classes": 10})
    return model


DATA = ("--dataset", "fashion-mnist", "--data", "data")


def widths(name: str) -> tuple[int, int]:
    model = loading.load("local-dir:ten", name)
    return model.conv1.out_channels, model.conv2.out_channels


def test_dry_run_says_what_is_dead_and_saves_nothing(zoo_slim, sparse, tmp_path):
    ran = zoo_slim("slim", "ten", "--dry-run", "--picture", "scales.png")
    assert (ran.code, ran.err) == (0, "")
    text = " ".join(ran.out.split())
    assert (
        "channels that a ratio may take 16" in text and "scales exactly 0 5 (31.2 %)" in text and "cliff 0.312:" in text
    )
    assert sorted(path.name for path in (tmp_path / "ten").iterdir()) == ["config.json", "model.safetensors"]
    with Image.open(tmp_path / "scales.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    ran = zoo_slim("slim", "ten", "--dry-run", "--ratio", "0.5")
    assert "ratio 0.5" in ran.out and "of the variance of group conv2 is lost" in ran.out
    assert ran.out.rstrip().endswith("saved nothing") and not (tmp_path / "ten" / "pruned-0.5").exists()
    dry = zoo_slim("slim", "ten", "--dry-run", "--macs", "0.5").out.partition("before")[2]
    real = zoo_slim("slim", "ten", "--macs", "0.5").out.partition("before")[2]
    rows = [
        [line.split() for line in text.splitlines() if line.strip().startswith(("par", "MACs"))] for text in (dry, real)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 2


def test_auto_stops_at_the_cliff(zoo_slim, sparse):
    ran = zoo_slim("slim", "ten", "--ratio", "auto")
    assert ran.code == 0 and "no variance is lost" in ran.out
    assert widths("auto") == (5, 6)
    config = checkpoint.read_config("ten/pruned-auto")
    assert config.training["ratio"] == 5 / 16 == find_cliff(sparse, example_input=torch.rand(2, 3, 32, 32)).ratio


def test_folded_and_recalibrated_are_saved_with_their_weights(zoo_slim, sparse):
    words = "slim", "ten", "--ratio", "auto", *DATA
    for options, tag in (((), "plain"), (("--fold",), "folded"), (("--recalibrate", "--batches", "2"), "again")):
        ran = zoo_slim(*words, *options, "--variant", tag)
        assert (ran.code, ran.err) == (0, "") and ("plain removal" in ran.out) == bool(options)
    plain, folded, again = (loading.load("local-dir:ten", tag) for tag in ("plain", "folded", "again"))
    _, result = slim(sparse, ratio="auto", example_input=torch.rand(2, 3, 32, 32))
    expected, folding = fold_constants(sparse, result, torch.rand(2, 3, 32, 32))
    assert all(torch.equal(one, two) for one, two in zip(folded.buffers(), expected.buffers(), strict=True))
    assert torch.equal(folded.fc.bias, expected.fc.bias) and not torch.equal(folded.fc.bias, plain.fc.bias)
    assert not torch.equal(again.bn2.running_var, plain.bn2.running_var) and torch.equal(again.fc.bias, plain.fc.bias)
    training = {tag: checkpoint.read_config(f"ten/pruned-{tag}").training for tag in ("plain", "folded", "again")}
    assert training["folded"]["folded"] == {"channels": folding.folded, "varying": 0, "layers": 2}
    assert training["again"]["recalibrated"] == {
        "dataset": "fashion-mnist", "batches": 2, "batch_size": 64, "seed": 0,
    }  # fmt: skip
    assert not {"folded", "recalibrated"} & training["plain"].keys()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--ratio", "0.5", "--recalibrate"), 2, "--recalibrate measures statistics of training images"),
        (("--ratio", "0.5", "--fold", "--no-weights"), 2, "leave out --no-weights"),
        (("--ratio", "half"), 2, "--ratio takes a share of the channels, 0 to 1, or auto"),
        (("--ratio", "auto", "--criterion", "l1"), 1, "ratio='auto' looks at BatchNorm scales"),
        (("--ratio", "auto", "--params", "0.5"), 2, "not --ratio and --params"),
        (("--dry-run", "--picture", "scales.txt"), 1, "must be .png, .svg or .pdf"),
    ],
)
def test_refusals(zoo_slim, sparse, tmp_path, words, code, message):
    ran = zoo_slim("slim", "ten", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split()) and "Traceback" not in ran.err
    assert sorted(path.name for path in (tmp_path / "ten").iterdir()) == ["config.json", "model.safetensors"]
