"""Does a slim network run, with the numbers that the original computes with, and to outputs of the same shapes."""

import copy
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_slim._containers import tensors_in
from zoo_slim._draws import draws_undone, generators
from zoo_slim._errors import SlimmingError
from zoo_slim.tracing import Example, call_model, to_device, watch_modules

__all__ = ["fault", "refusal", "run_check"]


_ATEN = torch.ops.aten
_LAYOUT = frozenset(
    overload
    for packet in (
        _ATEN.clone, _ATEN.view, _ATEN._unsafe_view, _ATEN._reshape_alias, _ATEN.expand, _ATEN.permute, _ATEN.transpose,
        _ATEN.t, _ATEN.alias, _ATEN.detach, _ATEN.squeeze, _ATEN.unsqueeze, _ATEN.as_strided, _ATEN.copy_,
        _ATEN.contiguous, _ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided,
    )
    for overload in (getattr(packet, name) for name in packet.overloads())
)  # fmt: skip
"""What may differ where a width becomes 1, and computes nothing."""


class Step(NamedTuple):
    """An operation, the module that called it, and the numbers that it was given."""

    operation: str
    where: str
    numbers: tuple[str, ...]


def run_check(network: nn.Module, original: nn.Module, example: Example) -> None:
    """Run a slim network on meta tensors in both modes, and compare it with the original.

    Raises:
        SlimmingError: it does not run, its outputs have other shapes, or it computes with other numbers.
    """
    if (found := fault(network, original, example)) is not None:
        raise refusal(network, found)


def refusal(network: nn.Module, found: str) -> SlimmingError:
    """The error that tells people what `fault` found."""
    return SlimmingError(
        f"the slim {type(network).__name__} {found}. Its forward depends on widths in a way that cannot be followed "
        "(docs/limits.md), or its schema is wrong. Let the channels stay that it depends on: give a schema in which "
        "the ratio of their group is 0"
    )


def fault(network: nn.Module, original: nn.Module, example: Example) -> str | None:
    """What is wrong with a slim network: that it does not run, gives other shapes, or computes anything else."""
    meta = to_device(example, "meta")
    for training in (False, True):
        try:
            expected, theirs, random = _run(original, meta, training)
        except Exception:
            continue  # the original does not run on meta tensors in this mode: there is nothing to compare with
        try:
            found, ours, _ = _run(network, meta, training)
        except Exception as error:
            return f"does not run: {type(error).__name__}: {error}"
        if found != expected:
            return f"gives outputs of shapes {found}, the original {expected}"
        if random or _kinds(network) != _kinds(original):
            continue  # other numbers are drawn for fewer channels; blocks are gone
        for mine, before in zip_longest(ours, theirs, fillvalue=Step("nothing", "the end", ())):
            if mine.operation != before.operation:
                return (
                    f"computes {mine.operation} in {mine.where} where the original computes {before.operation} in "
                    f"{before.where}"
                )
            if mine.numbers != before.numbers:
                numbers, others = ", ".join(mine.numbers), ", ".join(before.numbers)
                return f"computes {mine.operation} in {mine.where} with {numbers}, the original with {others}"
    return None


def _kinds(network: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in network.named_modules()}


def _run(network: nn.Module, example: Example, training: bool) -> tuple[list[list[int]], Sequence[Step], bool]:
    """The shapes of the outputs, the operations, and whether random numbers were drawn on the host."""
    network = copy.deepcopy(network).train(training)
    modules: list[tuple[str, nn.Module]] = []
    watch_modules(network, modules)
    with torch.no_grad(), draws_undone(network), _Steps(modules) as steps:
        before = generators(network)
        outputs = tensors_in(call_model(network, example))
        random = generators(network) != before
    return [list(out.shape) for out in outputs], steps.found, random


class _Steps(TorchDispatchMode):
    """Notes the operations, and of the numbers that they are given those that tensors are computed from."""

    supports_higher_order_operators = True

    def __init__(self, modules: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.modules = modules
        self.found: list[Step] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _LAYOUT:
            return out
        # Integers may be sizes and positions, but not where values are computed.
        whole = torch.Tag.pointwise in getattr(func, "tags", ()) and isinstance(out, Tensor) and out.is_floating_point()
        where = self.modules[-1][0] if self.modules else "the model"
        self.found.append(Step(str(func), where, tuple(_numbers((*args, *(kwargs or {}).values()), whole))))
        return out


def _numbers(arguments: Sequence[Any], whole: bool) -> Iterator[str]:
    for value in arguments:
        if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point() and not value.is_meta:
            value = value.item()
        if isinstance(value, (float, complex)) or (whole and type(value) is int):
            yield repr(value)
