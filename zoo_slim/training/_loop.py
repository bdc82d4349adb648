"""The training loop: sparse or plain, resumable at any step."""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_slim.sparsity import update_bn_grad
from zoo_slim.training._data import Dataset, steps_per_epoch
from zoo_slim.training._evaluate import evaluate
from zoo_slim.training._gammas import draw_histograms, gamma_statistics
from zoo_slim.training._loss import classification_loss, logits_of
from zoo_slim.training._preflight import check_device
from zoo_slim.training._progress import announce, progress
from zoo_slim.training._settings import FREE_TO_CHANGE, Settings, TrainingError, seed_everything
from zoo_slim.training._state import (
    optimizer_tensors,
    read_json,
    read_state,
    restore_optimizer,
    restore_rng,
    rng_tensors,
    write_file,
    write_json,
    write_state,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["fit"]

WARMUP_START = 0.01
"""The warm-up starts at this fraction of the learning rate."""

RECORDED_LATER = frozenset({"input_size", "architecture", "options", "source_sha256"})
"""A ``run.json`` without these is resumed without comparing them."""


def fit(
    model: nn.Module,
    dataset: Dataset,
    settings: Settings,
    folder: str | Path,
    resume: bool = False,
    *,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train ``model`` in place and record the run in ``folder``.

    The folder gets ``run.json`` (what was asked), ``metrics.jsonl`` (a line per epoch), ``state/`` (from which a run
    that was interrupted, even killed, goes on) and ``gamma_histogram.png`` (with matplotlib). A run that was resumed
    ends with the same numbers as one that was never interrupted, on the same machine.

    Args:
        model: a classifier; it ends in evaluation mode, on the device it was trained on.
        dataset: what to train and test on.
        settings: see `Settings`.
        folder: one run per folder.
        resume: go on with the run in ``folder``; one that is finished returns at once. The model must be the one the
            run was started with, its weights may be any.
        identity: what else tells this model from others, ready for JSON; it must be the same when the run is resumed.

    Returns:
        The last line of ``metrics.jsonl``: ``epoch`` (counted from 1), ``learning_rate`` (of the last step),
        ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``, ``seconds``, ``images_per_second``,
        ``sparsity``, and what `gamma_statistics` says.

    Raises:
        TrainingError: the folder holds a run and ``resume`` is false, it holds another run than the one described, the
            state is damaged, the device is not available or cannot do the mixed precision asked for, or the loss is no
            longer finite.
    """
    folder = Path(folder)
    check_device(settings.device, settings.amp)
    _claim(folder, _description(model, dataset, settings, identity or {}), resume)
    run = _Run(model, dataset.limited(settings.limit) if settings.limit else dataset, settings, folder)
    run.restore()
    while run.epoch < settings.epochs:
        run.train_epoch()
        run.finish_epoch()
    return run.close()


def _description(model: nn.Module, dataset: Dataset, settings: Settings, identity: Mapping[str, Any]) -> dict[str, Any]:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "settings": settings.as_dict(),
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "input_size": list(dataset.input_size),
            "train_count": dataset.train_count,
            "test_count": dataset.test_count,
        },
        "model": {
            **identity,
            "class": type(model).__name__,
            "shapes_sha256": hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest(),
        },
    }


def _claim(folder: Path, description: dict[str, Any], resume: bool) -> None:
    file = folder / "run.json"
    if not file.exists():
        if folder.exists() and not folder.is_dir():
            raise TrainingError(f"{folder} is a file; name a folder for the run")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, description)
        return
    if not resume:
        raise TrainingError(f"{folder} already holds a run: resume it (--resume), or choose another folder")
    recorded = read_json(file)
    for part, values in description.items():
        before = recorded.get(part)
        before = before if isinstance(before, dict) else {}
        for name in {**values, **before}:
            value, old = values.get(name), before.get(name)
            unknown = name in RECORDED_LATER and name not in before
            if value != old and name not in FREE_TO_CHANGE and not unknown:
                raise TrainingError(
                    f"{folder} holds a run with {part} {name} = {old!r}, now it is {value!r}: "
                    "resume with the same, or choose another folder"
                )


class _Run:
    """One run in flight. ``epoch`` and ``step`` say what has been done."""

    def __init__(self, model: nn.Module, dataset: Dataset, settings: Settings, folder: Path) -> None:
        from timm.optim import create_optimizer_v2
        from timm.scheduler import CosineLRScheduler

        self.dataset, self.settings, self.folder = dataset, settings, folder
        self.accelerator = _accelerator(settings)
        self.device = self.accelerator.device
        self.format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=self.format)  # type: ignore[call-overload]
        self.steps = steps_per_epoch(dataset.train_count, settings.batch_size)
        plain = create_optimizer_v2(
            self.model,
            opt="sgd" if settings.nesterov else "momentum",
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=False,
        )
        self.optimizer = self.accelerator.prepare_optimizer(plain)
        warmup = settings.warmup_epochs * self.steps
        self.schedule = CosineLRScheduler(
            plain,
            t_initial=settings.epochs * self.steps - warmup,
            warmup_t=warmup,
            warmup_lr_init=settings.learning_rate * WARMUP_START,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        self.totals = torch.zeros(3, dtype=precise, device=self.device)
        self.started = self.saved = time.monotonic()
        seed_everything(settings.seed)

    def train_epoch(self) -> None:
        """Run the rest of the current epoch."""
        settings = self.settings
        self.model.train()
        self.started = time.monotonic()
        batches = self.dataset.train_batches(
            settings.batch_size,
            seed=settings.seed,
            epoch=self.epoch,
            first=self.step,
            device=self.device,
            workers=settings.workers,
        )
        with progress(f"epoch {self.epoch + 1}/{settings.epochs}", self.steps, self.step) as advance:
            for images, labels in batches:
                self._train_step(images, labels)
                self.step += 1
                if time.monotonic() - self.saved >= settings.checkpoint_seconds and self.step < self.steps:
                    self.save()
                advance(self._note())

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        settings = self.settings
        self.schedule.step_update(self.epoch * self.steps + self.step)
        with self.accelerator.autocast():
            outputs = self.model(images.contiguous(memory_format=self.format))
            loss = classification_loss(outputs, labels, settings.label_smoothing)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.unscale_gradients()
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        if settings.sparsity:
            update_bn_grad(self.model, settings.sparsity)
        self.optimizer.step()
        correct = (logits_of(outputs).detach().argmax(1) == labels).sum()
        self.totals += torch.stack([loss.detach() * len(labels), correct, torch.full_like(correct, len(labels))])

    def finish_epoch(self) -> None:
        """Test, record a line of metrics and save."""
        loss, correct, count = self.totals.tolist()
        self._check_finite(loss)
        spent = self._spent()
        tested = evaluate(self.model, self.dataset, device=self.device, workers=self.settings.workers)
        line = {
            "epoch": self.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            "test_loss": tested["loss"] if math.isfinite(tested["loss"]) else None,
            "test_accuracy": tested["accuracy"],
            "seconds": round(self._spent(), 3),
            "images_per_second": round(count / max(spent, 1e-9), 1),
            "sparsity": self.settings.sparsity,
            **gamma_statistics(self.model),
        }
        self.history.append(line)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.totals.zero_()
        self.started = time.monotonic()
        self.save()
        self._write_metrics()
        small = f", {line['small_gammas']:.1%} of the scales below 0.01" if "small_gammas" in line else ""
        announce(
            f"epoch {line['epoch']}/{self.settings.epochs}: loss {line['train_loss']:.4f}, "
            f"train accuracy {line['train_accuracy']:.4f}, test accuracy {line['test_accuracy']:.4f}{small}, "
            f"{line['seconds']:.1f} s, {line['images_per_second']:.0f} images/s"
        )

    def save(self) -> None:
        """Write the resume state."""
        self._check_finite(float(self.totals[0]))
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer.optimizer)
        tensors |= rng_tensors(self.device)
        tensors["totals"] = self.totals
        scaler = self.accelerator.scaler
        position = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": round(self._spent(), 3),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "history": self.history,
        }
        write_state(self.folder / "state", tensors, position)
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Go to where the state says the run was; without a state, stay at the start."""
        found = read_state(self.folder / "state")
        if found is None:
            return
        tensors, position = found
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        try:
            self.model.load_state_dict(weights)
            restore_optimizer(self.optimizer.optimizer, tensors)
            restore_rng(tensors, self.device)
            self.totals.copy_(tensors["totals"])
            self.epoch, self.step = int(position["epoch"]), int(position["step"])
            self.seconds, self.history = float(position["seconds"]), list(position["history"])
            if position["scaler"] and self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(position["scaler"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(f"the state in {self.folder / 'state'} does not fit this run: {error}") from error
        self._write_metrics()
        where = f"epoch {self.epoch}" if not self.step else f"epoch {self.epoch}, step {self.step} of {self.steps}"
        announce(f"resumed {self.folder} after {where} of {self.settings.epochs}")

    def close(self) -> dict[str, Any]:
        """Leave the model ready for use and return the last line of metrics."""
        self.model.to(memory_format=torch.contiguous_format)
        self.model.eval()
        self.optimizer.zero_grad()
        draw_histograms(self.history, self.folder / "gamma_histogram.png")
        return dict(self.history[-1])

    def _spent(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def _note(self) -> str:
        from sys import stderr

        if not stderr.isatty():
            return ""
        loss, correct, count = self.totals.tolist()
        return f"loss {loss / count:.4f} accuracy {correct / count:.4f} {count / self._spent():.0f} images/s"

    def _write_metrics(self) -> None:
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.history]
        write_file(self.folder / "metrics.jsonl", "".join(lines).encode())

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            state = self.folder / "state"
            raise TrainingError(
                f"the loss is no longer finite in epoch {self.epoch + 1}, step {self.step}: "
                f"lower the learning rate ({self.settings.learning_rate}), or warm it up"
                + (f"; the last good state is in {state}" if (state / "state.json").exists() else "")
            )


def _accelerator(settings: Settings) -> "Accelerator":
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise TrainingError('training needs accelerate: pip install "zoo_slim[train]"') from error

    # The state is process-wide and refuses a second run with another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision=settings.amp)
    except ValueError as error:
        raise TrainingError(f"amp {settings.amp} does not work on this device: {error}") from error
    if accelerator.num_processes > 1:
        raise TrainingError("training runs in one process; start it without a launcher")
    return accelerator
