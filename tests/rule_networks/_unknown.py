"""Operations without a rule, writes, and tensors that leave torch."""

from typing import Any

import torch
from torch import Tensor, nn

from rule_networks._case import after, case, conv, head, of, pool

__all__: list[str] = []

case(
    "unknown operation",
    6,
    lambda m, x: m.head(pool(m.b(torch.fft.rfft2(m.a(x)).abs()))),
    a=conv(3, 8),
    b=conv(8, 6),
    head=head(6),
)
after("distance", None, lambda m, y: torch.cdist(y.flatten(2), y.flatten(2)), 8)
after("singular values", None, lambda m, y: torch.linalg.svdvals(y), 8)
after("write into channels", 0, lambda m, y: (z := y.clone(), z[:, :4].zero_(), z)[2])
after("write by assignment", 0, lambda m, y: (z := y.clone(), z.__setitem__((slice(None), slice(4)), 1.0), z)[2])
after("write into one channel", 0, lambda m, y: (z := y.clone(), z[:, 2].add_(1), z)[2])
after("write into space", 8, lambda m, y: (z := y.clone(), z[:, :, :4].mul_(2), z[..., 0].zero_(), z)[3])
after(
    "write another into space",
    8,
    lambda m, y: (z := y.clone(), z[:, :, ::2].copy_(m.b(y)[:, :, ::2]), z)[2],
    b=conv(8, 8),
)
after("write into new zeros", None, lambda m, y: (z := y.new_zeros(2, 8, 9, 9), z[:, :, 1:, 1:].copy_(y), z)[2])
after(
    "write into zeros of its size",
    None,
    lambda m, y: (
        z := torch.zeros(2, y.shape[1], 9, 9, dtype=y.dtype, device=y.device),
        z.__setitem__((slice(None), slice(None), slice(1, None), slice(1, None)), y),
        z,
    )[2],
)
after("write into more channels", None, lambda m, y: (z := y.new_zeros(2, 12, 8, 8), z[:, 2:10].copy_(y), z)[2], 12)
after("write by index", None, lambda m, y: (z := y.clone(), z.__setitem__((slice(None), [1, 2]), 0.0), z)[2])
after("write by mask", None, lambda m, y: (z := y.clone(), z.__setitem__(z > 0.5, 0.0), z)[2])
after(
    "out argument",
    8,
    lambda m, y: (z := torch.empty_like(y), torch.add(y.detach(), m.b(y).detach(), out=z), z + y)[2],
    b=conv(8, 8),
)
after("branch by torch.cond", 0, lambda m, y: torch.cond(torch.tensor(True), torch.sin, torch.cos, (y,)))
after("scatter", None, lambda m, y: y.scatter(2, torch.zeros(2, 8, 8, 8, dtype=torch.long, device=y.device), 1.0))
after("data", None, lambda m, y: y.data.relu())
after("detached", 8, lambda m, y: y + m.b(y).detach(), b=conv(8, 8))
after(
    "through numpy",
    None,
    lambda m, y: y + 0 * torch.from_numpy(y.detach().numpy().copy()) if y.device.type == "cpu" else y,
)
after("only through numpy", 6, lambda m, y: m.b(torch.from_numpy(y.detach().numpy() * 2)), 6, b=conv(8, 6))
after("through a list", 6, lambda m, y: m.b(torch.tensor(y.tolist(), dtype=y.dtype)), 6, b=conv(8, 6))


@torch.jit.script
def _scripted(y: Tensor) -> Tensor:
    return y.view(y.shape[0], 8, 64) * 2


@torch.jit.script
def _scripted_scale(y: Tensor) -> Tensor:
    return y * torch.sigmoid(y)


after("script function with constants", 0, lambda m, y: _scripted(y))
after("script function", 8, lambda m, y: _scripted_scale(y))


_ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink,
)  # fmt: skip
for _kind in _ACTIVATIONS:
    after(_kind.__name__, 8, lambda m, y: m.act(y), act=of(_kind))


class Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / 2


after("autograd function", 8, lambda m, y: Halve.apply(y))
after("checkpointed", 8, lambda m, y: torch.utils.checkpoint.checkpoint(m.b, y, use_reentrant=False) + y, b=conv(8, 8))
