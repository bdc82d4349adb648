"""A model's repository as a place to load from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zoo_slim import checkpoint
from zoo_slim._errors import NotThereError
from zoo_slim.checkpoint import CONFIG, MODEL, PRUNING, VARIANT_PREFIX, BaseWeights, FileRecord
from zoo_slim.checkpoint._config import is_variant
from zoo_slim.checkpoint._load import read_skeleton
from zoo_slim.checkpoint._meta import named_tensors
from zoo_slim.checkpoint._result_file import LARGEST
from zoo_slim.hub._errors import UnreachableError
from zoo_slim.hub._fetch import fetch, fetch_first
from zoo_slim.hub._remote import Remote

__all__ = [
    "HUB_PREFIX",
    "HubPlace",
    "checkpoints_in",
    "fetch_base",
    "fetch_config",
    "is_revision",
    "prefix_of",
]

HUB_PREFIX = "hf-hub:"

_REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]{0,199}", re.ASCII)
LARGEST_CONFIG = 1 << 20
_WIDEST, _SPARE = 8, 16 << 20
"""Bytes of a value, and of everything that is no value, that a file of weights can have at most."""


def is_revision(text: str) -> bool:
    """Whether a text can be a branch, a tag or a commit."""
    return _REVISION.fullmatch(text) is not None


@dataclass(frozen=True)
class HubPlace(Remote):
    """A model's repository on the Hugging Face Hub; see `Remote` for its attributes."""

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")

    def variants(self) -> list[str]:
        """Return the tags of the variants in the repository; where the Hub cannot be asked, of those in the cache.

        Raises:
            NotThereError: it cannot be listed.
        """
        try:
            return [tag for tag in checkpoints_in(self.contents(self.revision).files) if tag is not None]
        except UnreachableError:
            known = self.cached_commit(self.revision)
            if known is None:
                raise
            return checkpoint.variants(known)

    def fetch(self, pruned: str | None, weights: bool) -> Path:
        """Fetch and check the files of one checkpoint, and return its folder in the cache.

        All files are of one commit: the one that the revision names now.

        Raises:
            NotThereError: the Hub has no such repository, revision or variant, or keeps it from us, or cannot be asked.
            CheckpointError: what it has is damaged, too large, or does not fit together.
        """
        folder, commit = fetch_config(self, pruned)
        config = checkpoint.read_config(folder)
        prefix = prefix_of(pruned)
        if PRUNING in config.files:
            fetch(self, prefix + PRUNING, commit, config.files[PRUNING], LARGEST)
        if weights and MODEL in config.files:
            fetch(self, prefix + MODEL, commit, config.files[MODEL], lambda: _most(folder, whole=False))
        elif weights and fetch_base(folder, self.token, self.local_files_only) is not None:
            pass
        elif weights and PRUNING in config.files:
            self._fetch_own_base(folder, commit)
        elif weights:
            raise NotThereError(f"it has no {MODEL}")
        return folder

    def _fetch_own_base(self, folder: Path, commit: str) -> None:
        """Fetch the weights of this repository that a variant without its own is cut from."""
        fetch(self, CONFIG, commit, None, LARGEST_CONFIG)
        base: FileRecord | None = checkpoint.read_config(folder.parent).files.get(MODEL)
        if base is None:
            raise NotThereError(f"it has no {MODEL}, which {folder.name} is cut from")
        fetch(self, MODEL, commit, base, lambda: _most(folder, whole=True))


def fetch_base(folder: Path, token: str | bool | None, local_files_only: bool) -> Path | None:
    """Fetch and check the weights in another repository that a variant's are cut from; None where there are none.

    Args:
        folder: the variant's.
        token: access token; None: that of this machine; False: none.
        local_files_only: the Hub is not asked.

    Raises:
        NotThereError: they do not exist, are kept from us, or cannot be had.
        CheckpointError: they are damaged, too large, or not what the variant was cut from.
    """
    base = checkpoint.read_config(folder).base_weights
    if not isinstance(base, BaseWeights):
        return None
    remote = Remote(base.repo, base.revision, token, local_files_only)
    try:
        return fetch(remote, base.file, base.revision, base.record, lambda: _most(folder, whole=True))
    except NotThereError as error:
        message = f"the weights that it is cut from, {base}: {error}"
        raise type(error)(message, exists=False) from error


def fetch_config(remote: Remote, pruned: str | None) -> tuple[Path, str]:
    """Fetch the ``config.json`` of a checkpoint; return its folder in the cache and the commit.

    Raises:
        NotThereError: as `fetch_first`.
        CheckpointError: as `fetch_first`.
    """
    file, commit = fetch_first(remote, prefix_of(pruned) + CONFIG, LARGEST_CONFIG)
    return file.parent, commit


def checkpoints_in(files: Iterable[str]) -> list[str | None]:
    """Return the checkpoints among a repository's files: None for the base network, then the variants' tags, sorted."""
    folders = [file.removesuffix(CONFIG).rstrip("/") for file in files if file.split("/")[-1] == CONFIG]
    tags = (folder.removeprefix(VARIANT_PREFIX) for folder in folders if folder.startswith(VARIANT_PREFIX))
    return [*([None] if "" in folders else []), *sorted(filter(is_variant, tags))]


def prefix_of(pruned: str | None) -> str:
    return "" if pruned is None else f"{VARIANT_PREFIX}{pruned}/"


def _most(folder: Path, whole: bool) -> int:
    """Return how many bytes a checkpoint's weights can have; those of the whole network, or of what is left of it."""
    skeleton = read_skeleton(folder)
    tensors = named_tensors(skeleton.original if whole else skeleton.model).values()
    return sum(tensor.numel() for tensor in tensors) * _WIDEST + _SPARE
