"""export --int8."""

import math
from types import SimpleNamespace

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
    save_picture,
    save_slim,
)

from zoo_slim import checkpoint, loading
from zoo_slim._errors import ZooSlimError
from zoo_slim.registry import registry

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

PICTURES = 40


@pytest.fixture
def zoo_slim(capsys, monkeypatch, tmp_path):
    register_tiny()
    monkeypatch.setenv(loading.NAMESPACE, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for number in range(PICTURES):
        folder = tmp_path / "pictures" / ("more" if number % 2 else "")
        save_picture(folder / f"{number}.png", (32, 32), number, "RGB")
    return lambda *words: run(capsys, monkeypatch, *words)


def noise(found, expected):
    """Signal-to-quantisation-noise ratio, in dB."""
    return 10 * math.log10(np.square(expected).sum() / np.square(found - expected).sum())


@pytest.mark.parametrize("normalize", [False, True])
def test_weights_and_activations_are_of_8_bits(zoo_slim, tmp_path, normalize):
    import onnx

    model = save_slim(tmp_path / "model")
    words = "model", "--pruned", "0.5", *(["--normalize"] if normalize else [])
    ran = zoo_slim("export", *words, "--int8", "pictures", "--output", "x.onnx")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("saved x.onnx") and "in 8 bits, of 40 images, told as in float32: " in ran.out
    images = (torch.rand(7, 3, 32, 32) - (0 if normalize else 0.25)) / (1 if normalize else 0.5)
    found, note = run_exported(tmp_path / "x.onnx", images)
    with torch.no_grad():
        expected = model((images - 0.25) / 0.5 if normalize else images).numpy()
    assert 15 < noise(found, expected) < 80
    assert note["classes"] == list(CLASSES) and note["input"]["mean"] == [0 if normalize else 0.25] * 3
    graph = onnx.load("x.onnx").graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [kinds[name] for name in kinds if name.endswith("_quantized") and "bias" not in name]
    assert weights.count(onnx.TensorProto.INT8) >= 3
    scales = [list(tensor.dims) for tensor in graph.initializer if tensor.name.endswith("weight_scale")]
    kept = [model.conv1.out_channels, model.conv2.out_channels, 3]
    assert sorted(scales) == sorted([count] for count in kept)
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) >= 3


def test_what_is_said_of_it_is_so(zoo_slim, tmp_path):
    from zoo_slim.cli._quantised import batches_of, images_in

    model = save_slim(tmp_path / "model")
    words = "model", "--pruned", "0.5", "--batch-size", "7", "--int8", "pictures"
    ran = zoo_slim("export", *words, "--output", "x.onnx")
    assert ran.code == 0, ran.err
    files = images_in(tmp_path / "pictures", 7)
    assert len(files) == PICTURES and sorted(files) == files
    batches = list(batches_of(files, checkpoint.origin_of(model), INPUT, 7)())
    assert [batch.shape for batch in batches] == [(7, 3, 32, 32)] * 5
    outputs = [run_exported(tmp_path / "x.onnx", torch.from_numpy(batch))[0] for batch in batches]
    found = np.concatenate(outputs).astype(np.float64)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.concatenate(batches))).double().numpy()
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    assert f"of 35 images, told as in float32: {same};" in ran.out
    assert float(ran.out.split()[-2]) == pytest.approx(noise(found, expected), abs=0.1)


def test_no_classifier(zoo_slim, tmp_path):
    registry().register("tiny_segmenter", Segmenter, input_size=(3, 8, 8))
    try:
        inputs = {**INPUT, "size": [3, 8, 8]}
        checkpoint.save(Segmenter().eval(), tmp_path / "seg", architecture="tiny_segmenter", input=inputs)
        ran = zoo_slim("export", "seg", "--int8", "pictures", "--output", "seg.onnx")
    finally:
        registry()._registered.pop("tiny_segmenter")
    assert ran.code == 0 and "in 8 bits, of 40 images, signal to quantisation noise" in ran.out
    import onnx

    assert [output.name for output in onnx.load("seg.onnx").graph.output] == ["out", "aux"]


def test_outputs_that_are_no_numbers():
    from zoo_slim.cli._quantised import _compare

    class Session:
        def __init__(self, value):
            self.value = value

        def get_outputs(self):
            return [SimpleNamespace(shape=["batch", 2])]

        def run(self, names, inputs):
            return [np.full((len(inputs["images"]), 2), self.value, dtype=np.float32)]

    same = _compare(Session(1), Session(1), [np.zeros((4, 3, 8, 8))])
    assert (same.images, same.agreeing, same.sqnr) == (4, 4, math.inf)
    with pytest.raises(ZooSlimError, match="no numbers"):
        _compare(Session(1), Session(math.nan), [np.zeros((4, 3, 8, 8))])


def test_no_more_images_than_needed(zoo_slim, tmp_path, monkeypatch):
    from zoo_slim.cli import _quantised

    monkeypatch.setattr(_quantised, "MOST", 5)
    every = sorted((tmp_path / "pictures").rglob("*.png"))
    assert _quantised.images_in(tmp_path / "pictures", None) == every[::8]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "all").symlink_to(tmp_path / "pictures")
    assert len(_quantised.images_in(tmp_path / "links", None)) == 5


def test_refusals(zoo_slim, tmp_path, monkeypatch):
    save_slim(tmp_path / "model")
    checkpoint.save(build_tiny(), tmp_path / "bare", architecture=NAME, options={}, input={"size": [3, 32, 32]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(b"no image")
    before = {path.name for path in tmp_path.iterdir()}
    for words, said in (
        (("model", "--int8", "pictures", "--output", "x.pt2"), "--int8 pictures is for ONNX, and x.pt2 is to be pt2"),
        (("model", "--int8", "nowhere", "--output", "x.onnx"), "nowhere: there is no such folder"),
        (("model", "--int8", "empty", "--output", "x.onnx"), "empty: holds no images (.jpg"),
        (
            ("model", "--batch-size", "64", "--int8", "pictures", "--output", "x.onnx"),
            "pictures: holds 40 images to calibrate on, fewer than one batch of 64",
        ),
        (
            ("bare", "--int8", "pictures", "--output", "x.onnx"),
            "no mean and std of its images: leave out --int8",
        ),
        (("model", "--int8", "damaged", "--output", "x.onnx"), "a.png: cannot be decoded as an image"),
    ):
        ran = zoo_slim("export", *words)
        assert ran.code == 1 and said in ran.err and len(ran.err.splitlines()) == 1, ran.err
    from zoo_slim.cli import _quantised

    def fail(*args, **kwargs):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(_quantised, "quantize_static", fail)
    ran = zoo_slim("export", "model", "--int8", "pictures", "--output", "x.onnx")
    assert (ran.code, ran.err) == (
        1,
        "zoo-slim: model: cannot be quantised: RuntimeError: no such operator; leave out --int8\n",
    )
    assert {path.name for path in tmp_path.iterdir()} == before
