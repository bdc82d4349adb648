"""Find a checkpoint by name, and load it: ``resnet18``, ``hf-hub:org/name@revision``, ``local-dir:path``."""

import difflib
import importlib.resources
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo_slim import checkpoint
from zoo_slim._errors import CheckpointError, NotThereError, RegistryError, UnknownNameError
from zoo_slim.checkpoint import CONFIG, MODEL, PRUNING, VARIANT_PREFIX, Origin
from zoo_slim.checkpoint._base import is_repo
from zoo_slim.checkpoint._config import check_variant
from zoo_slim.checkpoint._folder import find_folder, named
from zoo_slim.checkpoint._load import check_dtype, resolve_device
from zoo_slim.checkpoint._meta import build_real
from zoo_slim.hub import HUB_PREFIX, HubPlace, UnreachableError, fetch_base, is_revision, is_verified
from zoo_slim.registry import registry

__all__ = [
    "LOCAL_PREFIX",
    "BundledPlace",
    "HubPlace",
    "LocalPlace",
    "NotThereError",
    "Place",
    "bundled_zoo",
    "load",
    "places",
    "variants",
]

LOCAL_PREFIX = "local-dir:"
NAMESPACE = "ZOO_SLIM_NAMESPACE"
"""Environment variable: the namespace on the Hub for registered names; ``""`` for none, default ``zoo-slim``."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_EXPECTED = f"expected a registered name, {HUB_PREFIX}org/name, or a folder's path"
_FILE = (
    "is a file; name the checkpoint's folder that it is in, or make one of its weights: zoo-slim convert NAME "
    "--weights FILE, or zoo_slim.convert"
)
_LIKE_HUB = re.compile(r"^(?:(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/|(?:hf[-_]?hub|hf|hub):/*)", re.IGNORECASE)
_LIKE_LOCAL = re.compile(r"^local[-_]?dir:", re.IGNORECASE)


@dataclass(frozen=True)
class LocalPlace:
    """A folder on this machine: a base checkpoint with its variants, or a variant itself."""

    folder: Path

    def __str__(self) -> str:
        return f"{LOCAL_PREFIX}{self.folder}"

    def variants(self) -> list[str]:
        """Return the variants in the folder."""
        return checkpoint.variants(self.folder)

    def fetch(self, pruned: str | None, weights: bool) -> Path:
        """Return the checkpoint's own folder.

        Raises:
            NotThereError: there is no such folder or variant, or the base has no weights, though they are wanted.
        """
        folder = self.folder
        if pruned is not None:
            inside = folder / f"{VARIANT_PREFIX}{pruned}"
            if os.path.isfile(place := find_folder(inside) / CONFIG):
                if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(find_folder(folder))):
                    raise CheckpointError(f"{inside}: is a link that leads out of {folder}; load it by its own path")
                return inside
        place = find_folder(folder)
        if os.path.isfile(place):
            raise NotThereError(f"it {_FILE}", exists=False)
        if not os.path.isdir(place):
            raise NotThereError("there is no such folder", exists=False)
        if not os.path.isfile(place / CONFIG):
            raise NotThereError(f"it has no {'variant ' + repr(pruned) if pruned else CONFIG}{_below(folder)}")
        if pruned is None and not weights:
            return folder
        config = checkpoint.read_config(folder)
        if pruned is not None:
            if PRUNING in config.files and config.variant == pruned:
                return folder
            raise NotThereError(f"it has no variant {pruned!r}")
        if not config.files:
            raise NotThereError(f"it has no {MODEL}")
        return folder


@dataclass(frozen=True)
class BundledPlace(LocalPlace):
    """A model's folder in the zoo that comes with the package."""

    name: str

    def __str__(self) -> str:
        return f"the bundled zoo ({self.name})"


def _below(folder: Path) -> str:
    """Offer the checkpoints in a folder that is none itself, ``model`` in that of a run for instance."""
    inside = (file.parent for file in folder.glob(f"*/{CONFIG}"))
    found = sorted(f"{LOCAL_PREFIX}{one}" for one in inside if not one.name.startswith((".", VARIANT_PREFIX)))
    return f"; did you mean {' or '.join(found[:3])}?" if found else ""


Place = LocalPlace | HubPlace


def bundled_zoo() -> Path:
    """Return the folder of the zoo that comes with the package; it need not exist."""
    return Path(str(importlib.resources.files("zoo_slim").joinpath("zoo")))


def places(
    name: str | os.PathLike[str],
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> list[Place]:
    """Return where a name is looked for, in order.

    Args:
        name: ``hf-hub:org/name`` or ``hf-hub:org/name@revision`` is a repository, ``local-dir:path`` or a
            `pathlib.Path` a folder. Any other is a registered name: the bundled zoo has it (unless a revision is
            given), or the default namespace on the Hub, where ``/`` becomes ``__``.
        revision: branch, tag or commit on the Hub.
        token: access token for the Hub; None: that of this machine; False: none.
        local_files_only: the Hub is not asked; what is in its cache can be had.

    Raises:
        CheckpointError: the name is malformed, or looks like a repository or a path but has no prefix.
        RegistryError: no architecture and no bundled model has the name.
    """
    name = _text(name)
    if revision is not None and not is_revision(revision):
        raise CheckpointError(f"revision {revision!r}: expected a branch, a tag or a commit")
    if name.startswith(HUB_PREFIX):
        repo, separator, commit = name.removeprefix(HUB_PREFIX).partition("@")
        if not is_repo(repo) or (separator and not is_revision(commit)):
            raise CheckpointError(f"{name!r}: expected {HUB_PREFIX}org/name or {HUB_PREFIX}org/name@revision")
        if separator and revision is not None and revision != commit:
            raise CheckpointError(f"{name!r} names a revision, but revision={revision!r} was given too; leave one out")
        return [HubPlace(repo, commit or revision, token, local_files_only)]
    if name.startswith(LOCAL_PREFIX):
        if revision is not None:
            raise CheckpointError(f"{name!r}: a folder has no revisions, but revision={revision!r} was given")
        if not (path := name.removeprefix(LOCAL_PREFIX)):
            raise CheckpointError(f"{name!r}: expected {LOCAL_PREFIX}path")
        return [LocalPlace(named(path))]
    return _registered_places(name, revision, token, local_files_only)


def _text(name: str | os.PathLike[str]) -> str:
    """Return a name as text; a path becomes that of a folder."""
    if isinstance(name, os.PathLike):
        return f"{LOCAL_PREFIX}{os.fsdecode(name)}"
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{name!r}: {_EXPECTED}")
    return name


def _registered_places(
    name: str, revision: str | None, token: str | bool | None, local_files_only: bool
) -> list[Place]:
    valid = _NAME.fullmatch(name) is not None
    bundled = BundledPlace(bundled_zoo() / name, name)
    if not (valid and bundled.folder.is_dir()):
        try:
            registry().find(name)
        except UnknownNameError as error:
            if (other := _other_meaning(name, error)) is None:
                raise
            raise other from None
    found: list[Place] = [] if revision is not None else [bundled]
    namespace = os.environ.get(NAMESPACE, "zoo-slim")
    if namespace:
        repo = f"{namespace}/{name.replace('/', '__')}"
        if is_repo(repo):  # not all names are those of a repository, such as net+se
            found.append(HubPlace(repo, revision, token, local_files_only, asked_for=False))
        elif not is_repo(f"{namespace}/name"):
            raise CheckpointError(f"{repo!r} cannot be a repository; check the environment variable {NAMESPACE}")
    return found


def _other_meaning(name: str, error: UnknownNameError) -> CheckpointError | None:
    """Say what a name that is not registered may mean, and how that is written; None: nothing else."""
    path = os.path.expanduser(name)
    if not (re.search(r"[/\\:]", name) or is_path(name) or os.path.exists(path)):
        return None
    if os.path.isfile(path):
        return CheckpointError(f"{name!r} {_FILE}")
    repo = _LIKE_HUB.sub("", name.lstrip("./~"))
    address = "://" in name
    if address:
        repo = "/".join(repo.split("/")[:2])
    org_and_name, at, revision = repo.partition("@")
    ways = []
    if is_repo(org_and_name) and (not at or is_revision(revision)):
        ways.append(f"'{HUB_PREFIX}{repo}' for a repository on the Hub")
    if not address:
        ways.append(f"'{LOCAL_PREFIX}{_LIKE_LOCAL.sub('', name)}' for a folder")
    said = f"{name!r} is not a registered name"
    if error.close:
        said = str(error).removesuffix(error.failures)
    elif is_path(name) and not os.path.isdir(path):
        said += ", and there is no such folder"
    advice = f"write {', or '.join(ways)}" if ways else _EXPECTED
    return CheckpointError(f"{said}; {advice}{error.failures}")


def load(
    name: str | os.PathLike[str],
    pruned: str | float | None = None,
    *,
    pretrained: bool = True,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """Load a network by name: an ordinary module of its architecture, only narrower if ``pruned`` is given.

    Args:
        name: a registered name (``resnet18``), ``hf-hub:org/name@revision``, or a folder: ``local-dir:path`` or a
            `pathlib.Path`; see `places`.
        pruned: tag of a variant, ``"0.75"`` for instance; None: the base network, or what a folder holds itself.
        pretrained: False: random weights; a registered name needs no checkpoint then.
        revision: branch, tag or commit on the Hub.
        token: access token for the Hub; None: that of this machine (HF_TOKEN, or ``hf auth login``); False: none.
        local_files_only: do not ask the Hub; what was fetched earlier can be loaded.
        device: where to.
        dtype: floating dtype to cast to; None: the one that the network had when it was saved.
        **options: keyword arguments for the architecture, such as ``num_classes``. They must agree with those that the
            checkpoint was saved with.

    Returns:
        The network in evaluation mode; `zoo_slim.checkpoint.origin_of` tells its classes, metrics and pruning result.

    Raises:
        CheckpointError: nothing was found (the message says where it was looked for, and why not), or what was found is
            damaged or does not fit.
        RegistryError: no such name, or not one of the architecture's options.
    """
    name = _text(name)
    tag = f"{pruned:g}" if isinstance(pruned, (int, float)) else pruned
    check_dtype(dtype)
    candidates = places(name, revision, token=token, local_files_only=local_files_only)
    if tag is not None:
        check_tag(tag, name, "pruned", candidates)
    bare = not pretrained and tag is None
    if (options or bare) and not name.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        architecture = registry().find(name)
        checked = architecture.check(options)
        if bare:
            model = build_real(architecture, checked).to(device=resolve_device(device), dtype=dtype).eval()
            return checkpoint.attach_origin(model, Origin(architecture.name, checked))
    failures: list[tuple[Place, NotThereError]] = []
    for place in candidates:
        try:
            folder = place.fetch(tag, pretrained)
        except NotThereError as error:
            failures.append((place, error))
            continue
        how: dict[str, Any] = {"pretrained": pretrained, "device": device, "dtype": dtype, "options": options}
        return load_folder(folder, token=token, local_files_only=local_files_only, **how)
    raise CheckpointError(_nothing_found(name, tag, failures))


def load_folder(
    folder: str | os.PathLike[str], *, token: str | bool | None = None, local_files_only: bool = False, **how: Any
) -> nn.Module:
    """Load the network of one checkpoint folder; weights that are cut from those of a repository are fetched.

    Args:
        folder: a base checkpoint, or a variant (``NAME/pruned-VARIANT``).
        token: access token for the Hub, as for `load`.
        local_files_only: do not ask the Hub.
        **how: as for `zoo_slim.checkpoint.load_folder`.

    Raises:
        CheckpointError: something is missing, damaged or does not fit.
        RegistryError: the architecture is not installed, or does not take an option.
    """
    base = fetch_base(Path(folder), token, local_files_only) if how.get("pretrained", True) else None
    return checkpoint.load_folder(folder, base_file=base, verified=is_verified, **how)


def _nothing_found(name: str, tag: str | None, failures: list[tuple[Place, NotThereError]]) -> str:
    what = f"variant {tag!r} of {name!r}" if tag else f"weights of {name!r}"
    verb = "fetched" if any(isinstance(error, UnreachableError) for _, error in failures) else "found"
    lines = [f"{what} could not be {verb}:", *(f"- {place}: {error}" for place, error in failures)]
    variants = [(place, known) for place, error in failures if (known := known_variants(place, error))]
    for place, known in variants:
        lines.append(f"{place} has the variants {', '.join(known)}; load one with pruned={nearest(tag, known)!r}.")
    if not variants:
        lines += weights_of_your_own(name)
    if tag is None and not name.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        lines.append(
            f"Pass pretrained=False for random weights, or name a place: '{HUB_PREFIX}org/name', '{LOCAL_PREFIX}path'."
        )
    if is_hidden_folder(name):
        lines.append(f"There is a folder {name!r}, too: load it as '{LOCAL_PREFIX}{name}'.")
    return "\n".join(lines)


def weights_of_your_own(name: str) -> list[str]:
    """Return the line that says how a registered name of which there are no weights gets some; any other gets none."""
    if name.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        return []
    return [
        f"To have weights of {name}, train it (zoo-slim train), or make a checkpoint of published ones or of your own "
        "(zoo-slim convert, zoo_slim.save)."
    ]


def check_tag(tag: str, name: str, field: str, candidates: Sequence[Place]) -> None:
    """Refuse what cannot be a variant's tag; where it is the number of a known one, that is offered.

    Raises:
        CheckpointError: naming the ``field``.
    """
    try:
        check_variant(tag, name, field)
    except CheckpointError as error:
        if (number := _number(tag)) is None:
            raise
        known = (one for place in candidates for one in known_variants(place, NotThereError("")))
        if (meant := f"{number:g}") not in known:
            raise
        raise CheckpointError(f"{error}; did you mean {meant!r}?") from None


def is_path(name: str) -> bool:
    """Return whether a name begins as paths do, and as no registered name does."""
    return name.startswith((".", "/", "~", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", name) is not None


def place_of(name: str) -> str:
    """Return a name with the prefix of a folder where it is a path or that of a folder, unless it is a known name."""
    if is_path(name):
        return LOCAL_PREFIX + name
    if not name.startswith((HUB_PREFIX, LOCAL_PREFIX)) and os.path.isdir(name):
        try:
            registry().find(name)
        except RegistryError:
            return LOCAL_PREFIX + name
    return name


def nearest(tag: str | None, known: Sequence[str]) -> str:
    """Return the one of the known tags that is most like another one: as a number, or as text; the first, to none."""
    if tag is None:
        return known[0]
    numbers = {other: number for other in known if (number := _number(other)) is not None}
    if numbers and (number := _number(tag)) is not None:
        return min(numbers, key=lambda other: abs(numbers[other] - number))
    return max(known, key=lambda other: difflib.SequenceMatcher(None, tag, other).ratio())


def _number(tag: str) -> float | None:
    try:
        return float(tag)
    except ValueError:
        return None


def is_hidden_folder(name: str) -> bool:
    """Return whether a folder has this registered name, which therefore does not mean the folder."""
    return not name.startswith((HUB_PREFIX, LOCAL_PREFIX)) and os.path.isdir(name)


def known_variants(place: Place, error: NotThereError) -> list[str]:
    """Return the tags of the variants that a place has instead of what it does not have, as far as it can be asked."""
    if isinstance(place, HubPlace) and isinstance(error, UnreachableError):
        place = replace(place, local_files_only=True)
    try:
        return place.variants() if error.exists else []
    except NotThereError:
        return []


def variants(name: str | os.PathLike[str], revision: str | None = None) -> list[str]:
    """Return the tags of the variants that a name has: in its folder, its repository, or the bundled zoo.

    For a registered name without a revision only the bundled zoo is asked.

    Raises:
        CheckpointError: the name is malformed, or its repository cannot be listed.
        RegistryError: no architecture and no bundled model has the name.
    """
    place = places(name, revision)[:1]
    try:
        return place[0].variants() if place else []
    except NotThereError as error:
        raise CheckpointError(f"{place[0]}: {error}") from error
