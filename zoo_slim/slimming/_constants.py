"""What removed channels still emitted: constants, measured where they were read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import model_tensors
from zoo_slim.tracing import Example, call_model, to_device
from zoo_slim.tracing._interpreter import tensors_in

__all__ = ["Reader", "find_readers"]

_LAYERS: dict[Callable[..., Any], tuple[int, bool]] = {
    F.linear: (-1, False),
    F.conv1d: (-2, False),
    F.conv2d: (-3, False),
    F.conv3d: (-4, False),
    F.conv_transpose1d: (-2, True),
    F.conv_transpose2d: (-3, True),
    F.conv_transpose3d: (-4, True),
}
"""Functions ``(input, weight, bias, ...)``, linear in the input: its channel axis, and whether they are transposed."""

_ROUNDING = 1e-9
"""Relative difference, in float64, up to which two values are the same constant."""


@dataclass
class Reader:
    """A call of a layer that reads removed channels.

    Attributes:
        weight: name of the layer's weight.
        bias: name of its bias.
        removed: positions of its input channels that are removed, int64 ``[R]``.
        constant: which of them emit a constant, bool ``[R]``.
        shift: what these add to each output channel, float64 ``[O]``; away from padded borders.
        at_borders: whether they add something else near the borders.
        norm: the name of a running mean, where all that uses the output is one BatchNorm with that mean.
    """

    weight: str
    bias: str | None
    removed: Tensor
    values: Tensor = field(repr=False)
    constant: Tensor = field(repr=False)
    shift: Tensor | None = None
    at_borders: bool = False
    norm: str | None = None


def find_readers(model: nn.Module, result: PruningResult, example: Example) -> tuple[list[Reader], set[str]]:
    """Run the original with the scales of removed channels at 0, so that each of them emits its constant.

    The network runs twice in float64, in evaluation mode, on different random inputs. What a removed channel shows to a
    reader is constant where both runs give the same; whatever lies between its BatchNorm and the reader.

    Args:
        model: the original; it stays as it is.
        result: what is kept of it.
        example: what to call it with; its numbers are replaced by random ones.

    Returns:
        the readers in order of their calls, and the means of BatchNorms that other tensors pass too.
    """
    probe = apply_result(model, PruningResult(removed=result.removed)).cpu().double().eval()
    _silence(probe, result)
    first, second = (_Watch(probe, result) for _ in range(2))
    with torch.no_grad():
        for seed, watch in enumerate((first, second)):
            inputs = _random(to_device(example, "cpu"), torch.Generator().manual_seed(seed))
            with watch:
                outputs = call_model(probe, inputs)
            watch.finish(outputs)
    if [call.weight for call in first.readers] != [call.weight for call in second.readers]:
        return [], set()
    for one, other, linear in zip(first.readers, second.readers, second.linear, strict=True):
        _measure(one, other, linear)
    return first.readers, first.shared_norms | second.shared_norms


def _silence(probe: nn.Module, result: PruningResult) -> None:
    """Set the scales of removed channels to zero, in place."""
    for name, module in probe.named_modules():
        scale = module.weight if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
        kept = result.kept.get(f"{name}.weight" if name else "weight", {}).get(0)
        if isinstance(scale, Tensor) and kept is not None:
            present = torch.zeros(len(scale), dtype=scale.dtype).index_fill_(0, kept.cpu(), 1)
            scale.data.mul_(present)


def _measure(one: Reader, other: Reader, linear: Callable[[Tensor], Tensor]) -> None:
    """Set what a reader's calls in the two runs have in common."""
    difference = (one.values - other.values).abs().reshape(len(one.values), -1).amax(1)
    scale = one.values.abs().reshape(len(one.values), -1).amax(1)
    one.constant = difference <= _ROUNDING * (1 + scale)
    output = linear(one.values * one.constant.reshape(-1, *[1] * (one.values.ndim - 1)))
    one.shift = output.median(1).values
    one.at_borders = bool(((output.amax(1) - output.amin(1)) > _ROUNDING * (1 + output.abs().amax())).any())
    one.norm = one.norm if one.norm == other.norm else None


class _Watch(TorchFunctionMode):
    """Notes each call of a layer that reads removed channels, and what becomes of its output."""

    def __init__(self, model: nn.Module, result: PruningResult) -> None:
        super().__init__()
        self.readers: list[Reader] = []
        self.linear: list[Callable[[Tensor], Tensor]] = []
        self.shared_norms: set[str] = set()
        self._names = {id(tensor): name for name, tensor in model_tensors(model).items()}
        self._kept = result.kept
        self._outputs: dict[int, tuple[Tensor, Reader, list[str | None]]] = {}
        self._norms: dict[str, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor) and not tensors_in(output):
            return output  # a shape, say
        norm = self._norm_of(func, args, kwargs)
        for tensor in tensors_in((args, dict(kwargs))):
            if id(tensor) in self._outputs:
                is_input = norm is not None and tensor is _argument(args, kwargs, 0, "input")
                self._outputs[id(tensor)][2].append(norm if is_input else None)
        if norm is not None:
            self._norms[norm] = self._norms.get(norm, 0) + 1
        if func in _LAYERS:
            self._note(func, args, kwargs, output)
        return output

    def finish(self, outputs: Any) -> None:
        """Conclude which BatchNorm follows each reader."""
        returned = {id(tensor) for tensor in tensors_in(outputs)}
        for tensor, reader, uses in self._outputs.values():
            if id(tensor) not in returned and len(uses) == 1:
                reader.norm = uses[0]
        self.shared_norms = {name for name, count in self._norms.items() if count > 1}
        self._outputs.clear()

    def _norm_of(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        if func not in (F.batch_norm, torch.batch_norm):
            return None
        mean = _argument(args, kwargs, 1 if func is F.batch_norm else 3, "running_mean")
        return self._names.get(id(mean))

    def _note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        x, weight, bias = (_argument(args, kwargs, place, key) for place, key in enumerate(("input", "weight", "bias")))
        channels, transposed = _LAYERS[func]
        name = self._names.get(id(weight), "")
        kept = self._kept.get(name, {}).get(0 if transposed else 1)
        if kept is None:
            return
        axis = x.ndim + channels
        present = torch.zeros(x.shape[axis], dtype=torch.bool)
        rows = kept.reshape(-1, kept.shape[-1])
        width = weight.shape[0 if transposed else 1]
        blocks = len(present) // width
        if len(rows) not in (1, blocks):
            return
        present.view(blocks, width).scatter_(1, rows.expand(blocks, -1), True)
        removed = (~present).nonzero()[:, 0]
        sample = x[:1] if axis else x

        def linear(values: Tensor) -> Tensor:
            """What values ``[R, ...]`` on the removed channels give: ``[O, positions]``."""
            alone = torch.zeros_like(sample).movedim(axis, 0).index_copy_(0, removed, values).movedim(0, axis)
            options = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
            return func(alone, weight, None, *args[3:], **options).movedim(axis, 0).flatten(1)

        values = sample.movedim(axis, 0).index_select(0, removed)
        reader = Reader(name, self._names.get(id(bias)), removed, values, torch.zeros(len(removed), dtype=torch.bool))
        self.readers.append(reader)
        self.linear.append(linear)
        self._outputs[id(output)] = (output, reader, [])


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, key: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(key)


def _random(value: Any, generator: torch.Generator) -> Any:
    """The same arguments with random numbers in float64; what is no number of that kind stays."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return torch.randn(value.shape, dtype=torch.float64, generator=generator)
    if isinstance(value, Mapping):
        return {key: _random(item, generator) for key, item in value.items()}
    return type(value)(_random(item, generator) for item in value) if type(value) in (list, tuple) else value
