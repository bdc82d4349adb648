"""A model zoo of slim networks: slim a CNN, save it as plain data, load it by name.

Importing this package costs what ``import torch`` costs at most: every public name is loaded on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "registry",
    "Family": "registry",
    "PruningResult": "result",
    "PruningSchema": "schema",
    "Registry": "registry",
    "SlimPruner": "slimming",
    "ZooSlimError": "_errors",
    "apply_result": "result",
    "list_models": "registry",
    "load": "loading",
    "register": "registry",
    "save": "checkpoint",
    "slim": "slimming",
    "trace": "tracing",
    "update_bn_grad": "sparsity",
    "verify": "slimming",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo_slim' has no attribute {name!r}")
    value = getattr(import_module(f"zoo_slim.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
