"""Random numbers that depend on where a run is, never on what ran before.

Nothing of a generator's state has to be saved then: a run that goes on draws what it would have drawn.
"""

import hashlib

import torch

__all__ = ["derived_seed", "generator_of", "seed_everything", "seed_layers"]


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every one of ``parts`` (compared by their text)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(*parts: object) -> torch.Generator:
    """Return a CPU generator with the seed derived from ``parts``."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def seed_everything(seed: int) -> None:
    """Seed torch on all devices, before a model's initial weights are drawn."""
    torch.manual_seed(seed)


def seed_layers(seed: int, epoch: int, step: int, process: int) -> None:
    """Seed what layers such as dropout draw from, before a step."""
    torch.manual_seed(derived_seed(seed, "layers", epoch, step, process))
