"""BatchNorm over the batch that several processes share.

`torch.nn.SyncBatchNorm` does that on GPUs only, and takes the place of the model's own modules. Here the modules stay:
calls of `torch.nn.functional.batch_norm` in training mode are answered with the statistics of all processes, on any
device. timm's subclasses of BatchNorm are covered, too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["SharedBatchNorm"]


class SharedBatchNorm(TorchFunctionMode):
    """While active, batches are normalised over all processes; each must hold equally many images."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [axis for axis in range(input.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
    processes = distributed.get_world_size()
    count = input.numel() // input.shape[1] * processes
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    mean = _sum_over_processes(values.sum(axes)) / count
    deviations = values - mean.view(shape)
    variance = _sum_over_processes(deviations.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    output = deviations * scale.view(shape)
    if bias is not None:
        output = output + bias.view(shape)
    return output.to(input.dtype)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _sum_over_processes(part: Tensor) -> Tensor:
    """Sum over all processes; the gradient is that of the sum of all their losses."""
    total: Tensor = _SumOverProcesses.apply(part)
    return total
