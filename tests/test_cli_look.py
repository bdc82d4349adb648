"""list, info, load and predict."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import CLASSES, NAME, build_tiny, register_tiny, run, save_picture, save_slim
from PIL import ExifTags, Image
from rich.console import Console

from zoo_slim import checkpoint, loading, slim
from zoo_slim._errors import CheckpointError, RegistryError
from zoo_slim._images import read_image
from zoo_slim.cli._images import classify, prepare
from zoo_slim.cli._info import _text
from zoo_slim.cli._latency import latencies
from zoo_slim.cli._load import epochs_of
from zoo_slim.cli._samples import Answer, Sample, draw, read_samples, show_answers
from zoo_slim.registry import registry


@pytest.fixture
def zoo_slim(capsys, monkeypatch):
    register_tiny()
    monkeypatch.setenv(loading.NAMESPACE, "")
    return lambda *words: run(capsys, monkeypatch, *words)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A zoo with one model, its variant without the base's weights, and samples."""
    zoo = tmp_path_factory.mktemp("zoo")
    save_slim(zoo / NAME)
    for file in ("config.json", "model.safetensors"):
        (zoo / NAME / file).unlink()
    samples = zoo / NAME / "samples"
    samples.mkdir()
    images = []
    for number, label in enumerate(CLASSES):
        save_picture(samples / f"{number}.png", seed=number)
        images.append({"file": f"{number}.png", "label": label})
    index = {"format": "zoo_slim.samples", "version": 1, "source": "noise", "images": images}
    (samples / "samples.json").write_text(json.dumps(index))
    return zoo


@pytest.fixture
def bundled(zoo, monkeypatch):
    monkeypatch.setattr(loading, "bundled_zoo", lambda: zoo)
    return zoo / NAME


def test_list_without_a_pattern_counts_timm(zoo_slim):
    ran = zoo_slim("list")
    assert ran.code == 0
    names = [line.split()[0] for line in ran.out.splitlines() if line.strip()]
    assert {"resnet18", "vgg16_bn", NAME} <= set(names)
    assert not any(name.startswith("timm/") and name != "timm/…" for name in names)
    line = next(line for line in ran.out.splitlines() if line.startswith("timm/…"))
    assert int(line.split()[1].replace(",", "")) > 500


def test_list_shows_variants_and_schemas(zoo_slim, bundled):
    ran = zoo_slim("list", "tiny*")
    assert ran.out.splitlines()[2].split() == [NAME, "3x32x32", "traced", "0.5"]
    assert zoo_slim("list", "--bundled").out.splitlines()[2].split()[0] == NAME
    assert zoo_slim("list", "tiny_cli").out == ran.out
    assert "1 architectures" in ran.out


def test_list_suggests(zoo_slim, bundled):
    ran = zoo_slim("list", "resnt18")
    assert (ran.code, ran.out) == (1, "") and "did you mean 'resnet18'" in ran.err
    ran = zoo_slim("list", "nothing*")
    assert (ran.code, ran.err) == (1, "zoo-slim: no architecture matches 'nothing*'\n")
    ran = zoo_slim("list", "resnet18", "--bundled")
    assert (ran.code, ran.err) == (1, "zoo-slim: no bundled model matches 'resnet18'\n")


def test_info_of_an_architecture(zoo_slim, bundled):
    known = json.loads(zoo_slim("info", NAME, "--json").out)
    assert known["params"] == 3 * 8 * 9 + 8 * 8 * 9 + 32 + 8 * 3 + 3
    assert known["macs"] == 16 * 16 * 3 * 8 * 9 + 8 * 8 * 8 * 8 * 9 + 8 * 3
    assert known["options"] == {"num_classes": "int", "width": "int"}
    assert known["variants"]["0.5"]["test_accuracy"] == 0.875
    out = zoo_slim("info", NAME).out
    assert "16.4" not in out and f"{known['macs']:,}" in out and "87.50 %" in out


def test_info_of_a_variant(zoo_slim, bundled):
    out = zoo_slim("info", NAME, "--pruned", "0.5").out
    assert "ankle boot, bag, coat" in out and "float16" in out and "90.00 %" in out
    known = json.loads(zoo_slim("info", f"local-dir:{bundled}/pruned-0.5", "--json").out)
    model = checkpoint.load_folder(bundled / "pruned-0.5")
    assert known["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert known["base"]["params"] > known["params"] and known["base"]["macs"] > known["macs"]


def test_info_of_trainings_is_a_line_each(zoo_slim, bundled, tmp_path):
    model = checkpoint.load_folder(bundled / "pruned-0.5")
    earlier = {"command": "zoo-slim run net --epochs 5", "epochs": 5, "dataset": "mnist", "settings": {"lr": 1}}
    slimming = {"ratio": 0.5, "group_ratios": ["conv*=0.5", "conv1=0"]}
    training = {
        "command": "zoo-slim finetune net --lr 1",
        "epochs": 7,
        "settings": {"lr": 0.125},
        "before": [{**earlier, "device": "CPU, 2 threads"}, {"command": "zoo-slim slim net --fold", **slimming}],
        "base": {**earlier, "epochs": 9, "before": [{"epochs": 1}]},
    }
    metrics = {"after_slimming": {"plain": 0.5, "both": 0.25}, "test_accuracy_before_finetuning": 0.75}
    checkpoint.save(model, tmp_path / "again", training=training, metrics=metrics)
    out = zoo_slim("info", f"local-dir:{tmp_path / 'again'}").out
    lines = [line.strip() for line in out.splitlines()]
    assert "before: zoo-slim run net …, 5 epochs, mnist, CPU, 2 threads" in lines
    assert "before: zoo-slim slim net …, ratio 0.5, group_ratios conv*=0.5, conv1=0" in lines
    assert "base: zoo-slim run net …, 9 epochs, mnist" in lines and "base: 1 epochs" in lines
    assert "epochs: 7" in lines and "test_accuracy_before_finetuning: 75.00 %" in lines
    assert any(line.endswith("after_slimming: both: 25.00 %, plain: 50.00 %") for line in lines)
    assert "{" not in out and "0.125" not in out and all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize("value", [0.5, "text", {"training": [1]}])
def test_info_of_any_key(value):
    assert "training" in _text("metrics", {"training": value})


def test_info_shows_empty_choices(zoo_slim):
    assert "global_pool: '' | avg" in zoo_slim("info", "timm/resnet18").out


def test_load_shows_base_beside_slim(zoo_slim, bundled):
    ran = zoo_slim("load", NAME, "--pruned", "0.5", "--repeats", "2")
    assert (ran.code, ran.err) == (0, "")
    assert "2.png" in ran.out and "pictures: noise" in ran.out
    for row in ("parameters", "MACs per image", "weights file", "load time", "latency, 1 image"):
        assert row in ran.out
    assert "90.00 %" in ran.out and "87.50 %" in ran.out and "-2.50 points" in ran.out
    assert "trained for 6 epochs" in ran.out and "trained for 8 more" in ran.out and "images of pictures" in ran.out
    assert "float16, the base's float32" in ran.out and "random weights" in ran.out


def test_load_as_json(zoo_slim, bundled):
    report = json.loads(zoo_slim("load", NAME, "--pruned", "0.5", "--repeats", "2", "--json").out)
    model = checkpoint.load_folder(bundled / "pruned-0.5")
    origin = checkpoint.origin_of(model)
    assert report["params"] == origin.metrics["params"] and report["macs"] == origin.metrics["macs"]
    assert report["base"]["params"] == 851 and report["base"]["test_accuracy"] == 0.9
    assert report["latency_ms"] > 0 and report["base"]["latency_ms"] > 0
    assert [sample["label"] for sample in report["samples"]] == list(CLASSES)
    for sample in report["samples"]:
        picture = read_image(bundled / "samples" / sample["file"])
        probabilities = classify(model, prepare(picture, origin))[0]
        assert sample["prediction"] == CLASSES[int(probabilities.argmax())]
        assert sample["probability"] == pytest.approx(float(probabilities.max()))


@pytest.mark.parametrize(
    ("own", "of_base", "note"),
    [
        (None, None, "on the test images of pictures"),
        ({"count": 10_000, "of": 10_000}, {"count": 10_000}, "on the test images of pictures"),
        ({"count": 256, "of": 10_000}, {"count": 256, "of": 10_000}, "on 256 of 10,000 test images of pictures"),
        ({"count": 9, "of": 10}, {}, "on 9 of 10 test images of pictures; the base's on the test images"),
        ({"count": 10, "of": 10}, {"count": 9, "of": 10}, "images of pictures; the base's on 9 of 10 test images"),
        ({"count": "9", "of": 10}, [], "on the test images of pictures"),
    ],
)
def test_load_says_that_a_part_was_tested(zoo_slim, tmp_path, own, of_base, note):
    save_slim(tmp_path / "model")
    file = tmp_path / "model" / "pruned-0.5" / "config.json"
    config = json.loads(file.read_text())
    config["training"]["evaluation"], config["training"]["base"]["evaluation"] = own, of_base
    file.write_text(json.dumps(config))
    ran = zoo_slim("load", tmp_path / "model", "--pruned", "0.5", "--repeats", "1")
    said = " ".join(ran.out.split())
    assert f"recorded when the network was made, {'' if note.startswith('on') else 'on the test '}{note} the" in said
    assert ("points" in said) != ("the base's on" in note)
    info = " ".join(zoo_slim("info", tmp_path / "model", "--pruned", "0.5").out.split())
    assert own is None or f"count: {own['count']}, of: {own['of']}" in info
    (row,) = [line for line in zoo_slim("info", tmp_path / "model").out.splitlines() if line.startswith("0.5 ")]
    part = re.search(r"on (\d+ of [\d,]+) test", note.split(";")[0])
    assert row.rstrip().endswith(f"% ({part[1]} images)" if part else "%")


def test_load_without_demo_or_base(zoo_slim, bundled, tmp_path):
    ran = zoo_slim("load", NAME, "--pruned", "0.5", "--repeats", "1", "--no-demo")
    assert ran.code == 0 and "2.png" not in ran.out and "parameters" in ran.out and "latency: one pass of" in ran.out
    save_slim(tmp_path / "model")
    ran = zoo_slim("load", tmp_path / "model", "--repeats", "1")
    assert ran.code == 0 and "851" in ran.out and "of the base" not in ran.out and "pictures" in ran.out


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("load", "resnt18"), ["did you mean 'resnet18'"]),
        (("load", NAME), ["weights of", "its variants are 0.5: add --pruned 0.5"]),
        (("load", NAME, "--pruned", "0.9"), ["variant '0.9'", "its variants are 0.5"]),
        (("load", NAME, "--pruned", "../0.5"), ["--pruned"]),
        *[(("info", name), [f"local-dir:{name}: there is no such folder"]) for name in ("../nosuch", "/nosuch")],
        (("info", "~/nosuch"), ["nosuch: there is no such folder"]),
        (("info", "nosuch"), ["`zoo-slim list`"]),
        (("load", "local-dir:nowhere"), ["there is no such folder"]),
        (("load", "some/folder"), ["local-dir:some/folder", "hf-hub:some/folder"]),
        (("info", "local-dir:nowhere"), ["there is no such folder"]),
        (("info", "resnt18"), ["did you mean"]),
        (("predict", NAME, "nowhere.png", "--pruned", "0.5"), ["nowhere.png: there is no such file"]),
        (("predict", NAME, ".", "--pruned", "0.5"), [".: is a folder; name its files"]),
        (("load", NAME, "--pruned", ".5"), ["'--pruned'", "did you mean '0.5'?"]),
        (("load", "vgg11"), ["To have weights of vgg11, train it (zoo-slim train)", "zoo-slim convert"]),
        (("info", "https://huggingface.co/me/net"), ["write 'hf-hub:me/net' for a repository"]),
        (("info", "me/net"), ["write 'hf-hub:me/net' for a repository"]),
        (("push", "vgg11", "me/net"), ["no weights of vgg11 come with the package; name the folder"]),
    ],
)
def test_mistakes_are_one_message(zoo_slim, bundled, words, messages):
    ran = zoo_slim(*words)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("zoo-slim: ") and "Traceback" not in ran.err
    for message in messages:
        assert message in ran.err


def test_damaged_checkpoint(zoo_slim, bundled, tmp_path):
    copy = shutil.copytree(bundled, tmp_path / "copy")
    weights = copy / "pruned-0.5" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ran = zoo_slim("load", copy, "--pruned", "0.5")
    assert ran.code == 1 and "SHA-256" in ran.err and "Traceback" not in ran.err
    (copy / "samples" / "samples.json").write_text(
        '{"format": "zoo_slim.samples", "version": 1, "images": [{"file": "../x"}]}'
    )
    shutil.copyfile(bundled / "pruned-0.5" / "model.safetensors", weights)
    ran = zoo_slim("load", copy, "--pruned", "0.5")
    assert ran.code == 1 and "is not an index of samples" in ran.err
    (copy / "pruned-0.5" / "config.json").write_text("{")
    ran = zoo_slim("info", copy, "--pruned", "0.5")
    assert ran.code == 1 and "config.json" in ran.err


@pytest.mark.parametrize("how", ["replaced", "longer", "outside"])
def test_a_tampered_result_is_refused_as_by_load(zoo_slim, bundled, tmp_path, how):
    copy = shutil.copytree(bundled, tmp_path / "copy")
    result = copy / "pruned-0.5" / checkpoint.PRUNING
    if how == "replaced":  # by a valid one, which config.json does not tell of
        torch.manual_seed(1)
        model, other = slim(build_tiny(), ratio=0.25, example_input=torch.rand(2, 3, 32, 32))
        checkpoint.save(model, tmp_path / "other", architecture=NAME, options={}, result=other)
        shutil.copyfile(tmp_path / "other" / checkpoint.PRUNING, result)
    elif how == "longer":
        result.write_bytes(result.read_bytes() + b" ")
    else:
        result.replace(tmp_path / "elsewhere")
        result.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_folder(copy / "pruned-0.5")
    assert ("leads out" if how == "outside" else "SHA-256") in str(caught.value)
    for words in (("info",), ("report", "--output", tmp_path / "x.png"), ("verify",)):
        ran = zoo_slim(words[0], copy, "--pruned", "0.5", *words[1:])
        assert (ran.code, ran.out) == (1, "")
        assert str(caught.value) in ran.err and "Traceback" not in ran.err


def test_predict(zoo_slim, bundled, tmp_path):
    picture = save_picture(tmp_path / "a picture.png", (50, 40), mode="RGB")
    ran = zoo_slim("predict", NAME, picture, picture, "--pruned", "0.5", "--top", "2", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert len(lines) == 2 and lines[0] == lines[1] and lines[0]["image"] == str(picture)
    model = checkpoint.load_folder(bundled / "pruned-0.5")
    probabilities = classify(model, prepare(read_image(picture), checkpoint.origin_of(model)))[0]
    best = probabilities.topk(2)
    assert [entry["class"] for entry in lines[0]["predictions"]] == [CLASSES[i] for i in best.indices]
    assert [entry["probability"] for entry in lines[0]["predictions"]] == pytest.approx(best.values.tolist())
    out = zoo_slim("predict", NAME, picture, "--pruned", "0.5").out
    assert "a picture.png" in out and all(name in out for name in CLASSES)


def test_predict_says_that_it_does_not_know_the_normalisation(zoo_slim, bundled, tmp_path):
    picture = bundled / "samples" / "0.png"
    assert "normalised" not in zoo_slim("predict", NAME, picture, "--pruned", "0.5").err
    checkpoint.save(build_tiny(), tmp_path / "plain", architecture=NAME)
    ran = zoo_slim("predict", tmp_path / "plain", picture, "--json")
    assert ran.code == 0 and "does not record how its images were normalised" in ran.err
    assert json.loads(ran.out)["predictions"]


def test_what_people_recorded_is_shown_and_not_trusted(zoo_slim, tmp_path):
    model = build_tiny()
    how = {"architecture": NAME, "training": {"classes": 10, "base": "tiny"}, "metrics": {"files": 3, "classes": 7}}
    checkpoint.save(model, tmp_path / "odd", **how, input={"size": [1, 28, 28]})
    narrow, result = slim(model, ratio=0.5, example_input=torch.rand(2, 3, 32, 32))
    checkpoint.save(narrow, tmp_path / "slim", **how, result=result)
    assert zoo_slim("info", tmp_path / "odd").code == zoo_slim("load", tmp_path / "slim").code == 0
    for words in (("load", tmp_path / "odd"), ("predict", tmp_path / "odd", save_picture(tmp_path / "a.png"))):
        ran = zoo_slim(*words)
        assert ran.code == 1 and f"{tmp_path / 'odd'}: does not run on images of the size" in ran.err
        assert "save it with the right input=" in ran.err and "Traceback" not in ran.err


def test_a_name_that_two_plugins_claim_is_listed_with_the_reason(zoo_slim, bundled, monkeypatch):
    found = registry().find

    def find(name):
        if name == "vgg11":
            raise RegistryError("architecture 'vgg11' is claimed by 2 plugins: one; other")
        return found(name)

    monkeypatch.setattr(registry(), "find", find)
    ran = zoo_slim("list", "vgg11*")
    assert ran.code == 0 and "claimed by 2 plugins" in " ".join(ran.out.split()) and "vgg11_bn" in ran.out


@pytest.mark.parametrize("command", ["load", "info", "export"])
def test_a_checkpoint_whose_architecture_is_not_registered_is_named(zoo_slim, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    registry().register("of_a_script", build_tiny, input_size=(3, 32, 32))
    checkpoint.save(build_tiny().eval(), "net", architecture="of_a_script")
    registry()._registered.pop("of_a_script")
    more = ("--output", "net.pt2") if command == "export" else ()
    ran = zoo_slim(command, "net", *more)
    assert (ran.code, ran.out) == (1, "")
    assert "net/config.json: needs architecture 'of_a_script', which no installed package offers" in ran.err
    assert "zoo-slim --import MODULE" in ran.err


def test_the_folder_of_a_run_is_not_its_checkpoint(zoo_slim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(build_tiny().eval(), "run/model", architecture=NAME)
    for words in (("load", "run"), ("info", "run"), ("slim", "run", "--ratio", "0.5"), ("push", "run", "me/net")):
        ran = zoo_slim(*words)
        assert ran.code == 1 and "local-dir:run: it has no config.json; did you mean local-dir:run/model?" in ran.err


def test_predict_wants_an_image(zoo_slim, bundled, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    ran = zoo_slim("predict", NAME, tmp_path / "text.png", "--pruned", "0.5")
    assert (ran.code, ran.out) == (1, "") and ran.err.endswith("replace it by a valid image, or leave it out\n")
    assert zoo_slim("predict", NAME).code == 2


def test_pictures_are_prepared_as_in_training(tmp_path):
    from test_training_data import write_fashion

    from zoo_slim.training import load_dataset

    write_fashion(tmp_path, train=16, test=4)
    data = load_dataset("fashion-mnist", tmp_path)
    expected, _ = next(data.test_batches(4, device=torch.device("cpu")))
    origin = checkpoint.Origin(NAME, input={"size": [3, 32, 32], "mean": data.mean, "std": data.std})
    for pixels, image in zip(data.test_images, expected, strict=True):
        picture = Image.fromarray(pixels[0, 2:30, 2:30].contiguous().numpy())
        assert torch.allclose(prepare(picture, origin)[0], image, atol=1e-5)


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (33, 90), (32, 32), (30, 31), (20, 21), (36, 36), (37, 37)])
@pytest.mark.parametrize("nested", [False, True])
def test_pictures_are_prepared_as_an_image_folder_is_evaluated(tmp_path, size, nested):
    from zoo_slim.training import load_dataset

    for split in ("train", "val"):
        (tmp_path / split / "boot").mkdir(parents=True)
        file = save_picture(tmp_path / split / "boot" / "0.png", size, seed=sum(size), mode="RGB")
    data = load_dataset("image-folder", tmp_path, 32)
    (expected, _), *_ = data.test_batches(1, device=torch.device("cpu"))
    training = {"dataset": "image-folder"}
    origin = checkpoint.Origin(
        NAME,
        input={"size": [3, 32, 32], "mean": data.mean, "std": data.std},
        training={"epochs": 2, "base": training} if nested else training,
    )
    assert torch.allclose(prepare(read_image(file), origin), expected, rtol=0, atol=1e-6)
    elsewhere = prepare(read_image(file), checkpoint.Origin(NAME, input=origin.input))
    kept = all(28 <= side <= 32 for side in size)
    assert torch.allclose(elsewhere, expected, rtol=0, atol=1e-6) != kept


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_of_16_bits_are_prepared_as_an_image_folder_is_evaluated(zoo_slim, bundled, tmp_path, orientation):
    from zoo_slim.training import load_dataset

    pixels = np.random.default_rng(0).integers(0, 2**16, (50, 37), dtype=np.uint16)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for split in ("train", "val"):
        (tmp_path / split / "boot").mkdir(parents=True)
        file = tmp_path / split / "boot" / "0.png"
        Image.fromarray(pixels).save(file, exif=exif)
    data = load_dataset("image-folder", tmp_path, 32)
    (expected, _), *_ = data.test_batches(1, device=torch.device("cpu"))
    given = {"size": [3, 32, 32], "mean": data.mean, "std": data.std}
    origin = checkpoint.Origin(NAME, input=given, training={"dataset": "image-folder"})
    found = prepare(read_image(file), origin)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6) and found.std() > 0.1
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "float.tiff")
    ran = zoo_slim("predict", NAME, tmp_path / "float.tiff", "--pruned", "0.5")
    assert ran.code == 1 and "float.tiff: its pixels are floating-point numbers" in ran.err


def test_epochs_add_up_to_the_slimming():
    base = {"epochs": 20}
    slimming = {"ratio": 0.75}
    tuned = {"epochs": 60, "before": [{"epochs": 30}, slimming, {"epochs": 7}], "base": base}
    whole = {**slimming, "base": base}
    assert [epochs_of(record) for record in (base, tuned, whole, {"epochs": "2"}, {})] == [20, 90, None, None, None]


@pytest.mark.parametrize(("size", "shape"), [((28, 28), (1, 32, 16)), ((300, 20), (3, 32, 32)), ((7, 90), (3, 20, 40))])
def test_any_picture_fits(size, shape):
    prepared = prepare(Image.new("RGBA", size, "white"), checkpoint.Origin(NAME, input={"size": list(shape)}))
    assert prepared.shape == (1, *shape) and prepared.max() == 1


def test_resized_pictures_keep_their_middle():
    picture = Image.new("L", (400, 200))
    picture.paste(255, (150, 0, 250, 200))
    prepared = prepare(picture, checkpoint.Origin(NAME, input={"size": [1, 32, 32]}))[0, 0]
    assert prepared[:, 16].min() == 1 and prepared[:, 0].max() == 0 and prepared[:, -1].max() == 0
    width = 100 * (32 * 256 / 224) / 200  # the image's short side of 200 pixels becomes 32 * 256 / 224
    assert float(prepared[16].sum()) == pytest.approx(width, abs=0.5)


def test_pictures_in_the_terminal():
    picture = Image.new("L", (28, 28))
    picture.putpixel((3, 5), 200)
    lines = draw(picture, 28)
    assert len(lines) == 14 and all(line.plain == "▀" * 28 for line in lines)
    style = lines[2].spans[3].style
    assert style.color.triplet.hex == "#000000" and style.bgcolor.triplet.hex == "#c8c8c8"
    shades = [line.plain for line in draw(Image.new("L", (10, 10), 255), 10, colour=False)]
    assert shades == ["@" * 10] * 5


@pytest.mark.parametrize(("width", "terminal"), [(120, True), (80, True), (30, True), (120, False)])
def test_samples_fit_the_terminal(width, terminal, tmp_path):
    class Stream(io.StringIO):
        encoding = "utf-8"

    answers = [
        Answer(
            Sample(tmp_path / f"{i}.png", "a true class of a long name"),
            Image.new("L", (28, 28), 255 - 5 * i),
            "x\x1b[2J",
            0.5,
        )
        for i in range(10)
    ]
    stream = Stream()
    out = Console(file=stream, force_terminal=terminal, width=width, color_system=None, markup=False)
    show_answers(out, answers)
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in stream.getvalue()
    drawn = sum("@" in line for line in lines) > 5
    assert drawn == (terminal and width >= 80)


def test_samples_of_a_base_and_its_variant(zoo):
    samples, source = read_samples(zoo / NAME / "pruned-0.5")
    assert [sample.label for sample in samples] == list(CLASSES) and source == "noise"
    assert read_samples(zoo / NAME)[0] == samples
    assert read_samples(zoo) == ([], "")


def test_samples_that_come_with_the_package_are_of_the_networks_classes():
    bundled = Path(checkpoint.__file__).parent.parent / "zoo"
    folders = [file.parent for file in bundled.glob("*/*/config.json")]
    assert folders
    for folder in folders:
        samples, source = read_samples(folder)
        assert {sample.label for sample in samples} <= set(checkpoint.read_config(folder).classes), folder
        assert source and all(read_image(sample.file).size == (32, 32) for sample in samples)


@pytest.mark.parametrize("tag", [None, "0.5"])
def test_samples_may_be_links_within_a_hub_cache(zoo, tmp_path, tag):
    repo = tmp_path / "models--me--net"
    snapshot, blobs = repo / "snapshots" / "0123abcd", repo / "blobs"
    shutil.copytree(zoo / NAME, snapshot)
    blobs.mkdir()
    for file in (snapshot / "samples").iterdir():
        file.replace(blobs / file.name)
        file.symlink_to(f"../../../blobs/{file.name}")
    folder = snapshot / f"pruned-{tag}" if tag else snapshot
    samples, _ = read_samples(folder)
    assert [sample.label for sample in samples] == list(CLASSES)
    assert all(read_image(sample.file).size == (28, 28) for sample in samples)
    for name in ("2.png", "samples.json"):
        (blobs / name).rename(tmp_path / name)
        (snapshot / "samples" / name).unlink()
        (snapshot / "samples" / name).symlink_to(tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name}: is a link that leads out"):
            read_samples(folder)


def test_models_take_turns():
    order = []

    class Recorder(torch.nn.Linear):
        def forward(self, batch):
            order.append(self.out_features)
            return super().forward(batch)

    took = latencies({"a": Recorder(4, 1), "b": Recorder(4, 2)}, torch.rand(1, 4), repeats=2)
    assert order == [1, 2] * 5 and set(took) == {"a", "b"} and all(seconds > 0 for seconds in took.values())


def test_a_folder_that_a_registered_name_hides_is_told(zoo_slim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_slim(tmp_path / NAME)
    ran = zoo_slim("load", NAME)
    assert ran.code == 1 and f"There is a folder {NAME}, too: write ./{NAME} or local-dir:{NAME}." in ran.err
    for said in (f"./{NAME}", f"local-dir:{NAME}"):
        assert zoo_slim("info", said).code == 0
    (tmp_path / "empty").mkdir()
    for said in ("empty", "./empty", tmp_path / "empty"):
        ran = zoo_slim("info", said)
        assert ran.code == 1 and "has no config.json" in ran.err and "There is a folder" not in ran.err
