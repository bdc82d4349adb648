"""What a training run is asked to do."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch

from zoo_slim._errors import ZooSlimError

__all__ = ["Settings", "TrainingError", "derived_seed", "seed_everything"]

AMP = ("no", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda", "mps")


class TrainingError(ZooSlimError):
    """A training run that cannot start, go on or be resumed as asked."""


@dataclass(frozen=True)
class Settings:
    """Settings of one training run. The defaults are the original tool's: SGD, cosine schedule, decay on all weights.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a step; an incomplete last batch is left out of training.
        learning_rate: the highest of the cosine schedule, which ends at 0 and moves at every step.
        momentum: SGD momentum.
        nesterov: Nesterov momentum instead of the classical one.
        weight_decay: L2 decay of all parameters, BatchNorm scales included.
        warmup_epochs: epochs of linear warm-up from a hundredth of ``learning_rate``; they come before the cosine.
        label_smoothing: between 0 and 1.
        clip_norm: upper bound of the gradient norm before the sparsity term is added; 0 = none.
        sparsity: strength ``s`` of the L1 penalty on BatchNorm scales; 0 = none.
        seed: within 0..2**63-1; determines shuffling, augmentation and dropout (the initial weights are the
            caller's, see `seed_everything`).
        limit: use at most this many training and this many test images, evenly spread; 0 = all.
        amp: mixed precision of the training steps: ``no``, ``bf16`` or ``fp16``. Evaluation is always float32.
        channels_last: memory format of weights and images during training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        workers: processes that decode images (``image-folder`` only).
        checkpoint_seconds: the resume state is written after every epoch, and inside an epoch when the last is older.

    Raises:
        TrainingError: a value out of range.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    sparsity: float = 0.0
    seed: int = 0
    limit: int = 0
    amp: str = "no"
    channels_last: bool = True
    device: str = "auto"
    workers: int = 0
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum", "weight_decay", "label_smoothing", "clip_norm", "sparsity"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise TrainingError(f"{name} must be a finite number that is not negative, not {value!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup_epochs", 0), ("limit", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be at least {least}, not {getattr(self, name)!r}")
        if not 0 <= self.seed < 2**63:
            raise TrainingError(f"seed must lie within 0..2**63-1, not {self.seed!r}")
        for name in ("momentum", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise TrainingError(f"{name} must be below 1, not {getattr(self, name)!r}")
        if self.nesterov and not self.momentum:
            raise TrainingError("nesterov needs a momentum above 0")
        if self.warmup_epochs >= self.epochs:
            raise TrainingError(f"warmup_epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})")
        for name, allowed in (("amp", AMP), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise TrainingError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return all settings by name, ready for JSON."""
        return dataclasses.asdict(self)


FREE_TO_CHANGE = frozenset({"device", "workers", "checkpoint_seconds"})
"""Settings that may differ when a run is resumed: they say where and how, not what."""


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every one of ``parts`` (compared by their text)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed torch on all devices, before a model's initial weights are drawn."""
    torch.manual_seed(seed)
