"""Masked equivalence: the slim network computes what the original does with the removed channels' readers zeroed."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo_slim._containers import tensors_in, with_tensors
from zoo_slim._draws import draws_undone, generators
from zoo_slim._errors import SlimmingError
from zoo_slim._networks import copy_of, unwrap
from zoo_slim._replacement import is_within
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.slimming._cost import count_params
from zoo_slim.tracing import Example, Trace, call_model, run_trace

__all__ = ["TOLERANCE", "Verification", "randomize", "training_step", "verify"]

TOLERANCE = 1e-9
"""Largest relative difference, in float64, that counts as rounding."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        max_relative_difference: largest ``|slim - masked|`` over all outputs, over the largest ``|masked|``.
        training_compared: whether the branches that only run in training are part of that.
        params: parameters of the original.
        slim_params: parameters of the slim network.
        trace_seconds: time to trace the original, seconds.
    """

    max_relative_difference: float
    params: int
    slim_params: int
    trace_seconds: float
    training_compared: bool = False

    @property
    def exact(self) -> bool:
        """Whether the difference is rounding."""
        return self.max_relative_difference < TOLERANCE


def verify(
    model: nn.Module, result: PruningResult, example_input: Example, *, trace: Trace | None = None
) -> Verification:
    """Compare the slim network with the masked original, in float64.

    The original is masked by zeroing, in every weight that reads a removed channel, the slice that reads it, and all
    parameters of the blocks that were removed, so that nothing but what passes beside their branches is left. Both are
    compared in evaluation mode; and once more with their containers in training mode but all layers in evaluation mode,
    which runs the branches that only run in training. A model that is random even so is not compared there. Both start
    from the same states of the generators of random numbers, which are as before in the end.

    Args:
        model: the original network.
        result: what was kept of it.
        example_input: what to call it with, in the dtype that the model takes. What the forward itself would make in,
            or cast to, another one is float64. The outputs must hold numbers: of all floating, complex, integer and
            boolean ones the magnitude of the difference counts. Infinities and NaN must be in the same places.
        trace: a trace of ``model``, if one is at hand.

    Raises:
        SlimmingError: the result does not fit the model, the model cannot be traced, one of the two does not run in
            float64, there is nothing to compare, or random numbers are drawn for channels that go.
    """
    model = unwrap(model)
    start = time.perf_counter()
    facts = trace or run_trace(model, example_input)
    seconds = time.perf_counter() - start
    example = with_tensors(example_input, _in_double)
    original = copy_of(model)._apply(_in_double).eval()
    with torch.no_grad(), _InDouble():
        slim = apply_result(original, result)
        zero_blocks(original, result)
        mask_readers(original, result, facts.reads)
        expected, drawn = _outputs(original, example, "masked original")
        if not any((out.isfinite() & (out != 0)).any() for out in expected):
            raise SlimmingError(
                f"nothing to compare: {type(model).__name__} returns only 0, or no numbers, on the example input."
                " Give one on which it does, or a copy with random weights (zoo_slim.slimming.randomize)"
            )
        found, drawn_by_slim = _outputs(slim, example, "slim network")
        worst = _difference(found, expected)
        if worst >= TOLERANCE and drawn_by_slim != drawn:
            raise SlimmingError(
                f"{type(model).__name__} draws random numbers in evaluation mode, and others for fewer channels: "
                "nothing can be compared. Compare it without its noise"
            )
        compared = facts.training is None and not _draws_random_numbers(original, example)
        if compared:
            expected = _training_outputs(original, example, "masked original")
            found = _training_outputs(slim, example, "slim network")
            worst = max(worst, _difference(found, expected))
    return Verification(worst, count_params(model), count_params(slim), seconds, compared)


_HUGE = 1e6
"""How many times larger than all that differs (and than 1) a value must be to be taken for a constant."""

_WIDER = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}


def _in_double(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu() if tensor.is_mps else tensor  # Metal has no float64
    return tensor.to(_WIDER.get(tensor.dtype, tensor.dtype))


class _InDouble(TorchFunctionMode):
    """Keeps a forward in float64 that makes tensors in, or casts them to, another floating dtype."""

    _CASTS = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})

    def __enter__(self) -> "_InDouble":
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args = tuple(map(self._widened, args))
        return (Tensor.double if func in self._CASTS else func)(
            *args, **{name: self._widened(value) for name, value in (kwargs or {}).items()}
        )

    def _widened(self, value: Any) -> Any:
        return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def _outputs(network: nn.Module, example: Example, what: str) -> tuple[list[Tensor], object]:
    """The outputs, and the states of the generators of random numbers afterwards."""
    try:
        with draws_undone(network):
            return tensors_in(call_model(network, example)), generators(network)
    except Exception as error:
        raise SlimmingError(
            f"the {what} does not run in float64 on the example input: {type(error).__name__}: {error}"
        ) from error


def _training_outputs(model: nn.Module, example: Example, what: str) -> list[Tensor]:
    model = copy.deepcopy(model)
    for module in model.modules():
        # timm's norms hold their activation as a child: they are layers all the same.
        layer = next(module.children(), None) is None or isinstance(module, nn.modules.batchnorm._NormBase)
        module.training = not layer
    try:
        return tensors_in(call_model(model, example))
    except Exception as error:
        raise SlimmingError(
            f"the {what} does not run in float64 in training mode: {type(error).__name__}: {error}"
        ) from error


def _draws_random_numbers(model: nn.Module, example: Example) -> bool:
    """Whether the branches that only run in training are random. Few draws can agree by chance: the states cannot."""
    with draws_undone(model):
        before = generators(model)
        first, second = (_training_outputs(model, example, "masked original") for _ in range(2))
        return generators(model) != before or _difference(second, first) >= TOLERANCE


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    if [out.shape for out in found] != [out.shape for out in expected]:
        raise SlimmingError("the slim network's outputs have other shapes than the original's")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if not (other.is_floating_point() or other.is_complex()):
            one, other = one.double(), other.double()
        finite = one.isfinite() & other.isfinite()
        same = (one == other) | (one.isnan() & other.isnan())
        if not (finite | same).all():
            return math.inf
        if finite.any():
            scale = _scale(one[finite], other[finite])
            worst = max(worst, float((one - other)[finite].abs().max()) / scale)
    return worst


def _scale(one: Tensor, other: Tensor) -> float:
    """The largest value of an output, but for huge ones that are the same in both: a mask's -1e9 says nothing."""
    sizes = other.abs()
    rest = sizes[one != other]
    huge = (one == other) & (sizes > _HUGE * max(1.0, float(rest.max()) if len(rest) else 0.0))
    return float(sizes[~huge].max() if not huge.all() else 0.0) or 1.0


def mask_readers(model: nn.Module, result: PruningResult, reads: frozenset[tuple[str, int]]) -> None:
    """Set to zero, in place, the slices of the weights that read removed channels."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, axis in sorted(reads):
        index = result.kept.get(name, {}).get(axis)
        if index is None:
            continue
        weight = tensors[name]
        rows = index.reshape(-1, index.shape[-1]).to(weight.device)
        mask = torch.zeros(len(rows), weight.shape[axis], dtype=weight.dtype, device=weight.device).scatter_(1, rows, 1)
        if len(rows) == 1:
            weight.data.mul_(mask.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)]))
        else:
            outputs = result.kept[name].get(0, torch.arange(weight.shape[0])).to(weight.device)
            mask = mask.repeat_interleave(len(outputs) // len(rows), dim=0)
            weight.data[outputs] *= mask.reshape(*mask.shape, *[1] * (weight.ndim - 2))


def zero_blocks(model: nn.Module, result: PruningResult) -> None:
    """Set to zero, in place, the parameters of the blocks that were removed."""
    for name, parameter in model.named_parameters():
        if any(is_within(name, block) for block in result.removed):
            parameter.zero_()


def training_step(model: nn.Module, example_input: Example) -> None:
    """Forward, backward and an SGD step in training mode, on a copy. Raises whatever the model raises."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    outputs = [out for out in tensors_in(call_model(model, example_input)) if out.requires_grad]
    torch.stack([out.square().mean() for out in outputs]).sum().backward()
    optimizer.step()


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give all weights, biases and statistics random values of ordinary size, in place.

    A fresh network has biases of 0 and scales of 1, which hide errors.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point():
            continue
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
        if tensor.ndim > 1 and isinstance(tensor, nn.Parameter):
            value = torch.randn(tensor.shape, generator=generator, device="cpu") * fan_in**-0.5
        elif tensor.ndim == 1 and (name.endswith(("weight", "running_var"))):
            value = torch.rand(tensor.shape, generator=generator, device="cpu") + 0.5
        elif tensor.ndim == 1:
            value = torch.randn(tensor.shape, generator=generator, device="cpu") * 0.2
        else:
            continue
        tensor.copy_(value)
    return model
