"""Views, permutations and other changes of shape."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rule_networks._case import after, case, conv, head, of

__all__: list[str] = []

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
after("channel shuffle of a volume", 4, lambda m, y: F.channel_shuffle(y.unsqueeze(3), 2).squeeze(3))
after("channel shuffle of a sequence", 4, lambda m, y: F.channel_shuffle(y.flatten(2), 2))
after("channels shifted by a pad", 0, lambda m, y: F.pad(y, (0, 0, 0, 0, 1, -1)))
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
