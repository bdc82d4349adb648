"""Publish checkpoints: their files, the model card and the pictures, in one commit."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from zoo_slim import checkpoint
from zoo_slim._errors import CheckpointError, HubError, NotThereError
from zoo_slim.checkpoint import CONFIG, MODEL, PRUNING, VARIANT_PREFIX, BaseWeights, Config, FileRecord
from zoo_slim.checkpoint._base import is_repo
from zoo_slim.checkpoint._config import check_variant
from zoo_slim.checkpoint._folder import named, read_consistently
from zoo_slim.checkpoint._load import Skeleton, inside, read_skeleton
from zoo_slim.hub._card import PICTURE, Facts, write_card
from zoo_slim.hub._commit import Target, commit
from zoo_slim.hub._fetch import fetch, fetch_first
from zoo_slim.hub._list import read_configs
from zoo_slim.hub._place import HUB_PREFIX, HubPlace, checkpoints_in, is_revision, prefix_of
from zoo_slim.hub._remote import Contents, Remote
from zoo_slim.hub._verify import read_digests

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["push_folder", "push_to_hub"]

_CARD = "README.md"
_LARGEST_CARD = 4 << 20
_LARGEST_BASE = 1 << 40


@dataclass(frozen=True)
class _Part:
    """A checkpoint to be pushed: its place in the repository, what it is, and its files besides ``config.json``."""

    tag: str | None
    config: Config
    skeleton: Skeleton
    files: dict[str, Path]


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    pruned: str | float | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    token: str | bool | None = None,
    card: bool = True,
    license: str | None = None,
    datasets: Iterable[str] | None = None,
    base_model: str | None = None,
    base_weights: str | BaseWeights | None = None,
    **how: Any,
) -> "CommitInfo":
    """Publish a network on the Hugging Face Hub: as the base network of a repository, or as a variant in it.

    The repository is made if need be. All goes into one commit, which other people's commits at the same time do not
    harm, nor are they harmed. Other variants, and what people wrote into the model card, stay.

    Args:
        model: a network of a registered architecture, or a slim network made from one.
        repo_id: ``org/name``.
        pruned: tag of a slim network, ``"0.75"`` for instance; None: the one that it has, if it is slim.
        private: visibility of a new repository; None: as its owner has set it up. One that exists must agree.
        revision: branch to commit to, made from the default branch if need be; None: the default branch.
        tag: a new tag for the commit.
        create_pr: open a pull request instead.
        message: of the commit.
        token: access token; None: that of this machine (HF_TOKEN, or ``hf auth login``).
        card: write the model card and the picture of the channels kept (which needs matplotlib).
        license: the Hub's name of a licence for the card, ``apache-2.0`` for instance.
        datasets: the Hub's names of the data sets it was trained on; None: as far as the model knows them.
        base_model: repository of the network that was slimmed; None: that of ``base_weights``.
        base_weights: push a few KB instead of the weights, because these are the kept rows and columns of a file in
            another repository: ``"timm/resnet18.a1_in1k"`` or ``"org/name@revision"`` means its ``model.safetensors``,
            and the commit that it is now. That they are is checked, bit for bit.
        **how: as for `zoo_slim.save`: ``architecture``, ``classes``, ``metrics``, ``dtype``, ``weights`` and others.

    Returns:
        The client's description of the commit: ``commit_url``, ``oid``, ``pr_url``.

    Raises:
        HubError: the Hub refuses, or cannot be reached. The message says so if something may have been committed.
        CheckpointError: the model cannot be saved, or does not fit what the repository holds.
    """
    name = f"{pruned:g}" if isinstance(pruned, (int, float)) else pruned
    target = _target(repo_id, revision, tag, private, create_pr, token)
    origin = checkpoint.origin_of(model)
    if name is None and (origin.result if origin else None) is None and how.get("result") is None:
        home = ""
    elif (name := name or how.get("variant") or (origin.variant if origin else None)) is None:
        raise CheckpointError("push_to_hub: the network is slim; pass pruned=, the tag of the variant")
    else:
        home = VARIANT_PREFIX + check_variant(name, "push_to_hub", "pruned")
    given = how.get("input") or (origin.input if origin else None) or {}
    architecture = how.get("architecture") or (origin.architecture if origin else None)
    options = how.get("options") or (origin.options if origin else {})
    how["metrics"] = {**_counted(model, architecture, options, given.get("size")),
                      **(how.get("metrics") or (origin.metrics if origin else {}))}  # fmt: skip
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp) / "model"
        if base_weights is not None:
            how["base_weights"], how["base_file"] = _base(base_weights, token)
        elif not how.get("weights", True):
            _copy_base(target, folder)
        checkpoint.save(model, folder / home, **how)
        facts = Facts(repo_id, license, None if datasets is None else tuple(datasets), base_model)
        return _push([_part(folder / home, name)], target, message, facts, card)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    pruned: str | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    token: str | bool | None = None,
    card: bool = True,
    license: str | None = None,
    datasets: Iterable[str] | None = None,
    base_model: str | None = None,
) -> "CommitInfo":
    """Publish saved checkpoints in one commit: a folder with all of its variants, or one of them.

    Args:
        folder: a base network with variants in it, or a variant.
        repo_id: ``org/name``.
        pruned: only this variant of the folder; or, where the folder is a variant, the tag that it shall have.
        private: see `push_to_hub`, as for all that follow.
        revision: see there.
        tag: see there.
        create_pr: see there.
        message: see there.
        token: see there.
        card: see there.
        license: see there.
        datasets: see there.
        base_model: see there.

    Returns:
        The client's description of the commit.

    Raises:
        HubError: the Hub refuses, or cannot be reached. The message says so if something may have been committed.
        CheckpointError: a checkpoint is damaged, or does not fit what the repository holds.
    """
    folder = named(folder)
    target = _target(repo_id, revision, tag, private, create_pr, token)
    facts = Facts(repo_id, license, None if datasets is None else tuple(datasets), base_model)
    parts = [_part(place, name) for name, place in _checkpoints(folder, pruned).items()]
    return _push(parts, target, message, facts, card)


def _target(
    repo: str, branch: str | None, tag: str | None, private: bool | None, pull: bool, token: str | bool | None
) -> Target:
    if not is_repo(repo):
        raise HubError(f"{repo!r}: expected a repository's name, such as 'me/resnet18-cifar10'")
    for what, value in (("revision", branch), ("tag", tag)):
        if value is not None and not is_revision(value):
            raise HubError(f"{what} {value!r}: expected the name of a {'branch' if what == 'revision' else 'tag'}")
    if pull and (tag is not None or private is not None):
        raise HubError("a pull request cannot set a tag or the repository's visibility; leave these out")
    return Target(repo, branch, tag, private, pull, token)


def _checkpoints(folder: Path, pruned: str | None) -> dict[str | None, Path]:
    """Return the checkpoints of a folder that are meant, by the tag that each shall have."""
    known: dict[str | None, Path] = {tag: folder / f"{VARIANT_PREFIX}{tag}" for tag in checkpoint.variants(folder)}
    if pruned is not None and pruned in known:
        return {pruned: known[pruned]}
    if known and pruned is not None:
        raise CheckpointError(f"{folder}: has no variant {pruned!r}; it has {', '.join(map(str, known))}")
    if known and not (folder / CONFIG).exists():
        return known
    config = checkpoint.read_config(folder)
    if PRUNING not in config.files:
        if pruned is not None:
            raise CheckpointError(f"{folder}: is not slim, so it is no variant {pruned!r}; leave the variant out")
        return {None: folder, **known}
    tag = pruned or config.variant
    if tag is None:
        raise CheckpointError(f"{folder}: is slim; name the variant that it is (pruned=, or --pruned)")
    return {check_variant(tag, str(folder), "pruned"): folder}


def _part(folder: Path, tag: str | None) -> _Part:
    """Read and check a checkpoint."""

    def read(place: Path) -> _Part:
        skeleton = read_skeleton(place)
        config = replace(skeleton.config, variant=tag)
        files = {name: inside(place, name) for name in config.files}
        for name, file in files.items():
            try:
                found = read_digests(file).sha256
            except OSError as error:
                raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
            if found != config.files[name].sha256:
                raise CheckpointError(
                    f"{file}: is not the file whose SHA-256 is in config.json; save the network again"
                )
        return _Part(tag, config, skeleton, files)

    return read_consistently(folder, read)


def _push(parts: list[_Part], target: Target, message: str | None, facts: Facts, card: bool) -> "CommitInfo":
    pictures: dict[str | None, bytes | None] = {}
    if card:
        pictures = {part.tag: _picture(part) for part in parts if part.tag is not None}
    pushed = ", ".join("the base network" if part.tag is None else f"variant {part.tag}" for part in parts)
    pipeline = next((task for part in parts if (task := _task(part.skeleton)) is not None), None)
    bases = [part.config.base_weights for part in parts]
    cut_from = next((base.repo for base in bases if isinstance(base, BaseWeights)), None)
    facts = replace(facts, pipeline_tag=pipeline, base_model=facts.base_model or cut_from)

    def plan(contents: Contents) -> list[Any]:
        return _operations(parts, pictures, contents, target, facts if card else None)

    return commit(target, message or f"Push {pushed} with zoo_slim", plan)


def _operations(
    parts: list[_Part],
    pictures: Mapping[str | None, bytes | None],
    contents: Contents,
    target: Target,
    facts: Facts | None,
) -> list[Any]:
    """Return what is to be added and deleted in a repository of these contents."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = checkpoints_in(contents.files)
    configs, troubles = read_configs(target.remote, contents.commit, there)
    pushed = {part.tag: part.config for part in parts}
    for tag, trouble in troubles.items():
        file = f"{target.repo}: {prefix_of(tag)}{CONFIG}"
        if trouble.passing:
            raise HubError(f"{file}: has to be read before anything is pushed beside it: {trouble.text}")
        if tag in pushed:
            raise HubError(
                f"{file}: is not the config of a zoo_slim checkpoint, so it is not overwritten ({trouble.text});"
                " choose another repository"
            )
        if None in pushed and prefix_of(tag) + MODEL not in contents.files:
            raise HubError(
                f"{file}: cannot be read ({trouble.text}), and there are no weights beside it, so that variant may be"
                " cut from the base network that would be replaced; remove it first, or choose another repository"
            )
    after = {**configs, **pushed}
    _check_cut(after, target.repo)
    added = []
    for part in parts:
        home = prefix_of(part.tag)
        added.append(CommitOperationAdd(home + CONFIG, part.config.to_json().encode()))
        added += [_added(home + name, file, part.config.files[name]) for name, file in part.files.items()]
    added += [CommitOperationAdd(prefix_of(tag) + PICTURE, data) for tag, data in pictures.items() if data is not None]
    if facts is not None:
        held = {tag for tag in there if tag is not None and prefix_of(tag) + PICTURE in contents.files}
        drawn = {tag for tag, data in pictures.items() if tag is not None and data is not None}
        facts = replace(facts, pictures=frozenset((held - pictures.keys()) | drawn))
        added.append(CommitOperationAdd(_CARD, write_card(_old_card(contents, target), after, facts).encode()))
    new = {op.path_in_repo for op in added}
    own = {prefix_of(part.tag) + name for part in parts for name in (CONFIG, MODEL, PRUNING)}
    if facts is not None:
        own |= {prefix_of(part.tag) + PICTURE for part in parts if part.tag is not None}
    stale = sorted(path for path in contents.files if path in own and path not in new)
    return [*added, *(CommitOperationDelete(path) for path in stale)]


def _added(path: str, file: Path, record: FileRecord) -> Any:
    """Return the operation that adds a file, with the digest that the client will announce.

    Raises:
        HubError: it is not the file any more that was read and checked.
    """
    from huggingface_hub import CommitOperationAdd

    try:
        added = CommitOperationAdd(path, str(file))
        found = added.upload_info.sha256.hex()
    except (OSError, ValueError):  # the client's words for a file that is not there
        found = None
    if found != record.sha256:
        raise HubError(f"{file}: was replaced while it was being pushed; push again")
    return added


def _old_card(contents: Contents, target: Target) -> str | None:
    if _CARD not in contents.files:
        return None
    file = fetch(target.remote, _CARD, contents.commit, None, _LARGEST_CARD)
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(
            f"{target.repo}: {_CARD}: is not UTF-8 ({error}); mend it, or push with card=False (--no-card)"
        ) from error


def _check_cut(configs: Mapping[str | None, Config], repo: str) -> None:
    """Refuse to leave a variant without the weights that it is cut from."""
    base = configs.get(None)
    held = base.files.get(MODEL) if base is not None else None
    for tag, config in configs.items():
        needed = config.base_weights
        if tag is None or not isinstance(needed, FileRecord):
            continue
        if needed != held:
            raise HubError(
                f"{repo}: variant {tag} is cut from a {MODEL} with SHA-256 {needed.sha256} at the repository's root,"
                f" but {held.sha256 if held else 'none'} would be there; push that base network"
                " with it, or the variant with weights"
            )


def _counted(
    model: nn.Module, name: str | None, options: Mapping[str, Any], size: Sequence[int] | None
) -> dict[str, Any]:
    """Count a network's parameters, and its MACs for an image of its size; one that does not run on it has none."""
    from zoo_slim.registry import registry
    from zoo_slim.slimming import count_macs, count_params

    counted: dict[str, Any] = {"params": count_params(model)}
    if name is not None:
        with contextlib.suppress(Exception):
            image = registry().find(name).example_input(1, size, options=options)
            counted["macs"] = count_macs(model, image)
    return counted


def _base(base: str | BaseWeights, token: str | bool | None) -> tuple[BaseWeights, Path]:
    """Fetch the weights that a network is cut from, and say exactly which they are."""
    if isinstance(base, BaseWeights):
        remote = Remote(base.repo, base.revision, token)
        return base, fetch(remote, base.file, base.revision, base.record, _LARGEST_BASE)
    repo, _, revision = base.removeprefix(HUB_PREFIX).partition("@")
    if not is_repo(repo) or (revision and not is_revision(revision)):
        raise HubError(f"base_weights={base!r}: expected org/name or org/name@revision")
    file, commit = fetch_first(Remote(repo, revision or None, token), MODEL, _LARGEST_BASE)
    return checkpoint.describe_base(file, repo, commit), file


def _copy_base(target: Target, folder: Path) -> None:
    """Put the base network that a branch has, or will have once it is made, into a folder to cut a variant from.

    Raises:
        HubError: there is none, or it cannot be had.
    """
    place = HubPlace(target.repo, target.branch, target.token)
    try:
        if target.branch is not None and not target.pull_request and target.branch not in place.refs()[0]:
            place = replace(place, revision=None)
        source = place.fetch(None, True)
    except NotThereError as error:
        raise HubError(
            f"{place}: {error}; nothing was sent. A variant without weights is cut from the base network there: push"
            " that first, or the variant with its weights"
        ) from error
    folder.mkdir()
    for name in (CONFIG, MODEL):
        shutil.copyfile(source / name, folder / name)


def _picture(part: _Part) -> bytes | None:
    """Draw the channels that a variant kept; None where matplotlib is not installed."""
    from zoo_slim.pictures import channels_kept, layer_widths

    title = f"{part.config.architecture} {part.tag}"
    try:
        figure = channels_kept(layer_widths(part.skeleton.original, part.skeleton.model), title)
    except ModuleNotFoundError:
        return None
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def _task(skeleton: Skeleton) -> str | None:
    """Return what the Hub calls a network's task, judged by what it returns; None where that tells nothing."""
    import torch

    from zoo_slim.tracing import meta_copy

    try:
        with torch.no_grad():
            out = meta_copy(skeleton.model).eval()(
                skeleton.architecture.example_input(1, options=skeleton.options).to("meta")
            )
    except Exception:  # of whatever kind: it is the network's own code, and only a label is at stake
        return None
    if isinstance(out, Mapping):
        out = out.get("out")
    if not isinstance(out, torch.Tensor):
        return None
    return {2: "image-classification", 4: "image-segmentation"}.get(out.ndim)
