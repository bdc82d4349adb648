"""Sums, products and parameters. In the comments: which channels go, and with which."""

import torch
import torch.nn.functional as F
from torch import nn

from rule_networks._case import after, conv, of, pool, weights

__all__: list[str] = []

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
