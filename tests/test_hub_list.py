"""What is on a Hub on the loopback, listed and shown without a byte of weights."""

import json
from pathlib import Path

import pytest
from checkpoint_cnn import NAME
from hub_clients import Client, hub, needs_fork
from hub_server import Hub
from test_hub_load import a_model

pytestmark = needs_fork
__all__ = ["hub"]

CARD = f"---\nlibrary_name: zoo_slim\ntags: [{NAME}]\n---\n".encode()


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "home")


@pytest.fixture
def shelf(hub: Hub, tmp_path: Path) -> Hub:
    """Models of three people, one of them private, and somebody else's model of another library."""
    files = {**a_model(tmp_path / "model"), "README.md": CARD}
    for name in ("me/net", "me/net-2", "you/net", "me/private"):
        hub.store.repo(name).create(private=name == "me/private")
        hub.store.repo(name).put(files)
    variants = {name: data for name, data in files.items() if name.startswith(("pruned-0.5", "README"))}
    hub.store.repo("you/only-variants").create()
    hub.store.repo("you/only-variants").put(
        {**variants, "pruned-bad/config.json": b"{}", "pruned-a b/config.json": b"{}", "pruned-é/config.json": b"{}"}
    )
    hub.store.repo("me/transformer").create()
    hub.store.repo("me/transformer").put({"config.json": b"{}", "README.md": b"---\nlibrary_name: other\n---\n"})
    hub.requests.clear()
    return hub


def test_models_are_listed_with_what_was_measured(shelf: Hub, client: Client) -> None:
    out = client.run(
        """
        models = zoo_slim.list_models("*", hub=True)
        print(*models)
        for model in models:
            for tag, config in model.variants.items():
                print(model.name, tag, config.metrics.get("test_accuracy"))
        print(models[0].base.metrics, models[0].architectures, models[-1].base, models[-1].unreadable)
        print(*zoo_slim.list_models("net*", hub=True, author="me"))
        print(*zoo_slim.list_models("you/*", hub=True))
        print(*zoo_slim.list_models("checkpoint-test*", hub=True, author="you"))
        print(*zoo_slim.list_models("resnet*", hub=True))
        print(*zoo_slim.list_models("*", hub=True, author="me", token="hf_me"))
        """
    ).ok()
    lines = out.splitlines()
    assert lines[0] == "hf-hub:me/net hf-hub:me/net-2 hf-hub:you/net hf-hub:you/only-variants"
    assert lines[1:4] == ["hf-hub:me/net 0.5 0.8", "hf-hub:me/net 0.75 0.81", "hf-hub:me/net delta None"]
    assert lines[10] == "hf-hub:you/only-variants 0.5 0.8"
    assert lines[11].startswith(f"{{'params': 700, 'test_accuracy': 0.9}} ['{NAME}'] None {{'bad': ")
    assert "pruned-bad/config.json: field 'format'" in lines[11]
    assert lines[12:] == [
        "hf-hub:me/net hf-hub:me/net-2",
        "hf-hub:you/net hf-hub:you/only-variants",
        "hf-hub:you/net hf-hub:you/only-variants",
        "",
        "hf-hub:me/net hf-hub:me/net-2 hf-hub:me/private",
    ]
    assert not shelf.asked("safetensors")


def test_a_commit_is_read_once(shelf: Hub, client: Client) -> None:
    client.run("""zoo_slim.list_models("*", hub=True)""").ok()
    shelf.requests.clear()
    client.run("""zoo_slim.list_models("*", hub=True)""").ok()
    assert {request.path.split("?")[0] for request in shelf.requests if "bad" not in request.path} == {"/api/models"}


def test_the_commands_show_it(shelf: Hub, client: Client) -> None:
    out = client.command("list", "--hub", "net", "--author", "me").ok()
    rows = [line.split() for line in out.splitlines()]
    assert ["hf-hub:me/net", "base", NAME, "700", "—", "5.26", "kB", "90.00", "%"] in rows
    assert ["delta", NAME, "—", "—", "the", "base's", "—"] in rows and rows[-1] == ["2", "models", "on", "the", "Hub"]
    assert "you" not in out and "transformer" not in out
    assert "field 'format'" in client.command("list", "--hub", "only").ok()
    config = json.loads(shelf.store.repo("me/net").file("config.json"))
    config["training"] = {"evaluation": {"count": 512, "of": 10_000}}
    shelf.store.repo("them/part").create()
    shelf.store.repo("them/part").put({"config.json": json.dumps(config).encode(), "README.md": CARD})
    assert "90.00 % (512 of 10,000 images)" in client.command("list", "--hub", "--author", "them").ok()
    assert client.command("list", "--hub", "nothing").ok() == "0 models on the Hub"
    assert client.command("list", "--author", "me").code == 2
    assert client.command("list", "--hub", "--bundled").code == 2


def test_info_of_a_repository(shelf: Hub, client: Client) -> None:
    known = json.loads(client.command("info", "hf-hub:you/net", "--json").ok())
    commit = shelf.store.repo("you/net").resolve("main")
    assert (known["name"], known["commit"], known["visibility"]) == ("hf-hub:you/net", commit, "public")
    assert (known["architecture"], known["metrics"]["test_accuracy"]) == (NAME, 0.9)
    assert {tag: facts.get("test_accuracy") for tag, facts in known["variants"].items()} == {
        "0.5": 0.8, "0.75": 0.81, "delta": None
    }  # fmt: skip
    assert not shelf.asked("safetensors")
    shown = client.command("info", "hf-hub:you/net", HF_HUB_OFFLINE="1").ok()
    assert NAME in shown and "81.00 %" in shown
    one = json.loads(client.command("info", "hf-hub:you/only-variants", "--pruned", "0.5", "--json").ok())
    assert one["variant"] == "0.5" and not shelf.asked("GET .*model.safetensors")
    private = client.command("info", "hf-hub:me/private")
    assert private.code == 1 and "or it is private and a request without a token may not see it" in private.err
    missing = client.command("info", "hf-hub:you/net@v9")
    assert missing.code == 1 and "it has no revision 'v9'; it has main" in missing.err


def test_errors(shelf: Hub, client: Client) -> None:
    out = client.run(
        """
        print(error_of(zoo_slim.list_models, "*", hub=True, token="wrong"))
        print(error_of(zoo_slim.list_models, "*", author="me"))
        """
    ).ok()
    refused, alone = out.splitlines()
    assert refused.startswith(
        "HubError: the models on the Hub cannot be listed: the Hub refused the token that was given"
    )
    assert "pass hub=True to list the models of 'me'" in alone
    offline = client.command("list", "--hub", HF_HUB_OFFLINE="1")
    assert offline.code == 1 and "cannot be listed: the Hub is not to be asked, as HF_HUB_OFFLINE is set" in offline.err
