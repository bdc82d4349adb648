"""The training loop: sparse or plain, in one process or several, resumable at any step."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_slim.sparsity import Penalty
from zoo_slim.training._claim import claim, describe
from zoo_slim.training._data import Dataset, rows_of, steps_per_epoch
from zoo_slim.training._distill import frozen
from zoo_slim.training._evaluate import BATCH_SIZE, NOTE_SECONDS, count_correct, totals_on
from zoo_slim.training._gammas import draw_histograms, gamma_statistics
from zoo_slim.training._kernels import chosen_kernels
from zoo_slim.training._mix import Mixer
from zoo_slim.training._optimise import check_recipe
from zoo_slim.training._optimizer_state import pack_optimizer, restore_optimizer
from zoo_slim.training._preflight import check_device, check_teacher, part_size
from zoo_slim.training._processes import add_up, by_main, is_main, join, main_decides, spread_from_main
from zoo_slim.training._progress import announce, progress
from zoo_slim.training._randomness import seed_layers
from zoo_slim.training._reach import forecast
from zoo_slim.training._record import Record
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._state import digest_of, read_state, write_state
from zoo_slim.training._step import Stepper, penalty_of
from zoo_slim.training._stop import heeding_sigterm

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["fit"]

ASK_STEPS = 16
"""Several processes ask the main one this often whether it is time to save, or to stop."""


def fit(
    model: nn.Module,
    dataset: Dataset,
    settings: Settings,
    folder: str | Path,
    resume: bool = False,
    *,
    identity: Mapping[str, Any] | None = None,
    teacher: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place and record the run in ``folder``.

    The folder gets ``run.json`` (what was asked), ``metrics.jsonl`` (a line per epoch), ``state/`` (from which a run
    that was interrupted, even killed, goes on), ``gamma_histogram.png`` (with matplotlib), and ``tensorboard/`` where
    the settings want it. A run that was resumed ends with the same numbers as one that was never interrupted, on the
    same machine. Under ``accelerate launch`` every process must call it; only the main one writes.
    A SIGTERM ends the run with its state saved (in the main thread, unless the program has a handler of its own).

    Args:
        model: a classifier; it ends in evaluation mode, on the device it was trained on. With ``ema_decay`` its
            averaged weights are what is tested and what it ends with; the state keeps both.
        dataset: what to train and test on.
        settings: see `Settings`.
        folder: one run per folder.
        resume: go on with the run in ``folder``; one that is finished returns at once. The model must be the one the
            run was started with, its weights may be any.
        identity: what else tells this model from others, ready for JSON; it must be the same when the run is resumed.
        teacher: a trained classifier of the same classes, to be imitated (see ``distill_weight``). It is left on the
            device, frozen.

    Returns:
        The lines of ``metrics.jsonl``, one for each epoch: ``epoch`` (counted from 1), ``learning_rate`` (of the last
        step), ``train_loss``, ``train_accuracy`` (of mixed images: of the label that weighs most), ``test_loss``,
        ``test_accuracy``, ``seconds``, ``images_per_second``, ``sparsity`` (of the last step), and what
        `gamma_statistics` says.

    Raises:
        TrainingError: the folder holds a run and ``resume`` is false, it holds another run than the one described,
            another process trains in it, the state is damaged, the device is not available or cannot do the mixed
            precision asked for, the batch cannot be shared out, timm does not know the optimiser or the schedule, the
            teacher has another number of logits, the state of the optimiser cannot be saved, the loss or a weight is no
            longer finite, or SIGTERM came.
        SlimmingError: a penalty on a model without BatchNorm scales.
    """
    folder = Path(folder)
    check_device(settings.device, settings.amp)
    check_recipe(settings)
    identity = dict(identity or {})
    if teacher is not None:
        identity["teacher_sha256"] = digest_of(teacher.state_dict())
        check_teacher(teacher, model, dataset)
    description = describe(model, dataset, settings, identity)
    if settings.limit:
        dataset = dataset.limited(settings.limit)
    accelerator = join(settings)
    rows_of(part_size(dataset, settings), (accelerator.process_index, accelerator.num_processes))
    penalty = penalty_of(model, settings, dataset.input_size)
    record = Record(folder, settings.tensorboard)
    with heeding_sigterm() as told, ExitStack() as claimed:
        by_main(lambda: claimed.enter_context(claim(folder, description, resume)))
        run = _Run(model, dataset, settings, folder, accelerator, penalty, teacher, record, told)
        with chosen_kernels(accelerator.device, settings.deterministic):
            run.restore()
            if penalty is not None and settings.penalty == "proximal" and not (run.epoch or run.step):
                announce(forecast(penalty, settings, run.steps))
            while run.epoch < settings.epochs:
                run.train_epoch()
                run.finish_epoch()
            return run.close()


class _Run:
    """One run in flight. ``epoch`` and ``step`` say what has been done."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        settings: Settings,
        folder: Path,
        accelerator: "Accelerator",
        penalty: Penalty | None,
        teacher: nn.Module | None,
        record: Record,
        told: Callable[[], bool],
    ) -> None:
        self.dataset, self.settings, self.folder, self.record = dataset, settings, folder, record
        self.told = told
        self.accelerator, self.device = accelerator, accelerator.device
        self.part = (accelerator.process_index, accelerator.num_processes)
        # On the CPU torch 2.15's backward of narrow, strided 1x1 convolutions in channels-last overruns the heap.
        on_gpu = self.device.type == "cuda"
        self.format = torch.channels_last if settings.channels_last and on_gpu else torch.contiguous_format
        self.model = model.to(self.device, memory_format=self.format)  # type: ignore[call-overload]
        self.steps = steps_per_epoch(dataset.train_count, settings.batch_size)
        self.size = part_size(dataset, settings)
        guide = frozen(teacher, self.device, self.format) if teacher is not None else None
        self.stepper = Stepper(self.model, settings, self.steps, accelerator, penalty, guide)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.totals = totals_on(self.device)
        self.masks = frozenset(name for name, buffer in self.model.named_buffers() if _has_infinity(buffer))
        self.started = self.saved = self.noted = time.monotonic()

    @property
    def tested(self) -> nn.Module:
        """The network whose weights are tested and kept: the averaged one, if there is one."""
        average = self.stepper.average
        return self.model if average is None else average.module

    def train_epoch(self) -> None:
        """Run the rest of the current epoch."""
        settings = self.settings
        self.stepper.train()
        self.started = time.monotonic()
        mixer = Mixer(settings, self.dataset, self.size, self.epoch, self.device, self.part)
        batches = self.dataset.train_batches(
            self.size,
            seed=settings.seed,
            epoch=self.epoch,
            first=self.step * settings.accumulate,
            device=self.device,
            workers=settings.workers,
            part=self.part,
        )
        with progress(f"epoch {self.epoch + 1}/{settings.epochs}", self.steps, self.step) as advance:
            while self.step < self.steps:
                self.stepper.begin(self.epoch * self.steps + self.step)
                seed_layers(settings.seed, self.epoch, self.step, self.part[0])
                first = self.step * settings.accumulate
                for number, (images, labels) in enumerate(islice(batches, settings.accumulate), first):
                    self._train_part(*mixer(images, labels, number))
                self.step += 1
                if self.step < self.steps:
                    stop = self._told_to_stop()
                    if stop or self._time_to_save():
                        self.save()
                    if stop:
                        raise self._stopped()
                advance(self._note() if advance.shown else None)

    def _train_part(self, images: Tensor, targets: Tensor) -> None:
        loss, logits = self.stepper.part(images.contiguous(memory_format=self.format), targets)
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        correct = (logits.argmax(1) == labels).sum()
        count = torch.full_like(correct, len(labels))
        self.totals += torch.stack([loss.to(self.totals.dtype) * len(labels), correct, count])

    def finish_epoch(self) -> None:
        """Test, record a line of metrics, and save when it is time."""
        loss, correct, count = add_up(self.totals).tolist()
        self._check_loss(loss)
        spent = self._spent()
        spread_from_main(self.tested.buffers())
        self._check_weights()
        own = count_correct(self.tested, self.dataset, BATCH_SIZE, self.device, self.settings.workers, self.part)
        test_loss, test_correct, test_count = add_up(own).tolist()
        line = {
            "epoch": self.epoch + 1,
            "learning_rate": self.stepper.learning_rate,
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            "test_loss": test_loss / test_count if math.isfinite(test_loss) else None,
            "test_accuracy": test_correct / test_count,
            "seconds": round(self._spent(), 3),
            "images_per_second": round(count / max(spent, 1e-9), 1),
            "sparsity": self.stepper.strength,
            **gamma_statistics(self.tested),
        }
        self.history.append(line)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.totals.zero_()
        self.started = time.monotonic()
        last = self.epoch == self.settings.epochs
        stop = not last and self._told_to_stop()
        if last or stop or self._time_to_save():
            self.save()
        if is_main():
            self.record.write(self.history)
        small = f", {line['small_gammas']:.1%} of the scales below 0.01" if "small_gammas" in line else ""
        announce(
            f"epoch {line['epoch']}/{self.settings.epochs}: loss {line['train_loss']:.4f}, "
            f"train accuracy {line['train_accuracy']:.4f}, test accuracy {line['test_accuracy']:.4f}{small}, "
            f"{line['seconds']:.1f} s, {line['images_per_second']:.0f} images/s"
        )
        if stop:
            raise self._stopped()

    def save(self) -> None:
        """Write the resume state."""
        totals = add_up(self.totals)
        self._check_loss(float(totals[0]))
        spread_from_main(self.model.buffers())
        self._check_weights()
        by_main(lambda: self._write_state(totals))
        self.saved = time.monotonic()

    def _write_state(self, totals: Tensor) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.stepper.average is not None:
            averaged = self.stepper.average.module.state_dict()
            tensors |= {f"average.{name}": tensor for name, tensor in averaged.items()}
        kept, rest = pack_optimizer(self.stepper.optimizer)
        tensors |= kept
        tensors["totals"] = totals
        scaler = self.accelerator.scaler
        position = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": round(self._spent(), 3),
            "strength": self.stepper.strength,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "optimizer": rest,
            "history": self.history,
        }
        write_state(self.folder / "state", tensors, position)

    def restore(self) -> None:
        """Go to where the state says the run was; without a state, stay at the start."""
        found = read_state(self.folder / "state")
        if found is None:
            by_main(lambda: self.record.write(self.history))
            return
        tensors, position = found
        try:
            self.model.load_state_dict(_below(tensors, "model."))
            if self.stepper.average is not None:
                self.stepper.average.module.load_state_dict(_below(tensors, "average."))
            restore_optimizer(self.stepper.optimizer, tensors, position.get("optimizer"))
            if is_main():
                self.totals.copy_(tensors["totals"])
            self.epoch, self.step = int(position["epoch"]), int(position["step"])
            self.seconds, self.history = float(position["seconds"]), list(position["history"])
            self.stepper.strength = float(position.get("strength", self.settings.sparsity))
            if position["scaler"] and self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(position["scaler"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(f"the state in {self.folder / 'state'} does not fit this run: {error}") from error
        by_main(lambda: self.record.write(self.history))
        where = f"epoch {self.epoch}" if not self.step else f"epoch {self.epoch}, step {self.step} of {self.steps}"
        announce(f"resumed {self.folder} after {where} of {self.settings.epochs}")

    def close(self) -> list[dict[str, Any]]:
        """Leave the model ready for use and return the lines of metrics."""
        if self.tested is not self.model:
            self.model.load_state_dict(self.tested.state_dict())
        self.model.to(memory_format=torch.contiguous_format)
        self.model.eval()
        self.stepper.optimizer.zero_grad()
        self.record.close()
        if is_main():
            draw_histograms(self.history, self.folder / "gamma_histogram.png")
        return [dict(line) for line in self.history]

    def _time_to_save(self) -> bool:
        limit = self.settings.checkpoint_seconds
        if not limit:
            return True
        if self.part[1] > 1 and self.step % ASK_STEPS:
            return False
        return main_decides(time.monotonic() - self.saved >= limit)

    def _told_to_stop(self) -> bool:
        if self.part[1] > 1 and self.step % ASK_STEPS:
            return False
        return main_decides(self.told())

    def _stopped(self) -> TrainingError:
        where = f"epoch {self.epoch}" if not self.step else f"step {self.step} of epoch {self.epoch + 1}"
        return TrainingError(f"stopped by SIGTERM after {where}; its state is saved: go on with --resume")

    def _spent(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def _note(self) -> str | None:
        if time.monotonic() - self.noted < NOTE_SECONDS:
            return None
        loss, correct, count = self.totals.tolist()
        self.noted = time.monotonic()
        speed = count * self.part[1] / max(self._spent(), 1e-9)
        return f"loss {loss / count:.4f} accuracy {correct / count:.4f} {speed:.0f} images/s"

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged("the loss is")

    def _check_weights(self) -> None:
        """Look at what the last step left: the losses are those of the weights before it."""
        average = self.stepper.average
        tensors = [
            tensor
            for network in (self.model, *([average.module] if average is not None else []))
            for named in (network.named_parameters(), network.named_buffers())
            for name, tensor in named
            if tensor.is_floating_point() and name not in self.masks
        ]
        if tensors and float(add_up((~torch.stack([tensor.isfinite().all() for tensor in tensors])).sum())):
            raise self._diverged("some weights are")

    def _diverged(self, what: str) -> TrainingError:
        state = self.folder / "state"
        return TrainingError(
            f"{what} no longer finite in epoch {self.epoch + 1}, step {self.step}: "
            f"lower the learning rate ({self.settings.learning_rate}), or warm it up"
            + (f"; the last good state is in {state}" if (state / "state.json").exists() else "")
        )


def _has_infinity(buffer: Tensor) -> bool:
    """Whether it is a mask that is infinite from the start, as that of causal attention."""
    return buffer.is_floating_point() and bool(buffer.isinf().any())


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
