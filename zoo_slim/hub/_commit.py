"""One commit on the Hub, conditional on its parent, made again from the new state where somebody else was faster."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo_slim._errors import HubError, NotThereError, ZooSlimError
from zoo_slim.hub._errors import OFFLINE, first_line, log_in, status_of
from zoo_slim.hub._remote import Contents, Remote, quiet

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["Target", "commit"]

NOTHING = "nothing was committed"
_RACES, _OUTAGES = 12, 3
"""How often a commit is made again because of other commits, and because the Hub failed."""


@dataclass(frozen=True)
class Target:
    """Where a commit goes, and how.

    Attributes:
        repo: ``org/name``.
        branch: None: the default branch. One that does not exist is made from the default branch.
        tag: to be set on the commit; it must not exist.
        private: visibility of a repository that does not exist yet; None: as its owner has set it up. One that exists
            must agree.
        pull_request: open a pull request instead of changing the branch.
        token: access token; None: that of this machine.
    """

    repo: str
    branch: str | None = None
    tag: str | None = None
    private: bool | None = None
    pull_request: bool = False
    token: str | bool | None = field(default=None, repr=False)

    @property
    def remote(self) -> Remote:
        """The branch, to be read from."""
        return Remote(self.repo, self.branch, self.token)


def commit(target: Target, message: str, plan: Callable[[Contents], list[Any]]) -> "CommitInfo":
    """Commit what ``plan`` makes of the branch's present state.

    Args:
        target: see there.
        message: of the commit.
        plan: returns the client's operations for a state of the branch; called again where that state is no longer the
            present one.

    Returns:
        The client's description of the commit; of the present one where nothing would change.

    Raises:
        HubError: the Hub refuses or cannot be reached. Its message says whether anything was committed; an empty
            repository may have been made.
        CheckpointError: what the repository holds cannot be read.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=target.token, library_name="zoo_slim")
    _prepare(api, target)
    races = outages = 0
    state = NOTHING
    while True:
        try:
            contents = target.remote.contents(target.branch)
        except NotThereError as error:
            raise HubError(f"{target.repo}: {error}; {state}") from error
        try:
            operations = plan(contents)
        except ZooSlimError as error:
            if state == NOTHING:
                raise
            raise HubError(f"{error}; {state}") from error
        try:
            with quiet(small=False):
                made = api.create_commit(
                    target.repo,
                    operations,
                    commit_message=message,
                    revision=target.branch,
                    create_pr=target.pull_request,
                    parent_commit=contents.commit,
                )
            break
        except Exception as error:
            race = _status(error) in (409, 412)
            races, outages = races + race, outages + (not race)
            if _may_be_done(error):
                what = "the pull request may have been opened" if target.pull_request else "it may have been committed"
                state = f"{what} all the same, as the answer was lost: look there before you push again"
            again = race or (_passes(error) and not target.pull_request)  # it could have been opened all the same
            if not again or races > _RACES or outages > _OUTAGES:
                raise _refusal(error, target, state) from error
        time.sleep(random.uniform(0.05, 0.3) * (races + 4 * outages))
    if target.tag is not None:
        try:
            api.create_tag(target.repo, tag=target.tag, revision=made.oid)
        except Exception as error:
            raise _refusal(error, target, f"commit {made.oid} was made, but not tagged {target.tag!r}") from error
    return made


def _prepare(api: Any, target: Target) -> None:
    """Make the repository and the branch, if need be, and refuse what cannot be done before anything is sent."""
    try:
        if not target.pull_request:
            api.create_repo(target.repo, private=target.private, exist_ok=True)
        private = bool(api.model_info(target.repo).private)
        refs = api.list_repo_refs(target.repo) if target.branch or target.tag else None
    except Exception as error:
        raise _refusal(error, target, "nothing was sent") from error
    if target.private is not None and target.private != private:
        is_, should = ("private", "public") if private else ("public", "private")
        raise HubError(
            f"{target.repo}: exists and is {is_}, not {should}; nothing was sent. Change it in its settings, or"
            " choose another name"
        )
    if refs is None:
        return
    branches, tags = ({ref.name for ref in found} for found in (refs.branches, refs.tags))
    if target.tag in tags:
        raise HubError(
            f"{target.repo}: has a tag {target.tag!r} already; nothing was sent. Choose another, or delete it"
        )
    if target.branch in tags:
        raise HubError(f"{target.repo}: {target.branch!r} is a tag, which stays as it is; name a branch, or a new tag")
    if target.branch is not None and target.branch not in branches and not target.pull_request:
        try:
            api.create_branch(target.repo, branch=target.branch, exist_ok=True)
        except Exception as error:
            raise _refusal(error, target, f"the branch {target.branch!r} could not be made") from error


def _passes(error: Exception) -> bool:
    """Whether it is an error of the moment: the Hub failed, or the connection to it."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return not isinstance(error, ValueError) and any(
        word in type(cause).__name__
        for cause in _chain(error)
        for word in ("Connect", "Timeout", "Protocol", "Network")
    )


def _may_be_done(error: Exception) -> bool:
    """Whether the Hub may have done what it was asked, though it did not say so."""
    if "/commit/" not in _url(error):
        return False  # large files are sent before
    status = _status(error)
    if status is not None:
        return status >= 500 and status != 503
    unsent = ("ConnectError", "ConnectTimeout", "NewConnectionError")
    return _passes(error) and not any(type(cause).__name__ in unsent for cause in _chain(error))


def _url(error: BaseException) -> str:
    """What the client asked for when it failed; ``/commit/`` where it does not say."""
    for cause in _chain(error):
        with suppress(AttributeError, RuntimeError):  # what httpx says of an error without a request
            return str(cause.request.url)  # type: ignore[attr-defined]
    return "/commit/"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, or one that led to it."""
    return next((status for cause in _chain(error) if (status := status_of(cause)) is not None), None)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _refusal(error: Exception, target: Target, state: str) -> HubError:
    """Return our error for one that the client raised while it wrote."""
    from huggingface_hub import errors

    status = _status(error)
    who, cure = log_in(target.token)
    owner = target.repo.split("/")[0]
    if isinstance(error, errors.OfflineModeIsEnabled):
        reason = OFFLINE
    elif isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        reason = f"the Hub refused {who}; {cure}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = f"there is no such repository, or {who} may not see it; check the name, or {cure}"
    elif status == 403:
        reason = (
            f"{who} may not write there ({_said(error)}); use one that may write to {owner!r}, or open a pull request"
            " with create_pr=True (--pr)"
        )
    elif status in (409, 412):
        reason = f"other commits came first each of {_RACES} times; try again"
    elif status is not None or isinstance(error, ValueError):
        reason = f"the Hub refused: {_said(error)}"
    else:
        reason = f"the Hub cannot be reached ({first_line(_chain(error)[-1])})"
    return HubError(f"{target.repo}: {reason}; {state}")


def _said(error: BaseException) -> str:
    """What the Hub said, and of what: its own message where the client has it, else the client's."""
    answer = next((cause for cause in _chain(error) if status_of(cause) is not None), error)
    said = getattr(answer, "server_message", None) or (str(answer) if isinstance(answer, ValueError) else "")
    said = " ".join(said.split()) or first_line(answer)
    return (said if answer is error else f"{str(error).splitlines()[0]} {said}")[:300]
