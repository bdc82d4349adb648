"""Does a slim network run, with the numbers that the original computes with, and to outputs of the same shapes."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_slim._containers import tensors_in
from zoo_slim._draws import draws_undone
from zoo_slim._errors import SlimmingError
from zoo_slim.tracing import Example, call_model, to_device

__all__ = ["fault", "run_check"]

Step = tuple[str, tuple[str, ...]]


def run_check(network: nn.Module, original: nn.Module, example: Example) -> None:
    """Run a slim network on meta tensors in both modes, and compare it with the original.

    Raises:
        SlimmingError: it does not run, its outputs have other shapes, or it computes with other numbers.
    """
    found = fault(network, original, example)
    if found is not None:
        raise SlimmingError(
            f"the slim {type(network).__name__} {found}. Its forward depends on widths in a way that tracing did not "
            "see; please report it, and exclude the layer by setting its group's ratio to 0."
        )


def fault(network: nn.Module, original: nn.Module, example: Example) -> str | None:
    """What is wrong with a slim network: that it does not run, gives other shapes, or computes with other numbers."""
    meta = to_device(example, "meta")
    for training in (False, True):
        try:
            expected, theirs = _run(original, meta, training)
        except Exception:
            continue  # the original does not run on meta tensors in this mode: there is nothing to compare with
        try:
            found, ours = _run(network, meta, training)
        except Exception as error:
            return f"does not run: {type(error).__name__}: {error}"
        if found != expected:
            return f"gives outputs of shapes {found}, the original {expected}"
        if [name for name, _ in ours] != [name for name, _ in theirs]:
            continue  # blocks are gone
        other = next((pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]), None)
        if other is not None and _run(original, meta, training) == (expected, theirs):
            (name, numbers), (_, before) = other
            return f"computes {name} with {', '.join(numbers)}, the original with {', '.join(before)}"
    return None


def _run(network: nn.Module, example: Example, training: bool) -> tuple[list[list[int]], Sequence[Step]]:
    """The shapes of the outputs, and the operations with the numbers that they were given."""
    with torch.no_grad(), draws_undone(network), _Steps() as steps:
        outputs = tensors_in(call_model(copy.deepcopy(network).train(training), example))
    return [list(out.shape) for out in outputs], steps.found


class _Steps(TorchDispatchMode):
    """Notes the operations, and of the numbers that they are given those that tensors are computed from."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Step] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # Integers may be sizes and positions, but not where values are computed.
        whole = torch.Tag.pointwise in getattr(func, "tags", ()) and isinstance(out, Tensor) and out.is_floating_point()
        self.found.append((str(func), tuple(_numbers((*args, *(kwargs or {}).values()), whole))))
        return out


def _numbers(arguments: Sequence[Any], whole: bool) -> Iterator[str]:
    for value in arguments:
        if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point() and not value.is_meta:
            value = value.item()
        if isinstance(value, (float, complex)) or (whole and type(value) is int):
            yield repr(value)
