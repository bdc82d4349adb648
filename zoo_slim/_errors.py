"""One exception family. Every message says what was wrong, where, what was expected and what to do."""

from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "DataError",
    "HubError",
    "NotThereError",
    "RegistryError",
    "SchemaError",
    "SlimmingError",
    "UnknownNameError",
    "ZooSlimError",
]


class ZooSlimError(Exception):
    """Base of everything that zoo_slim raises for a reason that the caller can mend."""


class RegistryError(ZooSlimError):
    """An architecture's name, plugin or options."""


class UnknownNameError(RegistryError):
    """No architecture has the name.

    Attributes:
        close: names that are like it.
        failures: a line for each plugin that failed, whose architectures are missing; ``""`` where none did.
    """

    def __init__(self, message: str, close: Sequence[str] = (), failures: str = ""):
        super().__init__(message + failures)
        self.close = tuple(close)
        self.failures = failures


class SchemaError(ZooSlimError):
    """A pruning schema that cannot be read, or does not fit the model."""


class SlimmingError(ZooSlimError):
    """A model that cannot be traced or slimmed as asked."""


class CheckpointError(ZooSlimError):
    """A slim checkpoint that is missing, damaged or does not fit."""


class NotThereError(CheckpointError):
    """A place does not have what was asked for, or does not give it to us; the next one may.

    Attributes:
        exists: whether the place itself was found, so that it can be asked for its variants.
    """

    def __init__(self, message: str, exists: bool = True):
        super().__init__(message)
        self.exists = exists


class HubError(ZooSlimError):
    """The Hub refuses what was asked of it, or cannot be asked."""


class DataError(ZooSlimError):
    """A data set or an image that cannot be read."""
