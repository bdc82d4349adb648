"""Variants of a few KB, whose weights are the kept rows and columns of a file in somebody else's repository."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
from checkpoint_cnn import NAME, trained
from hub_clients import Client, hub, needs_fork
from hub_server import Hub
from hub_store import Repo

pytestmark = needs_fork
__all__ = ["hub"]

PUSH = f"""
def push(tag="delta", seed=1, base="timm/base", **more):
    model = cnn.slimmed(cnn.trained(seed), cnn.a_result())
    how = dict(architecture={NAME!r}, options={{"num_classes": 5}}, result=cnn.a_result())
    return zoo_slim.push_to_hub(model, "me/net", tag, base_weights=base, **how, **more)
"""
LOAD = """assert cnn.same_state(load("hf-hub:me/net", "delta"), cnn.slimmed(cnn.trained(1), cnn.a_result()))"""
SAY = """print(error_of(load, "hf-hub:me/net", "delta"))"""


def weights(seed: int) -> bytes:
    """Return a state dict as other libraries save it."""
    state = {name: tensor.clone() for name, tensor in trained(seed).state_dict().items() if name != "again"}
    return safetensors.torch.save(state, {"format": "pt"})


@pytest.fixture
def base(hub: Hub) -> Repo:
    repo = hub.store.repo("timm/base")
    repo.create()
    repo.put({"model.safetensors": weights(1), "config.json": b'{"architecture": "something"}'})
    return repo


@pytest.fixture
def pushed(hub: Hub, base: Repo, tmp_path: Path) -> Repo:
    """The base, and a variant cut from it."""
    Client(hub.url, tmp_path / "pusher", {"HF_TOKEN": "hf_me"}, PUSH).run("push()").ok()
    hub.requests.clear()
    return hub.store.repo("me/net")


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "home")


def test_a_variant_is_a_pointer_and_a_mask(hub: Hub, base: Repo, pushed: Repo, client: Client) -> None:
    files = [path for path in pushed.paths() if path.startswith("pruned-")]
    assert files == [f"pruned-delta/{name}" for name in ("channels.png", "config.json", "pruning.safetensors")]
    data = weights(1)
    assert json.loads(pushed.file("pruned-delta/config.json"))["base_weights"] == {
        "repo": "timm/base",
        "revision": base.resolve("main"),
        "file": "model.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }
    card = pushed.file("README.md").decode()
    assert "cut from timm/base" in card and "base_model: timm/base" in card
    client.run(LOAD).ok()
    own = [f"me/net/pruned-delta/{name}" for name in ("config.json", "pruning.safetensors")]
    assert client.cached() == ["blob", *own, "timm/base/model.safetensors"]
    count = len(hub.requests)
    client.run(LOAD, HF_HUB_OFFLINE="1").ok()
    assert len(hub.requests) == count
    assert "cut from timm/base" in client.command("list", "--hub").ok()


def test_the_base_that_was_meant_is_taken(base: Repo, pushed: Repo, client: Client, tmp_path: Path) -> None:
    base.put({"model.safetensors": weights(0)})
    client.run(LOAD).ok()
    client.command("pull", "hf-hub:me/net", "--pruned", "delta", "--output", str(tmp_path / "pulled")).ok()
    assert sorted(file.name for file in (tmp_path / "pulled").rglob("*.*")) == ["config.json", "pruning.safetensors"]
    local = LOAD.replace("hf-hub:me/net", f"local-dir:{tmp_path}/pulled")
    client.run(local, HF_HUB_OFFLINE="1").ok()
    shown = client.command("load", f"{tmp_path}/pulled", "--pruned", "delta", "--repeats", "1").ok()
    assert "load time" in shown and NAME in shown


def test_what_is_not_cut_from_the_base_is_refused(base: Repo, hub: Hub, client: Client) -> None:
    other = Client(hub.url, client.home, {"HF_TOKEN": "hf_me"}, PUSH)
    said = other.run(
        """
        print(error_of(push, seed=0))
        print(error_of(push, base="timm/none"))
        print(error_of(push, base="timm"))
        """
    ).ok()
    different, missing, malformed = said.splitlines()
    assert different.startswith("CheckpointError: tensor ") and "kept part" in different
    assert "there is no such repository" in missing and "expected org/name or org/name@revision" in malformed
    assert not hub.store.repo("me/net").exists


def test_a_base_that_cannot_be_had_is_told(hub: Hub, base: Repo, pushed: Repo, client: Client) -> None:
    commit = base.resolve("main")
    base.set(gated=True)
    said = client.run(SAY).ok()
    assert f"the weights that it is cut from, model.safetensors of hf-hub:timm/base@{commit}: is gated" in said
    client.run(LOAD.replace('"delta"', '"delta", token="hf_timm"', 1)).ok()
    base.set(gated=False, private=True)
    client.run(LOAD).ok()  # what the cache has of a commit needs no asking
    fresh = Client(hub.url, client.home.parent / "fresh")
    assert "there is no such repository, or it is private" in fresh.run(SAY).ok()
    offline = fresh.run(SAY, HF_HUB_OFFLINE="1").ok()
    assert "HF_HUB_OFFLINE is set" in offline and f"the cache has no model.safetensors of commit {commit}" in offline


def test_a_base_is_checked(hub: Hub, base: Repo, pushed: Repo, client: Client) -> None:
    lfs = base.folder / "lfs" / hashlib.sha256(weights(1)).hexdigest()
    good = lfs.read_bytes()
    lfs.write_bytes(good[:-1] + b"!")
    said = client.run(SAY).ok()
    assert "timm/base: model.safetensors: was fetched twice and came damaged, so it was not kept" in said
    assert "timm/base/model.safetensors" not in client.cached()
    lfs.write_bytes(good)
    client.run(LOAD).ok()
    config = json.loads(pushed.file("pruned-delta/config.json"))
    for change, expected in (
        ({"bytes": 99 << 30}, "is 106,300,440,576 bytes long, as config.json says, but can have"),
        ({"sha256": "0" * 64}, "config.json says SHA-256 000"),
        ({"revision": "0" * 40}, "it has no revision"),
        ({"file": "../../x.safetensors"}, "field 'base_weights.file'"),
        ({"repo": "../x"}, "field 'base_weights.repo'"),
    ):
        changed = {**config, "base_weights": {**config["base_weights"], **change}}
        pushed.put({"pruned-delta/config.json": json.dumps(changed).encode()})
        fresh = Client(hub.url, client.home.parent / next(iter(change)))
        said = fresh.run(SAY).ok()
        assert expected in said and "timm/base/model.safetensors" not in fresh.cached(), said
