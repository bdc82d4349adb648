"""timm's optimisers, schedules and averaged weights, as the settings ask for them."""

import warnings
from typing import Any

import torch
from torch import nn

from zoo_slim.training._settings import Settings, TrainingError

__all__ = ["check_recipe", "make_average", "make_optimizer", "make_schedule"]

WARMUP_START = 0.01
"""The warm-up starts at this fraction of the learning rate."""

NEEDS_MORE = ("plateau", "multistep")
"""timm's schedules that follow a metric, or milestones."""


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Make the optimiser of a model.

    Raises:
        TrainingError: timm has none of that name, it needs a package that is missing, or second derivatives.
    """
    from timm.optim import create_optimizer_v2

    name = settings.opt if settings.opt != "sgd" else "sgd" if settings.nesterov else "momentum"
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=name,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_norms,
        )
    except (ValueError, AssertionError, ImportError, TypeError, RuntimeError, AttributeError) as error:
        raise TrainingError(
            f"timm makes no optimiser {settings.opt!r} here: {error or type(error).__name__}"
        ) from error
    if getattr(optimizer, "is_second_order", False):
        raise TrainingError(f"opt {settings.opt} needs second derivatives, which are not computed here")
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, settings: Settings, steps: int) -> Any:
    """Make timm's scheduler, to be moved by ``step_update`` at each of the ``steps`` of every epoch.

    Raises:
        TrainingError: timm has none of that name, or it cannot be used here.
    """
    from timm.scheduler import create_scheduler_v2

    made, reason = None, "it is unknown"
    if settings.sched in NEEDS_MORE:
        reason = "it needs more than the number of the step"
    else:
        try:
            made, _ = create_scheduler_v2(
                optimizer,
                sched=settings.sched,
                num_epochs=settings.epochs - settings.warmup_epochs,
                decay_epochs=settings.decay_epochs,
                decay_rate=settings.decay_rate,
                min_lr=settings.min_lr,
                warmup_lr=settings.learning_rate * WARMUP_START,
                warmup_epochs=settings.warmup_epochs,
                warmup_prefix=True,
                step_on_epochs=False,
                updates_per_epoch=steps,
            )
        except (ValueError, AssertionError, RuntimeError) as error:
            reason = str(error)
    if made is None:
        raise TrainingError(f"timm makes no schedule {settings.sched!r} here: {reason}")
    return made


def make_average(model: nn.Module, settings: Settings) -> nn.Module | None:
    """Return timm's `ModelEmaV3` of the model, with its warm-up of the decay; None where no average is asked for."""
    if not settings.ema_decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=settings.ema_decay, use_warmup=True)


def check_recipe(settings: Settings) -> None:
    """Try the names of the optimiser and the schedule before a run begins.

    Raises:
        TrainingError: as `make_optimizer` and `make_schedule`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_schedule(make_optimizer(nn.Linear(1, 1), settings), settings, 1)
