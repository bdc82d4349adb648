import torch
from PIL import Image
from torch import nn

from zoo_slim.training._gammas import draw_histograms, gamma_statistics


def norm_with(values: list[float]) -> nn.Module:
    norm = nn.BatchNorm2d(len(values))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(values))
    return norm


def test_statistics_by_hand():
    model = nn.Sequential(norm_with([0.0, 0.0, -0.5]), norm_with([1e-3, 100.0]), nn.BatchNorm2d(7, affine=False))
    found = gamma_statistics(model)
    assert found["zero_gammas"] == 0.4 and found["small_gammas"] == 0.6
    bins = {place: count for place, count in enumerate(found["gamma_histogram"]) if count}
    # The bins of an eighth of a decade begin at 1e-6: 1e-3 is the 25th edge, .5 is in the 46th, the last is 56.
    assert bins.pop(0) == 2 and bins.pop(46) == 1 and bins.pop(56) == 1
    assert bins in ({24: 1}, {25: 1})
    assert gamma_statistics(nn.Linear(2, 2)) == {}


def test_picture_shows_zeros_and_scales(tmp_path):
    history = [
        {"epoch": 3, **gamma_statistics(norm_with([1.0, 0.5, 0.25, 0.01]))},
        {"epoch": 4, **gamma_statistics(norm_with([1.0, 0.5, 0.0, 0.0]))},
    ]
    pictures = []
    for number, lines in enumerate((history, [history[1], history[0]], history[:1])):
        assert draw_histograms(lines, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            pictures.append(image.convert("RGB").tobytes())
    assert len(set(pictures)) == 3


def test_all_zero_can_be_drawn_and_nothing_cannot(tmp_path):
    assert draw_histograms([{"epoch": 1, **gamma_statistics(norm_with([0.0, 0.0]))}], tmp_path / "zero.png")
    assert not draw_histograms([{"epoch": 1}, {"epoch": 2, "gamma_histogram": [1] * 50}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
