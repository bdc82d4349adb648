"""Slim checkpoints: folders of JSON and safetensors that hold a network, slim or not. No pickle, no code.

`save` writes one, atomically; `load_folder` reads one, validating everything before a tensor is made. `zoo_slim.load`
finds checkpoints by name.
"""

from zoo_slim.checkpoint._base import BaseWeights, FileRecord, describe_base
from zoo_slim.checkpoint._config import CONFIG, MODEL, PRUNING, Config
from zoo_slim.checkpoint._folder import VARIANT_PREFIX
from zoo_slim.checkpoint._head import new_head
from zoo_slim.checkpoint._load import load_folder, read_config, variants
from zoo_slim.checkpoint._origin import Origin, attach_origin, origin_of
from zoo_slim.checkpoint._result_file import read_result, write_result
from zoo_slim.checkpoint._save import save

__all__ = [
    "CONFIG",
    "MODEL",
    "PRUNING",
    "VARIANT_PREFIX",
    "BaseWeights",
    "Config",
    "FileRecord",
    "Origin",
    "attach_origin",
    "describe_base",
    "load_folder",
    "new_head",
    "origin_of",
    "read_config",
    "read_result",
    "save",
    "variants",
    "write_result",
]
