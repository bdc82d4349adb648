"""What models there are on the Hub, and what is known of each, without their weights."""

import fnmatch
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from zoo_slim import checkpoint
from zoo_slim._errors import CheckpointError, HubError
from zoo_slim.checkpoint import CONFIG, Config
from zoo_slim.hub._errors import ClaimError, UnreachableError, explain
from zoo_slim.hub._fetch import fetch
from zoo_slim.hub._place import LARGEST_CONFIG, HubPlace, checkpoints_in, fetch_config, prefix_of
from zoo_slim.hub._remote import Contents, Remote, quiet

__all__ = ["LIBRARY", "HubModel", "Trouble", "describe", "list_hub", "read_configs"]

LIBRARY = "zoo_slim"
"""The tag by which the Hub finds repositories of ours."""

MOST = 200
"""Repositories that one listing reads."""

_MOST_CHECKPOINTS = 100
_THREADS = 8


@dataclass(frozen=True)
class HubModel:
    """A model's repository on the Hub, as its ``config.json`` files describe it.

    Attributes:
        name: ``hf-hub:org/name``, as `zoo_slim.load` takes it.
        commit: what was read (40 hexadecimal digits).
        private: whether only its owner sees it; None: not known, as the Hub could not be asked.
        base: the base network; None where the repository has only variants.
        variants: the variants by their tags, sorted.
        unreadable: what is wrong with those checkpoints that cannot be read, by tag; ``""`` is the base network.
    """

    name: str
    commit: str
    private: bool | None
    base: Config | None
    variants: dict[str, Config]
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def architectures(self) -> list[str]:
        """The architectures of its checkpoints; there should be one."""
        return sorted({config.architecture for config in self._configs()})

    @property
    def packages(self) -> list[str]:
        """The packages, with their versions, that offered the architectures, as far as that is recorded."""
        return sorted({str(config.package) for config in self._configs() if config.package})

    def _configs(self) -> list[Config]:
        return [*([self.base] if self.base else []), *self.variants.values()]


class Trouble(NamedTuple):
    """Why a ``config.json`` could not be read, and whether it could be another time."""

    text: str
    passing: bool


def describe(place: HubPlace) -> HubModel:
    """Read what a repository holds; where the Hub cannot be asked, what the cache has of it.

    Raises:
        NotThereError: the repository or the revision does not exist, is kept from us, or cannot be had.
    """
    try:
        contents = place.contents(place.revision)
        for tag in checkpoints_in(contents.files)[:1]:
            fetch_config(place, tag)  # so that the cache knows what the revision was, for when the Hub cannot be asked
    except UnreachableError as error:
        known = place.cached_commit(place.revision)
        if known is None:
            nothing = f"{error}, and the cache has nothing of {place.revision or 'main'}"
            raise UnreachableError(nothing, error.final) from error
        files = [file.relative_to(known).as_posix() for file in known.rglob(CONFIG)]
        contents = Contents(known.name, tuple(files), private=None)
    return _read(place, contents, str(place))


def list_hub(pattern: str, author: str | None, token: str | bool | None) -> list[HubModel]:
    """Return the models on the Hub whose name (with or without ``org/``) or architecture matches a shell pattern.

    Args:
        pattern: ``"resnet*"`` for instance.
        author: user or organisation; None: anyone.
        token: access token; None: that of this machine; False: none.

    Raises:
        HubError: the Hub cannot be asked, or refuses.
    """
    from huggingface_hub import HfApi

    try:
        infos = HfApi().list_models(filter=LIBRARY, author=author, full=True, token=token)
        found = [info for info in infos if any(_names(pattern, [info.id, info.id.split("/")[-1], *(info.tags or [])]))]
    except Exception as error:
        raise HubError(f"the models on the Hub cannot be listed: {explain(error, Remote('', token=token))}") from error
    if len(found) > MOST:
        warnings.warn(f"{len(found)} models on the Hub match; the first {MOST} are read, narrow it down", stacklevel=3)
    models = []
    for info in islice(found, MOST):
        remote = HubPlace(info.id, info.sha, token)
        model = _read(remote, Contents.of(info), f"hf-hub:{info.id}")
        if any(_names(pattern, [info.id, info.id.split("/")[-1], *model.architectures])):
            models.append(model)
    return sorted(models, key=lambda model: model.name)


def read_configs(
    remote: Remote, commit: str, tags: Iterable[str | None]
) -> tuple[dict[str | None, Config], dict[str | None, Trouble]]:
    """Read the ``config.json`` of checkpoints of one commit.

    Args:
        remote: the repository.
        commit: 40 hexadecimal digits.
        tags: variants; None is the base network.

    Returns:
        Those that could be read, and what was wrong with the others.
    """

    def read(tag: str | None) -> Config | Trouble:
        file = None
        try:
            file = fetch(remote, prefix_of(tag) + CONFIG, commit, None, LARGEST_CONFIG)
            return checkpoint.read_config(file.parent)
        except CheckpointError as error:
            return Trouble(str(error), passing=file is None and not isinstance(error, ClaimError))

    wanted = list(tags)
    with quiet(), ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(wanted, pool.map(read, wanted), strict=True))
    good = {tag: config for tag, config in found.items() if isinstance(config, Config)}
    return good, {tag: trouble for tag, trouble in found.items() if isinstance(trouble, Trouble)}


def _names(pattern: str, names: Iterable[str]) -> Iterable[bool]:
    return (fnmatch.fnmatchcase(name, pattern) for name in names)


def _read(remote: Remote, contents: Contents, name: str) -> HubModel:
    tags = checkpoints_in(contents.files)
    configs, troubles = read_configs(remote, contents.commit, tags[:_MOST_CHECKPOINTS])
    wrong = {tag: trouble.text for tag, trouble in troubles.items()}
    wrong |= dict.fromkeys(tags[_MOST_CHECKPOINTS:], f"was not read, being beyond the first {_MOST_CHECKPOINTS}")
    return HubModel(
        name=name,
        commit=contents.commit,
        private=contents.private,
        base=configs.get(None),
        variants={tag: config for tag, config in configs.items() if tag is not None},
        unreadable={tag or "": text for tag, text in wrong.items()},
    )
