"""What the Hub's client raises, said in our words."""

import errno
from typing import TYPE_CHECKING

from zoo_slim._errors import CheckpointError, NotThereError

if TYPE_CHECKING:
    from zoo_slim.hub._remote import Remote

__all__ = ["OFFLINE", "ClaimError", "UnreachableError", "explain", "first_line", "is_offline", "log_in", "status_of"]

OFFLINE = "the Hub is not to be asked, as HF_HUB_OFFLINE is set"

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


class UnreachableError(NotThereError):
    """The Hub did not answer, or must not be asked. What is in the cache may do.

    Attributes:
        final: the Hub must not be asked, so asking again does not help.
    """

    def __init__(self, message: str, final: bool = False, exists: bool = False):
        super().__init__(message, exists)
        self.final = final


class ClaimError(CheckpointError):
    """What the Hub, or ``config.json``, says of a file cannot be right, however often it is fetched."""


def first_line(error: BaseException) -> str:
    """Return an error's class and the first line of its text, at most 300 characters."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300]


def is_offline() -> bool:
    """Return whether the client was told not to ask the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error of the client carries."""
    return getattr(getattr(error, "response", None), "status_code", None)


def log_in(token: str | bool | None) -> tuple[str, str]:
    """Return who the Hub took us for, and what to do about it."""
    from huggingface_hub import constants, get_token

    if isinstance(token, str):
        return "the token that was given", "pass another token="
    if token is True or (token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and get_token()):
        return "the token of this machine", "log in with `hf auth login`, set HF_TOKEN, or pass token="
    return "a request without a token", "log in with `hf auth login`, set HF_TOKEN, or pass token="


def explain(
    error: Exception, remote: "Remote", file: str | None = None, failed: str = "cannot be reached"
) -> CheckpointError:
    """Return our error for one that the client raised while it read from a repository.

    Args:
        error: anything that was raised.
        remote: the repository, and how it was asked.
        file: what was asked for.
        failed: what it did where it is no answer at all.

    Returns:
        `UnreachableError` where the Hub did not answer, `NotThereError` where it has no such thing or keeps it from us,
        `CheckpointError` where this machine is at fault.
    """
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(cause, Exception) and (
        type(error) is ValueError or isinstance(error, errors.LocalEntryNotFoundError)
    ):
        return explain(cause, remote, file, failed)
    who, cure = log_in(remote.token)
    status = status_of(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnreachableError(OFFLINE, final=True)
    if isinstance(error, errors.GatedRepoError):
        return NotThereError(
            f"is gated, and {who} has not been granted access; ask for it on the repository's page, then {cure}",
            exists=False,
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotThereError(
            f"there is no such repository, or it is private and {who} may not see it; check the name, or {cure}",
            exists=False,
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotThereError(f"it has no revision {remote.revision!r}{_revisions(remote)}", exists=False)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return NotThereError(f"token=True was given, but this machine has none; {cure}", exists=False)
    if isinstance(error, errors.EntryNotFoundError):
        return NotThereError(f"it has no {file}" if file else first_line(error))
    if status == 401:
        return NotThereError(f"the Hub refused {who} (401); {cure}", exists=False)
    if status is not None and status not in (408, 429) and status < 500:
        return NotThereError(f"the Hub refused {who} ({first_line(error)})", exists=False)
    if status is None and isinstance(error, OSError) and (error.errno in _DISK or (error.errno and error.filename)):
        from huggingface_hub.constants import HF_HUB_CACHE

        return CheckpointError(
            f"{error.filename or HF_HUB_CACHE}: {error.strerror}; {file or 'it'} cannot be kept there: free or open the"
            " place, or choose another with the environment variable HF_HOME"
        )
    return UnreachableError(f"the Hub {failed} ({first_line(error)})")


def _revisions(remote: "Remote") -> str:
    try:
        branches, tags = remote.refs()
    except CheckpointError:
        return ""
    known = [*branches, *tags]
    return f"; it has {', '.join(known[:20])}{', …' if len(known) > 20 else ''}"
