"""The Hugging Face Hub: fetch checkpoints and check them, list them, push them, with the Hub's own client."""

from zoo_slim.hub._errors import UnreachableError
from zoo_slim.hub._place import HUB_PREFIX, HubPlace, fetch_base, is_repo, is_revision

__all__ = ["HUB_PREFIX", "HubPlace", "UnreachableError", "fetch_base", "is_repo", "is_revision"]
