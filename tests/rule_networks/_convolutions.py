"""Kinds of convolution."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rule_networks._case import CASES, Case, Net, after, case, conv, head, image, of, pool, weights

__all__: list[str] = []

after("depthwise", 8, lambda m, y: m.b(y), b=conv(8, 8, groups=8))
after("depthwise with multiplier", 8, lambda m, y: m.b(y), 16, b=conv(8, 16, groups=8))
after(
    "depthwise twice with multipliers",
    8,
    lambda m, y: m.c(m.b(y)),
    32,
    b=conv(8, 16, groups=8),
    c=conv(16, 32, groups=16),
)
after("depthwise and residual", 8, lambda m, y: m.b(y) + y, b=conv(8, 8, groups=8))
after("grouped", 14, lambda m, y: m.b(y), 6, b=conv(8, 6, groups=2))
after("grouped of four", 16, lambda m, y: m.b(y), b=conv(8, 8, groups=4))
after("grouped and residual", 8, lambda m, y: m.b(y) + y, b=conv(8, 8, groups=2))
after(
    "grouped then shuffled then grouped",
    None,
    lambda m, y: m.c(m.mix(m.b(y))),
    b=conv(8, 8, groups=2),
    mix=of(nn.ChannelShuffle, 2),
    c=conv(8, 8, groups=2),
)
after("grouped then grouped otherwise", 24, lambda m, y: m.c(m.b(y)), 8, b=conv(8, 8, groups=2), c=conv(8, 8, groups=4))
after("grouped with norm", 14, lambda m, y: m.n(m.b(y)), 6, b=conv(8, 6, groups=2, bias=False), n=of(nn.BatchNorm2d, 6))
after(
    "grouped after a concatenation",
    None,
    lambda m, y: m.c(torch.cat([y, m.b(y)], 1)),
    6,
    b=conv(8, 4),
    c=conv(12, 6, groups=3),
)
after("grouped after a pad", None, lambda m, y: m.b(F.pad(y, (0, 0, 0, 0, 0, 2))), 4, b=conv(10, 4, groups=2))
case(
    "grouped on the input",
    None,
    lambda m, x: m.head(pool(m.a(x))),
    a=conv(6, 8, groups=2),
    head=head(8),
    example=image(6),
)
case("depthwise on the input", 0, lambda m, x: m.head(pool(m.a(x))), a=conv(3, 6, groups=3), head=head(6))
after("transposed convolution", 14, lambda m, y: m.b(y), 6, b=of(nn.ConvTranspose2d, 8, 6, 2, 2))
after("transposed convolution, grouped", None, lambda m, y: m.b(y), 6, b=of(nn.ConvTranspose2d, 8, 6, 2, 2, groups=2))
after("transposed convolution, depthwise", 8, lambda m, y: m.b(y), b=of(nn.ConvTranspose2d, 8, 8, 2, 2, groups=8))
after(
    "transposed convolution, depthwise with multiplier",
    0,
    lambda m, y: m.b(y),
    16,
    b=of(nn.ConvTranspose2d, 8, 16, 2, 2, groups=8),
)
after(
    "transposed convolution, depthwise and residual, whose widths are sizes",
    8,
    lambda m, y: (m.b(y) + y).view(2, m.b.out_channels, -1) + y.view(2, m.b.in_channels, -1),
    b=of(nn.ConvTranspose2d, 8, 8, 3, 1, 1, groups=8, bias=False),
)
after(
    "transposed convolution, depthwise with a kernel that is no layer's",
    8,
    lambda m, y: F.conv_transpose2d(y, m.kernel, stride=2, groups=y.shape[1]),
    kernel=lambda: torch.rand(8, 1, 2, 2),
)
after(
    "transposed convolution, depthwise with a constant number of groups",
    0,
    lambda m, y: F.conv_transpose2d(y, m.kernel, stride=2, groups=8),
    kernel=lambda: torch.rand(8, 1, 2, 2),
)
after(
    "transposed convolution, depthwise and weight norm",
    8,
    lambda m, y: m.b(y),
    b=lambda: parametrizations.weight_norm(nn.ConvTranspose2d(8, 8, 2, 2, groups=8)),
)
case(
    "transposed convolution, 1d and depthwise",
    14,
    lambda m, x: m.head(m.c(m.b(m.a(x).relu())).mean(2)),
    a=of(nn.ConvTranspose1d, 3, 8, 3),
    b=of(nn.ConvTranspose1d, 8, 8, 2, 2, groups=8),
    c=of(nn.ConvTranspose1d, 8, 6, 3),
    head=head(6),
    example=image(3, 16),
)
case(
    "conv1d",
    14,
    lambda m, x: m.head(m.b(m.a(x).relu()).mean(2)),
    a=of(nn.Conv1d, 3, 8, 3),
    b=of(nn.Conv1d, 8, 6, 3),
    head=head(6),
    example=image(3, 16),
)
case(
    "conv1d grouped, depthwise and pooled",
    16,
    lambda m, x: m.head(F.avg_pool1d(F.max_pool1d(m.c(m.b(m.a(x))), 2), 2).mean(2)),
    a=of(nn.Conv1d, 3, 8, 3),
    b=of(nn.Conv1d, 8, 8, 3, groups=2),
    c=of(nn.Conv1d, 8, 8, 3, groups=8),
    head=head(8),
    example=image(3, 16),
)
case(
    "conv3d",
    14,
    lambda m, x: m.head(m.n(m.b(F.max_pool3d(m.a(x), 2))).mean((2, 3, 4))),
    a=of(nn.Conv3d, 3, 8, 3),
    b=of(nn.Conv3d, 8, 6, 2),
    n=of(nn.BatchNorm3d, 6),
    head=head(6),
    example=image(3, 8, 8, 8),
)
case("conv2d of one image", 8, lambda m, x: m.head(m.a(x[0]).relu().mean((1, 2))), a=conv(3, 8), head=head(8))
case("unbatched conv2d", 8, lambda m, x: m.head(F.max_pool2d(m.a(x[0]), 2).mean((1, 2))), a=conv(3, 8), head=head(8))
after("shared convolution", 8, lambda m, y: m.b(m.b(y).relu()), b=conv(8, 8))
after("shared grouped convolution", 8, lambda m, y: m.b(m.b(y).relu()), b=conv(8, 8, groups=2))
after("convolution shared by two inputs", None, lambda m, y: m.b(y) + m.b(m.c(y)), 6, b=conv(8, 6), c=conv(8, 8))


def _tied(groups: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net = Net(
            lambda m, x: m.head(pool(m.c(m.b(m.a(x)).relu()))),
            a=nn.Conv2d(3, 8, 3, padding=1),
            b=nn.Conv2d(8, 8, 3, padding=1, groups=groups),
            c=nn.Conv2d(8, 8, 3, padding=1, groups=groups),
            head=nn.Linear(8, 5),
        )
        net.c.weight = net.b.weight
        return net

    return build


for _groups in (1, 2, 8):
    CASES[f"tied weight in {_groups} groups"] = Case(_tied(_groups), 8, image(), {})

after(
    "weight computed by a sum",
    14,
    lambda m, y: F.conv2d(y, m.w + F.pad(m.v, (1, 1, 1, 1)), padding=1),
    6,
    w=weights(6, 8, 3, 3),
    v=weights(6, 8, 1, 1),
)
after(
    "weight computed by a product",
    14,
    lambda m, y: F.conv2d(y, m.w * m.v),
    6,
    w=weights(6, 8, 1, 1),
    v=weights(6, 8, 1, 1),
)
after(
    "weight scaled per output", 14, lambda m, y: F.conv2d(y, m.w * m.v), 6, w=weights(6, 8, 1, 1), v=weights(6, 1, 1, 1)
)
after(
    "low-rank update",
    17,  # the 3 ranks too
    lambda m, y: F.conv2d(y, m.w + (m.up @ m.down).view(m.w.shape)),
    6,
    w=weights(6, 8, 1, 1),
    up=weights(6, 3),
    down=weights(3, 8),
)
case(
    "weight read both ways",
    14,
    lambda m, x: m.head(F.linear(F.linear(pool(m.a(x)), m.w).relu(), m.w.t())),
    a=conv(3, 8),
    w=weights(6, 8),
    head=head(8),
    reads={"w": (0, 1)},
)
after("weight shifted", 6, lambda m, y: F.conv2d(y, m.w + 1.0), 6, w=weights(6, 8, 1, 1))
after(
    "weight shifted in a view of it",
    6,
    lambda m, y: (w := m.w.clone(), w[..., 0].add_(1.0), F.conv2d(y, w))[2],
    6,
    w=weights(6, 8, 1, 1),
)
after(
    "weight standardised",
    6,
    lambda m, y: F.conv2d(y, (m.w - m.w.mean((1, 2, 3), True)) / (m.w.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()),
    6,
    w=weights(6, 8, 3, 3),
)
after("weight by data", None, lambda m, y: y * 0 + m.w.data.view(1, 8, 1, 1), w=weights(8))
after("functional convolution", 14, lambda m, y: F.conv2d(y, m.w, m.c), 6, w=weights(6, 8, 3, 3), c=weights(6))
after("functional depthwise with constant groups", 0, lambda m, y: F.conv2d(y, m.w, groups=8), w=weights(8, 1, 3, 3))
after(
    "functional depthwise with groups of its size",
    8,
    lambda m, y: F.conv2d(y, m.w, groups=y.shape[1]),
    w=weights(8, 1, 3, 3),
)
after(
    "functional depthwise by an expanded kernel",
    None,
    lambda m, y: F.conv2d(y, m.w.expand(y.shape[1], -1, -1, -1), groups=y.shape[1]),
    w=weights(1, 1, 3, 3),
)
after(
    "functional depthwise by a repeated kernel",
    None,
    lambda m, y: F.conv2d(y, m.w.repeat(y.shape[1], 1, 1, 1), groups=y.shape[1]),
    w=weights(1, 1, 3, 3),
)
after("functional grouped", None, lambda m, y: F.conv2d(y, m.w, groups=2), 6, w=weights(6, 4, 3, 3))


class GroupedWeight(nn.Module):
    """A weight and a number of groups that are no convolution layer's."""

    def __init__(self, run: Callable[..., Tensor], *shape: int, groups: int = 2) -> None:
        super().__init__()
        self.weight, self.groups, self.run = nn.Parameter(torch.randn(shape)), groups, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


after(
    "own grouped convolution",
    None,
    lambda m, y: m.b(y),
    6,
    b=lambda: GroupedWeight(lambda s, x: F.conv2d(x, s.weight, groups=s.groups), 6, 4, 3, 3),
)
after(
    "own depthwise convolution",
    8,
    lambda m, y: m.b(y),
    b=lambda: GroupedWeight(lambda s, x: F.conv2d(x, s.weight, groups=s.groups), 8, 1, 3, 3, groups=8),
)
after(
    "own grouped linear",
    None,
    lambda m, y: m.b(pool(y)).unsqueeze(2),
    6,
    b=lambda: GroupedWeight(
        lambda s, x: torch.bmm(x.view(x.shape[0], 2, -1).transpose(0, 1), s.weight).transpose(0, 1).flatten(1), 2, 4, 3
    ),
    reads={"b.weight": 1},
)


class StandardConv(nn.Conv2d):
    """Weight standardisation, as in BiT and NFNet."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


after("standardised layer", 6, lambda m, y: m.b(y), 6, b=of(StandardConv, 8, 6, 3))
after("standardised depthwise layer", None, lambda m, y: m.b(y), 8, b=of(StandardConv, 8, 8, 3, groups=8))
after("standardised grouped layer", None, lambda m, y: m.b(y), 6, b=of(StandardConv, 8, 6, 3, groups=2))
after("weight norm", 14, lambda m, y: m.b(y), 6, b=lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, 3)))
after(
    "weight norm of a depthwise layer",
    8,
    lambda m, y: m.b(y),
    b=lambda: parametrizations.weight_norm(nn.Conv2d(8, 8, 3, groups=8)),
)
after(
    "weight norm of a transposed layer",
    8,
    lambda m, y: m.b(y),
    6,
    b=lambda: parametrizations.weight_norm(nn.ConvTranspose2d(8, 6, 3)),
    reads={"b.parametrizations.weight.original0": 0},
)
after("spectral norm", None, lambda m, y: m.b(y), 6, b=lambda: parametrizations.spectral_norm(nn.Conv2d(8, 6, 3)))
after(
    "orthogonal weights",
    None,
    lambda m, y: m.b(pool(y)).unsqueeze(2),
    8,
    b=lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
)
after("bilinear layer", None, lambda m, y: m.b(pool(y), pool(y)).unsqueeze(2), 6, b=of(nn.Bilinear, 8, 8, 6))
after(
    "experts",
    None,
    lambda m, y: F.conv2d(y, (m.mix.softmax(0) @ m.w).view(6, 8, 3, 3)),
    6,
    mix=weights(4),
    w=weights(4, 432),
)
after(
    "experts by shapes",
    None,
    lambda m, y: F.conv2d(y, (m.mix.view(4, 1, 1, 1, 1) * m.w).sum(0)),
    6,
    mix=weights(4),
    w=weights(4, 6, 8, 3, 3),
    reads={"w": 2},
)
after(
    "convolution per sample",
    None,
    lambda m, y: F.conv2d(
        y.reshape(1, -1, 8, 8), (pool(y).mean(1).view(-1, 1, 1, 1, 1) * m.w).flatten(0, 1), groups=y.shape[0]
    ).view(y.shape[0], -1, 6, 6),
    6,
    w=weights(6, 8, 3, 3),
)
