"""Slimming what is slim already: the two results together say what one after the other did."""

import pytest
import torch
from equivalence import difference, drawn, outputs, zeroed
from torch import nn

import zoo_slim
from zoo_slim import PruningResult, apply_result, slim, verify
from zoo_slim.registry import register
from zoo_slim.slimming import TOLERANCE, randomize

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@register("grouped-twice", input_size=(3, 8, 8))
def grouped(inputs: int = 8, written: int = 8, groups: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, inputs, 1), nn.BatchNorm2d(inputs), nn.Conv2d(inputs, written, 3, groups=groups),
        nn.BatchNorm2d(written), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(written, 5),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("options", "ratios"),
    [
        ({}, (0.5, 0.3)),  # four groups of two inputs; four of one, which is depthwise; three of them
        ({"written": 16}, (0.5, 0.5)),
        ({"inputs": 16, "written": 16}, (0.75, 0.5, 0.5)),
        ({"inputs": 4, "written": 8, "groups": 2}, (0.5, 0.6)),  # one group is left
        ({"inputs": 6, "written": 8, "groups": 2}, (0.4, 0.4)),
    ],
)
def test_grouped_convolutions(options: dict[str, int], ratios: tuple[float, ...], seed: int, tmp_path) -> None:
    model = zoo_slim.load("grouped-twice", pretrained=False, **options).double()
    randomize(model, seed)
    images, network, together = IMAGES.double(), model, PruningResult()
    for step, ratio in enumerate(ratios):
        network, result = slim(network, ratio=ratio, criterion=drawn(seed + step), minimum=1, example_input=images)
        together = together.then(result)
    assert network[2].groups < model[2].groups or network[2].in_channels < model[2].in_channels
    expected = outputs(network, images)
    assert difference(outputs(apply_result(model, together), images), expected) == 0
    assert verify(model, together, images).exact
    masked = outputs(zeroed(model, together), images)
    assert difference(expected, masked) < TOLERANCE
    folder = zoo_slim.save(network, tmp_path / "twice")
    assert difference(outputs(zoo_slim.load(folder), images), expected) == 0
