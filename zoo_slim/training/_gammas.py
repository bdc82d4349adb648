"""How the BatchNorm scales are distributed, and a picture of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._files import replacing_file

__all__ = ["draw_histograms", "gamma_statistics"]

SMALL = 1e-2
_LOWEST, _HIGHEST, _PER_DECADE = -6, 1, 8
_BINS = (_HIGHEST - _LOWEST) * _PER_DECADE


def gamma_statistics(model: nn.Module) -> dict[str, Any]:
    """Describe |gamma| over all BatchNorms of ``model``.

    Returns:
        ``zero_gammas``, ``small_gammas``: the fractions that are exactly 0, and below 1e-2. ``gamma_histogram``: first
        how many are exactly 0, then counts in bins of an eighth of a decade from 1e-6 to 10; what lies outside is in
        the first or last of these. Empty for a model without BatchNorm scales.
    """
    scales: list[Tensor] = [
        module.weight.detach().abs().flatten()
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    ]
    if not scales:
        return {}
    gammas = torch.cat(scales).float().cpu()
    zero = gammas == 0
    places = ((gammas[~zero].log10() - _LOWEST) * _PER_DECADE).floor().clamp(0, _BINS - 1)
    counts = torch.bincount(places.long(), minlength=_BINS)
    return {
        "zero_gammas": round(float(zero.double().mean()), 6),
        "small_gammas": round(float((gammas < SMALL).double().mean()), 6),
        "gamma_histogram": [int(zero.sum()), *map(int, counts)],
    }


def draw_histograms(history: Sequence[dict[str, Any]], file: Path) -> bool:
    """Draw how |gamma| moved over the epochs, on a logarithmic axis with the exact zeros apart.

    Returns:
        False where matplotlib or the figures are missing; no file is written then.
    """
    lines = [line for line in history if len(line.get("gamma_histogram", ())) == _BINS + 1]
    if not lines:
        return False
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    epochs = torch.tensor([line.get("epoch", number + 1) for number, line in enumerate(lines)])
    shares = torch.tensor([line["gamma_histogram"] for line in lines], dtype=torch.float64)
    shares /= shares.sum(1, keepdim=True)
    edges = 10.0 ** (_LOWEST + torch.arange(_BINS + 1) / _PER_DECADE)
    sides = torch.cat([epochs - 0.5, epochs[-1:] + 0.5])
    figure = Figure(figsize=(7, 5), layout="constrained")
    scales, zeros = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    filled = shares[:, 1:].T.masked_fill(shares[:, 1:].T == 0, torch.nan)
    image = scales.pcolormesh(
        sides.numpy(), edges.numpy(), filled.numpy() * 100, cmap="viridis", norm=LogNorm(0.1, 100, clip=True)
    )
    scales.set_yscale("log")
    scales.set_ylim(_visible(edges, shares[:, 1:]))
    scales.axhline(SMALL, color="grey", linewidth=0.8, linestyle=":")
    scales.set_ylabel("|gamma|")
    figure.colorbar(image, ax=scales, label="% of all scales, per bin")
    zeros.bar(epochs.numpy(), shares[:, 0].numpy() * 100, width=0.9, color="tab:red")
    if len(lines) <= 30:
        zeros.bar_label(zeros.containers[0], fmt="%.0f", fontsize=7)
    zeros.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    zeros.set(xlabel="epoch", ylabel="exactly 0, %", ylim=(0, max(6.5, 130 * float(shares[:, 0].max()))))
    with replacing_file(file) as scratch:
        figure.savefig(scratch, dpi=120)
    return True


def _visible(edges: Tensor, shares: Tensor) -> tuple[float, float]:
    """The part of the axis on which anything lies, with a bin of air."""
    filled = shares.sum(0).nonzero()[:, 0]
    if not len(filled):
        return float(edges[0]), float(edges[-1])
    return float(edges[max(int(filled[0]) - 1, 0)]), float(edges[min(int(filled[-1]) + 2, _BINS)])
