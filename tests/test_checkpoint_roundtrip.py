import copy
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from checkpoint_cnn import NAME, a_result, images, load, result_for, same_state, slimmed, small_cnn, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from zoo_slim import ZooSlimError, checkpoint
from zoo_slim._errors import CheckpointError, RegistryError
from zoo_slim.checkpoint import Origin
from zoo_slim.registry import Architecture, register
from zoo_slim.result import PruningResult

FRESH = """
import sys, torch
from safetensors.torch import save_file
import checkpoint_cnn
from zoo_slim import checkpoint
for folder in sys.argv[1:]:
    model = checkpoint.load_folder(folder)
    out = {name: t.clone().contiguous() for name, t in model.state_dict().items()}
    with torch.no_grad():
        out["output"] = model(checkpoint_cnn.images().to(model.scale.dtype))
    save_file(out, folder + ".loaded")
"""


def slim_model(seed: int = 0) -> Any:
    result = a_result()
    model = slimmed(trained(seed), result)
    return checkpoint.attach_origin(model, Origin(NAME, result=result))


def test_fresh_process_loads_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"base": trained(1), "base/pruned-0.5": slim_model(1), "half": trained(2).half()}
    for name, model in models.items():
        checkpoint.save(model, tmp_path / name, architecture=None if name.endswith("0.5") else NAME)
    root = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{root.parent}:{root}")
    subprocess.run([sys.executable, "-c", FRESH, *(str(tmp_path / name) for name in models)], check=True)
    for name, model in models.items():
        loaded = load_file(f"{tmp_path / name}.loaded")
        with torch.no_grad():
            output = model(images().to(model.scale.dtype))
        assert torch.equal(loaded["output"], output)
        for key, tensor in model.state_dict().items():
            assert tensor.dtype == loaded[key].dtype and torch.equal(tensor, loaded[key]), key


@st.composite
def kept_sets(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    def rows(size: int) -> list[list[int]]:
        count = draw(st.integers(1, size))
        row = st.lists(st.integers(0, size - 1), min_size=count, max_size=count, unique=True).map(sorted)
        return [draw(row), draw(row)]

    return rows(4), rows(8)


@settings(max_examples=25, deadline=None)
@given(kept_sets(), st.integers(0, 1000), st.booleans())
def test_random_kept_sets(tmp_path_factory: pytest.TempPathFactory, kept: Any, seed: int, own_weights: bool) -> None:
    result = result_for(*kept)
    base = trained(seed)
    slim = slimmed(base, result)
    folder = tmp_path_factory.mktemp("kept") / "net"
    checkpoint.save(base, folder, architecture=NAME)
    checkpoint.save(slim, folder / "pruned-0.5", architecture=NAME, result=result, weights=own_weights)
    loaded = load(folder / "pruned-0.5")
    assert (folder / "pruned-0.5" / "model.safetensors").exists() == own_weights
    assert same_state(slim, loaded) and torch.equal(slim(images()), loaded(images()))
    origin = checkpoint.origin_of(loaded)
    assert origin is not None and origin.result == result and origin.variant == "0.5"


def test_what_is_loaded_is_an_ordinary_module(tmp_path: Path) -> None:
    base = trained()
    checkpoint.save(base, tmp_path / "net", architecture=NAME)
    state = torch.random.get_rng_state()
    loaded = load(tmp_path / "net")
    assert torch.equal(state, torch.random.get_rng_state())
    assert not loaded.training and type(loaded) is type(base)
    assert loaded.scale is loaded.again
    assert torch.equal(loaded.ramp, base.ramp) and loaded.steps.dtype == torch.int64 and loaded.steps == 3
    assert {n: p.requires_grad for n, p in base.named_parameters()} == {
        n: p.requires_grad for n, p in loaded.named_parameters()
    }
    loaded.train()(images()).sum().backward()
    assert loaded.scale.grad is not None
    copied = copy.deepcopy(loaded)
    assert checkpoint.origin_of(copied) == checkpoint.origin_of(loaded) and "zoo_slim_origin" not in copied.state_dict()


def test_shared_parameters_are_stored_once_and_non_persistent_buffers_never(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path / "net", architecture=NAME)
    stored = load_file(tmp_path / "net" / "model.safetensors")
    assert "scale" in stored and "again" not in stored and "ramp" not in stored


def test_everything_said_is_read_again(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "options": {"num_classes": 3, "width": 6},
        "classes": ("cat", "dög", ""),
        "input": {"size": (3, 12, 12), "mean": [0.5, 0.25, 0], "std": [1, 2, 3]},
        "metrics": {"test_accuracy": np.float64(0.875), "params": 12, "steps": torch.tensor(4)},
        "training": {"command": "zoo-slim train", "seed": 0, "sides": (1, 2), "amp": None, "nested": {"a": [True]}},
        "base": {"params": 100},
    }
    model = trained(num_classes=3, width=6)
    checkpoint.save(model, tmp_path / "net", architecture=NAME, **said)
    origin = checkpoint.origin_of(load(tmp_path / "net"))
    assert origin is not None and origin.architecture == NAME and origin.options == said["options"]
    assert origin.classes == said["classes"]
    assert origin.input == {"size": [3, 12, 12], "mean": [0.5, 0.25, 0.0], "std": [1.0, 2.0, 3.0]}
    assert origin.metrics == {"test_accuracy": 0.875, "params": 12, "steps": 4}
    assert origin.training == {**said["training"], "sides": [1, 2]} and origin.base == said["base"]


def test_an_origin_supplies_what_is_not_given(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path / "one", architecture=NAME, classes=list("abcde"), metrics={"a": 1})
    loaded = load(tmp_path / "one")
    checkpoint.save(torch.nn.DataParallel(loaded), tmp_path / "two", metrics={"a": 2})
    config = checkpoint.read_config(tmp_path / "two")
    assert (config.architecture, config.classes, config.metrics) == (NAME, tuple("abcde"), {"a": 2})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_in_another_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model = trained()
    checkpoint.save(model, tmp_path / "net", architecture=NAME, dtype=dtype)
    config = checkpoint.read_config(tmp_path / "net")
    assert (config.dtype, config.stored_dtype) == ("float32", str(dtype).removeprefix("torch."))
    assert load_file(tmp_path / "net" / "model.safetensors")["scale"].dtype == dtype
    assert same_state(load(tmp_path / "net"), copy.deepcopy(model).to(dtype).float())
    assert same_state(load(tmp_path / "net", dtype=dtype), copy.deepcopy(model).to(dtype))


def test_a_network_of_another_dtype_keeps_it(tmp_path: Path) -> None:
    model = trained().double()
    checkpoint.save(model, tmp_path / "net", architecture=NAME)
    loaded = load(tmp_path / "net")
    assert same_state(model, loaded) and loaded.ramp.dtype == torch.float64
    single = load(tmp_path / "net", dtype=torch.float32)
    assert {t.dtype for t in [*single.parameters(), *single.buffers()]} == {torch.float32, torch.int64}


def test_a_network_of_mixed_dtypes_keeps_them(tmp_path: Path) -> None:
    model = trained()
    model.bn1.running_mean = model.bn1.running_mean.double()
    checkpoint.save(model, tmp_path / "net", architecture=NAME)
    assert same_state(model, load(tmp_path / "net"))
    checkpoint.save(model, tmp_path / "net", architecture=NAME, dtype=torch.float16)
    assert load(tmp_path / "net").bn1.running_mean.equal(model.bn1.running_mean)


def test_special_values_survive(tmp_path: Path) -> None:
    model = trained()
    with torch.no_grad():
        model.scale[:5] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42, -float("inf")])
    checkpoint.save(model, tmp_path / "net", architecture=NAME)
    assert same_state(model, load(tmp_path / "net"))


def test_values_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    model = trained()
    model.bn1.running_var.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"bn1\.running_var.*too large for torch\.float16"):
        checkpoint.save(model, tmp_path / "net", architecture=NAME, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_random_weights_on_request(tmp_path: Path) -> None:
    slim = slim_model()
    checkpoint.save(slim, tmp_path / "net", metrics={"test_accuracy": 1.0})
    loaded = load(tmp_path / "net", pretrained=False)
    origin = checkpoint.origin_of(loaded)
    assert loaded(images()).shape == (2, 5) and not same_state(slim, loaded)
    assert [t.shape for t in slim.state_dict().values()] == [t.shape for t in loaded.state_dict().values()]
    assert origin is not None and origin.metrics == {}


def test_equal_networks_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        checkpoint.save(slim_model(4), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


class Reads(nn.Module):
    """Chooses its width by a tensor's values; `from_parameter`: by those of a parameter."""

    def __init__(self, from_parameter: bool):
        super().__init__()
        self.register_buffer("table", torch.arange(4))
        self.choice = nn.Parameter(torch.tensor(3.0))
        self.fc = nn.Linear(2, int(self.choice if from_parameter else self.get_buffer("table")[2]))
        self.register_buffer("of_weight", torch.ones(3, device=self.fc.weight.device), persistent=False)


@register("checkpoint-test-reads")
def reads(from_parameter: bool = False) -> Any:
    return Reads(from_parameter)


@pytest.mark.parametrize("from_parameter", [False, True])
def test_builders_that_look_at_values(tmp_path: Path, from_parameter: bool) -> None:
    options = {"from_parameter": from_parameter}
    model: Any = reads(**options)
    checkpoint.save(model, tmp_path / "net", architecture="checkpoint-test-reads", options=options)
    loaded = load(tmp_path / "net")
    assert same_state(model, loaded) and not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])
    assert torch.equal(loaded.of_weight, torch.ones(3))


def test_other_threads_build_real_networks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[bool] = []

    def builder() -> nn.Module:
        thread = threading.Thread(target=lambda: met.append(nn.Linear(1, 1).weight.is_meta))
        thread.start()
        thread.join()
        return nn.Sequential(nn.Linear(2, 2))

    threads = Architecture("threads", builder, options={})
    monkeypatch.setattr("zoo_slim.registry.Registry._find", lambda self, name: ("", threads))
    checkpoint.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "net", architecture="threads")
    assert met == [False]


def test_no_base_weights_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

    checkpoint_plain = Architecture("checkpoint-test-plain", Plain, options={})
    monkeypatch.setattr("zoo_slim.registry.Registry._find", lambda self, name: ("", checkpoint_plain))
    checkpoint.save(Plain(), tmp_path / "net", architecture="checkpoint-test-plain")
    devices = []
    original = nn.init.kaiming_uniform_

    def watched(tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        devices.append(tensor.untyped_storage().device.type)  # `tensor.device` claims to be the CPU
        return original(tensor, **kwargs)

    monkeypatch.setattr(nn.init, "kaiming_uniform_", watched)
    load(tmp_path / "net")
    assert set(devices) == {"meta"}


def refused(message: str, model: nn.Module, folder: Path, **fields: Any) -> None:
    with pytest.raises(ZooSlimError, match=message):
        checkpoint.save(model, folder, **fields)
    assert not folder.exists()


def test_save_refuses_what_it_could_not_load(tmp_path: Path) -> None:
    folder, result = tmp_path / "net", a_result()
    slim = slimmed(trained(), result)
    refused("pass architecture= .*result=", trained(), folder)
    refused(r"'scale'.*\[6\].*\[16\].*result=", slim, folder, architecture=NAME)
    refused(r"'scale'.*\[16\].*\[6\]", trained(), folder, architecture=NAME, result=result)
    refused("no architecture is called", trained(), folder, architecture="checkpoint-test-unheard-of")
    refused("no option 'depth'", trained(), folder, architecture=NAME, options={"depth": 3})
    refused("'choice'", nn.Sequential(), folder, architecture="checkpoint-test-reads")
    refused("variant '0.5'", trained(), folder, architecture=NAME, variant="0.5")
    refused("variant '0.5'", trained(), folder / "pruned-0.5", architecture=NAME)
    refused("variant='0.7'", slim, folder / "pruned-0.5", architecture=NAME, result=result, variant="0.7")
    refused("variant", slim, folder, architecture=NAME, result=result, variant="../x")
    refused(r"metrics\.loss.*finite", trained(), folder, architecture=NAME, metrics={"loss": float("nan")})
    refused(r"training\.when", trained(), folder, architecture=NAME, training={"when": object()})
    refused("metrics", trained(), folder, architecture=NAME, metrics={1: 2})
    refused(r"classes\[1\]", trained(), folder, architecture=NAME, classes=["a", 1])
    refused("classes must be 5 names, .* found 2", trained(), folder, architecture=NAME, classes=["a", "b"])
    refused("classes must be a list of names, found the text", trained(), folder, architecture=NAME, classes="abcde")
    refused("a path cannot hold a null character", trained(), tmp_path / "a\0b", architecture=NAME)
    refused(r"input\.size.*values in all", trained(), folder, architecture=NAME, input={"size": [3, 9999, 9999]})
    refused(r"input\.std", trained(), folder, architecture=NAME, input={"size": [3, 4, 4], "std": [0, 1, 1]})
    other = trained()
    other.head = nn.Sequential(nn.Dropout(), other.head)
    refused(r"'head\.weight'.*has it, the model not; .*register a builder", other, folder, architecture=NAME)
    attributes = {"head.1": result.attributes["head"]}
    refused("builds no module 'head.1', .*register a builder", other, folder, architecture=NAME,
            result=PruningResult({}, attributes))  # fmt: skip
    other = trained()
    other.conv1.stride = (2, 2)
    refused(r"layer 'conv1': stride is \(2, 2\)", other, folder, architecture=NAME)
    other = trained()
    other.again = nn.Parameter(other.scale.detach() + 1)
    refused("'again'.*shares it with 'scale'", other, folder, architecture=NAME)
    other = trained()
    other.steps = other.steps.int()
    refused("'steps'.*int32", other, folder, architecture=NAME)
    refused("only a slim network", trained(), folder, architecture=NAME, weights=False)


def test_variants_without_weights_need_those_of_their_base(tmp_path: Path) -> None:
    base, result = trained(1), a_result()
    slim = slimmed(base, result)
    fields: dict[str, Any] = {"architecture": NAME, "result": result, "weights": False}
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.save(slim, tmp_path / "net" / "pruned-0.5", **fields)
    checkpoint.save(base, tmp_path / "net", architecture=NAME)
    tuned = copy.deepcopy(slim)
    with torch.no_grad():
        tuned.head.bias[0] += 1
    with pytest.raises(CheckpointError, match=r"head\.bias.*weights=True"):
        checkpoint.save(tuned, tmp_path / "net" / "pruned-0.5", **fields)
    checkpoint.save(slim, tmp_path / "net" / "pruned-0.5", **fields)
    with pytest.raises(CheckpointError, match=r"variant '0\.5' has no weights of its own"):
        checkpoint.save(trained(2), tmp_path / "net", architecture=NAME)
    assert same_state(load(tmp_path / "net"), base)
    checkpoint.save(base, tmp_path / "net", architecture=NAME, metrics={"again": 1})
    assert same_state(load(tmp_path / "net" / "pruned-0.5"), slim)


def test_a_result_may_name_a_shared_tensor_by_any_of_its_names(tmp_path: Path) -> None:
    checkpoint.save(trained(1), tmp_path / "net", architecture=NAME)
    result = a_result()
    kept = {name: axes for name, axes in result.kept.items() if name != "scale"}
    result = PruningResult(kept, result.attributes)
    slim = slimmed(trained(1), result)
    for tag, weights in (("a", True), ("b", False)):
        folder = tmp_path / "net" / f"pruned-{tag}"
        checkpoint.save(slim, folder, architecture=NAME, result=result, weights=weights)
        assert same_state(load(folder), slim)


def test_half_stored_base_gives_half_stored_slices(tmp_path: Path) -> None:
    checkpoint.save(trained(1), tmp_path / "net", architecture=NAME, dtype=torch.float16)
    slim = slimmed(load(tmp_path / "net"), a_result())
    checkpoint.save(slim, tmp_path / "net" / "pruned-0.5", architecture=NAME, result=a_result(), weights=False)
    assert same_state(load(tmp_path / "net" / "pruned-0.5"), slim)


def test_options_must_agree_with_those_saved(tmp_path: Path) -> None:
    model = small_cnn(num_classes=3)
    checkpoint.save(model, tmp_path / "net", architecture=NAME, options={"num_classes": 3})
    load(tmp_path / "net", options={"num_classes": 3, "width": 8})
    with pytest.raises(CheckpointError, match=r"num_classes=3.*num_classes=4"):
        load(tmp_path / "net", options={"num_classes": 4})
    with pytest.raises(CheckpointError, match=r"width=8.*width=9"):
        load(tmp_path / "net", options={"width": 9})
    with pytest.raises(RegistryError, match="depth"):
        load(tmp_path / "net", options={"depth": 9})


def test_devices_and_dtypes_that_are_none(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path / "net", architecture=NAME)
    with pytest.raises(CheckpointError, match="'warp'"):
        load(tmp_path / "net", device="warp")
    with pytest.raises(CheckpointError, match="int64"):
        load(tmp_path / "net", dtype=torch.int64)


@register("checkpoint-test-layers", input_size=(3, 12, 12))
def layers(num_classes: int = 4) -> nn.Module:
    parts = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2))
    return nn.Sequential(*parts, nn.Linear(150, num_classes))


def test_a_layer_of_another_class_is_refused_and_what_computes_the_same_is_not(tmp_path: Path) -> None:
    for place, layer, said in ((2, nn.SiLU(), "SiLU.*ReLU"), (3, nn.Identity(), "Identity.*MaxPool2d")):
        model: Any = layers()
        model[place] = layer
        refused(
            rf"layer '{place}': is a \S*{said}.*options=",
            model,
            tmp_path / "net",
            architecture="checkpoint-test-layers",
        )
    longer: Any = layers()
    longer.append(nn.Softmax(1))
    refused("layer '': has 8 layers, .* 7;", longer, tmp_path / "net", architecture="checkpoint-test-layers")
    eps: Any = nn.SyncBatchNorm.convert_sync_batchnorm(layers())
    eps[1].eps = 0.1
    refused("layer '1': eps is 0.1", eps, tmp_path / "net", architecture="checkpoint-test-layers")
    same: Any = nn.SyncBatchNorm.convert_sync_batchnorm(layers())
    same[5], same[2] = nn.Identity(), nn.ReLU(inplace=True)
    checkpoint.save(same, tmp_path / "net", architecture="checkpoint-test-layers")
    assert same_state(load(tmp_path / "net"), same)
    with_loss = trained()
    with_loss.loss = nn.CrossEntropyLoss()
    checkpoint.save(with_loss, tmp_path / "other", architecture=NAME)


def test_a_class_that_was_defined_again_is_the_same(tmp_path: Path) -> None:
    model = trained()
    model.__class__ = type("SmallCnn", (type(model),), {"__module__": "checkpoint_cnn", "__qualname__": "SmallCnn"})
    checkpoint.save(model, tmp_path / "net", architecture=NAME)


def test_a_buffer_that_is_not_saved_and_differs_is_told(tmp_path: Path) -> None:
    model = trained()
    model.ramp += 1
    with pytest.warns(UserWarning, match="buffer 'ramp': is not in the state dict"):
        checkpoint.save(model, tmp_path / "net", architecture=NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.save(trained().half(), tmp_path / "half", architecture=NAME)


def test_what_does_nothing_in_evaluation_may_differ(tmp_path: Path) -> None:
    model = timm.create_model("convnext_atto", drop_path_rate=0.2, num_classes=4)
    with torch.device("meta"):
        plain = timm.create_model("convnext_atto", num_classes=4)
    assert {type(part) for part in model.modules()} - {type(part) for part in plain.modules()}
    options = {"num_classes": 4}
    checkpoint.save(model, tmp_path / "net", architecture="timm/convnext_atto", options=options)
    assert same_state(load(tmp_path / "net"), model)


def test_tensors_that_were_tied_afterwards_are_saved_under_both_names(tmp_path: Path) -> None:
    model = trained()
    model.bn1.bias = model.bn1.weight
    checkpoint.save(model, tmp_path / "net", architecture=NAME)
    assert same_state(load(tmp_path / "net"), model)


def test_a_cast_that_loading_could_not_undo_is_refused(tmp_path: Path) -> None:
    model = trained().half()
    model.bn1.float()
    refused("'bn1.weight': is torch.float32 already", model, tmp_path / "net", architecture=NAME, dtype=torch.float32)
    checkpoint.save(model, tmp_path / "net", architecture=NAME)
    assert same_state(load(tmp_path / "net"), model)


def test_a_base_that_is_replaced_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo_slim.checkpoint import _save

    checkpoint.save(trained(1), tmp_path / "net", architecture=NAME)
    prove = _save.cut_from_folder_above

    def overtaken(*arguments: Any) -> Any:
        config = prove(*arguments)
        checkpoint.save(trained(2), tmp_path / "net", architecture=NAME)
        return config

    monkeypatch.setattr(_save, "cut_from_folder_above", overtaken)
    slim = slimmed(trained(1), a_result())
    with pytest.raises(CheckpointError, match="the base network was replaced meanwhile"):
        checkpoint.save(slim, tmp_path / "net" / "pruned-x", architecture=NAME, result=a_result(), weights=False)
    assert checkpoint.variants(tmp_path / "net") == []


@register("checkpoint-test-float", input_size=(3, 12, 12))
def with_float(slope: float = 0.5, scale: float = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(slope))


def test_an_int_given_for_a_float_agrees_with_it(tmp_path: Path) -> None:
    checkpoint.save(with_float(1.0), tmp_path / "net", architecture="checkpoint-test-float", options={"slope": 1.0})
    load(tmp_path / "net", options={"slope": 1})
    load(tmp_path / "net", options={"scale": 2})


def test_the_meta_device_holds_no_network(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path / "net", architecture=NAME)
    with pytest.raises(CheckpointError, match="'meta' holds no weights; pass pretrained=False"):
        load(tmp_path / "net", device="meta")
    assert load(tmp_path / "net", device="meta", pretrained=False).conv1.weight.is_meta
