"""A model zoo of slim networks: slim a CNN, save it as plain data, load it by name.

Importing this package costs next to nothing: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

from zoo_slim._lazy import on_first_use

if TYPE_CHECKING:
    from zoo_slim import checkpoint as checkpoint
    from zoo_slim import hub as hub
    from zoo_slim import schema as schema
    from zoo_slim import slimming as slimming
    from zoo_slim import sparsity as sparsity
    from zoo_slim import tracing as tracing
    from zoo_slim import training as training
    from zoo_slim._errors import ZooSlimError as ZooSlimError
    from zoo_slim.checkpoint import new_head as new_head
    from zoo_slim.checkpoint import save as save
    from zoo_slim.converting import convert as convert
    from zoo_slim.hub import push_to_hub as push_to_hub
    from zoo_slim.listing import list_models as list_models
    from zoo_slim.loading import load as load
    from zoo_slim.registry import Architecture as Architecture
    from zoo_slim.registry import Family as Family
    from zoo_slim.registry import Registry as Registry
    from zoo_slim.registry import register as register
    from zoo_slim.result import PruningResult as PruningResult
    from zoo_slim.result import apply_result as apply_result
    from zoo_slim.schema import PruningSchema as PruningSchema
    from zoo_slim.slimming import SlimPruner as SlimPruner
    from zoo_slim.slimming import find_cliff as find_cliff
    from zoo_slim.slimming import fold_constants as fold_constants
    from zoo_slim.slimming import recalibrate as recalibrate
    from zoo_slim.slimming import slim as slim
    from zoo_slim.slimming import verify as verify
    from zoo_slim.sparsity import update_bn_grad as update_bn_grad
    from zoo_slim.tracing import trace as trace

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
    "convert": "converting",
    "find_cliff": "slimming",
    "fold_constants": "slimming",
    "list_models": "listing",
    "load": "loading",
    "new_head": "checkpoint",
    "push_to_hub": "hub",
    "recalibrate": "slimming",
    "register": "registry",
    "save": "checkpoint",
    "slim": "slimming",
    "trace": "tracing",
    "update_bn_grad": "sparsity",
    "verify": "slimming",
}

__all__ = ["__version__", *_HOMES]

_MODULES = ("checkpoint", "hub", "schema", "slimming", "sparsity", "tracing", "training")

__getattr__, __dir__ = on_first_use(__name__, _HOMES, _MODULES)
