"""Small networks, a few lines each, one for every way in which channels meet. Used by test_tracing_rules.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

__all__ = ["CASES", "Case", "Net", "conv"]


class Net(nn.Module):
    """A module from its parts and its forward: tensors become buffers, all else is set as it is."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@dataclass(frozen=True)
class Case:
    """A network and what is known of it.

    Attributes:
        build: makes the network.
        removable: how many classes can be removed exactly, worked out by hand; None where that is not settled.
        example: what it is called with.
        reads: parameters that read a channel axis in another way than layers do: ``{name: axis or axes}``.
    """

    build: Callable[[], nn.Module]
    removable: int | None
    example: Any
    reads: Mapping[str, int | tuple[int, ...]]


CASES: dict[str, Case] = {}


def image(channels: int = 3, *size: int) -> Tensor:
    return torch.rand(2, channels, *(size or (8, 8)), generator=torch.Generator().manual_seed(7))


def case(
    name: str, removable: int | None, run: Callable[..., Any], *, example: Any = None, reads: Any = None, **parts: Any
) -> None:
    """Add a network. Parts are given as functions, so that every test builds its own."""
    assert name not in CASES
    CASES[name] = Case(
        lambda: Net(run, **{key: part() if callable(part) else part for key, part in parts.items()}),
        removable,
        image() if example is None else example,
        reads or {},
    )


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def of(kind: type[nn.Module], *args: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(*args, **options)


def weights(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(shape))


def head(channels: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(channels, 5)


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def after(name: str, removable: int | None, step: Callable[..., Tensor], channels: int = 8, **parts: Any) -> None:
    """A convolution to 8 channels, a step, and a linear layer that reads ``channels`` of its result."""
    options = {key: parts.pop(key) for key in ("example", "reads") if key in parts}
    case(
        name,
        removable,
        lambda m, x: m.head(step(m, m.a(x)).flatten(2).mean(2)),
        a=conv(3, 8),
        **parts,
        head=head(channels),
        **options,
    )


# Sums, products and parameters. In the comments: which channels go, and with which.

after("plain", 8, lambda m, y: y.relu())
after("batch norm", 8, lambda m, y: m.bn(y), bn=of(nn.BatchNorm2d, 8))
after("batch norm without scale", 8, lambda m, y: m.bn(y), bn=of(nn.BatchNorm2d, 8, affine=False))
after("batch norm without statistics", 8, lambda m, y: m.bn(y), bn=of(nn.BatchNorm2d, 8, track_running_stats=False))
after("residual sum", 8, lambda m, y: y + m.b(y.relu()), b=conv(8, 8))
after("residual in place", 8, lambda m, y: m.b(y.relu()).add_(y), b=conv(8, 8))
after("two residuals", 8, lambda m, y: (z := y + m.b(y)) + m.c(z), b=conv(8, 8), c=conv(8, 8))
after("residual with projection", 14, lambda m, y: m.b(y) + m.c(y), 6, b=conv(8, 6), c=conv(8, 6, 1))
after("broadcast bias", 8, lambda m, y: y + m.shift, shift=weights(8, 1, 1))
after("bias of size one", 8, lambda m, y: y + m.shift, shift=weights(1))
after("layer scale", 8, lambda m, y: y * m.scale, scale=weights(1, 8, 1, 1))
after("position embedding", 8, lambda m, y: y + m.position, position=weights(1, 8, 8, 8))
after(
    "position embedding of tokens",
    8,
    lambda m, y: (y.flatten(2).transpose(1, 2) + m.position).transpose(1, 2),
    position=weights(1, 64, 8),
)
after("prelu per channel", 8, lambda m, y: m.act(y), act=of(nn.PReLU, 8))
after("prelu with one slope", 8, lambda m, y: m.act(y), act=of(nn.PReLU))
after("sum with a constant map", 0, lambda m, y: y + torch.ones(8, 1, 1, dtype=y.dtype, device=y.device))
after("sum with the input", 3, lambda m, y: y + F.pad(m.stem, (0, 0, 0, 0, 0, 5)), stem=lambda: torch.ones(1, 3, 8, 8))
after("product of two branches", 8, lambda m, y: y * m.b(y).sigmoid(), b=conv(8, 8))
after("where", 8, lambda m, y: torch.where(y > 0, y, m.b(y)), b=conv(8, 8))
after("masked fill", 8, lambda m, y: y.masked_fill(y < 0.1, 2.0))
after("masked fill by a spatial mask", 8, lambda m, y: y.masked_fill(torch.eye(8, device=y.device) > 0, 2.0))
after("lerp and clamp", 8, lambda m, y: torch.lerp(y, m.b(y).clamp(-1, 1), 0.3), b=conv(8, 8))
after("addcmul", 8, lambda m, y: torch.addcmul(y, m.b(y), y, value=0.5), b=conv(8, 8))
after(
    "squeeze and excite",
    12,
    lambda m, y: y * m.up(m.down(pool(y)).relu()).sigmoid().view(y.shape[0], y.shape[1], 1, 1),
    down=of(nn.Linear, 8, 4),
    up=of(nn.Linear, 4, 8),
)
after(
    "squeeze and excite by convolution",
    12,
    lambda m, y: y * m.up(m.down(F.adaptive_avg_pool2d(y, 1)).relu()),
    down=conv(8, 4, 1),
    up=conv(4, 8, 1),
)
after(
    "squeeze and excite by size()",
    12,
    lambda m, y: y * m.up(m.down(pool(y))).view(y.size(0), y.size(1), 1, 1).expand_as(y),
    down=of(nn.Linear, 8, 4),
    up=of(nn.Linear, 4, 8),
)
after(
    "efficient channel attention",
    None,
    lambda m, y: y * m.mix(pool(y).unsqueeze(1)).sigmoid().view(y.shape[0], y.shape[1], 1, 1),
    mix=of(nn.Conv1d, 1, 1, 3, padding=1),
)
after(
    "spatial attention",
    None,
    lambda m, y: y * m.mix(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid(),
    mix=conv(2, 1),
)
after(
    "map expanded to the channels",
    11,
    lambda m, y: y * m.mix(m.stem).sigmoid().expand_as(y),
    stem=lambda: torch.ones(1, 3, 8, 8),
    mix=conv(3, 1),
)

# Concatenation, splitting, slicing.

case(
    "dense block",
    14,
    lambda m, x: m.head(pool(torch.cat([x, y := m.a(x), z := m.b(y), m.c(torch.cat([y, z], 1))], 1))),
    a=conv(3, 4),
    b=conv(4, 4),
    c=conv(8, 6),
    head=head(17),
)
case(
    "concatenation along the batch",
    8,
    lambda m, x: m.head(pool(torch.cat([m.a(x), m.b(x)]))),
    a=conv(3, 8),
    b=conv(3, 8),
    head=head(8),
)
case(
    "stack and sum",
    8,
    lambda m, x: m.head(pool(torch.stack([m.a(x), m.b(x)]).sum(0))),
    a=conv(3, 8),
    b=conv(3, 8),
    head=head(8),
)
case(
    "stack and reshape",
    8,
    lambda m, x: m.head(pool(torch.stack([m.a(x), m.b(x)], 1).flatten(1, 2))),
    a=conv(3, 8),
    b=conv(3, 8),
    head=head(16),
)
case(
    "selective kernel",
    8,
    lambda m, x: m.head(pool((torch.stack([m.a(x), m.b(x)], 1) * m.mix.softmax(1)).sum(1))),
    a=conv(3, 8),
    b=conv(3, 8),
    mix=weights(1, 2, 8, 1, 1),
    head=head(8),
)
after("concatenation with itself", 8, lambda m, y: torch.cat([y, -y], 1), 16)
after("concatenation with zeros like it", 8, lambda m, y: torch.cat([y, torch.zeros_like(y)], 1), 16)
after(
    "concatenation with new zeros of its size",
    8,
    lambda m, y: torch.cat([y, y.new_zeros(y.shape[0], y.shape[1], 8, 8)], 1),
    16,
)
after(
    "concatenation with zeros of its shape",
    8,
    lambda m, y: torch.cat([y, torch.zeros(y.shape, dtype=y.dtype, device=y.device)], 1),
    16,
)
after(
    "concatenation with a map expanded to it",
    8,
    lambda m, y: torch.cat([y, m.map.expand_as(y)], 1),
    16,
    map=weights(1, 1, 8, 8),
)
after(
    "concatenation with a map expanded to its size",
    8,
    lambda m, y: torch.cat([y, m.map.expand(-1, y.shape[1], -1, -1).repeat(2, 1, 1, 1)], 1),
    16,
    map=weights(1, 1, 8, 8),
)
after(
    "concatenation with a map broadcast to it",
    None,
    lambda m, y: torch.cat([y, torch.broadcast_tensors(m.map, y)[0]], 1),
    16,
    map=weights(1, 1, 8, 8),
)
after(
    "concatenation with a map broadcast to its shape",
    None,
    lambda m, y: torch.cat([y, torch.broadcast_to(m.map, y.shape)], 1),
    16,
    map=weights(1, 1, 8, 8),
)
after(
    "concatenation with a map repeated",
    None,
    lambda m, y: torch.cat([y, m.map.repeat(2, y.shape[1], 1, 1)], 1),
    16,
    map=weights(1, 1, 8, 8),
)
after(
    "chunk to two readers",
    13,
    lambda m, y: m.b(y.chunk(2, 1)[0]) + m.c(y.chunk(2, 1)[1]),
    5,
    b=conv(4, 5),
    c=conv(4, 5),
)
after("chunk then swapped", 8, lambda m, y: torch.cat(y.chunk(2, 1)[::-1], 1))
after("chunk then product", 4, lambda m, y: torch.mul(*y.chunk(2, 1)), 4)
after("chunk in three unequal parts", 0, lambda m, y: torch.cat(y.chunk(3, 1)[::-1], 1))
after("split in constant sizes", 0, lambda m, y: torch.cat(y.split([3, 5], 1)[::-1], 1))
after("split in constant halves", 0, lambda m, y: torch.cat(y.split(4, 1)[::-1], 1))
after("split in halves of its size", 8, lambda m, y: torch.cat(y.split(y.shape[1] // 2, 1)[::-1], 1))
after(
    "split as it was concatenated",
    8,
    lambda m, y: (z := m.b(y), torch.add(*torch.cat([z, y], 1).split([z.shape[1], y.shape[1]], 1)))[1],
    b=conv(8, 8),
)
after(
    "split unequally as it was concatenated",
    14,
    lambda m, y: (z := m.b(y), torch.cat([y, z], 1).split([y.shape[1], z.shape[1]], 1)[1])[1],
    6,
    b=conv(8, 6),
)
after(
    "split in halves of another's size",
    None,
    lambda m, y: torch.cat(y.split(m.b(y).shape[1], 1)[::-1], 1),
    b=conv(8, 4),
)
after("slice with constants", 0, lambda m, y: y[:, :4] * y[:, 4:], 4)
after("slice that takes everything", 8, lambda m, y: y[:, :8])
after("narrow that takes everything", 0, lambda m, y: y.narrow(1, 0, 8))
after("torch.narrow that takes everything", 0, lambda m, y: torch.narrow(y, 1, 0, 8))
after("narrow by its own size", None, lambda m, y: y.narrow(1, 0, y.shape[1]))
after("slice at half of its size", None, lambda m, y: y[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :], 4)
after("split with gaps", 0, lambda m, y: y[:, ::2], 4)
after("tensor_split", 0, lambda m, y: y.tensor_split(2, 1)[1], 4)
after("unbind", 0, lambda m, y: torch.stack(y.unbind(1)[:3], 1), 3)
after("one channel", 0, lambda m, y: y[:, 2:3] * y[:, 1].unsqueeze(1), 1)
after("slice of space", 8, lambda m, y: y[:, :, 1:5, ::2])
after("index by a constant list", 0, lambda m, y: y[:, [1, 0, 3, 2, 5, 4, 7, 6]])
after("index by a buffer", 0, lambda m, y: y[:, m.order], order=lambda: torch.arange(8).flip(0))
after("index of space", 8, lambda m, y: y[:, :, m.order], order=lambda: torch.arange(8).flip(0))
after(
    "index of two dimensions of space", 8, lambda m, y: y[:, :, m.order, m.order], order=lambda: torch.arange(8).flip(0)
)
after("index select of space", 8, lambda m, y: y.index_select(2, m.order), order=lambda: torch.arange(8).flip(0))
after("index by the channel's mask", 0, lambda m, y: y[:, m.mask], 4, mask=lambda: torch.arange(8) % 2 > 0)
after(
    "buffer indexed by channel",
    None,
    lambda m, y: y * m.table[torch.arange(8, device=y.device)].view(1, 8, 1, 1),
    table=lambda: torch.rand(8),
)
after(
    "buffer indexed by as many channels",
    None,
    lambda m, y: y * m.table[: y.shape[1]].view(1, -1, 1, 1),
    table=lambda: torch.rand(8),
)
after(
    "larger buffer cut to its size",
    None,
    lambda m, y: y * m.table[: y.shape[1]].view(1, -1, 1, 1),
    table=lambda: torch.rand(20),
)
after("gather", None, lambda m, y: y.gather(2, y.argsort(2)))
after("flip", 0, lambda m, y: y.flip(1))
after("flip of space", 8, lambda m, y: y.flip(2, 3))
after("roll", 0, lambda m, y: y.roll(3, 1))
after("roll of space", 8, lambda m, y: y.roll((1, 2), (2, 3)))
after("roll of everything", 0, lambda m, y: y.roll(3))
after("cumsum", 0, lambda m, y: y.cumsum(1))
after("cumsum of space", 8, lambda m, y: y.cumsum(2))
after("sort over channels", 0, lambda m, y: y.sort(1).values)
after("top of the channels", 0, lambda m, y: y.topk(3, 1).values, 3)
after("zero-padded shortcut", 8, lambda m, y: m.b(y) + F.pad(y, (0, 0, 0, 0, 2, 2)), 12, b=conv(8, 12))
after(
    "zero-padded shortcut from shapes",
    8,
    lambda m, y: (z := m.b(y)) + F.pad(y, (0, 0, 0, 0, 0, z.shape[1] - y.shape[1])),
    12,
    b=conv(8, 12),
)
after(
    "padded by half its size",
    None,
    lambda m, y: m.b(y) + F.pad(y, (0, 0, 0, 0, y.shape[1] // 4, y.shape[1] // 4)),
    12,
    b=conv(8, 12),
)
after("padded with ones", 13, lambda m, y: m.b(F.pad(y, (0, 0, 0, 0, 0, 2), value=1.0)), 5, b=conv(10, 5))
after("channels cropped by padding", 0, lambda m, y: F.pad(y, (0, 0, 0, 0, -2, 0)), 6)
after("space padded", 8, lambda m, y: F.pad(F.pad(y, (1, 1, 1, 1), mode="reflect"), (1, 1, 0, 0), mode="replicate"))
after("space padded in a circle", 8, lambda m, y: F.pad(y, (1, 1, 1, 1), mode="circular"))
after("repeat", 8, lambda m, y: y.repeat(1, 2, 1, 1), 16)
after("repeat interleaved", None, lambda m, y: y.repeat_interleave(2, 1), 16)
after("expanded copies", 8, lambda m, y: y.unsqueeze(1).expand(-1, 3, -1, -1, -1).flatten(1, 2), 24)

# Shapes.

after("view with constants", 0, lambda m, y: y.view(-1, 8, 64))
after("view from its shape", 8, lambda m, y: y.view(y.shape[0], y.shape[1], -1))
after("view from int() of its shape", None, lambda m, y: y.view(int(y.shape[0]), int(y.shape[1]), -1))
after("view with everything else", 8, lambda m, y: y.view(y.size(0), -1, 64))
after("view as pairs", 4, lambda m, y: y.view(y.shape[0], 2, -1, 8, 8).sum(1), 4)
after("view as pairs side by side", 4, lambda m, y: y.view(y.shape[0], -1, 2, 8, 8).sum(2), 4)
after("view as pairs of a given size", 4, lambda m, y: y.view(y.shape[0], y.shape[1] // 2, 2, 8, 8).sum(2), 4)
after("view by another's size", None, lambda m, y: y.view(2, m.b(y).shape[1], 2, 8, 8).sum(2), 4, b=conv(8, 4))
after("view by NumPy's product", 0, lambda m, y: y.view(y.shape[0], np.prod(y.shape[1:2]), -1))
after("view by a NumPy integer", 0, lambda m, y: y.view(-1, np.int64(8), 64))
after("view as another type", 8, lambda m, y: y + y.view(torch.int64).view(y.dtype))
after("chunks of a number that is a size", 0, lambda m, y: torch.cat(y.chunk(y.shape[1] // 2, 1)[::-1], 1))
after("view by its attribute", 8, lambda m, y: y.view(-1, m.a.out_channels, 64))
after("view that swaps sizes", None, lambda m, y: y.view(y.shape[0], y.shape[2], y.shape[1], 8))
after("view of channels into space", None, lambda m, y: y.flatten(2).view(y.shape[0], 16, -1), 16)
after("reshape by a list", 8, lambda m, y: torch.reshape(y, [y.shape[0], y.shape[1], 64]))
after("reshape as another", 8, lambda m, y: m.b(y).flatten(2).reshape_as(y) + y, b=conv(8, 8))
after("view as another of another group", None, lambda m, y: y.view_as(m.b(y)).relu(), b=conv(8, 8))
after("unflatten", 4, lambda m, y: y.unflatten(1, (2, -1)).mean(1), 4)
after("unflatten by a layer", None, lambda m, y: m.u(y).mean(1), 4, u=of(nn.Unflatten, 1, (2, 4)))
after("squeeze", 8, lambda m, y: F.adaptive_avg_pool2d(y, 1).squeeze(-1).squeeze(-1).unsqueeze(2))
after("movedim", 8, lambda m, y: y.movedim(1, -1).movedim(3, 1))
after("permute and linear", 14, lambda m, y: m.b(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 6, b=of(nn.Linear, 8, 6))
after("channels swapped with space", None, lambda m, y: m.b(y.transpose(1, 2)), 6, b=conv(8, 6))
after(
    "channel shuffle",
    4,
    lambda m, y: y.view(y.shape[0], 2, y.shape[1] // 2, 8, 8).transpose(1, 2).reshape(y.shape[0], -1, 8, 8),
)
after("channel shuffle by a layer", 4, lambda m, y: m.mix(y), mix=of(nn.ChannelShuffle, 2))
after("pixel shuffle", 2, lambda m, y: F.pixel_shuffle(y, 2), 2)
after("pixel unshuffle", 8, lambda m, y: F.pixel_unshuffle(y, 2), 32)
after(
    "space to depth by views",
    8,
    lambda m, y: y.view(y.shape[0], y.shape[1], 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(y.shape[0], -1, 4, 4),
    32,
)
after(
    "windows",
    14,
    lambda m, y: (
        m.b(y.permute(0, 2, 3, 1).view(2, 2, 4, 2, 4, -1).transpose(2, 3).flatten(0, 2).flatten(1, 2))
        .view(2, 2, 2, 4, 4, -1)
        .transpose(2, 3)
        .reshape(2, 8, 8, -1)
        .permute(0, 3, 1, 2)
    ),
    6,
    b=of(nn.Linear, 8, 6),
)
after("unfold", None, lambda m, y: F.unfold(y, 3, padding=1), 72)
after("sliding windows", None, lambda m, y: y.unfold(2, 3, 1).flatten(3))
after("fold", None, lambda m, y: F.fold(m.b(y).flatten(2), (9, 9), 2), 8, b=conv(8, 32))
after("as_strided", None, lambda m, y: y.contiguous().as_strided((2, 8, 8), (512, 64, 1)))
case("flatten and linear", 8, lambda m, x: m.head(m.a(x).flatten(1)), a=conv(3, 8), head=head(512))
case("flatten by view", 8, lambda m, x: m.head((y := m.a(x)).view(y.size(0), -1)), a=conv(3, 8), head=head(512))
case(
    "flatten by shape arithmetic",
    8,
    lambda m, x: m.head((y := m.a(x)).view(-1, y.shape[1] * y.shape[2] * y.shape[3])),
    a=conv(3, 8),
    head=head(512),
)
case("flatten with constants", 0, lambda m, x: m.head(m.a(x).view(-1, 512)), a=conv(3, 8), head=head(512))
case(
    "flatten channels last", 8, lambda m, x: m.head(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 8), head=head(512)
)
case(
    "flatten of two",
    14,
    lambda m, x: m.head(torch.cat([m.a(x).flatten(1), m.b(x).flatten(1)], 1)),
    a=conv(3, 8),
    b=conv(3, 6),
    head=head(896),
)

# Kinds of convolution.

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
after("transposed convolution, depthwise", None, lambda m, y: m.b(y), 8, b=of(nn.ConvTranspose2d, 8, 8, 2, 2, groups=8))
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

# Norms, reductions, pooling.

after("instance norm", 8, lambda m, y: m.n(y), n=of(nn.InstanceNorm2d, 8, affine=True))
after("instance norm without scale", 8, lambda m, y: m.n(y), n=of(nn.InstanceNorm2d, 8))
after(
    "instance norm with statistics",
    8,
    lambda m, y: m.n(y),
    n=of(nn.InstanceNorm2d, 8, affine=True, track_running_stats=True),
)
after("group norm", 0, lambda m, y: m.n(y), n=of(nn.GroupNorm, 4, 8))
after("layer norm", 0, lambda m, y: m.n(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=of(nn.LayerNorm, 8))
after("layer norm of space", 8, lambda m, y: m.n(y), n=of(nn.LayerNorm, (8, 8)))
after("layer norm of everything", 0, lambda m, y: m.n(y), n=of(nn.LayerNorm, (8, 8, 8)))
after("rms norm", 0, lambda m, y: m.n(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=of(nn.RMSNorm, 8))
after("local response norm", 0, lambda m, y: m.n(y), n=of(nn.LocalResponseNorm, 3))
after("normalised vectors", 0, lambda m, y: F.normalize(y, dim=1))
after("normalised over space", 8, lambda m, y: F.normalize(y.flatten(2), dim=2))
after("softmax over channels", 0, lambda m, y: y.softmax(1))
after("softmax over space", 8, lambda m, y: y.flatten(2).softmax(2))
after("mean over channels", 0, lambda m, y: y.mean(1, keepdim=True), 1)
after("mean over channels gates them", 0, lambda m, y: y * y.mean(1, keepdim=True))
after(
    "sum over channels weighted by a parameter",
    None,
    lambda m, y: (y * m.w).sum(1, keepdim=True),
    1,
    w=weights(8, 1, 1),
)
after(
    "standardised by hand",
    8,
    lambda m, y: (y - y.mean((0, 2, 3), True)) / (y.var((0, 2, 3), keepdim=True) + 1e-5).sqrt(),
)
after("divided by its number of channels", 0, lambda m, y: y / y.shape[1])
after("scaled by a power of its size", 0, lambda m, y: y * y.size(1) ** -0.5)
after("divided by its number of elements", 0, lambda m, y: y / y.numel())
after("mean by len", 0, lambda m, y: y / len(y[0]))
after("scale filled with its size", None, lambda m, y: y + torch.full((1,), y.shape[1], device=y.device))
after("branch on its size", 0, lambda m, y: y * 2 if y.shape[1] == 8 else y)
after("branch on a larger size", 0, lambda m, y: y * 2 if y.shape[1] > 6 else y)
after("assertion on its size", None, lambda m, y: y if y.shape[1] == m.a.out_channels else y.new_zeros(()) / 0)
after(
    "shortcut only where sizes agree",
    None,
    lambda m, y: (z := m.b(y), z + y if z.shape[1] == y.shape[1] else z)[1],
    6,
    b=conv(8, 6),
)
after("encoding by channel number", None, lambda m, y: y + torch.arange(y.shape[1], device=y.device).view(1, -1, 1, 1))
after("encoding by position", 8, lambda m, y: y + torch.arange(y.shape[3], device=y.device))
for _name, _pool in {
    "max pool": nn.MaxPool2d(2),
    "average pool": nn.AvgPool2d(3, 1, 1),
    "adaptive average pool": nn.AdaptiveAvgPool2d(3),
    "adaptive average pool to one": nn.AdaptiveAvgPool2d(1),
    "adaptive max pool": nn.AdaptiveMaxPool2d(3),
    "lp pool": nn.LPPool2d(2, 2),
    "nearest": nn.Upsample(scale_factor=2),
    "upsample bilinear": nn.Upsample((5, 7), mode="bilinear"),
    "upsample bicubic": nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "nearest exact": nn.Upsample((5, 7), mode="nearest-exact"),
    "dropout": nn.Dropout(),
    "channel dropout": nn.Dropout2d(),
    "alpha dropout": nn.AlphaDropout(),
}.items():
    after(_name, 8, lambda m, y: m.layer(y), layer=lambda layer=_pool: layer)
for _name, _pool in {
    "max pool 3d": nn.MaxPool3d(2),
    "average pool 3d": nn.AvgPool3d(2),
    "adaptive average pool 3d": nn.AdaptiveAvgPool3d(2),
    "adaptive max pool 3d": nn.AdaptiveMaxPool3d(2),
    "trilinear": nn.Upsample(scale_factor=2, mode="trilinear"),
    "nearest 3d": nn.Upsample(scale_factor=2),
    "channel dropout 3d": nn.Dropout3d(),
    "replication pad 3d": nn.ReplicationPad3d(1),
}.items():
    case(
        _name,
        8,
        lambda m, x: m.head(m.layer(m.a(x)).mean((2, 3, 4))),
        a=of(nn.Conv3d, 3, 8, 1),
        head=head(8),
        layer=lambda layer=_pool: layer,
        example=image(3, 4, 4, 4),
    )
for _name, _pool in {
    "linear upsampling": nn.Upsample(scale_factor=2, mode="linear"),
    "max pool 1d": nn.MaxPool1d(2),
    "adaptive max pool 1d": nn.AdaptiveMaxPool1d(3),
    "adaptive average pool 1d": nn.AdaptiveAvgPool1d(3),
    "nearest 1d": nn.Upsample(scale_factor=2),
    "reflection pad 1d": nn.ReflectionPad1d(1),
    "channel dropout 1d": nn.Dropout1d(),
}.items():
    case(
        _name,
        8,
        lambda m, x: m.head(m.layer(m.a(x)).mean(2)),
        a=of(nn.Conv1d, 3, 8, 1),
        head=head(8),
        layer=lambda layer=_pool: layer,
        example=image(3, 16),
    )
case(
    "pooling over channels",
    None,
    lambda m, x: m.head(F.max_pool2d(m.a(x), (2, 1)).mean(2)),
    a=of(nn.Conv1d, 3, 8, 1),
    head=head(4),
    example=image(3, 16),
)
case(
    "resizing channels",
    None,
    lambda m, x: m.head(F.interpolate(m.a(x).unsqueeze(1), (4, 16)).squeeze(1).mean(2)),
    a=of(nn.Conv1d, 3, 8, 1),
    head=head(4),
    example=image(3, 16),
)
case(
    "adaptive pooling over channels",
    None,
    lambda m, x: m.head(F.adaptive_avg_pool2d(m.a(x), (4, 1)).flatten(1)),
    a=of(nn.Conv1d, 3, 8, 1),
    head=head(4),
    example=image(3, 16),
)
after("maxout", 4, lambda m, y: y.view(y.shape[0], 2, -1, 8, 8).amax(1), 4)
after("max over channels with indices", 0, lambda m, y: y.max(1, keepdim=True).values, 1)
after("glu", 4, lambda m, y: F.glu(y, 1), 4)
after("swiglu by chunks", 4, lambda m, y: (p := y.chunk(2, 1), F.silu(p[0]) * p[1])[1], 4)
after("gelu, silu, mish, hardswish, elu", 8, lambda m, y: F.elu(F.hardswish(F.mish(F.silu(F.gelu(y))))))
after(
    "softplus, hardtanh, leaky relu, relu6, threshold",
    8,
    lambda m, y: F.threshold(F.relu6(F.leaky_relu(F.hardtanh(F.softplus(y)))), 0.1, 0.2),
)
after("randomised relu", 8, lambda m, y: F.rrelu(y, training=m.training))
after(
    "stochastic depth",
    8,
    lambda m, y: y + (m.b(y) * y.new_empty((y.shape[0], 1, 1, 1)).bernoulli_(0.5) if m.training else m.b(y)),
    b=conv(8, 8),
)
after(
    "grid sample",
    8,
    lambda m, y: F.grid_sample(y, torch.zeros(2, 4, 4, 2, dtype=y.dtype, device=y.device), align_corners=False),
)

# Products of activations, attention, recurrence.

case(
    "attention over positions",
    6,
    lambda m, x: m.head(
        (m.v(x).flatten(2) @ (m.q(x).flatten(2).transpose(1, 2) @ m.k(x).flatten(2)).softmax(1)).mean(2)
    ),
    q=conv(3, 8),
    k=conv(3, 8),
    v=conv(3, 6),
    head=head(6),
)
case(
    "attention by einsum",
    6,
    lambda m, x: m.head(
        torch.einsum(
            "bcn,bnm->bcm", m.v(x).flatten(2), torch.einsum("bcn,bcm->bnm", m.q(x).flatten(2), m.k(x).flatten(2))
        ).mean(2)
    ),
    q=conv(3, 8),
    k=conv(3, 8),
    v=conv(3, 6),
    head=head(6),
)
case(
    "attention over channels",
    None,
    lambda m, x: m.head(((m.q(x).flatten(2) @ m.k(x).flatten(2).transpose(1, 2)) @ m.v(x).flatten(2)).mean(2)),
    q=conv(3, 8),
    k=conv(3, 6),
    v=conv(3, 6),
    head=head(8),
)
case(
    "scaled dot product attention",
    None,
    lambda m, x: m.head(F.scaled_dot_product_attention(*(f(x).flatten(2).mT for f in (m.q, m.k, m.v))).mean(1)),
    q=conv(3, 8),
    k=conv(3, 8),
    v=conv(3, 6),
    head=head(6),
)
case(
    "linear by einsum",
    14,
    lambda m, x: m.head(torch.einsum("bchw,dc->bd", m.a(x), m.w)),
    a=conv(3, 8),
    w=weights(6, 8),
    head=head(6),
)
case(
    "linear by matmul",
    14,
    lambda m, x: m.head(pool(m.a(x)) @ m.w),
    a=conv(3, 8),
    w=weights(8, 6),
    head=head(6),
    reads={"w": 0},
)
case(
    "linear on tokens",
    14,
    lambda m, x: m.head(m.b(m.a(x).flatten(2).mT).mean(1)),
    a=conv(3, 8),
    b=of(nn.Linear, 8, 6),
    head=head(6),
)
case(
    "product with a vector",
    None,
    lambda m, x: m.head((pool(m.a(x)) @ m.w).unsqueeze(1)),
    a=conv(3, 8),
    w=weights(8),
    head=head(1),
    reads={"w": 0},
)
case(
    "outer product",
    0,
    lambda m, x: m.head((pool(m.a(x)).unsqueeze(2) * pool(m.b(x)).unsqueeze(1)).flatten(1)),
    a=conv(3, 8),
    b=conv(3, 6),
    head=head(48),
)
case(
    "bilinear pooling",
    None,
    lambda m, x: m.head((m.a(x).flatten(2) @ m.b(x).flatten(2).mT).flatten(1)),
    a=conv(3, 8),
    b=conv(3, 6),
    head=head(48),
)
case(
    "masked product of activations",
    None,
    lambda m, x: m.head(((m.a(x) * m.g).flatten(2).mT @ m.b(x).flatten(2)).mean(1)),
    a=conv(3, 8),
    b=conv(3, 8),
    g=weights(8, 1, 1),
    head=head(64),
    reads={"g": 0},
)
case(
    "multi-head attention",
    8,
    lambda m, x: m.head(m.b(*[m.a(x).flatten(2).mT] * 3)[0].mean(1)),
    a=conv(3, 8),
    b=of(nn.MultiheadAttention, 8, 2, batch_first=True),
    head=head(8),
)
case(
    "cross attention",
    None,
    lambda m, x: m.head(m.b(m.q(x).flatten(2).mT, (k := m.a(x).flatten(2).mT), k, need_weights=False)[0].mean(1)),
    q=conv(3, 8),
    a=conv(3, 6),
    b=of(nn.MultiheadAttention, 8, 2, batch_first=True, kdim=6, vdim=6),
    head=head(8),
)
case(
    "transformer encoder layer",
    None,
    lambda m, x: m.head(m.b(m.a(x).flatten(2).mT).mean(1)),
    a=conv(3, 8),
    b=of(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True),
    head=head(8),
)
case(
    "transformer",
    None,
    lambda m, x: m.head(m.b(*[m.a(x).flatten(2).mT] * 2).mean(1)),
    a=conv(3, 8),
    b=of(nn.Transformer, 8, 2, 1, 1, 16, batch_first=True),
    head=head(8),
)


class Attention(nn.Module):
    """Self-attention as timm writes it: the heads' width follows from the input's, or is an attribute."""

    def __init__(self, dim: int, heads: int, from_shape: bool, own: int | None = None) -> None:
        super().__init__()
        self.heads, self.width, self.from_shape = heads, (own or dim) // heads, from_shape
        self.qkv, self.proj = nn.Linear(dim, 3 * (own or dim)), nn.Linear(own or dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        width = c // self.heads if self.from_shape else self.width
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        out = ((q * width**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, c if self.from_shape else -1))


for _name, _attention in {"by shape": (8, 2, True), "by attribute": (8, 2, False), "wider": (8, 2, False, 12)}.items():
    case(
        f"attention {_name}",
        None,
        lambda m, x: m.head(m.b(m.a(x).flatten(2).mT).mean(1)),
        a=conv(3, 8),
        b=of(Attention, *_attention),
        head=head(8),
    )
case(
    "lstm",
    8 + 6,
    lambda m, x: m.head(m.b(m.a(x).flatten(2).mT)[0].mean(1)),
    a=conv(3, 8),
    b=of(nn.LSTM, 8, 6, batch_first=True),
    head=head(6),
)
case(
    "gru of two layers",
    8 + 6,  # both layers and both directions together
    lambda m, x: m.head(m.b(m.a(x).flatten(2).mT)[1][0]),
    a=conv(3, 8),
    b=of(nn.GRU, 8, 6, 2, batch_first=True, bidirectional=True),
    head=head(6),
)
case("lstm cell", 8 + 6, lambda m, x: m.head(m.b(pool(m.a(x)))[0]), a=conv(3, 8), b=of(nn.LSTMCell, 8, 6), head=head(6))
case(
    "embedding",
    None,
    lambda m, x: m.head(m.b(m.e(x)).mean(1)),
    e=of(nn.Embedding, 9, 8),
    b=of(nn.Linear, 8, 6),
    head=head(6),
    example=torch.arange(8).view(2, 4),
)

# Operations without a rule, writes, and tensors that leave torch.

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

# What is called, and what comes out.

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


# Integers among the attributes that are sizes.


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
