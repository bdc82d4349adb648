import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cnn import NAME, a_result, images, same_state, slimmed, trained

import zoo_slim
from zoo_slim import checkpoint, loading, registry
from zoo_slim._errors import CheckpointError, RegistryError
from zoo_slim._plugins import Package
from zoo_slim.checkpoint._packages import libraries_of
from zoo_slim.loading import HubPlace, LocalPlace, load, places, variants


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the bundled zoo, with nothing to be had from the Hub."""
    monkeypatch.setattr(loading, "bundled_zoo", lambda: tmp_path / "zoo")
    monkeypatch.setenv("ZOO_SLIM_NAMESPACE", "")
    return tmp_path / "zoo"


def fill(folder: Path, base: bool = True, tags: tuple[str, ...] = ("0.5", "0.75")) -> None:
    if base:
        checkpoint.save(trained(1), folder, architecture=NAME, options={"num_classes": 5})
    for seed, tag in enumerate(tags):
        checkpoint.save(
            slimmed(trained(seed), a_result()),
            folder / f"pruned-{tag}",
            architecture=NAME,
            options={"num_classes": 5},
            result=a_result(),
        )


def test_the_bundled_zoo(zoo: Path) -> None:
    fill(zoo / NAME)
    assert variants(NAME) == ["0.5", "0.75"]
    assert same_state(load(NAME), trained(1))
    model = load(NAME, pruned="0.75", num_classes=5)
    assert same_state(model, slimmed(trained(1), a_result())) and not model.training
    assert same_state(load(NAME, pruned=0.5), slimmed(trained(0), a_result()))
    origin = checkpoint.origin_of(model)
    assert origin is not None and (origin.architecture, origin.variant) == (NAME, "0.75")
    assert zoo_slim.load is load
    assert load(NAME, dtype=torch.float64)(images().double()).dtype == torch.float64
    with pytest.raises(CheckpointError, match=r"num_classes=5.*num_classes=6"):
        load(NAME, pruned="0.75", num_classes=6)


@pytest.mark.parametrize(
    ("tag", "expected"), [(None, "0"), ("0.9", "0.75"), ("0.3", "0.5"), ("macs-0.2", "macs-0.25"), ("mac", "macs-0.25")]
)
def test_the_nearest_variant(tag: str | None, expected: str) -> None:
    assert loading.nearest(tag, ["0", "0.5", "0.75", "macs-0.25"]) == expected


def test_folders(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert variants("local-dir:mine") == ["0.5", "0.75"]
    assert same_state(load("local-dir:mine"), trained(1))
    slim = load("local-dir:mine", "0.5")
    assert same_state(slim, slimmed(trained(0), a_result()))
    for name, tag in (("mine/pruned-0.5", None), ("mine/pruned-0.5", "0.5"), (f"{tmp_path}/mine", "0.5")):
        assert same_state(load(f"local-dir:{name}", tag), slim)
    for name, tag in (("mine", "0.9"), ("mine/pruned-0.5", "0.75")):
        with pytest.raises(CheckpointError, match=f"variant '{tag}' of 'local-dir:{name}' could not be found"):
            load(f"local-dir:{name}", tag)
    with pytest.raises(CheckpointError, match=r"mine has the variants 0\.5, 0\.75; load one with pruned='0\.75'"):
        load("local-dir:mine", "0.9")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load("local-dir:nowhere")
    (tmp_path / "mine" / "pruned-link").symlink_to(tmp_path / "mine" / ".." / "mine" / "pruned-0.5")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pruned-0.5").symlink_to(tmp_path / "mine" / "pruned-0.5")
    with pytest.raises(CheckpointError, match="leads out"):
        load("local-dir:other", "0.5")


def test_what_is_not_there_is_told(zoo: Path) -> None:
    fill(zoo / NAME, base=False)
    with pytest.raises(CheckpointError) as caught:
        load(NAME)
    message = str(caught.value)
    assert f"weights of '{NAME}' could not be found:\n- the bundled zoo ({NAME}): it has no config.json\n" in message
    assert "0.5, 0.75" in message and "pretrained=False" in message and "'local-dir:path'" in message
    with pytest.raises(CheckpointError, match=r"(?s)variant '0\.9'.*has no variant '0\.9'.*0\.5, 0\.75"):
        load(NAME, pruned="0.9")
    assert "zoo-slim train" not in message
    for tag in ("../../0.5", ".6", "0/5"):
        with pytest.raises(CheckpointError, match=r"'pruned'.*a tag.*[^?]$"):
            load(NAME, pruned=tag)
    with pytest.raises(CheckpointError, match=r"'pruned'.*a tag.*found '\.50'; did you mean '0\.5'\?$"):
        load(NAME, pruned=".50")


def test_how_a_name_without_weights_gets_some_is_told(zoo: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"To have weights of {NAME}, train it .*zoo_slim\.save"):
        load(NAME)


@pytest.mark.parametrize("pruned", [None, "0.5"])
def test_an_unknown_option_is_told_before_weights_are_looked_for(zoo: Path, pruned: str | None) -> None:
    with pytest.raises(RegistryError, match=rf"'{NAME}' has no option 'ratio'"):
        load(NAME, pruned, ratio=0.75)


def test_damage_is_not_passed_over(zoo: Path) -> None:
    fill(zoo / NAME, tags=())
    (zoo / NAME / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json.*'format'"):
        load(NAME)


def test_random_weights(zoo: Path) -> None:
    model = load(NAME, pretrained=False, num_classes=7)
    assert model(images()).shape == (2, 7) and not model.training
    origin = checkpoint.origin_of(model)
    assert origin is not None and origin.options == {"num_classes": 7}
    with pytest.raises(RegistryError, match="'classes'"):
        load(NAME, pretrained=False, classes=7)
    fill(zoo / NAME)
    slim = load(NAME, "0.5", pretrained=False)
    assert slim(images()).shape == (2, 5) and slim.get_parameter("conv1.weight").shape[0] == 4
    assert not same_state(slim, load(NAME, "0.5"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, "float16"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_are_of_floating_types(zoo: Path, dtype: Any, pretrained: bool) -> None:
    fill(zoo / NAME, tags=())
    with pytest.raises(CheckpointError, match=r"dtype must be a floating one.*found .*(int8|bool|complex64|float16)"):
        load(NAME, pretrained=pretrained, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("me/net", ["hf-hub:me/net", "local-dir:me/net"]),
        ("me/net@v1", ["hf-hub:me/net@v1", "local-dir:me/net@v1"]),
        ("me/net@a b", ["local-dir:me/net@a b"]),
        ("me/net/model", ["local-dir:me/net/model"]),
        ("./me/net", ["hf-hub:me/net", "local-dir:./me/net"]),
        *((name, [f"local-dir:{name}"]) for name in ("./net", "/net", "~/net", "../net", "a\\b", "net.pth/")),
        ("hf_hub:me/net", ["hf-hub:me/net", "local-dir:hf_hub:me/net"]),
        ("local_dir:runs/a/model", ["local-dir:runs/a/model"]),
        ("https://huggingface.co/me/net", ["hf-hub:me/net"]),
        ("https://hf.co/me/net/tree/main", ["hf-hub:me/net"]),
        ("https://example.com/me/net", []),
    ],
)
def test_repositories_and_paths_need_a_prefix(zoo: Path, name: str, offered: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(name)
    said = str(caught.value)
    assert re.findall("'((?:hf-hub|local-dir):[^']+)' for", said) == offered
    assert all(places(place) for place in offered)
    assert ("there is no such folder" in said) == name.startswith((".", "/", "~"))
    assert ("expected a registered name" in said) == (not offered)


def test_near_misses_in_a_family_are_offered_and_prefixes_too(zoo: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load("timm/resnet18.a1_in1kk")
    assert "did you mean 'timm/resnet18' or " in str(caught.value)
    assert "'hf-hub:timm/resnet18.a1_in1kk' for a repository" in str(caught.value)
    with pytest.raises(RegistryError, match="no architecture is called 'resnet18@v1'; did you mean 'resnet18'"):
        load("resnet18@v1")
    with pytest.raises(CheckpointError, match="'': expected a registered name, hf-hub:org/name, or a folder's path"):
        load("")


def test_a_plugin_that_failed_is_named_where_its_names_are_missing(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.Registry(entry_points=[])
    known._failures["net = lab:net"] = "no module named lab"
    monkeypatch.setattr(loading, "registry", lambda: known)
    with pytest.raises(CheckpointError, match=r"(?s)'lab/net' is not .*'hf-hub:lab/net'.*plugin net = lab:net failed"):
        load("lab/net")


def test_a_file_is_no_checkpoint(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(b"weights")
    for name in ("net.pth", "./net.pth", tmp_path / "net.pth"):
        with pytest.raises(CheckpointError, match=r"is a file; .*zoo-slim convert NAME --weights FILE"):
            load(name)


def test_a_checkpoint_of_another_library(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(CheckpointError, match=r"config\.json: field 'format' is missing: a .* of another library"):
        load(tmp_path)


@pytest.mark.parametrize("tag", [None, "0.5"])
def test_checkpoints_in_the_folder_that_was_named_are_offered(zoo: Path, tmp_path: Path, tag: str | None) -> None:
    fill(tmp_path / "run" / "model")
    (tmp_path / "run" / "log").mkdir()
    lacks = f"variant '{tag}'" if tag else r"config\.json"
    meant = f"local-dir:{tmp_path}/run/model"
    with pytest.raises(CheckpointError, match=f"run: it has no {lacks}; did you mean {meant}\\?$"):
        load(tmp_path / "run", tag)
    with pytest.raises(CheckpointError, match=f"log: it has no {lacks}$"):
        load(tmp_path / "run" / "log", tag)


def test_a_path_that_exists_is_taken_for_one(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="no architecture is called 'checkpoint-test-folder'"):
        load("checkpoint-test-folder")
    (tmp_path / "checkpoint-test-folder").mkdir()
    with pytest.raises(CheckpointError, match="'local-dir:checkpoint-test-folder'"):
        load("checkpoint-test-folder")


@pytest.mark.parametrize(
    "name",
    [
        *("hf-hub:", "hf-hub:net", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a/b@c@d", "hf-hub:../b", "hf-hub:a/b@../x"),
        *("hf-hub:a/b?x=1", "hf-hub:a/..", "hf-hub:a/b--c", "hf-hub:a/b.git", "hf-hub:a/b.", "local-dir:"),
    ],
)
def test_malformed_names(zoo: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="expected"):
        load(name)


def test_places(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places("hf-hub:me/net@v1") == [HubPlace("me/net", "v1")]
    assert places("hf-hub:me/net", "refs/pr/1") == places("hf-hub:me/net@refs/pr/1")
    with pytest.raises(CheckpointError, match="leave one out"):
        places("hf-hub:me/net@v1", "v2")
    with pytest.raises(CheckpointError, match="a folder has no revisions"):
        places("local-dir:x", "v2")
    with pytest.raises(CheckpointError, match="revision"):
        places(NAME, "a b")
    assert places("local-dir:x") == [LocalPlace(Path("x"))]
    monkeypatch.delenv("ZOO_SLIM_NAMESPACE")
    assert [str(place) for place in places(NAME)] == [f"the bundled zoo ({NAME})", f"hf-hub:zoo-slim/{NAME}"]
    assert places(NAME, "v1") == [HubPlace(f"zoo-slim/{NAME}", "v1", asked_for=False)]
    monkeypatch.setenv("ZOO_SLIM_NAMESPACE", "my-org")
    (zoo / "family" / "net").mkdir(parents=True)
    assert places("family/net")[-1] == HubPlace("my-org/family__net", asked_for=False)
    monkeypatch.setenv("ZOO_SLIM_NAMESPACE", "my/org")
    with pytest.raises(CheckpointError, match="ZOO_SLIM_NAMESPACE"):
        places(NAME)


def test_paths_mean_folders(zoo: Path, tmp_path: Path) -> None:
    fill(tmp_path / "mine")
    assert places(tmp_path / "mine") == [LocalPlace(tmp_path / "mine")]
    assert variants(tmp_path / "mine") == ["0.5", "0.75"]
    assert same_state(load(tmp_path / "mine", 0.5), slimmed(trained(0), a_result()))
    with pytest.raises(CheckpointError, match="18: expected a registered name, hf-hub:org/name, or a folder's path"):
        load(18)  # type: ignore[arg-type]


def test_a_variant_loads_from_inside_its_folder(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "net", tags=())
    how: dict[str, Any] = {"architecture": NAME, "options": {"num_classes": 5}, "result": a_result(), "weights": False}
    delta = slimmed(trained(1), a_result())
    checkpoint.save(delta, tmp_path / "net" / "pruned-delta", **how)
    (tmp_path / "net" / "pruned-delta" / "in").mkdir()
    for inside, said in (("", "."), ("in", ".."), ("in", "../.")):
        monkeypatch.chdir(tmp_path / "net" / "pruned-delta" / inside)
        assert same_state(load(f"local-dir:{said}"), delta) and same_state(checkpoint.load_folder(said), delta)


def test_a_folder_that_a_registered_name_hides_is_told(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load(NAME)
    assert "There is a folder" not in str(caught.value)
    fill(tmp_path / NAME)
    with pytest.raises(CheckpointError, match=f"There is a folder '{NAME}', too: load it as 'local-dir:{NAME}'"):
        load(NAME)


def test_a_network_of_others_is_told_how_to_be_saved(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 1))
    slim, _ = zoo_slim.slim(network, ratio=0.5, example_input=images())
    with pytest.raises(CheckpointError, match=r"did not build it\. Register its builder with zoo_slim\.register"):
        zoo_slim.save(slim, tmp_path / "x")


def test_home_is_the_same_for_saving_and_loading(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert checkpoint.save(trained(1), "~/net", architecture=NAME) == tmp_path / "net"
    assert same_state(load("local-dir:~/net"), trained(1)) and same_state(checkpoint.load_folder("~/net"), trained(1))


@pytest.mark.parametrize("name", ["loading+se", "loading--v2", "loading."])
def test_names_that_no_repository_can_have(zoo: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("ZOO_SLIM_NAMESPACE")
    zoo_slim.register(name, lambda: torch.nn.Conv2d(3, 4, 1))
    try:
        assert isinstance(load(name, pretrained=False), torch.nn.Conv2d)
        with pytest.raises(CheckpointError, match="could not be found"):
            load(name)
        monkeypatch.setenv("ZOO_SLIM_NAMESPACE", "no/namespace")
        with pytest.raises(CheckpointError, match="environment variable ZOO_SLIM_NAMESPACE"):
            load(name)
    finally:
        zoo_slim.registry.registry()._registered.pop(name)


def test_paths_with_a_colon(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp:1").mkdir()
    assert loading.place_of("exp:1") == "local-dir:exp:1"
    assert loading.place_of(r"C:\runs\model") == r"local-dir:C:\runs\model"
    assert loading.place_of("hf-hub:me/net") == "hf-hub:me/net"


def test_what_a_library_builds_otherwise_than_before(zoo: Path, tmp_path: Path) -> None:
    """Of torchvision, say, another version than where the network was saved."""
    model = load("mobilenet_v3_small", pretrained=False, num_classes=3)
    zoo_slim.save(model, tmp_path / "net")
    file = tmp_path / "net" / "config.json"
    config = json.loads(file.read_text())
    here = version("torchvision")
    assert config["libraries"] == [{"name": "torchvision", "version": here}]
    config["options"] = {"num_classes": 4}
    file.write_text(json.dumps(config))
    said = r"model\.safetensors: tensor 'classifier\.3\.weight': expected the shape \[4, 1024\], found \[3, 1024\]"
    with pytest.raises(CheckpointError, match=rf"{said}$"):
        load(tmp_path / "net")
    config["libraries"][0]["version"] = "0.1"
    config["libraries"].append({"name": "no-such-package", "version": "2"})
    file.write_text(json.dumps(config))
    other = r"no-such-package was 2; it is not installed here: install it, if you trust it"
    changed = rf"torchvision was 0\.1; here it is {re.escape(here)}\nwhere it was saved, {other}"
    with pytest.raises(CheckpointError, match=rf"{said}\nwhere it was saved, {changed}$"):
        load(tmp_path / "net")
    config["options"] = {"num_classes": 3}
    file.write_text(json.dumps(config))
    assert same_state(load(tmp_path / "net"), model)
    file.write_text(json.dumps(config | {"architecture": "no_such_net", "package": None}))
    advice = r"import the module that registers it .*, or install its package"
    with pytest.raises(RegistryError, match=rf"{advice}\nwhere it was saved, {changed}$"):
        load(tmp_path / "net")
    config |= {"options": {"num_classes": 4}, "libraries": [{"name": "torchvision", "version": f"{here}+rocm9"}]}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"{said}$"):
        load(tmp_path / "net")
    config["libraries"] = [{"name": f"none-{number}", "version": "1"} for number in range(7)]
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"{said}(\nwhere it was saved, none-\d was 1.*){{5}}\nand 2 more$"):
        load(tmp_path / "net")


def test_the_package_of_an_architecture_is_no_library_of_it() -> None:
    model = load("mobilenet_v3_small", pretrained=False)
    assert [library.name for library in libraries_of(model)] == ["torchvision"]
    assert libraries_of(model, besides=Package("TorchVision", "1")) == ()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_damaged_base_is_not_put_down_to_versions(zoo: Path, tmp_path: Path, damaged: bool) -> None:
    base = load("mobilenet_v3_small", pretrained=False, num_classes=3)
    zoo_slim.save(base, tmp_path / "net")
    model, _ = zoo_slim.slim(base, ratio=0.5)
    zoo_slim.save(model, tmp_path / "net" / "pruned-0.5", weights=False)
    file = tmp_path / "net" / "pruned-0.5" / "config.json"
    config = json.loads(file.read_text())
    config["libraries"][0]["version"] = "0.1"
    file.write_text(json.dumps(config))
    assert same_state(load(tmp_path / "net", "0.5"), model)
    weights = bytearray((tmp_path / "net" / "model.safetensors").read_bytes())
    if damaged:
        weights[-1] ^= 1
    else:
        weights[:] = weights.replace(b'"classifier.3.bias"', b'"classifier.3.bios"')
    (tmp_path / "net" / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError) as raised:
        load(tmp_path / "net", "0.5")
    assert ("its SHA-256 is" in str(raised.value)) == damaged
    assert ("torchvision was 0.1" in str(raised.value)) == (not damaged)


def test_an_option_that_this_version_does_not_have(zoo: Path) -> None:
    fill(zoo / NAME)
    file = zoo / NAME / "config.json"
    config = json.loads(file.read_text())
    config["options"]["newer"] = 3
    config["package"] = {"name": "numpy", "version": "99.0"}
    file.write_text(json.dumps(config))
    with pytest.raises(RegistryError, match=r"has no option 'newer'(.|\n)*numpy 99\.0 offered it; .* is inst"):
        load(NAME)
