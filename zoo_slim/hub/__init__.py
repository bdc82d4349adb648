"""The Hugging Face Hub: fetch checkpoints and check them, list them, push them, with the Hub's own client."""

from zoo_slim.hub._errors import UnreachableError
from zoo_slim.hub._list import HubModel, describe, list_hub
from zoo_slim.hub._place import HUB_PREFIX, HubPlace, fetch_base, is_revision
from zoo_slim.hub._pull import pull
from zoo_slim.hub._push import push_folder, push_to_hub
from zoo_slim.hub._verify import is_verified

__all__ = [
    "HUB_PREFIX",
    "HubModel",
    "HubPlace",
    "UnreachableError",
    "describe",
    "fetch_base",
    "is_revision",
    "is_verified",
    "list_hub",
    "pull",
    "push_folder",
    "push_to_hub",
]
