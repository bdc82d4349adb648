"""Integers among the attributes that are sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rule_networks._case import Net, after, case, conv, head, of, pool

__all__: list[str] = []


def _attend(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def _tokens(m: Net, x: Tensor) -> Tensor:
    return m.a(x).flatten(2).transpose(1, 2)


def _heads(m: Net, x: Tensor) -> Tensor:
    x = _tokens(m, x)
    q, k, v = m.qkv(x).reshape(2, 64, 3, m.heads, m.dim).permute(2, 0, 3, 1, 4).unbind(0)
    return m.head(_attend(m, m.norm(q), k, v).transpose(1, 2).reshape(2, 64, m.inner).mean(1))


def _rotated(m: Net, x: Tensor) -> Tensor:
    x = _tokens(m, x)
    q, k, v = (part(x).view(2, 64, m.heads, m.dim).transpose(1, 2) for part in (m.q, m.k, m.v))
    return m.head(F.scaled_dot_product_attention(q * m.turn, k * m.turn, v).transpose(1, 2).flatten(2).mean(1))


def _heads_in_batch(m: Net, x: Tensor) -> Tensor:
    x = _tokens(m, x)
    size = len(x) * m.heads
    q, k, v = (part(x).view(2, 64, m.heads, -1).transpose(1, 2).reshape(size, 64, m.dim) for part in (m.q, m.k, m.v))
    return m.head(torch.bmm((q @ k.mT).softmax(-1), v).view(2, m.heads, 64, -1).transpose(1, 2).flatten(2).mean(1))


def _heads_of_own_width(m: Net, x: Tensor) -> Tensor:
    x = _tokens(m, x)
    width = m.q(x).shape[-1]
    assert width % m.heads == 0
    q, k, v = (part(x).view(2, 64, m.heads, width // m.heads).transpose(1, 2) for part in (m.q, m.k, m.v))
    return m.head(_attend(m, q, k, v).transpose(1, 2).reshape(2, 64, width // m.heads * m.heads).mean(1))


def _heads_of_the_inputs_width(m: Net, x: Tensor) -> Tensor:
    x = _tokens(m, x)
    width = x.shape[-1]
    q, k, v = (part(x).view(2, 64, m.heads, width // m.heads).transpose(1, 2) for part in (m.q, m.k, m.v))
    return m.head(_attend(m, q, k, v).transpose(1, 2).reshape(2, 64, width).mean(1))


def _value_width(m: Net, x: Tensor) -> Tensor:
    x = _tokens(m, x)
    q, k, v = m.qkv(x).view(2, 64, 2, -1).split([m.key, m.key, m.value], dim=3)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return m.head(_attend(m, q, k, v).transpose(1, 2).reshape(2, 64, 2 * m.value).mean(1))


_PROJECTIONS = {name: of(nn.Linear, 8, 12) for name in ("q", "k", "v")}
case(
    "heads", 8 + 3, _heads,
    a=conv(3, 8), qkv=of(nn.Linear, 8, 36), norm=of(nn.Identity), head=head(12), heads=3, dim=4, inner=12,
)  # fmt: skip
case(
    "heads with normalised queries", 8 + 3, _heads,
    a=conv(3, 8), qkv=of(nn.Linear, 8, 36), norm=of(nn.LayerNorm, 4), head=head(12), heads=3, dim=4, inner=12,
)  # fmt: skip
case(
    "heads turned by position", 8 + 3, _rotated,
    a=conv(3, 8), **_PROJECTIONS, turn=lambda: torch.rand(64, 4), head=head(12), heads=3, dim=4,
)  # fmt: skip
case("heads in the batch", 8 + 3, _heads_in_batch, a=conv(3, 8), **_PROJECTIONS, head=head(12), heads=3, dim=4)
case("heads of their own width", 8 + 3, _heads_of_own_width, a=conv(3, 8), **_PROJECTIONS, head=head(12), heads=3)
case(
    "heads of the input's width", 0, _heads_of_the_inputs_width,
    a=conv(3, 12), **{name: of(nn.Linear, 12, 12) for name in ("q", "k", "v")}, head=head(12), heads=3,
)  # fmt: skip
case(
    "values of another width than keys", 8 + 3, _value_width,  # in both heads the same ones
    a=conv(3, 8), qkv=of(nn.Linear, 8, 14), head=head(6), key=2, value=3,
)  # fmt: skip
after("split by attributes", 8, lambda m, y: torch.cat([*y.relu().split([m.one, m.two], 1)], 1), one=3, two=5)
after("split by a list", 8, lambda m, y: torch.cat([*y.relu().split(m.parts, 1)], 1), parts=lambda: [3, 5])
after("split by a tuple", 8, lambda m, y: torch.cat([*y.relu().split(m.parts, 1)], 1), parts=lambda: (3, 5))
after("split by an attribute and a constant", 3, lambda m, y: torch.cat([*y.split([m.one, 5], 1)], 1), one=3)
after("split into parts of an attribute", 4, lambda m, y: sum(y.split(m.width, 1)), 4, width=4)
after("split in halves of an attribute", 8, lambda m, y: torch.cat(y.split(m.width // 2, 1)[::-1], 1), width=8)
after(
    "split in as many parts as an attribute says", 8,
    lambda m, y: torch.cat(y.split(m.width // m.count, 1)[::-1], 1), width=8, count=2,
)  # fmt: skip
after(
    "split by an attribute and the rest of another", 8,
    lambda m, y: torch.cat([*y.relu().split([m.one, m.width - m.one], 1)], 1), one=3, width=8,
)  # fmt: skip
after("slice up to an attribute", 8, lambda m, y: y[:, : m.one].relu(), 5, one=5)
after("slice from an attribute", 8, lambda m, y: y[:, m.one :].relu(), 3, one=5)
after("slice between attributes", 8, lambda m, y: y[:, m.one : m.one + m.two], 4, one=2, two=4)
after("slice of the last ones", 8, lambda m, y: y[:, -m.one :], 3, one=3)
after("slice from a constant to an attribute", 6, lambda m, y: y[:, 2 : m.one], 3, one=5)
after("narrowed by attributes", 8, lambda m, y: y.narrow(1, m.one, m.two), 4, one=2, two=4)
after("slice in half an attribute", 4, lambda m, y: y[:, : m.width // 2], 4, width=8)
after("view by an attribute", 8, lambda m, y: y.view(2, m.width, 64), width=8)
after("view by attributes", 4, lambda m, y: y.view(2, m.two, m.four, 64).sum(1), 4, two=2, four=4)
after("view by twice an attribute", 4, lambda m, y: y.view(2, 2 * m.four, 64), four=4)
after("view by a product of attributes", None, lambda m, y: y.view(2, m.two * m.four, 64), two=2, four=4)
after("compared with an attribute", 8, lambda m, y: y if y.shape[1] == m.width else y * 2, width=8)
after("attribute as a number", 0, lambda m, y: y.view(2, m.width, 64) * m.width, width=8)
after("attribute beside a size", 8, lambda m, y: y * m.width, width=8)
after("attribute in a loop", 0, lambda m, y: sum(y[:, i : i + 1] for i in range(m.width)), 1, width=8)
after(
    "attribute in new zeros", 8, lambda m, y: y + torch.zeros(2, m.width, 1, 1, dtype=y.dtype, device=y.device), width=8
)
after("attribute expanded", 8, lambda m, y: y + y.new_ones(2, 1, 1, 1).expand(-1, m.width, -1, -1), width=8)
after(
    "own grouped convolution of as many groups as channels",
    8,
    lambda m, y: F.conv2d(y, m.b.weight, padding=1, groups=m.width),
    b=conv(8, 8, groups=8),
    width=8,
)
after(
    "normalised over an attribute", None,
    lambda m, y: F.layer_norm(y.permute(0, 2, 3, 1), (m.width,)).permute(0, 3, 1, 2), width=8,
)  # fmt: skip
case(
    "one attribute for two axes", 8, lambda m, x: m.head(pool(m.a(x).view(2, m.width, 8, 8)).view(2, m.width))
    + m.other(pool(m.b(x)).view(2, m.width)),
    a=conv(3, 8), b=conv(3, 8), head=head(8), other=head(8), width=8,
)  # fmt: skip
after(
    "pairs that meet a constant",
    4,
    lambda m, y: (y.view(2, -1, 2, 64) * m.w[:, None]).flatten(1, 2),
    w=lambda: torch.rand(2),
)
case(
    "heads with interleaved turns",
    8 + 3,
    lambda m, x: m.head(
        torch.stack(
            [
                -m.q(_tokens(m, x)).view(2, 64, m.heads, -1)[..., 1::2],
                m.q(_tokens(m, x)).view(2, 64, m.heads, -1)[..., ::2],
            ],
            -1,
        )
        .flatten(2)
        .mean(1)
    ),
    a=conv(3, 8),
    q=of(nn.Linear, 8, 12),
    head=head(12),
    heads=3,
)
case(
    "heads of chunks",
    8 + 3,
    lambda m, x: m.head(
        torch.cat(m.q(_tokens(m, x)).view(2, 64, m.heads, -1).chunk(2, -1)[::-1], -1).flatten(2).mean(1)
    ),
    a=conv(3, 8),
    q=of(nn.Linear, 8, 12),
    head=head(12),
    heads=3,
)
case(
    "one of each head's channels",
    8 + 3,
    lambda m, x: m.head(m.q(_tokens(m, x)).view(2, 64, m.heads, -1)[..., 1].mean(1)),
    a=conv(3, 8),
    q=of(nn.Linear, 8, 12),
    head=head(3),
    heads=3,
)
after("softmax over paths", 4, lambda m, y: y.view(2, m.paths, -1, 8, 8).softmax(1).sum(1), 4, paths=2)
after("windows as channels", 8, lambda m, y: F.unfold(y, 3, padding=1), 72)
after("windows and back", 8, lambda m, y: F.fold(F.unfold(y, 3, padding=1).relu(), (8, 8), 3, padding=1))
after("windows along a side", 8, lambda m, y: y.unfold(2, 3, 2).sum(-1))
after("windows over channels", 0, lambda m, y: y.unfold(1, 2, 2).sum(-1), 4)
