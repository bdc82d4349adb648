"""Norms, reductions, pooling."""

import torch
import torch.nn.functional as F
from torch import nn

from rule_networks._case import after, case, conv, head, image, of, weights

__all__: list[str] = []

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
after("unpooled", 8, lambda m, y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2))
after(
    "unpooled to another layer's places",
    16,
    lambda m, y: (parts := F.max_pool2d(m.b(y), 2, return_indices=True), F.max_unpool2d(m.c(parts[0]), parts[1], 2))[1],
    b=conv(8, 8),
    c=conv(8, 8),
)
after(
    "unpooled to places of the input",
    0,
    lambda m, y: F.max_unpool2d(
        m.pool(y), F.max_pool2d(torch.ones(2, 8, 8, 8), 2, return_indices=True)[1].to(y.device), 2
    ),
    pool=of(nn.MaxPool2d, 2),
)
case(
    "unpooled 1d",
    8,
    lambda m, x: m.head(F.max_unpool1d(*F.max_pool1d(m.a(x), 2, return_indices=True), 2).mean(2)),
    a=of(nn.Conv1d, 3, 8, 1),
    head=head(8),
    example=image(3, 16),
)
case(
    "unpooled 3d",
    8,
    lambda m, x: m.head(F.max_unpool3d(*F.max_pool3d(m.a(x), 2, return_indices=True), 2).mean((2, 3, 4))),
    a=of(nn.Conv3d, 3, 8, 1),
    head=head(8),
    example=image(3, 4, 4, 4),
)
case(
    "unpooling over channels",
    0,
    lambda m, x: m.head(F.max_unpool2d(*F.max_pool2d(m.a(x), (2, 1), return_indices=True), (2, 1)).mean(2)),
    a=of(nn.Conv1d, 3, 8, 1),
    head=head(8),
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
