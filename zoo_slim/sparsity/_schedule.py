"""How the strength of a penalty grows."""

import math

from zoo_slim._errors import SlimmingError

__all__ = ["SCHEDULES", "strength_at"]

SCHEDULES = ("constant", "linear", "cosine")


def strength_at(schedule: str, strength: float, step: int, steps: int) -> float:
    """Return the strength of the penalty at a step.

    Args:
        schedule: ``constant``; or ``linear`` or ``cosine``: from 0 at step 0 to ``strength`` at step ``steps``, and
            from there on.
        strength: the full one.
        step: optimiser steps taken so far.
        steps: optimiser steps of the ramp; 0 for none.

    Raises:
        SlimmingError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise SlimmingError(f"there is no schedule {schedule!r} of sparsity; choose one of {', '.join(SCHEDULES)}")
    done = min(1.0, step / steps) if steps > 0 else 1.0
    share = {"constant": 1.0, "linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2}[schedule]
    return strength * share
