"""The command line that a checkpoint records."""

import re
import shlex
import sys

__all__ = ["recorded_command"]


def recorded_command() -> str:
    """Return the command as it was typed, with absolute paths cut to their last part.

    Checkpoints are shared: where files lay on the machine of who made one means nothing elsewhere, and may name people.
    """
    return shlex.join(["zoo-slim", *(_shortened(word) for word in sys.argv[1:])])


def _shortened(word: str) -> str:
    """Cut an absolute path, alone or behind ``--option=``, ``-o`` or ``local-dir:``; no web address."""
    before, path = r"(-[A-Za-z]|(?:[\w-]+[=:])*?)", r"((?:~|(?:[A-Za-z]:)?[\\/](?!/)).*)"
    found = re.fullmatch(before + path, word, re.DOTALL)
    if found is None:
        return word
    return found[1] + (re.split(r"[\\/]", found[2].rstrip("\\/"))[-1] or found[2])
