"""One exception family. Every message says what was wrong, where, what was expected and what to do."""

__all__ = ["CheckpointError", "DataError", "RegistryError", "SchemaError", "SlimmingError", "ZooSlimError"]


class ZooSlimError(Exception):
    """Base of everything that zoo_slim raises for a reason that the caller can mend."""


class RegistryError(ZooSlimError):
    """An architecture's name, plugin or options."""


class SchemaError(ZooSlimError):
    """A pruning schema that cannot be read, or does not fit the model."""


class SlimmingError(ZooSlimError):
    """A model that cannot be traced or slimmed as asked."""


class CheckpointError(ZooSlimError):
    """A slim checkpoint that is missing, damaged or does not fit."""


class DataError(ZooSlimError):
    """A data set or an image that cannot be read."""
