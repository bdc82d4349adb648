"""Load from a Hub on the loopback: which files come, what is checked, what people are told."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from checkpoint_cnn import NAME, a_result, slimmed, trained
from hub_clients import Client, hub, needs_fork
from hub_handler import Fault
from hub_server import Hub

from zoo_slim import checkpoint

pytestmark = needs_fork
__all__ = ["hub"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def a_model(folder: Path, tags: tuple[str, ...] = ("0.5", "0.75"), delta: bool = True) -> dict[str, bytes]:
    """Return the files of a base, variants with weights, and one without (``delta``)."""
    how = {"architecture": NAME, "options": {"num_classes": 5}}
    checkpoint.save(trained(1), folder, **how, metrics={"test_accuracy": 0.9, "params": 700})
    for seed, tag in enumerate(tags):
        model, metrics = slimmed(trained(seed), a_result()), {"test_accuracy": 0.8 + seed / 100, "params": 400}
        checkpoint.save(model, folder / f"pruned-{tag}", **how, result=a_result(), metrics=metrics)
    if delta:
        model = slimmed(trained(1), a_result())
        checkpoint.save(model, folder / "pruned-delta", **how, result=a_result(), weights=False)
    return files_of(folder)


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "home")


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> dict[str, bytes]:
    files = a_model(tmp_path / "model")
    repo = hub.store.repo("me/net")
    repo.create()
    repo.put(files, "first")
    repo.set(tags={"v1": repo.state.branches["main"]})
    return files


def test_only_the_files_that_are_needed_come_and_offline_does_without(
    hub: Hub, client: Client, model: dict[str, bytes]
) -> None:
    loads = """
    assert cnn.same_state(load("hf-hub:me/net", "0.5"), cnn.slimmed(cnn.trained(0), cnn.a_result()))
    assert cnn.same_state(load("hf-hub:me/net@v1", pruned=0.5), load("hf-hub:me/net", "0.5"))
    """
    client.run(loads).ok()
    variant = ["config.json", "model.safetensors", "pruning.safetensors"]
    assert client.cached() == ["blob", *(f"me/net/pruned-0.5/{name}" for name in variant)]
    assert not hub.asked("/me/net/resolve/[^/]*/(model|config|pruned-0.75)")
    count = len(hub.requests)
    client.run(loads, HF_HUB_OFFLINE="1").ok()
    client.run("""load("hf-hub:me/net", "0.5", local_files_only=True)""").ok()
    commit = hub.store.repo("me/net").resolve("main")
    client.run(f"""load("hf-hub:me/net@{commit}", "0.5")""").ok()
    assert len(hub.requests) == count, "a commit that the cache has needs no question"
    client.run("""load("hf-hub:me/net", "0.5")""").ok()
    assert [request.method for request in hub.requests[count:]] == ["HEAD"], "a branch needs one"


def test_the_base_and_variants_cut_from_it(client: Client, model: dict[str, bytes]) -> None:
    client.run(
        """
        base = cnn.trained(1)
        assert cnn.same_state(load("hf-hub:me/net", "delta"), cnn.slimmed(base, cnn.a_result()))
        assert cnn.same_state(load("hf-hub:me/net"), base)
        assert zoo_slim.loading.variants("hf-hub:me/net") == ["0.5", "0.75", "delta"]
        """
    ).ok()
    names = ["config.json", "model.safetensors", "pruned-delta/config.json", "pruned-delta/pruning.safetensors"]
    assert client.cached() == ["blob", *(f"me/net/{name}" for name in names)]


def test_a_branch_that_moves_is_followed(hub: Hub, client: Client, model: dict[str, bytes], tmp_path: Path) -> None:
    client.run("""load("hf-hub:me/net", "0.75")""").ok()
    changed = a_model(tmp_path / "changed", tags=("0.75",), delta=False)
    hub.store.repo("me/net").put({name: data for name, data in changed.items() if name.startswith("pruned")})
    code = """assert cnn.same_state(load("hf-hub:me/net", "0.75"), cnn.slimmed(cnn.trained(%d), cnn.a_result()))"""
    client.run(code % 1, HF_HUB_OFFLINE="1").ok()
    client.run(code % 0).ok()
    client.run(code % 0, HF_HUB_OFFLINE="1").ok()
    client.run(code.replace("net", "net@v1") % 1).ok()


def test_nothing_is_hashed_twice(client: Client, model: dict[str, bytes]) -> None:
    hashing = """
    from zoo_slim.checkpoint import _load
    from zoo_slim.hub import _verify
    fetched, loaded = [], []
    digests, opened = _verify.read_digests, _load.TensorFile
    _verify.read_digests = lambda file: fetched.append(file) or digests(file)
    _load.TensorFile = lambda file, record, hashed: loaded.append(hashed) or opened(file, record, hashed)
    load(sys.argv[1], "0.75")
    print(len(fetched), loaded)
    """
    assert client.run(hashing, "hf-hub:me/net").ok() == "3 [False]"
    assert client.run(hashing, "hf-hub:me/net").ok() == "0 [False]"
    client.blob("pruned-0.75/model.safetensors").touch()
    assert client.run(hashing, "hf-hub:me/net").ok() == "1 [False]"
    for file in ("config.json", "pruning.safetensors", "model.safetensors"):
        (client.home / "copy" / "pruned-0.75").mkdir(parents=True, exist_ok=True)
        (client.home / "copy" / "pruned-0.75" / file).write_bytes(model[f"pruned-0.75/{file}"])
    assert client.run(hashing, "local-dir:copy").ok() == "0 [True]", "whatever lies about was not checked by anyone"


def test_a_store_that_repositories_share_may_hold_the_content(client: Client, model: dict[str, bytes]) -> None:
    code = """load("hf-hub:me/net", "0.75")"""
    client.run(code).ok()
    blob = client.blob("pruned-0.75/model.safetensors")
    shared = client.cache / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    client.run(code).ok()
    shared.write_bytes(shared.read_bytes()[:-1] + b"!")
    ran = client.run(code)
    assert ran.code == 0 and "was damaged in the cache" in ran.err
    assert client.blob("pruned-0.75/model.safetensors").read_bytes() == model["pruned-0.75/model.safetensors"]


@pytest.mark.parametrize("file", ["config.json", "pruning.safetensors", "model.safetensors"])
def test_a_file_that_rots_in_the_cache_is_named_and_fetched_again(
    hub: Hub, client: Client, model: dict[str, bytes], file: str
) -> None:
    code = """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            assert cnn.same_state(load("hf-hub:me/net", "0.75"), cnn.slimmed(cnn.trained(1), cnn.a_result()))
        except ZooSlimError as error:
            print(error)
    print(*(warning.message for warning in told))
    """
    assert client.run(code).ok() == ""
    blob = client.blob(f"pruned-0.75/{file}")
    status, data = blob.stat(), bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))  # whoever forges the time is found out all the same
    offline = client.run(code, HF_HUB_OFFLINE="1").ok()
    assert f"pruned-0.75/{file}: was damaged in the cache" in offline and "HF_HUB_OFFLINE" in offline
    online = client.run(code).ok()
    assert f"pruned-0.75/{file}: was damaged in the cache" in online and "fetched again" in online
    assert client.run(code).ok() == ""
    assert client.blob(f"pruned-0.75/{file}").read_bytes() == model[f"pruned-0.75/{file}"]


def test_what_is_not_there_is_told(hub: Hub, client: Client, model: dict[str, bytes]) -> None:
    hub.store.repo("me/private").create(private=True)
    hub.store.repo("me/private").put(model)
    hub.store.repo("me/gated").create()
    hub.store.repo("me/gated").put(model)
    hub.store.repo("me/gated").set(gated=True)
    hub.store.repo("me/empty").create()
    said = json.loads(
        client.run(
            """
            import json
            asked = {
                "repo": ("hf-hub:me/none", {}),
                "private": ("hf-hub:me/private", {}),
                "other's": ("hf-hub:me/private", {"token": "hf_you"}),
                "wrong": ("hf-hub:me/private", {"token": "wrong"}),
                "gated": ("hf-hub:me/gated", {}),
                "not granted": ("hf-hub:me/gated", {"token": "hf_you"}),
                "revision": ("hf-hub:me/net@v9", {}),
                "variant": ("hf-hub:me/net", {"pruned": "0.9"}),
                "empty": ("hf-hub:me/empty", {}),
                "cache": ("hf-hub:me/net", {"local_files_only": True}),
            }
            print(json.dumps({key: error_of(load, name, **how) for key, (name, how) in asked.items()}))
            """
        ).ok()
    )
    expected = {
        "repo": ("no such repository", "check the name", "hf auth login", "HF_TOKEN", "token="),
        "private": ("no such repository, or it is private and a request without a token may not see it", "HF_TOKEN"),
        "other's": ("it is private and the token that was given may not see it",),
        "wrong": ("refused the token that was given (401)", "pass another token="),
        "gated": ("is gated", "ask for it on the repository's page", "HF_TOKEN"),
        "not granted": ("is gated, and the token that was given has not been granted access",),
        "revision": ("it has no revision 'v9'; it has main, v1",),
        "variant": ("has no pruned-0.9/config.json", "has the variants 0.5, 0.75, delta; load one with pruned='0.75'"),
        "empty": ("it has no config.json",),
        "cache": ("local_files_only=True", "the cache has no config.json of main"),
    }
    for key, parts in expected.items():
        assert said[key].startswith("CheckpointError: "), said[key]
        for part in parts:
            assert part in said[key], (part, said[key])
    assert client.cached() == []


def test_tokens(hub: Hub, client: Client, model: dict[str, bytes]) -> None:
    hub.store.repo("me/private").create(private=True)
    hub.store.repo("me/private").put(model)
    client.run("""load("hf-hub:me/private", "0.5", token="hf_me")""").ok()
    assert all("Authorization" not in request.headers for request in hub.requests if request.path.count("/") == 3)
    refused = client.run("""print(error_of(load, "hf-hub:me/private", "0.5", token="wrong"))""").ok()
    assert "refused the token that was given (401)" in refused, "what is in the cache is no way around"
    client.run("""load("hf-hub:me/private", "0.75")""", HF_TOKEN="hf_me_read").ok()
    offline = client.run("""print(error_of(load, "hf-hub:me/private", "delta"))""", HF_HUB_OFFLINE="1").ok()
    assert "HF_HUB_OFFLINE is set" in offline and "has the variants 0.5, 0.75" in offline


def test_a_hub_that_does_not_answer(hub: Hub, client: Client, model: dict[str, bytes]) -> None:
    code = """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load("hf-hub:me/net", "0.5")
    print(*(warning.message for warning in told))
    """
    with hub.failing(Fault("HEAD .*config", "status", 503, times=2)):
        assert client.run(code).ok() == "", "the third try succeeds"
    commit = hub.store.repo("me/net").resolve("main")
    with hub.failing(Fault("HEAD", "status", 503)):
        said = client.run(code).ok()
        assert "the Hub cannot be reached (HfHubHTTPError: " in said and "503" in said
    hub.close()
    used = client.run(code).ok()
    assert (
        "me/net: the Hub cannot be reached (Connect" in used
        and f"its commit {commit} is in the cache and is used" in used
    )
    missing = client.run("""print(error_of(load, "hf-hub:me/net", "0.75"))""").ok()
    assert "cannot be reached (Connect" in missing and "the cache has no pruned-0.75/config.json of main" in missing


def test_a_hub_that_keeps_silent_is_asked_once(hub: Hub, client: Client, model: dict[str, bytes]) -> None:
    client.run("""load("hf-hub:me/net", "0.5")""").ok()
    count = len(hub.requests)
    with hub.failing(Fault("HEAD", "hang")):
        used = client.run("""load("hf-hub:me/net", "0.5")""", HF_HUB_ETAG_TIMEOUT="4")
        assert used.code == 0 and "the Hub cannot be reached (ReadTimeout" in used.err
        assert "is in the cache and is used" in used.err, "the network may be an old one"
    assert [request.method for request in hub.requests[count:]] == ["HEAD"]


def test_a_registered_name_is_asked_for_once(hub: Hub, client: Client, model: dict[str, bytes]) -> None:
    repo = hub.store.repo(f"me/{NAME}")
    repo.create()
    repo.put(model)
    code = """assert cnn.same_state(load(cnn.NAME, "0.75"), cnn.slimmed(cnn.trained(1), cnn.a_result()))"""
    client.run(code, ZOO_SLIM_NAMESPACE="me").ok()
    count = len(hub.requests)
    with hub.failing(Fault("HEAD", "status", 503)):
        client.run(code, ZOO_SLIM_NAMESPACE="me").ok()
        said = client.run("print(error_of(load, cnn.NAME, '0.5'))", ZOO_SLIM_NAMESPACE="me").ok()
    assert [request.method for request in hub.requests[count:]] == ["HEAD", "HEAD"]
    assert f"hf-hub:me/{NAME}: the Hub cannot be reached (HfHubHTTPError" in said and "has the variants 0.75;" in said


def test_sizes_are_refused_before_the_download(hub: Hub, client: Client, model: dict[str, bytes]) -> None:
    repo = hub.store.repo("me/net")
    huge = 99 << 30
    config = json.loads(model["pruned-0.75/config.json"])
    config["files"]["model.safetensors"]["bytes"] = huge
    repo.put({"pruned-0.75/config.json": json.dumps(config).encode()})
    said = client.run("""print(error_of(load, "hf-hub:me/net", "0.75"))""").ok()
    assert "pruned-0.75/model.safetensors: is 106,300,440,576 bytes long, as config.json says, but can have" in said
    config["files"]["model.safetensors"] = {"bytes": 12, "sha256": hashlib.sha256(b"other").hexdigest()}
    repo.put({"pruned-0.75/config.json": json.dumps(config).encode()})
    said = client.run("""print(error_of(load, "hf-hub:me/net", "0.75"))""").ok()
    assert "config.json says SHA-256" in said and "the Hub says" in said and "it was not downloaded" in said
    repo.put({"config.json": b" " * (1 << 21)})
    said = client.run("""print(error_of(load, "hf-hub:me/net"))""").ok()
    assert "config.json: is 2,097,152 bytes long, as the Hub says, but can have 1,048,576 at most" in said
    assert not hub.asked("GET .*/resolve/.*model.safetensors") and not hub.asked(
        "GET /me/net/resolve/[^/]*/config.json"
    )
    assert "me/net/config.json" not in client.cached()
