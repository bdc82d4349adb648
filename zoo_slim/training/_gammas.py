"""How the BatchNorm scales are distributed, and a picture of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["draw_histograms", "gamma_statistics"]

BINS = 50
HIGHEST = 2.0
SMALL = 1e-2


def gamma_statistics(model: nn.Module) -> dict[str, Any]:
    """Describe |gamma| over all BatchNorms of ``model``.

    Returns:
        ``small_gammas``: fraction below 1e-2; ``gamma_histogram``: counts in 50 equal bins from 0 to 2, larger ones in
        the last. Empty for a model without BatchNorm scales.
    """
    scales: list[Tensor] = [
        module.weight.detach().abs().flatten()
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    ]
    if not scales:
        return {}
    gammas = torch.cat(scales).float().cpu()
    counts = torch.histc(gammas.clamp(max=HIGHEST), bins=BINS, min=0, max=HIGHEST)
    return {
        "small_gammas": round(float((gammas < SMALL).double().mean()), 6),
        "gamma_histogram": [int(count) for count in counts],
    }


def draw_histograms(history: Sequence[dict[str, Any]], file: Path) -> bool:
    """Draw how the histogram of |gamma| moved over the epochs; False where matplotlib or the figures are missing."""
    rows = [line["gamma_histogram"] for line in history if "gamma_histogram" in line]
    if not rows:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        torch.tensor(rows).double().log1p().T.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0.5, len(rows) + 0.5, 0, HIGHEST),
        cmap="viridis",
    )
    axes.set(xlabel="epoch", ylabel="|gamma|")
    figure.colorbar(image, label="log(1 + channels)")
    figure.savefig(file, dpi=120)
    return True
