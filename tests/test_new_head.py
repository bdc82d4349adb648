"""A network that was trained for some classes, made one for others."""

import copy
import dataclasses
import warnings

import checkpoint_cnn
import pytest
import torch
from cli_helpers import NAME as TINY
from cli_helpers import register_tiny
from test_training_data import write_images
from torch import nn
from typer.testing import CliRunner

import zoo_slim
from zoo_slim import new_head, register, slim
from zoo_slim._errors import CheckpointError, RegistryError
from zoo_slim.checkpoint import Origin, attach_origin, origin_of, save
from zoo_slim.cli import app
from zoo_slim.slimming import randomize
from zoo_slim.training import Settings, TrainingError
from zoo_slim.training._pipeline import Data, finetune

SETTINGS = Settings(epochs=2, batch_size=8, learning_rate=0.01, device="cpu", seed=1)


@pytest.fixture(scope="module")
def model():
    return zoo_slim.load("resnet18", pruned="0.75")


def test_all_but_the_head_is_the_same(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    made = new_head(model, ["cat", "dog", "horse"])
    assert made(torch.zeros(2, 3, 32, 32)).shape == (2, 3) and not made.training
    after = made.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}
    assert made.fc.in_features == model.fc.in_features < 512
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {p.data_ptr() for p in made.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    torch.manual_seed(0)
    assert torch.equal(new_head(model, 3).fc.weight, made.fc.weight)


def test_as_many_other_classes_are_learned_anew(model):
    made = new_head(model, 10)
    assert not torch.equal(made.fc.weight, model.fc.weight)
    assert torch.equal(made.conv1.weight, model.conv1.weight)


def test_what_is_known_of_it(model, tmp_path):
    classes = ("a", "b", "c", "d")
    made = new_head(model, iter(classes))
    origin, old = origin_of(made), origin_of(model)
    assert (origin.classes, origin.options["num_classes"], origin.variant) == (classes, 4, old.variant)
    assert old.metrics and old.base and not origin.metrics and not origin.base
    assert (origin.training, origin.input) == (old.training, old.input)
    save(made, tmp_path / "slim")
    again = zoo_slim.load(f"local-dir:{tmp_path / 'slim'}")
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(image), made(image)) and origin_of(again).classes == classes


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_and_mode_stay(model, dtype):
    given = zoo_slim.load("resnet18", pruned="0.75", dtype=dtype).train()
    made = new_head(given, 3)
    assert made.training and {p.dtype for p in made.parameters()} == {dtype}
    assert made.bn1.num_batches_tracked.dtype == torch.int64


def test_buffers_that_are_not_saved_come_along():
    given = checkpoint_cnn.trained().half()
    given.ramp.mul_(2)
    attach_origin(given, Origin(checkpoint_cnn.NAME, {"num_classes": 5}))
    made = new_head(given, 3)
    assert made.ramp.dtype == torch.float16 and torch.equal(made.ramp, given.ramp)
    assert made.ramp.data_ptr() != given.ramp.data_ptr() and made.again is made.scale
    assert made(torch.rand(2, 3, 12, 12).half()).shape == (2, 3)


def test_a_network_without_a_head_gets_one():
    given = zoo_slim.load("timm/test_resnet", pretrained=False, num_classes=1000)
    headless = copy.deepcopy(given)
    headless.reset_classifier(0)
    made = new_head(headless, 4)
    assert made(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in headless.state_dict().items())


@pytest.mark.parametrize(
    "name, head",
    [
        ("vgg11_bn", {"classifier.6.weight", "classifier.6.bias"}),
        ("mobilenet_v2", {"classifier.1.weight", "classifier.1.bias"}),
        ("timm/deit_tiny_distilled_patch16_224", {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}),
    ],
)
def test_where_the_head_is(name, head):
    model = zoo_slim.load(name, pretrained=False)
    randomize(model)
    made = new_head(model, 7)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key for key, tensor in made.state_dict().items() if tensor.shape != shapes[key]} == head
    assert all(
        torch.equal(made.state_dict()[key], value) for key, value in model.state_dict().items() if key not in head
    )


def test_who_cannot_have_one(model):
    with pytest.raises(CheckpointError, match=r"architecture of this model is not known.*zoo_slim.load"):
        new_head(nn.Linear(3, 4), 3)
    with pytest.raises(CheckpointError, match="a number or a list of names, found 'cat'"):
        new_head(model, "cat")
    for count in (0, 3.0):
        with pytest.raises(RegistryError, match="num_classes"):
            new_head(model, count)
    changed = zoo_slim.load("resnet18", pruned="0.75")
    changed.fc = nn.Sequential(nn.Dropout(), changed.fc)
    with pytest.raises(CheckpointError, match=r"fc.* of the model is not as architecture 'resnet18' builds it"):
        new_head(changed, 3)
    register("padded-head")(lambda num_classes=3: nn.Sequential(nn.Flatten(), nn.Linear(12, 8)))
    with pytest.raises(CheckpointError, match="'padded-head' builds nothing in another shape for another num_classes"):
        new_head(zoo_slim.load("padded-head", pretrained=False), 4)
    without = attach_origin(nn.Linear(2, 2), dataclasses.replace(origin_of(model), architecture="RepVGG-none"))
    with pytest.raises(RegistryError, match="RepVGG-none"):
        new_head(without, 3)


def test_a_slim_network_learns_other_classes_and_goes_on(tmp_path):
    register_tiny()
    torch.manual_seed(0)
    base = randomize(zoo_slim.load(TINY, pretrained=False))
    small, _ = slim(base, ratio=0.5, criterion="l2")
    source = save(small, tmp_path / "source", variant="0.5", classes=("x", "y", "z"), metrics={"test_accuracy": 0.5})
    for split in ("train", "val"):
        write_images(tmp_path / "data", split, {"cat": 8, "dog": 8})
    data = Data("image_folder", tmp_path / "data", 32)
    with pytest.raises(TrainingError, match=r"3 classes apart, image-folder has 2; .* --new-head"):
        finetune(source, data, SETTINGS, tmp_path / "none")
    words = ["finetune", str(source), "--new-head", "--dataset", "image-folder", "--data", str(tmp_path / "data")]
    words += ["--epochs", "2", "--batch-size", "8", "--lr", "0.01", "--device", "cpu", "--seed", "1"]
    words += ["--image-size", "32", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    tuned = zoo_slim.load(f"local-dir:{tmp_path / 'run' / 'model'}")
    assert tuned.fc.out_features == 2 and tuned.conv1.out_channels == small.conv1.out_channels < base.conv1.out_channels
    assert origin_of(tuned).classes == ("cat", "dog") and origin_of(tuned).variant == "0.5"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(source, data, SETTINGS, tmp_path / "run", new_head=True, resume=True)
    again = zoo_slim.load(f"local-dir:{tmp_path / 'run' / 'model'}")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in tuned.state_dict().items())
