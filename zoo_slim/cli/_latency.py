"""How long one image takes."""

import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["latencies"]

WARM_UP = 3


def latencies(models: "Mapping[str, nn.Module]", image: "Tensor", repeats: int) -> dict[str, float]:
    """Return the median time of one forward pass of each model, in seconds.

    The models take turns, so that whatever else the machine does slows all of them alike.

    Args:
        models: in evaluation mode.
        image: a batch, of any floating dtype.
        repeats: timed passes of each, after a few that are not.
    """
    import torch

    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(WARM_UP + repeats):
            for name, model in models.items():
                parameter = next(model.parameters())
                batch = image.to(parameter.device, parameter.dtype)
                start = time.perf_counter()
                model(batch)
                if turn >= WARM_UP:
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
