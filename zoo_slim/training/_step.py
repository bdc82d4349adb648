"""One optimiser step: forward, loss, backward, penalty, update. Nothing in it waits for the device."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_slim.sparsity import Penalty, group_weights, make_penalty, strength_at
from zoo_slim.training._batch_norm import SharedBatchNorm
from zoo_slim.training._distill import distillation_loss
from zoo_slim.training._loss import classification_loss, logits_of
from zoo_slim.training._optimise import make_average, make_optimizer, make_schedule
from zoo_slim.training._settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Stepper", "penalty_of"]

PRECISIONS: dict[str, tuple[torch.dtype, bool]] = {
    "no": (torch.bfloat16, False), "bf16": (torch.bfloat16, True), "fp16": (torch.float16, True),
}  # fmt: skip
"""By the setting ``amp``: what autocast computes in, and whether it is on."""


def penalty_of(model: nn.Module, settings: Settings, input_size: tuple[int, int, int]) -> Penalty | None:
    """Return the penalty that the settings ask for.

    Raises:
        SlimmingError: the model has no BatchNorm scales.
    """
    if not settings.sparsity:
        return None
    weights = None
    if settings.weight_groups:
        from zoo_slim.tracing import trace

        weights = group_weights(model, trace(model, torch.rand(2, *input_size)))
    return make_penalty(settings.penalty, model, weights)


class Stepper:
    """Trains a model step by step.

    Attributes:
        model: the bare model, on its device; its state dict is what is saved.
        average: its averaged weights (timm's ModelEmaV3), or None.
        optimizer: the bare optimiser.
        strength: that of the penalty in the last step.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        steps: int,
        accelerator: "Accelerator",
        penalty: Penalty | None,
        teacher: nn.Module | None,
    ) -> None:
        self.model, self._settings, self._steps = model, settings, steps
        self._accelerator, self._penalty = accelerator, penalty
        self._teacher: Callable[[Tensor], Any] | None = teacher
        self.optimizer = make_optimizer(model, settings)
        self._prepared = accelerator.prepare_optimizer(self.optimizer)
        self._schedule = make_schedule(self.optimizer, settings, steps)
        self.average: Any = make_average(model, settings)
        self._shared: Callable[[], Any] = nullcontext
        self._network: nn.Module = model
        if accelerator.num_processes > 1:
            self._network = _distributed(model, accelerator)
            if settings.sync_bn:
                self._shared = SharedBatchNorm
        self._forward: Callable[[Tensor], Any] = self._network
        if settings.compile:
            self._forward = torch.compile(self._network)
            self._teacher = torch.compile(teacher) if teacher is not None else None
        self._precision = PRECISIONS[settings.amp]
        self.strength = 0.0

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train(self) -> None:
        """Put the model into training mode."""
        self._network.train()

    def begin(self, step: int) -> None:
        """Set the learning rate and the penalty of a step, counted from the start of the run."""
        settings = self._settings
        self._step = step
        self._schedule.step_update(step)
        ramp = (settings.sparsity_epochs or settings.epochs) * self._steps
        self.strength = strength_at(settings.sparsity_schedule, settings.sparsity, step, ramp)

    def part(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one part of a batch; the last one moves the weights. Returns the detached loss and logits."""
        with self._accelerator.accumulate(self._network):
            # not accelerate's: old versions leave it on when an exception passes
            with torch.autocast(self._accelerator.device.type, *self._precision):
                with self._shared():
                    outputs = self._forward(images)
                loss = self._loss(outputs, images, targets)
            self._accelerator.backward(loss)
            if self._accelerator.sync_gradients:
                self._update()
        return loss.detach(), logits_of(outputs).detach()

    def _loss(self, outputs: Any, images: Tensor, targets: Tensor) -> Tensor:
        settings = self._settings
        loss = classification_loss(outputs, targets, settings.label_smoothing)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            taught = logits_of(self._teacher(images))
        share = settings.distill_weight
        taught_loss = distillation_loss(logits_of(outputs), taught, settings.distill_temperature)
        return (1 - share) * loss + share * taught_loss

    def _update(self) -> None:
        self._accelerator.unscale_gradients()
        if self._settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip_norm)
        if self._penalty is not None:
            self._penalty.before_step(self.strength)
        self._prepared.step()
        if self._penalty is not None and not self._prepared.step_was_skipped:
            self._penalty.after_step(self.strength, self.learning_rate)
        self._prepared.zero_grad()
        if self.average is not None:
            self.average.update(self.model, step=self._step + 1)


def _distributed(model: nn.Module, accelerator: "Accelerator") -> nn.Module:
    on_gpu = accelerator.device.type == "cuda"
    return nn.parallel.DistributedDataParallel(model, device_ids=[accelerator.local_process_index] if on_gpu else None)
