"""Concatenation, splitting, slicing."""

import torch
import torch.nn.functional as F

from rule_networks._case import after, case, conv, head, pool, weights

__all__: list[str] = []

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
