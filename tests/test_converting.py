"""Checkpoints of weights from elsewhere: of files, and of what timm and torchvision publish, on the loopback."""

import hashlib
import http.server
import json
import pickle
import threading
from functools import partial

import pytest
import safetensors.torch
import torch
from cli_helpers import NAME, build_tiny, register_tiny, run
from hub_clients import Client, hub, needs_fork

import zoo_slim
from zoo_slim import convert, slim
from zoo_slim._errors import CheckpointError, RegistryError
from zoo_slim.checkpoint import origin_of, read_config
from zoo_slim.slimming import randomize

__all__ = ["hub"]

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TIMM = "test_resnet.r160_in1k"
TORCHVISION = "shufflenet_v2_x0_5"


@pytest.fixture
def model():
    register_tiny()
    torch.manual_seed(0)
    return randomize(build_tiny(num_classes=7)).eval()


def same(folder, model) -> bool:
    found = zoo_slim.load(f"local-dir:{folder}").state_dict()
    return all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())


def wrapped(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state, "lr": 0.1},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model": wrapped(state, "module._orig_mod.")},
        lambda state: wrapped(state, "_orig_mod.module."),
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
    ],
)
def test_a_file_of_torch(model, tmp_path, content):
    torch.save(content(model.state_dict()), tmp_path / "net.pth")
    folder = convert(NAME, tmp_path / "start", weights=tmp_path / "net.pth", options={"num_classes": 7})
    assert same(folder, model)
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    assert read_config(folder).training == {"weights": {"from": "net.pth", "sha256": digest}}


def test_safetensors_from_the_shell_can_be_slimmed(model, tmp_path, capsys, monkeypatch):
    file, start = tmp_path / "net.safetensors", tmp_path / "start"
    safetensors.torch.save_file(model.state_dict(), file)
    words = "convert", NAME, "--weights", file, "--num-classes", 7, "--output", start
    ran = run(capsys, monkeypatch, *words)
    assert (ran.code, ran.out, ran.err) == (0, f"saved {start}\n", "") and same(start, model)
    again = run(capsys, monkeypatch, *words)
    assert again.code == 1 and f"{start}: exists already" in again.err
    small, _ = slim(zoo_slim.load(start), ratio=0.5, criterion="l2")
    assert small(IMAGES).shape == (2, 7)


def test_what_a_file_expects_of_images(model, tmp_path, capsys, monkeypatch):
    torch.save(model.state_dict(), tmp_path / "net.pth")
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfa\r\nb\r\nc d\r\ne\r\nf\r\ng\r\n\xc3\x9f\r\n\r\n")
    words = "convert", NAME, "--weights", tmp_path / "net.pth", "--num-classes", 7
    given = "--mean", "0.1,0.2,0.3", "--std", "0.5", "--image-size", 64, "--classes", names
    assert run(capsys, monkeypatch, *words, *given, "--output", tmp_path / "start").code == 0
    config = read_config(tmp_path / "start")
    assert config.input == {"size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3}
    assert config.classes == ("a", "b", "c d", "e", "f", "g", "ß")
    both = "--mean", "0.5", "--std", "0.25"
    assert run(capsys, monkeypatch, *words, *both, "--output", tmp_path / "both").code == 0
    assert read_config(tmp_path / "both").input == {"size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "gap.txt").write_text("a\n\nb\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("a\nb\n", encoding="utf-8")
    for wrong, code, said in (
        (("--mean", "0.1,0.2"), 2, "--mean takes 3 numbers with commas between them, or one number, not '0.1,0.2'"),
        (("--std", "wide"), 2, "--std takes 3 numbers"),
        (("--mean", "0", "--std", "0"), 1, "convert: field 'input.std': expected finite numbers above 0"),
        (("--mean", "nan", "--std", "1"), 1, "convert: field 'input.mean': expected finite numbers"),
        (("--mean", "0.5"), 1, "mean and std of the images belong together"),
        (("--classes", tmp_path / "none.txt"), 1, "none.txt"),
        (("--classes", tmp_path / "net.pth"), 1, "net.pth: is no text in UTF-8"),
        (("--classes", tmp_path / "gap.txt"), 1, "gap.txt: line 2 is empty"),
        (("--classes", tmp_path / "two.txt"), 1, "must be 7 names"),
    ):
        ran = run(capsys, monkeypatch, *words, *wrong, "--output", tmp_path / "other")
        assert ran.code == code and said in " ".join(ran.err.replace("│", "").split()), ran.err
    assert not (tmp_path / "other").exists()


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    "content, said",
    [
        ({"a": 3}, "net.pth: holds no state dict: names and tensors, alone or as state_dict, model_state_dict, model"),
        ({}, "net.pth: holds no state dict"),
        ([torch.zeros(2)], "net.pth: holds no state dict"),
        (
            Hostile(),
            "net.pth: holds more than tensors, which is not unpickled.*torch.save\\(model.state_dict\\(\\), file",
        ),
        (b"nothing", "net.pth: "),
        (None, "net.pth: there is no such file"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_hold_no_weights(model, tmp_path, capsys, content, said):
    file = tmp_path / "net.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=said):
        convert(NAME, tmp_path / "start", weights=file)
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"net\.pth"):
        convert(NAME, tmp_path / "start", weights=file)
    assert not (tmp_path / "start").exists() and "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda state: state, r"does not fit tiny_cli_net as it was built: fc.weight is \[7, 8\] there, \[3, 8\] here"),
        (lambda state: {**state, "more.weight": torch.zeros(2)}, r"more.weight is not of this network"),
        (lambda state: {"fc.bias": state["fc.bias"]}, r"conv1.weight is missing.*--option.*num_classes, width"),
    ],
)
def test_weights_that_do_not_fit(model, tmp_path, change, said):
    torch.save(change(model.state_dict()), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=f"net.pth: .*{said}"):
        convert(NAME, tmp_path / "start", weights=tmp_path / "net.pth")
    assert not (tmp_path / "start").exists()


def test_what_nobody_publishes(tmp_path):
    for name, who in (("RepVGG-A0-woid", "torchvision or timm"), ("timm/test_vit4", "timm")):
        with pytest.raises(CheckpointError, match=f"{name}: {who} publishes no weights of it; give a file"):
            convert(name, tmp_path / "start")
    with pytest.raises(CheckpointError, match=r"are for 1000 classes; leave num_classes out.*new_head"):
        convert(TORCHVISION, tmp_path / "start", options={"num_classes": 5})
    with pytest.raises(CheckpointError, match=rf"timm/{TIMM}: .* are for 1000 classes; leave num_classes out"):
        convert(f"timm/{TIMM}", tmp_path / "start", options={"num_classes": 5})
    with pytest.raises(RegistryError, match="pretrained"):
        convert(TORCHVISION, tmp_path / "start", options={"pretrained": True})


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server that has torchvision's file, under a name that begins with its hash."""
    from torchvision.models._api import WeightsEnum

    torch.manual_seed(0)
    network = randomize(zoo_slim.load(TORCHVISION, pretrained=False)).eval()
    (tmp_path / "web").mkdir()
    torch.save(network.state_dict(), tmp_path / "web" / "net.pth")
    content = (tmp_path / "web" / "net.pth").read_bytes()
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / "web" / "net.pth").rename(tmp_path / "web" / name)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "web")
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(
            WeightsEnum, "url", property(lambda self: f"http://127.0.0.1:{server.server_address[1]}/{name}")
        )
        yield network, tmp_path / "web" / name
        server.shutdown()


def test_torchvisions_weights(published, tmp_path):
    network, file = published
    folder = convert(TORCHVISION, tmp_path / "start")
    assert same(folder, network)
    origin = origin_of(zoo_slim.load(folder))
    assert origin.input == {"size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert len(origin.classes) == 1000 and origin.classes[0] == "tench"
    assert origin.training["weights"]["name"].endswith("IMAGENET1K_V1")
    named = [f"class {index}" for index in range(1000)]
    other = convert(TORCHVISION, tmp_path / "smaller", input={"size": [3, 96, 96]}, classes=named)
    assert read_config(other).input == {**origin.input, "size": [3, 96, 96]}
    assert read_config(other).classes == tuple(named)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for left in (tmp_path / "home").rglob("*.pth"):
        left.unlink()
    with pytest.raises(CheckpointError, match=f"{TORCHVISION}: its published weights could not be had .*hash"):
        convert(TORCHVISION, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@needs_fork
def test_timms_weights(hub, tmp_path):
    import timm

    torch.manual_seed(0)
    network = randomize(timm.create_model(TIMM)).eval()
    repo = hub.store.repo(f"timm/{TIMM}")
    repo.create()
    repo.put({"model.safetensors": safetensors.torch.save(network.state_dict(), {"format": "pt"})})
    client = Client(hub.url, tmp_path / "home")
    code = f"""
zoo_slim.convert("timm/{TIMM}", "start")
print(error_of(zoo_slim.convert, "timm/test_efficientnet.r160_in1k", "other"), Path("other").exists())
"""
    said = client.run(code).ok()
    assert "timm/test_efficientnet.r160_in1k: its published weights could not be had (" in said and "False" in said
    start = next(tmp_path.rglob("start"))
    assert same(start, network)
    config = json.loads((start / "config.json").read_text())
    assert config["architecture"] == f"timm/{TIMM}" and config["input"]["size"] == [3, 160, 160]
    assert config["options"] == {"num_classes": 1000}
    assert len(config["classes"]) == 1000 and config["classes"][207] == "golden retriever"
    assert config["training"]["weights"]["name"] == TIMM and len(config["input"]["mean"]) == 3
