"""Products of activations, attention, recurrence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rule_networks._case import case, conv, head, of, pool, weights

__all__: list[str] = []

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
    "kernel from an embedding of each channel",
    5,
    lambda m, x: F.conv2d(m.a(x), m.make(m.z).t()[..., None, None]),
    a=conv(3, 8),
    z=weights(8, 5),
    make=lambda: nn.Linear(5, 4),
)
case(
    "kernel from an embedding of each channel, without bias",
    13,
    lambda m, x: F.conv2d(m.a(x), m.make(m.z).t()[..., None, None]),
    a=conv(3, 8),
    z=weights(8, 5),
    make=lambda: nn.Linear(5, 4, bias=False),
    reads={"z": 0},
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
