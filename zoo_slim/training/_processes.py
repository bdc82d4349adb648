"""Several processes on one run, as `accelerate launch` starts them; a single one is the usual case.

All of them read the same files; only the main one writes.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from zoo_slim.training._settings import Settings, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["add_up", "by_main", "is_main", "join", "main_decides", "spread_from_main"]

PATIENCE = timedelta(hours=2)
"""How long processes wait for the main one, which tests and saves a trained network alone; NCCL's are 10 minutes."""


def join(settings: Settings) -> "Accelerator":
    """Take the place among the processes that the launcher gave this one.

    Raises:
        TrainingError: accelerate is missing, or was told to do what is not done here.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs
    except ImportError as error:
        raise TrainingError("training needs accelerate: pip install accelerate") from error

    # The state is process-wide and refuses a second run with another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision=settings.amp,
            # the plain argument gives way to ACCELERATE_GRADIENT_ACCUMULATION_STEPS
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=settings.accumulate),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise TrainingError(f"amp {settings.amp} does not work on this device: {error}") from error
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in known:
        raise TrainingError(
            f"training does not run under {accelerator.distributed_type.value}; "
            "start it with accelerate launch --multi_gpu --num_processes N, or without a launcher"
        )
    if settings.device not in ("auto", accelerator.device.type):
        raise TrainingError(
            f"device {settings.device} is asked for, but accelerate was told {accelerator.device.type}: "
            "unset ACCELERATE_USE_CPU and ACCELERATE_TORCH_DEVICE, or give the same --device"
        )
    if settings.compile and settings.sync_bn and accelerator.num_processes > 1:
        raise TrainingError("compile cannot share BatchNorm among processes: add --no-sync-bn, or leave --compile out")
    return accelerator


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return int(os.environ.get("RANK", 0)) == 0


def by_main(action: Callable[[], Any]) -> None:
    """Let the main process do something, while the others wait for it.

    Raises:
        TrainingError: in the others, where it failed in the main process.
    """
    if not _several():
        action()
        return
    failure: Exception | None = None
    if is_main():
        try:
            action()
        except Exception as error:
            failure = error
    failed = _told_by_main(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise TrainingError("the main process stopped; its message says why")


def main_decides(answer: bool) -> bool:
    """Return the main process's answer in all of them."""
    return _told_by_main(answer) if _several() else answer


def add_up(totals: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    totals = totals.clone()
    if _several():
        distributed.all_reduce(totals)
    return totals


def spread_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the main process."""
    if _several():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def _told_by_main(answer: bool) -> bool:
    told = torch.tensor([answer], dtype=torch.int64, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.broadcast(told, 0)
    return bool(told.item())


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
