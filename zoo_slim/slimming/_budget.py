"""Budgets of parameters or multiply-accumulates, met by bisection."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.slimming._cost import count_macs, count_params
from zoo_slim.tracing import Example, meta_copy

__all__ = ["MOST", "Budget"]

_STEPS = 12
"""Halvings of the ratio when a budget is met: 2**-12 of the channels is finer than one channel of most groups."""

MOST = 1 - 2**-_STEPS
"""The ratio that leaves every group at its minimum."""


class Budget:
    """What a slim network may cost at most.

    Args:
        model: the original network.
        limit: a number, or as a float below 1 a share of what there is.
        unit: ``params`` or ``macs``; MACs count per sample, of as many as the first tensor (or list of tensors) has.
        example: what to call the network with.

    Raises:
        SlimmingError: a limit that is no number above 0.
    """

    def __init__(self, model: nn.Module, limit: int | float, unit: str, example: Example) -> None:
        number = isinstance(limit, (int, float, np.number)) and not isinstance(limit, bool)
        if not number or not 0 < limit < math.inf or limit == 1:
            raise SlimmingError(
                f"{unit}={limit!r} is no budget: give a number to keep at most, such as 2_000_000, "
                "or a share below 1 of what there is, such as 0.5"
            )
        self._macs, self._example = unit == "macs", example
        self._unit = "MACs" if self._macs else "parameters"
        self._network = meta_copy(model)
        try:
            self._whole = self._cost(PruningResult())
        except SlimmingError:  # its forward looks at values
            self._network = model
            self._whole = self._cost(PruningResult())
        self._target = float(limit) * (self._whole if limit < 1 else 1)

    def allows(self, result: PruningResult) -> bool:
        """Whether the network that the result gives costs no more."""
        return self._cost(result) <= self._target

    def idle(self) -> str:
        """Say that the network as it is meets the budget."""
        return f"its {self._whole:,.0f} {self._unit} are within the budget of {self._target:,.0f}"

    def smallest(self, attempt: Callable[[float], PruningResult]) -> PruningResult:
        """The result of the smallest ratio that the budget allows.

        Raises:
            SlimmingError: it allows none.
        """
        low, high = 0.0, MOST
        if self.allows(everything := attempt(low)):
            return everything
        best = attempt(high)
        if not self.allows(best):
            raise SlimmingError(
                f"a budget of {self._target:,.0f} {self._unit} cannot be met: of "
                f"{self._whole:,.0f}, {self._cost(best):,.0f} are left when every group is at its minimum. Raise the "
                "budget, lower the minimum (minimum, --minimum), let groups "
                "with ratios of their own lose more, or let whole residual blocks go "
                "(remove_blocks='needed', --remove-blocks needed)."
            )
        for _ in range(_STEPS):
            middle = (low + high) / 2
            result = attempt(middle)
            if self.allows(result):
                high, best = middle, result
            else:
                low = middle
        return best

    def _cost(self, result: PruningResult) -> float:
        network = apply_result(self._network, result)
        if self._macs:
            return count_macs(network, self._example) / _batch_size(self._example)
        return count_params(network)


def _batch_size(example: Example) -> int:
    """The number of samples: the length of the first argument that is a tensor, or a list of tensors."""
    if isinstance(example, Tensor):
        return example.shape[0] if example.ndim else 1
    for value in example.values() if isinstance(example, Mapping) else example:
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, Tensor) for item in value):
            return len(value)
    return 1
