"""Pictures of slim networks. Needs matplotlib."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo_slim.slimming import Cliff

__all__ = ["channels_kept", "layer_widths", "sorted_scales"]

_KEPT, _REMOVED = "#1f6f8b", "#d9dee2"


def layer_widths(original: nn.Module, slim: nn.Module) -> dict[str, tuple[int, int]]:
    """Output channels of every convolution and linear layer: ``{module name: (kept, of)}``, in the model's order.

    A layer that was removed, or lies in a block that was, kept none.

    Args:
        original: the network before slimming; it may be on the meta device.
        slim: the network after; likewise.
    """
    modules = dict(slim.named_modules())
    widths = {}
    for name, module in original.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            kept = _outputs(modules[name]) if isinstance(modules.get(name), type(module)) else 0
            widths[name] = (kept, _outputs(module))
    return widths


def _outputs(layer: Any) -> int:
    rows, columns = layer.weight.shape[:2]
    return int(columns * layer.groups if getattr(layer, "transposed", False) else rows)


def channels_kept(widths: Mapping[str, tuple[int, int]], title: str) -> "Figure":
    """A bar for each layer: the channels it had, and in a darker colour those it kept.

    Args:
        widths: as `layer_widths` gives them.
        title: one or two lines above the picture.
    """
    from matplotlib.figure import Figure

    names = list(widths)
    kept, total = [widths[name][0] for name in names], [widths[name][1] for name in names]
    figure = Figure(figsize=(max(6.0, min(24.0, 0.32 * len(names) + 2)), 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(names)), total, color=_REMOVED, label="removed")
    axes.bar(range(len(names)), kept, color=_KEPT, label="kept")
    if len(names) <= 70:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    else:
        axes.set_xlabel("layer")
    axes.set_ylabel("output channels")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    axes.set_title(title, loc="left", fontsize=9)
    return figure


def sorted_scales(cliff: "Cliff", title: str, ratio: float | None = None) -> "Figure":
    """The scales in ascending order on a logarithmic axis, and below what each ratio loses, with the cliff.

    Args:
        cliff: as `zoo_slim.find_cliff` gives it.
        title: one or two lines above the picture.
        ratio: the one that was chosen.
    """
    from matplotlib.figure import Figure

    count = max(len(cliff.scales), 1)
    alive = cliff.scales[cliff.dead :]
    shares = [(cliff.dead + place) / count for place in range(len(alive))]
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    upper.plot(shares, alive, color=_KEPT, linewidth=1.5)
    upper.set_yscale("log")
    if len(alive) and alive[-1] < 10 * alive[0]:  # matplotlib would write 1.0025 as 1.0025 x 10^0
        upper.yaxis.set_major_formatter("{x:g}")
        upper.yaxis.set_minor_formatter("{x:g}")
    upper.set_ylabel("|gamma|, sorted")
    if cliff.dead:
        upper.axvspan(0, cliff.dead / count, color=_REMOVED)
        middle = cliff.dead / count / 2
        upper.text(
            middle, 0.5, f"{cliff.dead} exactly 0", transform=upper.get_xaxis_transform(), ha="center", rotation=90
        )
    lower.plot(cliff.ratios, 100 * cliff.lost, color=_KEPT, linewidth=1.5)
    lower.axhline(100 * cliff.tolerance, color="grey", linewidth=0.8, linestyle=":")
    lower.set(xlabel="ratio of channels removed", ylabel="variance lost in\nthe worst group, %", xlim=(0, 1))
    for axes in (upper, lower):
        axes.axvline(cliff.ratio, color="tab:red", linewidth=1.2, label=f"cliff, {cliff.ratio:.3g}")
        if ratio is not None and abs(ratio - cliff.ratio) > 1e-9:
            axes.axvline(ratio, color="black", linewidth=1.2, linestyle="--", label=f"chosen, {ratio:g}")
        axes.spines[["top", "right"]].set_visible(False)
    lower.legend(frameon=False, fontsize=8, loc="upper left")
    upper.set_title(title, loc="left", fontsize=9)
    return figure
