"""Push to a Hub on the loopback: what is committed, what stays, what people are told."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_cnn import NAME
from hub_clients import Client, hub, needs_fork
from hub_handler import Fault
from hub_server import Hub
from hub_store import Repo, metadata
from test_hub_load import a_model, files_of

from zoo_slim._plugins import Package
from zoo_slim.checkpoint import Config
from zoo_slim.hub._card import Facts, write_card

pytestmark = needs_fork
__all__ = ["hub"]

PUSH = f"""
how = dict(architecture={NAME!r}, options={{"num_classes": 5}}, training={{"dataset": "cifar10"}})
def push(variant, seed=0, accuracy=0.8, **more):
    model = cnn.trained(seed) if variant is None else cnn.slimmed(cnn.trained(seed), cnn.a_result())
    result = None if variant is None else cnn.a_result()
    metrics = {{"test_accuracy": accuracy, **more.pop("metrics", {{}})}}
    return zoo_slim.push_to_hub(model, "me/net", variant, result=result, metrics=metrics, **{{**how, **more}})
"""


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "home", {"HF_TOKEN": "hf_me"}, PUSH)


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.store.repo("me/net")


def card(repo: Repo, revision: str = "main") -> tuple[dict[str, Any], str]:
    text = repo.file("README.md", revision).decode()
    data = metadata(text)
    assert data is not None
    return data, text


def test_a_model_is_pushed_and_loaded_by_others(hub: Hub, client: Client, repo: Repo, tmp_path: Path) -> None:
    made = client.run("""print(push(None, 1, 0.9).commit_url, push("0.75", 1).oid)""").ok()
    url, oid = made.split()
    assert url.startswith(f"{hub.url}/me/net/commit/") and repo.state.branches["main"] == oid
    variant = ["channels.png", "config.json", "model.safetensors", "pruning.safetensors"]
    assert repo.paths() == [
        ".gitattributes", "README.md", "config.json", "model.safetensors", *(f"pruned-0.75/{name}" for name in variant)
    ]  # fmt: skip
    assert repo.log() == ["Push variant 0.75 with zoo_slim", "Push the base network with zoo_slim", "initial commit"]
    assert repo.file("pruned-0.75/channels.png").startswith(b"\x89PNG")
    config = json.loads(repo.file("pruned-0.75/config.json"))
    assert config["variant"] == "0.75" and config["metrics"]["params"] > 0 and config["metrics"]["macs"] > 0
    assert all("Authorization" not in request.headers for request in hub.requests if request.method == "PUT")
    somebody = Client(hub.url, tmp_path / "other")
    somebody.run(
        """
        assert cnn.same_state(load("hf-hub:me/net", "0.75"), cnn.slimmed(cnn.trained(1), cnn.a_result()))
        assert cnn.same_state(load("hf-hub:me/net"), cnn.trained(1))
        """
    ).ok()


def test_the_card_says_what_the_hub_understands(client: Client, repo: Repo) -> None:
    code = """
    push(None, 1, 0.9)
    push("0.5", 0, 0.7, license="apache-2.0")
    earlier = {"test_accuracy_before_finetuning": 0.25}
    push("0.75", 1, 0.8, base_model="timm/resnet18.a1_in1k", metrics=earlier)
    """
    client.run(code).ok()
    data, text = card(repo)
    assert data["library_name"] == "zoo_slim" and data["pipeline_tag"] == "image-classification"
    assert (data["base_model"], data["base_model_relation"]) == ("timm/resnet18.a1_in1k", "finetune")
    assert data["license"] == "apache-2.0" and data["datasets"] == ["uoft-cs/cifar10"]
    assert {"zoo_slim", "network-slimming", NAME} <= set(data["tags"])
    (model,) = data["model-index"]
    (result,) = model["results"]
    assert model["name"] == "net" and result["dataset"] == {
        "name": "cifar10",
        "type": "uoft-cs/cifar10",
        "split": "test",
    }
    assert {metric["name"]: metric["value"] for metric in result["metrics"]} == {
        "test accuracy (base)": 0.9, "test accuracy (pruned 0.5)": 0.7, "test accuracy (pruned 0.75)": 0.8
    }  # fmt: skip
    assert '    zoo_slim.load("hf-hub:me/net", pruned="0.75")' in text.replace("model = ", "    ")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "network", "---", "base", "[pruned 0.5](pruned-0.5)", "[pruned 0.75](pruned-0.75)"
    ]  # fmt: skip
    assert rows[2].endswith("| 90.00 % | — |") and rows[4].endswith("| 80.00 % | 25.00 % |")
    for tag in ("0.5", "0.75"):
        assert f"](pruned-{tag}/channels.png)" in text


def test_the_card_names_the_package_that_is_needed() -> None:
    config = Config("net", metrics={"test_accuracy": 0.5})
    for packages, said in (
        ((None, Package("zoo_slim", "0.1.0")), "made and loaded with zoo_slim:"),
        ((Package("their_nets", "1.0"), Package("zoo_slim", "0.1.0")), "with the package `their_nets` installed:"),
    ):
        configs = {str(tag): replace(config, package=package) for tag, package in enumerate(packages)}
        assert said in write_card(None, configs, Facts("me/net"))


def test_the_card_says_that_a_part_was_tested(client: Client, repo: Repo) -> None:
    code = """
    def tested(count, **of):
        return {"dataset": "cifar10", "evaluation": {"count": count, **of}}
    push(None, 1, 0.9, training=tested(10_000))
    push("0.5", 0, 0.7, training=tested(256, of=10_000))
    push("0.75", 0, 0.8, training=tested(10_000, of=10_000))
    push("0.9", 0, 0.6, training=tested(256, of=10_000))
    """
    client.run(code).ok()
    data, text = card(repo)
    assert "\nMeasured on the test images of cifar10.\n" in text
    assert "\nMeasured on 256 of 10,000 test images of cifar10 only: pruned 0.5, pruned 0.9.\n" in text
    assert [metric["name"] for metric in data["model-index"][0]["results"][0]["metrics"]] == [
        "test accuracy (base)", "test accuracy (pruned 0.75)"
    ]  # fmt: skip
    client.run("""push(None, 1, 0.9, training={"dataset": "cifar10", "evaluation": {"count": 9, "of": 10}})""").ok()
    assert "9 of 10 test images of cifar10 only: base.\n" in card(repo)[1]


def test_pushing_the_same_again_commits_nothing(client: Client, repo: Repo) -> None:
    first, second = client.run("""print(push("0.5").oid); print(push("0.5").oid)""").ok().split()
    assert first == second and len(repo.log()) == 2


HAND_WRITTEN = """---
license: mit # as agreed
library_name: timm
my_field: [1, 2]
tags:
- mine
model-index:
- name: mine
  results:
  - task: {type: image-classification}
    dataset: {type: other, name: Other}
    metrics:
    - {type: accuracy, value: 0.5, name: by hand}
---
# Mine

What I wrote | with a table

<!-- and a comment -->
"""


def test_a_card_that_somebody_wrote_keeps_its_text(client: Client, repo: Repo) -> None:
    repo.create()
    repo.put({"README.md": HAND_WRITTEN.encode()})
    client.run("""push("0.5", accuracy=0.7)""").ok()
    data, text = card(repo)
    body = HAND_WRITTEN.split("---\n", 2)[2].rstrip()
    assert body in text and text.index(body) < text.index("zoo_slim: begin")
    assert (data["license"], data["library_name"], data["my_field"]) == ("mit", "timm", [1, 2])
    assert data["tags"][0] == "mine" and "zoo_slim" in data["tags"]
    assert [metric["name"] for result in data["model-index"][0]["results"] for metric in result["metrics"]] == [
        "by hand", "test accuracy (pruned 0.5)"
    ]  # fmt: skip
    changed = text.replace("# Mine", "# Mine still").replace(
        "zoo_slim: end -->", "zoo_slim: end -->\n\nAnd an afterword."
    )
    repo.put({"README.md": changed.encode()})
    client.run("""push("0.75", accuracy=0.6)""").ok()
    data, text = card(repo)
    assert "# Mine still" in text and text.count("zoo_slim: begin") == 1
    assert text.rstrip().endswith("And an afterword.") and "[pruned 0.75]" in text and "[pruned 0.5]" in text
    before = text
    client.run("""push("0.9", card=False)""").ok()
    assert card(repo)[1] == before and "pruned-0.9/channels.png" not in repo.paths()


def test_a_card_that_cannot_be_read_is_left_alone(client: Client, repo: Repo) -> None:
    repo.create()
    for broken in ("---\na: [\n---\ntext", "---\n- list\n---\n", "---\nmodel-index: 7\n---\n"):
        repo.put({"README.md": broken.encode()})
        said = client.run("""print(error_of(push, "0.5"))""").ok()
        assert said.startswith("HubError: me/net: README.md: its metadata cannot be read") and "--no-card" in said
        assert repo.file("README.md").decode() == broken and len(repo.paths()) == 2


def test_two_people_push_at_once(hub: Hub, client: Client, repo: Repo, tmp_path: Path) -> None:
    client.run("""push("0.1")""").ok()
    hub.meet("POST /api/models/me/net/commit/main", 2)  # both have read the same state before either commits
    other = Client(hub.url, tmp_path / "other", client.env, PUSH)
    jobs = [
        (someone, someone.start(f"""push("{tag}", {seed}, 0.{seed}5)"""))
        for seed, (someone, tag) in enumerate([(client, "0.5"), (other, "0.75")])
    ]
    for someone, job in jobs:
        someone.wait(job).ok()
    assert len(hub.asked("POST .*/commit/main")) == 4, "one of them was refused, and tried again"
    assert sorted(repo.log()[:2]) == ["Push variant 0.5 with zoo_slim", "Push variant 0.75 with zoo_slim"]
    for tag, accuracy in (("0.1", "80"), ("0.5", "5"), ("0.75", "15")):
        assert f"pruned-{tag}/model.safetensors" in repo.paths()
        assert re.search(rf"\[pruned {tag}\].*\| {accuracy}\.00 % \|", card(repo)[1])
    Client(hub.url, tmp_path / "third").run(
        """
        for seed, tag in enumerate(("0.5", "0.75")):
            assert cnn.same_state(load("hf-hub:me/net", tag), cnn.slimmed(cnn.trained(seed), cnn.a_result()))
        """
    ).ok()


def test_who_is_always_overtaken_is_told(hub: Hub, client: Client, repo: Repo) -> None:
    repo.create()
    quick = "from zoo_slim.hub import _commit; _commit._RACES = 2\n"
    with hub.failing(Fault("POST .*/commit/", "status", 412)):
        said = client.run(quick + """print(error_of(push, "0.5"))""").ok()
    assert said == "HubError: me/net: other commits came first each of 2 times; try again; nothing was committed"
    assert repo.log() == ["initial commit"]
    with hub.failing(Fault("POST .*/commit/", "status", 500, times=1)):
        client.run("""push("0.5")""").ok()
    assert len(repo.log()) == 2


def test_branches_tags_and_pull_requests(hub: Hub, client: Client, repo: Repo) -> None:
    code = """
    push("0.5", tag="v1")
    push("0.75", 1, revision="next")
    print(push("0.9", create_pr=True).pr_url)
    print(error_of(push, "0.5", 1, tag="v1"))
    print(error_of(push, "0.5", 1, revision="v1"))
    print(error_of(push, "0.5", 1, create_pr=True, tag="v2"))
    print(error_of(push, "0.5", 1, create_pr=True, revision="none"))
    """
    url, *said = client.run(code).ok().splitlines()
    assert url == f"{hub.url}/me/net/discussions/1"
    assert said[0] == "HubError: me/net: has a tag 'v1' already; nothing was sent. Choose another, or delete it"
    assert "'v1' is a tag, which stays as it is" in said[1] and "a pull request cannot set a tag" in said[2]
    assert "it has no revision 'none'; it has main, next, v1" in said[3]
    tags = {
        name: [path for path in repo.paths(name) if "config" in path] for name in ("main", "v1", "next", "refs/pr/1")
    }
    assert tags == {
        "main": ["pruned-0.5/config.json"],
        "v1": ["pruned-0.5/config.json"],
        "next": ["pruned-0.5/config.json", "pruned-0.75/config.json"],
        "refs/pr/1": ["pruned-0.5/config.json", "pruned-0.9/config.json"],
    }
    client.run("""load("hf-hub:me/net@refs/pr/1", "0.9"); load("hf-hub:me/net@next", "0.75")""").ok()


def test_people_without_the_right_are_told(hub: Hub, client: Client, repo: Repo, tmp_path: Path) -> None:
    repo.create()
    say = """print(error_of(push, "0.5"))"""
    nobody = client.run(say, HF_TOKEN="").ok()
    assert (
        "the Hub refused a request without a token; log in with `hf auth login`" in nobody
        and "; nothing was " in nobody
    )
    assert "the Hub refused the token of this machine" in client.run(say, HF_TOKEN="wrong").ok()
    for token in ("hf_me_read", "hf_you"):
        said = client.run(say, HF_TOKEN=token).ok()
        assert "the token of this machine may not write there (" in said and "--pr" in said
    client.run("""push("0.5", create_pr=True)""", HF_TOKEN="hf_you").ok()
    assert "HF_HUB_OFFLINE is set; nothing was sent" in client.run(say, HF_HUB_OFFLINE="1").ok()
    assert repo.log() == ["initial commit"]
    hub.close()
    assert "me/net: the Hub cannot be reached (Connect" in client.run(say).ok()


def test_visibility(client: Client, repo: Repo) -> None:
    code = """
    push("0.5", private=True)
    print(error_of(push, "0.75", private=False))
    push("0.75")
    """
    said = client.run(code).ok()
    assert repo.state.private and "me/net: exists and is private, not public; nothing was sent" in said
    assert "pruned-0.75/config.json" in repo.paths()


def test_other_files_are_not_overwritten(client: Client, repo: Repo) -> None:
    repo.create()
    repo.put({"config.json": b'{"architectures": ["Other"]}', "pruned-0.5/config.json": b"{}", "weights.bin": b"1"})
    code = """
    print(error_of(push, None))
    print(error_of(push, "0.5"))
    push("0.75")
    """
    for said in client.run(code).ok().splitlines():
        assert "config.json: is not the config of a zoo_slim checkpoint, so it is not overwritten" in said
    assert repo.file("config.json") == b'{"architectures": ["Other"]}'


def test_variants_keep_the_weights_that_they_are_cut_from(client: Client, repo: Repo) -> None:
    code = """
    push(None, 1)
    push("delta", 1, weights=False)
    print(error_of(push, None, 0))
    print(error_of(push, "other", 0, weights=False))
    push("delta", 1)
    push(None, 0)
    """
    base, other = client.run(code).ok().splitlines()
    assert base.startswith("HubError: me/net: variant delta is cut from a model.safetensors with SHA-256")
    assert "is not the kept part of the base's" in other
    assert "pruned-delta/model.safetensors" in repo.paths()
    client.run("""push(None, 1); push("delta", 1, weights=False)""").ok()
    assert "pruned-delta/model.safetensors" not in repo.paths(), "what the variant no longer has is gone"
    client.run(
        """assert cnn.same_state(load("hf-hub:me/net", "delta"), cnn.slimmed(cnn.trained(1), cnn.a_result()))"""
    ).ok()


def test_folders_go_as_one_commit(hub: Hub, client: Client, repo: Repo, tmp_path: Path) -> None:
    files = a_model(tmp_path / "model")
    out = client.command("push", str(tmp_path / "model"), "me/net", "--tag", "v1", "--license", "mit", "--private").ok()
    assert out == f"commit {hub.url}/me/net/commit/{repo.state.tags['v1']}"
    assert repo.log()[0] == "Push the base network, variant 0.5, variant 0.75, variant delta with zoo_slim"
    for name, data in files.items():
        assert repo.file(name) == data or name.endswith("config.json")
    assert repo.state.private and card(repo)[0]["license"] == "mit"
    pulled = client.command("pull", "hf-hub:me/net@v1", "--output", str(tmp_path / "pulled")).ok().splitlines()
    assert pulled[0] == f"base  {tmp_path}/pulled" and pulled[3] == f"delta  {tmp_path}/pulled/pruned-delta"
    assert {name: data for name, data in files_of(tmp_path / "pulled").items() if "config" not in name} == {
        name: data for name, data in files.items() if "config" not in name
    }
    one = client.command("pull", "hf-hub:me/net", "--pruned", "delta", "-o", "one", HF_HUB_OFFLINE="0").ok()
    assert one.splitlines() == ["base  one", "delta  one/pruned-delta"]
    client.run("""load("local-dir:one", "delta")""", HF_HUB_OFFLINE="1").ok()
    another = Client(hub.url, tmp_path / "another", {"HF_TOKEN": "hf_me"})
    cached = another.command("pull", "hf-hub:me/net", "--pruned", "0.5").ok()
    assert cached.startswith("0.5  ") and "/snapshots/" in cached
    another.run("""load("hf-hub:me/net", "0.5")""", HF_HUB_OFFLINE="1").ok()
    wrong = client.command("pull", "hf-hub:me/net", "--pruned", "0.9")
    assert wrong.code == 1 and "it has no variant '0.9'; its variants are 0.5, 0.75, delta" in wrong.err
    again = client.command("push", "one/pruned-delta", "me/net", "--pruned", "again").ok()
    assert again.startswith("commit ") and "pruned-again/config.json" in repo.paths()
    data = Path(client.home / "one" / "model.safetensors")
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    damaged = client.command("push", "one", "me/other")
    assert damaged.code == 1 and "is not the file whose SHA-256 is in config.json" in damaged.err
    assert not hub.store.repo("me/other").exists


def test_a_variant_without_weights_goes_to_a_new_branch(client: Client, repo: Repo) -> None:
    code = """
    print(error_of(push, "delta", 1, weights=False))
    push(None, 1)
    push("delta", 1, weights=False, revision="next")
    print(error_of(push, "delta", 1, weights=False, revision="none", create_pr=True))
    """
    nothing, missing = client.run(code).ok().splitlines()
    assert nothing.startswith("HubError: hf-hub:me/net: there is no such repository") and "push that first" in nothing
    assert missing.startswith("HubError: hf-hub:me/net@none: it has no revision 'none'; it has main, next")
    assert "pruned-delta/config.json" in repo.paths("next") and "none" not in repo.state.branches
    client.run(
        """
        delta = load("hf-hub:me/net@next", "delta")
        assert cnn.same_state(delta, cnn.slimmed(cnn.trained(1), cnn.a_result()))
        """
    ).ok()


def test_pulling_a_base_keeps_what_local_variants_are_cut_from(client: Client, repo: Repo) -> None:
    code = """
    push(None, 1)
    place = zoo_slim.loading.places("hf-hub:me/net")[0]
    folder = Path("pulled")
    zoo_slim.hub.pull(place, None, folder)
    how.update(result=cnn.a_result(), weights=False)
    for tag in ("mine", "delta"):
        zoo_slim.save(cnn.slimmed(cnn.trained(1), cnn.a_result()), folder / f"pruned-{tag}", **how)
    zoo_slim.hub.pull(place, None, folder)
    before = (folder / "model.safetensors").read_bytes()
    how = dict(architecture=cnn.NAME, options={"num_classes": 5})
    push(None, 0)
    print(error_of(zoo_slim.hub.pull, place, None, folder))
    assert (folder / "model.safetensors").read_bytes() == before
    load(folder, "mine")
    push("delta", 0, weights=False)
    push("mine", 0, weights=False)
    zoo_slim.hub.pull(place, None, folder)
    for tag in ("mine", "delta"):
        assert cnn.same_state(load(folder, tag), cnn.slimmed(cnn.trained(0), cnn.a_result()))
    """
    said = client.run(code).ok()
    assert "pulled: variant 'delta' has no weights of its own and is cut from those that would be replaced" in said


def a_variant_cut_from_the_base(client: Client) -> None:
    client.run("""push(None, 1); push("0.5", 1, weights=False)""").ok()


def test_what_cannot_be_read_now_is_not_taken_for_nothing(hub: Hub, client: Client, repo: Repo) -> None:
    a_variant_cut_from_the_base(client)
    commits = repo.log()
    with hub.failing(Fault("HEAD .*pruned-0.5/config.json", "status", 429)):
        said = Client(hub.url, client.home / "new", client.env, PUSH).run("print(error_of(push, None, 2))").ok()
    assert (
        "pruned-0.5/config.json: has to be read before anything is pushed beside it: the Hub cannot be reached" in said
    )
    assert repo.log() == commits


def test_a_base_is_not_replaced_beside_a_variant_that_may_need_it(client: Client, repo: Repo) -> None:
    a_variant_cut_from_the_base(client)
    config = json.loads(repo.file("pruned-0.5/config.json"))
    repo.put({"pruned-0.5/config.json": json.dumps({**config, "version": 99}).encode()})
    assert "that variant may be cut from the base network" in client.run("print(error_of(push, None, 2))").ok()
    client.run("""push("0.75", 1)""").ok()
    assert json.loads(repo.file("pruned-0.5/config.json"))["version"] == 99


def test_a_picture_at_the_root_is_somebody_elses(client: Client, repo: Repo) -> None:
    repo.create()
    repo.put({"channels.png": b"mine"})
    client.run("push(None, 1)").ok()
    assert repo.file("channels.png") == b"mine"


@pytest.mark.parametrize("pull_request", [False, True])
def test_a_lost_answer_is_not_called_nothing(hub: Hub, client: Client, repo: Repo, pull_request: bool) -> None:
    repo.create()
    then_gone = """
    from zoo_slim.hub import UnreachableError, _commit
    answers = iter([_commit.Remote.contents])
    def contents(remote, revision):
        if (answer := next(answers, None)) is None:
            raise UnreachableError("the Hub cannot be reached")
        return answer(remote, revision)
    _commit.Remote.contents = contents
    """
    with hub.failing(Fault("POST .*/commit/", "lost", times=1)):
        said = client.run(f"""{then_gone}
    print(error_of(push, "0.5", create_pr={pull_request}))""").ok()
    assert ("the pull request may have been opened" if pull_request else "it may have been committed") in said
    assert said.endswith("look there before you push again") and "nothing was committed" not in said
    assert len(repo.state.pulls if pull_request else repo.log()) == (1 if pull_request else 2)


def test_a_file_that_is_replaced_during_a_push_is_noticed(client: Client, repo: Repo) -> None:
    code = """
    from zoo_slim.hub import _push
    checkpoint.save(cnn.trained(1), "net", architecture=cnn.NAME)
    read = _push.read_configs
    def overtaken(*arguments):
        checkpoint.save(cnn.trained(2), "net", architecture=cnn.NAME)
        return read(*arguments)
    _push.read_configs = overtaken
    print(error_of(_push.push_folder, "net", "me/net", card=False))
    """
    said = client.run(code).ok()
    assert said == "HubError: net/model.safetensors: was replaced while it was being pushed; push again"
    assert repo.log() == ["initial commit"]


def test_a_checkpoint_without_its_file_is_named(client: Client) -> None:
    code = """
    from zoo_slim.hub import _push
    folder = checkpoint.save(cnn.trained(1), "net", architecture=cnn.NAME)
    (folder / "model.safetensors").unlink()
    print(error_of(_push.push_folder, "net", "me/net"))
    """
    assert client.run(code).ok() == "CheckpointError: net/model.safetensors: cannot be read: No such file or directory"


def test_macs_are_those_of_an_image_of_the_recorded_size(client: Client, repo: Repo) -> None:
    client.run("""push("0.5"); push("0.75", input={"size": [3, 24, 24]})""").ok()
    small, large = (json.loads(repo.file(f"pruned-{tag}/config.json"))["metrics"]["macs"] for tag in ("0.5", "0.75"))
    assert large > 3 * small


def test_the_channels_of_images_are_those_of_the_options(client: Client) -> None:
    code = """
    from pathlib import Path
    from zoo_slim.checkpoint._load import read_skeleton
    from zoo_slim.hub import _push
    net = zoo_slim.load("timm/resnet18", pretrained=False, in_chans=1)
    print("macs" in _push._counted(net, "timm/resnet18", {"in_chans": 1}, None))
    print(_push._task(read_skeleton(Path(zoo_slim.save(net, "net")))))
    """
    assert client.run(code).ok().split() == ["True", "image-classification"]


def test_an_upload_that_fails_before_the_commit_committed_nothing(hub: Hub, client: Client, repo: Repo) -> None:
    repo.create()
    quick = "from zoo_slim.hub import _commit; _commit._OUTAGES = 0\n"
    with hub.failing(Fault("POST .*/preupload/", "status", 501)):  # the client would try 500 for half a minute
        said = client.run(quick + """print(error_of(push, "0.5"))""").ok()
    assert said.endswith("; nothing was committed") and repo.log() == ["initial commit"]
