"""What a training run is asked to do. Imports no torch, so that the command line can list the settings as options."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from zoo_slim._errors import ZooSlimError

__all__ = ["FREE_TO_CHANGE", "Settings", "TrainingError"]

AMP = ("no", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda", "mps")


class TrainingError(ZooSlimError):
    """A training run that cannot start, go on or be resumed as asked."""


def _setting(default: Any, text: str, *spellings: str, least: float = 0, most: float | None = None) -> Any:
    """Declare a setting: its default, one line of help, other spellings on the command line, and its range."""
    meta = {"help": text, "spellings": spellings, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=meta)


@dataclass(frozen=True)
class Settings:
    """Settings of one training run. The defaults are the original tool's (SGD, cosine schedule, decay on all weights)
    but for ``epochs``, which the commands set to its 120.

    Each field's ``metadata`` has its ``help`` and its range, ``least`` to ``most`` inclusive; of these the command line
    makes its options, so that they are said once. ``learning_rate`` is reached after the warm-up; the schedule moves at
    every step. ``batch_size`` images make one step in total, however many ``accumulate`` parts and processes share it;
    an incomplete last batch is left out of training. ``clip_norm`` acts before the sparsity term is added.

    Raises:
        TrainingError: a value of another type, or out of range.
    """

    epochs: int = _setting(10, "Passes over the training images.", least=1)
    batch_size: int = _setting(64, "Images of one step, over all processes and parts.", least=1)
    learning_rate: float = _setting(0.01, "Highest learning rate of the schedule.", "--lr")
    opt: str = _setting("sgd", "Any of timm's optimisers.")
    momentum: float = _setting(0.9, "Momentum, where the optimiser has it.")
    nesterov: bool = _setting(False, "Nesterov momentum for sgd.")
    weight_decay: float = _setting(5e-4, "Decay of the weights.")
    decay_norms: bool = _setting(True, "Decay biases and the scales of norms, too.")
    sched: str = _setting("cosine", "timm's schedule: cosine, tanh, poly, step, or newer ones.")
    warmup_epochs: int = _setting(0, "Epochs of linear warm-up from a hundredth; they come before the schedule.")
    min_lr: float = _setting(0.0, "Where the schedule ends.")
    decay_epochs: float = _setting(30.0, "Epochs between the drops of step, or of the last phase of wsd.")
    decay_rate: float = _setting(0.1, "Factor of step; power of poly.")
    label_smoothing: float = _setting(0.0, "Share of the target that goes to all classes.")
    clip_norm: float = _setting(0.0, "Bound of the gradient norm; 0 = none.")
    ema_decay: float = _setting(0.0, "Decay of the averaged weights, which are then tested and saved; 0 = none.")
    accumulate: int = _setting(1, "Parts that a batch is computed in, one after another, to save memory.", least=1)
    cutout: int = _setting(0, "Side of a square erased from each training image, in pixels; 0 = none.")
    mixup: float = _setting(0.0, "Alpha of mixup; 0 = none. With cutmix one of them is drawn for each batch.")
    cutmix: float = _setting(0.0, "Alpha of cutmix; 0 = none.")
    sparsity: float = _setting(0.0, "L1 penalty on BatchNorm scales; 0 = none.", "--s")
    penalty: str = _setting("subgradient", "How the L1 penalty acts: subgradient, or proximal (gives exact zeros).")
    sparsity_schedule: str = _setting("constant", "How the penalty grows: constant, linear or cosine.")
    sparsity_epochs: int = _setting(0, "Epochs in which the penalty grows; 0 = all.")
    weight_groups: bool = _setting(
        False, "A channel that several BatchNorms scale, as in a residual sum, is penalised once."
    )
    distill_weight: float = _setting(0.5, "Share of the teacher in the loss, where there is a teacher.", most=1)
    distill_temperature: float = _setting(4.0, "Temperature that softens the logits of both.")
    seed: int = _setting(0, "Determines weights, shuffling, augmentation and dropout.", most=2**63 - 1)
    limit: int = _setting(0, "At most this many images per split, always the same ones; 0 = all.")
    amp: str = _setting("no", "Mixed precision of training: no, bf16 or fp16. Tests are always float32.")
    channels_last: bool = _setting(True, "Memory format in training on an NVIDIA GPU.")
    compile: bool = _setting(False, "Compile the training step's network with torch.compile.")
    deterministic: bool = _setting(False, "On a GPU, kernels that always give the same numbers, where torch has them.")
    sync_bn: bool = _setting(True, "Let BatchNorm see the whole batch where several processes share it.")
    tensorboard: bool = _setting(False, "Also write the metrics for TensorBoard.")
    device: str = _setting("auto", "auto, cpu, cuda or mps.")
    workers: int = _setting(0, "Processes that decode images (image-folder).")
    checkpoint_seconds: float = _setting(120.0, "Save when the last state is older than this; 0 = after each step.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
            _check_range(field, getattr(self, field.name))
        if self.min_lr > self.learning_rate:
            raise TrainingError(f"min_lr ({self.min_lr}) must not exceed learning_rate ({self.learning_rate})")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            if getattr(self, name) >= 1:
                raise TrainingError(f"{name} must be below 1, not {getattr(self, name)!r}")
        if self.nesterov and not (self.momentum and self.opt == "sgd"):
            raise TrainingError("nesterov needs a momentum above 0, and opt sgd")
        if self.warmup_epochs >= self.epochs:
            raise TrainingError(f"warmup_epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})")
        if self.sparsity_epochs > self.epochs:
            raise TrainingError(f"sparsity_epochs ({self.sparsity_epochs}) must not exceed epochs ({self.epochs})")
        if not self.distill_temperature:
            raise TrainingError("distill_temperature must be above 0")
        from zoo_slim.sparsity import PENALTIES, SCHEDULES

        choices = (("amp", AMP), ("device", DEVICES), ("penalty", PENALTIES), ("sparsity_schedule", SCHEDULES))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise TrainingError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return all settings by name, ready for JSON."""
        return dataclasses.asdict(self)


def _check_type(field: "dataclasses.Field[Any]", value: Any) -> None:
    kind = type(field.default)
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise TrainingError(f"{field.name} must be of type {kind.__name__}, not {value!r}")


def _check_range(field: "dataclasses.Field[Any]", value: Any) -> None:
    least, most = field.metadata["least"], field.metadata["most"]
    if isinstance(value, (bool, str)):
        return
    if isinstance(field.default, float):
        if not (math.isfinite(value) and value >= 0):
            raise TrainingError(f"{field.name} must be a finite number that is not negative, not {value!r}")
    elif most is None and value < least:
        raise TrainingError(f"{field.name} must be at least {least}, not {value!r}")
    if most is not None and not least <= value <= most:
        bound = "2**63-1" if most == 2**63 - 1 else most
        raise TrainingError(f"{field.name} must lie within {least}..{bound}, not {value!r}")


FREE_TO_CHANGE = frozenset({"device", "workers", "checkpoint_seconds", "tensorboard"})
"""Settings that may differ when a run is resumed: they say where and how, not what."""
