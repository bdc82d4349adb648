"""A repository on the Hub, read through the Hub's own client."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zoo_slim.hub._errors import OFFLINE, UnreachableError, explain, is_offline

__all__ = ["Contents", "Head", "Remote", "quiet"]

PATIENCE = 5.0
"""Seconds that the Hub has to answer where nobody asked for it by name."""

_LONG = 3.0
"""Seconds after which a question that failed is not asked again: the client has waited, or has itself tried again."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Head:
    """What the Hub says of a file before it is downloaded.

    Attributes:
        commit: the commit that the revision names (40 hexadecimal digits).
        etag: the file's SHA-256 if it is stored as a large file, else git's hash of it.
        size: its length in bytes, if the Hub says it.
    """

    commit: str
    etag: str
    size: int | None


@dataclass(frozen=True)
class Contents:
    """What a repository holds at a commit.

    Attributes:
        commit: 40 hexadecimal digits.
        files: the paths of all files.
        private: whether only its owner sees it; None: not known.
    """

    commit: str
    files: tuple[str, ...]
    private: bool | None

    @classmethod
    def of(cls, info: Any) -> "Contents":
        """Take them from the client's ``ModelInfo``."""
        return cls(info.sha, tuple(file.rfilename for file in info.siblings or ()), bool(info.private))


@dataclass(frozen=True)
class Remote:
    """A repository, and how it is asked.

    Every method raises `NotThereError` where the Hub does not have what was asked for or keeps it from us, and its kind
    `UnreachableError` where the Hub cannot or must not be asked.

    Attributes:
        repo: ``org/name``.
        revision: branch, tag or commit; None: the default branch.
        token: access token; None: that of this machine, if there is one; False: none.
        local_files_only: the Hub is not asked.
        asked_for: whether the user named the repository. One that was not is given up at the first failure.
    """

    repo: str
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    asked_for: bool = True

    def head(self, file: str, revision: str | None) -> Head:
        """Ask what a file is, without its content."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url, timeout = hf_hub_url(self.repo, file, revision=revision), self._timeout()
        known = self._ask(lambda: get_hf_file_metadata(url, token=self.token, timeout=timeout, **_agent()), file)
        if known.commit_hash is None or known.etag is None:
            raise UnreachableError(f"{url}: does not answer as a Hub does; check HF_ENDPOINT, proxies and firewalls")
        return Head(known.commit_hash, known.etag, known.size)

    def cached(self, file: str, revision: str | None) -> Path | None:
        """Return where the cache has a file, unchecked; None where it has not."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def cached_commit(self, revision: str | None) -> Path | None:
        """Return the cache's folder of the commit that a revision named when it was last asked for."""
        from huggingface_hub import constants

        home = Path(constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}"
        named = home / "refs" / (revision or "main")
        folder = home / "snapshots" / (named.read_text().strip() if named.is_file() else revision or "main")
        return folder if folder.is_dir() else None

    def download(self, file: str, revision: str | None, force: bool = False) -> Path:
        """Download a file into the cache, unchecked, unless it is there; return its place in the snapshot's folder.

        Args:
            file: its path in the repository.
            revision: branch, tag or commit; the cache remembers which commit a branch or tag named.
            force: download it in any case, and from its beginning.
        """
        from huggingface_hub import hf_hub_download

        def get() -> str:
            return hf_hub_download(
                self.repo, file, revision=revision, token=self.token, force_download=force, **_agent()
            )

        return Path(self._ask(get, file, tries=2, long=math.inf, failed=f"broke off the download of {file}"))

    def contents(self, revision: str | None) -> Contents:
        """Ask what the repository holds."""
        from huggingface_hub import HfApi

        def get() -> Any:  # unlike a listing of the tree, it does not try for half a minute where there is no network
            return HfApi().model_info(self.repo, revision=revision, token=self.token, timeout=self._timeout())

        return Contents.of(self._ask(get))

    def refs(self) -> tuple[list[str], list[str]]:
        """Return the names of the branches and of the tags."""
        from huggingface_hub import HfApi

        refs = self._ask(lambda: HfApi().list_repo_refs(self.repo, token=self.token))
        return [branch.name for branch in refs.branches], [tag.name for tag in refs.tags]

    def _timeout(self) -> float:
        from huggingface_hub import constants

        return constants.HF_HUB_ETAG_TIMEOUT if self.asked_for else min(PATIENCE, constants.HF_HUB_ETAG_TIMEOUT)

    def _ask(
        self,
        call: Callable[[], _T],
        file: str | None = None,
        tries: int = 3,
        long: float = _LONG,
        failed: str = "cannot be reached",
    ) -> _T:
        if self.local_files_only:
            raise UnreachableError("the Hub is not to be asked, as local_files_only=True was given", final=True)
        if is_offline():  # the client would say so too, but only after it has read the certificates, for 60 ms
            raise UnreachableError(OFFLINE, final=True)
        for left in reversed(range(tries if self.asked_for else 1)):
            start = time.monotonic()
            try:
                return call()
            except Exception as error:
                ours = explain(error, self, file, failed)
                waited = time.monotonic() - start > long
                if not left or waited or not isinstance(ours, UnreachableError) or ours.final:
                    raise ours from error
            time.sleep(0.3 * 2 ** (tries - left))
        raise AssertionError("unreachable")


def _agent() -> dict[str, Any]:
    from zoo_slim import __version__

    return {"library_name": "zoo_slim", "library_version": __version__}


@contextmanager
def quiet(small: bool = True) -> Iterator[None]:
    """Show no progress bars while the block runs, as its files are small or nobody looks at a terminal."""
    if not small and sys.stderr is not None and sys.stderr.isatty():
        yield
        return
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
