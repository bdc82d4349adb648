"""What is called, and what comes out."""

import torch
import torch.nn.functional as F
from torch import nn

from rule_networks._case import case, conv, head, image, of, pool

__all__: list[str] = []

case("channels are the output", 0, lambda m, x: m.a(x), a=conv(3, 8))
case(
    "channels are one of the outputs",
    6,
    lambda m, x: (m.head(pool(m.b(y := m.a(x)))), y),
    a=conv(3, 8),
    b=conv(8, 6),
    head=head(6),
)
case(
    "a dict of outputs",
    14,
    lambda m, x: {"out": m.head(pool(y := m.a(x))), "aux": [m.aux(pool(m.b(y)))]},
    a=conv(3, 8),
    b=conv(8, 6),
    head=head(8),
    aux=head(6),
)
case(
    "a read output used again",
    14,
    lambda m, x: (z := pool(m.a(x)), m.head(z), m.head(z) + m.tail(m.b(z)))[1:],
    a=conv(3, 8),
    b=of(nn.Linear, 8, 6),
    head=head(8),
    tail=head(6),
)
case("a module never executed", 8, lambda m, x: m.head(pool(m.a(x))), a=conv(3, 8), idle=conv(8, 8), head=head(8))
case(
    "an auxiliary head in training",
    14,
    lambda m, x: (m.head(pool(y := m.a(x))), m.aux(pool(m.b(y)))) if m.training else m.head(pool(m.a(x))),
    a=conv(3, 8),
    b=conv(8, 6),
    head=head(8),
    aux=head(6),
)
case(
    "another forward in training",
    8,
    lambda m, x: m.head(pool(m.a(x) + m.b(x) if m.training else m.a(x) - m.b(x))),
    a=conv(3, 8),
    b=conv(3, 8),
    head=head(8),
)
case(
    "channels tied in training only",
    8,
    lambda m, x: m.head(pool(m.a(x) + (m.b(x) if m.training else 0))),
    a=conv(3, 8),
    b=conv(3, 8),
    head=head(8),
)
case(
    "a forward that decides by values",
    8,
    lambda m, x: m.head(pool(m.a(x) * 2 if x.sum() > 0 else m.a(x))),
    a=conv(3, 8),
    head=head(8),
)
case(
    "a forward that decides by values in training",
    14,
    lambda m, x: m.aux(pool(m.b(m.a(x)))) if m.training and x.sum() > 0 else m.head(pool(m.a(x))),
    a=conv(3, 8),
    b=conv(8, 6),
    head=head(8),
    aux=head(6),
)
case(
    "two inputs",
    8,
    lambda m, x, y: m.head(pool(m.a(x) + m.b(y))),
    a=conv(3, 8),
    b=conv(2, 8),
    head=head(8),
    example=(image(), image(2)),
)
case(
    "inputs by keyword",
    8,
    lambda m, left, right: m.head(pool(m.a(left) + m.b(right))),
    a=conv(3, 8),
    b=conv(2, 8),
    head=head(8),
    example={"left": image(), "right": image(2)},
)
case(
    "a list of inputs and an option",
    8,
    lambda m, xs, twice: m.head(pool(m.a(xs[0]) + m.a(xs[1])) * (1 + twice)),
    a=conv(3, 8),
    head=head(8),
    example=([image(), image()], True),
)
case("channels added to the input", 0, lambda m, x: m.head(pool(x + m.a(x))), a=conv(3, 3), head=head(3))
case("channels of size one", None, lambda m, x: m.head(pool(m.b(m.a(x)))), a=conv(3, 1), b=conv(1, 8), head=head(8))
case("nothing to remove", 0, lambda m, x: m.head(x), head=of(nn.Linear, 8, 5))
case("no parameters", 0, lambda m, x: x.relu())
case(
    "a weight kept in a list",
    None,
    lambda m, x: m.head(pool(m.kernels[0](x))),
    kernels=lambda: [nn.Conv2d(3, 8, 1).double()],
    head=head(8),
)
case(
    "a buffer that the forward replaces by a larger one",
    8,
    lambda m, x: (
        y := m.a(x),
        setattr(m, "position", F.interpolate(m.position, y.shape[2:])),
        m.head((y + m.position).mean((2, 3))),
    )[2],
    a=conv(3, 8),
    position=lambda: torch.randn(1, 8, 4, 4),
    head=head(8),
)
case(
    "a tensor that is no buffer",
    0,
    lambda m, x: m.head(pool(m.a(x) * m.scales["one"])),
    a=conv(3, 8),
    scales=lambda: {"one": torch.rand(8, 1, 1)},
    head=head(8),
)
case(
    "a state that grows",
    None,
    lambda m, x: (setattr(m, "seen", m.seen + 1), m.head(pool(m.a(x))))[1],
    a=conv(3, 8),
    seen=0,
    head=head(8),
)
case(
    "reads its own state",
    None,
    lambda m, x: m.head(pool(m.a(x)) - m.mean) + 0 * m.mean.sum(),
    a=conv(3, 8),
    mean=lambda: torch.rand(8),
    head=head(8),
)
case(
    "moving average of channels",
    8,
    lambda m, x: (
        y := m.a(x),
        m.mean.mul_(0.9).add_(pool(y.detach()).mean(0) * 0.1) if m.training else None,
        m.head(pool(y) - m.mean),
    )[2],
    a=conv(3, 8),
    mean=lambda: torch.rand(8),
    head=head(8),
)
case(
    "sequential of everything",
    8 + 6 + 6,
    lambda m, x: m.body(x),
    body=lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 1),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 6),
        nn.ReLU(),
        nn.BatchNorm1d(6),
        nn.Dropout(),
        nn.Linear(6, 5),
    ),
)
