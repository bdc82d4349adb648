"""What removed channels still emitted: constants, measured where they were read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from zoo_slim._containers import tensors_in, with_tensors
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import model_tensors
from zoo_slim.tracing import Example, call_model

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

_UNEVEN = frozenset({F.max_unpool1d, F.max_unpool2d, F.max_unpool3d, F.pixel_shuffle, F.pixel_unshuffle})
"""Functions that make of channels which are the same everywhere ones that are not."""

NODES = 7
"""Of the quadrature: 0 is among them."""

_ROUNDING = 1e-9
"""Relative difference, in float64, up to which two values are the same constant."""


@dataclass
class Reader:
    """A call of a layer that reads removed channels.

    Attributes:
        weight: name of the layer's weight.
        bias: name of its bias.
        removed: positions of its input channels that are removed, int64 ``[R]``.
        values: what it read there, of one sample, float64 ``[R, ...]``.
        linear: maps such values to what they add to its output, float64 ``[O, positions]``.
        constant: which of them emit a constant, bool ``[R]``.
        shift: what these add to each output channel, float64 ``[O]``: away from padded borders, or, if uneven, in the
            mean.
        at_borders: whether they add something else near the borders.
        strided: whether it is a transposed convolution with a stride, whose neighbouring outputs see other taps.
        behind: whether it comes behind one, an unpooling or a shuffle of pixels.
        uneven: whether they add something else from position to position for one of these two reasons.
        norm: the name of a running mean, where all that uses the output is one BatchNorm with that mean.
    """

    weight: str
    bias: str | None
    removed: Tensor
    values: Tensor = field(repr=False)
    linear: Callable[[Tensor], Tensor] = field(repr=False)
    constant: Tensor = field(repr=False)
    shift: Tensor | None = None
    at_borders: bool = False
    strided: bool = False
    behind: bool = False
    uneven: bool = False
    norm: str | None = None


@torch.no_grad()
def find_readers(model: nn.Module, result: PruningResult, example: Example) -> tuple[list[Reader], set[str]]:
    """Run the original with the scales gamma of removed channels at 0, so that each of them emits a constant.

    The network runs in float64, in evaluation mode, on random inputs. What a removed channel shows to a reader is
    constant where two inputs give the same; whatever lies between its BatchNorm and the reader. That constant is
    averaged over what the BatchNorm gave, ``beta + gamma * z`` with ``z`` of a normal distribution, by Gauss-Hermite
    quadrature; where gamma is 0 it is what all nodes give.

    Args:
        model: the original; it stays as it is.
        result: what is kept of it.
        example: what to call it with; its numbers are replaced by random ones. Where integers cannot be, as all are 0,
            nothing counts as constant.

    Returns:
        the readers in order of their calls, and the means of BatchNorms that other tensors pass too.
    """
    probe = apply_result(model, PruningResult(removed=result.removed)).cpu().double().eval()
    spreads = _silence(probe, result)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    readers, shared = _watched(probe, result, example, seed=0)
    control, _ = _watched(probe, result, example, seed=1)
    if [call.weight for call in readers] != [call.weight for call in control]:
        return [], set()
    inputs = (tensors_in(_inputs(example, seed)) for seed in (0, 1))
    fixed = any(one.numel() and torch.equal(one, other) for one, other in zip(*inputs, strict=True))
    for reader, other in zip(readers, control, strict=True):
        difference = (reader.values - other.values).abs().reshape(len(reader.values), -1).amax(1)
        scale = reader.values.abs().reshape(len(reader.values), -1).amax(1)
        reader.constant = (difference <= _ROUNDING * (1 + scale)) & (not fixed)
        reader.norm = reader.norm if reader.norm == other.norm else None
    outputs: list[Tensor | float] = [0.0] * len(readers)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        for bias, beta, gamma in spreads:
            bias.copy_(beta + gamma * node)
        calls, _ = _watched(probe, result, example, seed=0)
        if [call.weight for call in calls] != [call.weight for call in readers]:
            return [], set()
        for place, call in enumerate(calls):
            shown = call.values[readers[place].constant]
            readers[place].uneven |= call.strided or (call.behind and _varies(shown))
            constant = readers[place].constant.reshape(-1, *[1] * (call.values.ndim - 1))
            outputs[place] = outputs[place] + weight * call.linear(call.values * constant)
    for reader, output in zip(readers, outputs, strict=True):
        assert isinstance(output, Tensor)
        varies = _varies(output)
        reader.uneven &= varies
        reader.at_borders = varies and not reader.uneven
        reader.shift = output.mean(1) if reader.uneven else output.median(1).values
    return readers, shared


def _watched(probe: nn.Module, result: PruningResult, example: Example, seed: int) -> tuple[list[Reader], set[str]]:
    watch = _Watch(probe, result)
    with watch:
        outputs = call_model(probe, _inputs(example, seed))
    watch.finish(outputs)
    return watch.readers, watch.shared_norms


def _silence(probe: nn.Module, result: PruningResult) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Set the scales of removed channels to zero, in place.

    Returns:
        for each BatchNorm of such channels its bias, what is in it, and the scales that are gone, 0 elsewhere.
    """
    spreads = []
    for name, module in probe.named_modules():
        scale = module.weight if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
        kept = result.kept.get(f"{name}.weight" if name else "weight", {}).get(0)
        if isinstance(scale, Tensor) and kept is not None:
            before = scale.detach().clone()
            scale.data.mul_(torch.zeros_like(before).index_fill_(0, kept.cpu(), 1))
            if isinstance(module.bias, Tensor):
                spreads.append((module.bias.detach(), module.bias.detach().clone(), before - scale.detach()))
    return spreads


class _Watch(TorchFunctionMode):
    """Notes each call of a layer that reads removed channels, and what becomes of its output."""

    def __init__(self, model: nn.Module, result: PruningResult) -> None:
        super().__init__()
        self.readers: list[Reader] = []
        self.shared_norms: set[str] = set()
        self._names = {id(tensor): name for name, tensor in model_tensors(model).items()}
        self._kept = result.kept
        self._outputs: dict[int, tuple[Tensor, Reader, list[str | None]]] = {}
        self._norms: dict[str, int] = {}
        self._uneven = WeakIdKeyDictionary()  # tensors, as keys

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor) and not tensors_in(output):
            return output  # a shape, say
        norm = self._norm_of(func, args, kwargs)
        inputs = tensors_in((args, dict(kwargs)))
        strided = func in _LAYERS and _LAYERS[func][1] and _is_above_one(_argument(args, kwargs, 3, "stride"))
        if strided or func in _UNEVEN or any(tensor in self._uneven for tensor in inputs):
            for tensor in tensors_in(output):
                self._uneven[tensor] = None
        for tensor in inputs:
            if id(tensor) in self._outputs:
                is_input = norm is not None and tensor is _argument(args, kwargs, 0, "input")
                self._outputs[id(tensor)][2].append(norm if is_input else None)
        if norm is not None:
            self._norms[norm] = self._norms.get(norm, 0) + 1
        if func in _LAYERS:
            self._note(func, args, kwargs, output, strided)
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

    def _note(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor, strided: bool
    ) -> None:
        x, weight, bias = (_argument(args, kwargs, place, key) for place, key in enumerate(("input", "weight", "bias")))
        channels, transposed = _LAYERS[func]
        name = self._names.get(id(weight), "")
        kept = self._kept.get(name, {}).get(0 if transposed else 1)
        if kept is None:
            return
        if transposed and _argument(args, kwargs, 6, "groups") not in (None, 1):
            return  # what a depthwise one, the only kind with groups, has lost of its inputs, its outputs have lost too
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
        unknown = torch.zeros(len(removed), dtype=torch.bool)
        behind = x in self._uneven
        reader = Reader(
            name, self._names.get(id(bias)), removed, values, linear, unknown, strided=strided, behind=behind
        )
        self.readers.append(reader)
        self._outputs[id(output)] = (output, reader, [])


def _varies(values: Tensor) -> bool:
    """Whether rows ``[N, positions]`` or ``[N, ...]`` hold something else from position to position."""
    if not values.numel():
        return False
    flat = values.reshape(len(values), -1)
    return bool((flat.amax(1) - flat.amin(1) > _ROUNDING * (1 + flat.abs().amax())).any())


def _is_above_one(steps: int | Sequence[int] | None) -> bool:
    return any(step > 1 for step in (steps if isinstance(steps, Sequence) else [steps or 1]))


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, key: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(key)


def _inputs(example: Example, seed: int) -> Example:
    """The same arguments with random numbers on the CPU, float64 where they are floating; others stay within range.

    Of seeds 0 and 1, each tensor differs, but for those whose range is one number.
    """
    generator = torch.Generator("cpu").manual_seed(seed)

    def change(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() or tensor.is_complex():
            dtype = torch.complex128 if tensor.is_complex() else torch.float64
            return torch.randn(tensor.shape, dtype=dtype, generator=generator, device="cpu")
        whole = tensor.long()
        low, high = (min(int(whole.min()), 0), int(whole.max())) if whole.numel() else (0, 0)
        one, other = (
            torch.randint(low, high + 1, tensor.shape, generator=torch.Generator("cpu").manual_seed(draw), device="cpu")
            for draw in (0, 1)
        )
        if torch.equal(one, other):
            other = low + (one - low + 1) % (high + 1 - low)
        return (one, other)[seed].to(tensor.dtype)

    drawn: Example = with_tensors(example, change)
    return drawn
