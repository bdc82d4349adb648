"""The architectures: a slim network computes what the original does with the readers of removed channels zeroed."""

import functools
from typing import Any

import pytest
import torch
from equivalence import difference, drawn, outputs, zeroed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo_slim.registry import Registry, registry
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming import TOLERANCE, randomize, slim, training_step, verify
from zoo_slim.tracing import Trace, run_trace, schema_of

SMALL = (
    "alexnet densenet121 efficientnet_b0 googlenet lraspp_mobilenet_v3_large mnasnet0_5 mnasnet0_75 mnasnet1_0 "
    "mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_x_800mf regnet_y_400mf "
    "regnet_y_800mf RepVGG-A0 RepVGG-A0-woid resnet18 resnet34 resnet50 resnext50_32x4d shufflenet_v2_x0_5 "
    "shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1"
).split()
LARGE = (
    "convnext_tiny deeplabv3_mobilenet_v3_large deeplabv3_resnet50 densenet169 efficientnet_b3 efficientnet_v2_s "
    "fcn_resnet50 inception_v3 regnet_x_1_6gf regnet_y_1_6gf regnet_y_3_2gf RepVGG-A1 RepVGG-A1-woid RepVGG-A2 "
    "RepVGG-A2-woid RepVGG-B0 RepVGG-B0-woid RepVGG-B1g2 RepVGG-B1g4-woid resnet101 resnext101_32x8d swin_t "
    "swin_v2_t vgg11 vgg11_bn vgg13_bn vgg16_bn vgg19_bn wide_resnet50_2"
).split()
LEFT_OUT = (
    "convnext_base convnext_large convnext_small deeplabv3_resnet101 densenet161 densenet201 efficientnet_b1 "
    "efficientnet_b2 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l "
    "efficientnet_v2_m fcn_resnet101 maxvit_t regnet_x_16gf regnet_x_32gf regnet_x_3_2gf regnet_x_8gf "
    "regnet_y_128gf regnet_y_16gf regnet_y_32gf regnet_y_8gf RepVGG-B1 RepVGG-B1-woid RepVGG-B1g2-woid RepVGG-B1g4 "
    "RepVGG-B2 RepVGG-B2-woid RepVGG-B2g2 RepVGG-B2g2-woid RepVGG-B2g4 RepVGG-B2g4-woid RepVGG-B3 RepVGG-B3-woid "
    "RepVGG-B3g2 RepVGG-B3g2-woid RepVGG-B3g4 RepVGG-B3g4-woid resnet152 resnext101_64x4d swin_b swin_s swin_v2_b "
    "swin_v2_s vgg13 vgg16 vgg19 vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2"
).split()
"""Larger sisters of those above: minutes each. `zoo-slim verify NAME` checks them; docs/coverage.md has the figures."""

SIZES = {"inception_v3": 96}
TRAINING_SIZES = {"inception_v3": 299}  # its auxiliary classifier has a kernel of 5 on what is left of the picture
RATIOS = st.sampled_from([0.05, 0.25, 0.5, 0.75, 0.9])


def options_of(name: str) -> dict[str, Any]:
    """Few classes, and the heads that run in training mode only."""
    if name in ("googlenet", "inception_v3"):
        return {"num_classes": 10, "aux_logits": True}
    return {"num_classes": 10, "aux_loss": True} if name.startswith(("fcn", "deeplab")) else {"num_classes": 10}


@functools.lru_cache(maxsize=1)
def traced(name: str) -> tuple[nn.Module, Trace, PruningSchema]:
    architecture = registry().find(name)
    model = randomize(architecture.build(**options_of(name)), 2).eval()
    facts = run_trace(model, architecture.example_input(2, TRAINING_SIZES.get(name, 64), device="meta"))
    assert facts.training is None
    return model, facts, schema_of(model, facts)


def check(name: str, ratio: float, seed: int) -> None:
    model, _, schema = traced(name)
    architecture = registry().find(name)
    example = architecture.example_input(2, SIZES.get(name, 64), dtype=torch.float64)
    small, result = slim(
        model,
        ratio=ratio,
        criterion=drawn(seed),
        example_input=architecture.example_input(2, TRAINING_SIZES.get(name, 64), device="meta"),
        schema=schema,
    )
    assert sum(part.numel() for part in small.parameters()) < sum(part.numel() for part in model.parameters())
    training_step(small, architecture.example_input(2, TRAINING_SIZES.get(name, 64)))
    exact = difference(outputs(small.double(), example), outputs(zeroed(model, result).double(), example))
    assert exact < TOLERANCE


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(ratio=RATIOS, seed=st.integers(0, 2**32 - 1))
def test_small_networks(name, ratio, seed):
    check(name, ratio, seed)


@pytest.mark.slow
@pytest.mark.parametrize("number, name", list(enumerate(LARGE)))
def test_large_networks(number, name):
    check(name, (0.3, 0.6, 0.85)[number % 3], number)


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v3_small", "resnext50_32x4d", "shufflenet_v2_x0_5"])
def test_verify_agrees(name):
    model, facts, schema = traced(name)
    example = registry().find(name).example_input(2, 64)
    small, result = slim(model, ratio=0.5, criterion=drawn(7), example_input=example, schema=schema)
    report = verify(model, result, example, trace=facts)
    assert report.exact and 0 <= report.max_relative_difference < TOLERANCE
    assert report.params == sum(part.numel() for part in model.parameters())
    assert report.slim_params == sum(part.numel() for part in small.parameters())


def test_no_architecture_is_forgotten():
    names = [name for name in Registry().names() if not name.startswith("timm/") and name != "tinynet"]
    assert sorted(names) == sorted({*SMALL, *LARGE, *LEFT_OUT})


def test_groups_of_resnext_keep_equally_many_but_not_the_same():
    model, _, schema = traced("resnext50_32x4d")
    _, result = slim(
        model, ratio=0.6, criterion=drawn(0), example_input=torch.zeros(2, 3, 64, 64, device="meta"), schema=schema
    )
    rows = result.kept["layer4.1.conv2.weight"][1]
    assert rows.shape[0] == 32 and rows.shape[1] < 32
    assert len({tuple(row.tolist()) for row in rows}) > 16
    groups = result.kept["layer4.1.conv2.weight"][0] // 32
    assert torch.equal(groups.bincount(), torch.full((32,), len(groups) // 32))
    assert result.attributes["layer4.1.conv2"].keys() == {"in_channels", "out_channels"}
