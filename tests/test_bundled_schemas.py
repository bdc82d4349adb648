"""Every schema in schemas/ says what a fresh trace of its architecture says, byte for byte."""

from importlib.resources import files

import pytest
import timm
import torch

from zoo_slim.registry import registry
from zoo_slim.schema import dumps, read_schema
from zoo_slim.tracing import trace

NAMES = sorted(
    file.name.removesuffix(".json") for file in files("zoo_slim.schemas").iterdir() if file.name.endswith(".json")
)


TIMM = "1.0.31"
"""The version of timm that the schemas of its models were made with: others build them differently."""


def test_the_usual_architectures_have_one() -> None:
    assert {"resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "RepVGG-A0-woid", "timm__resnet50"} <= set(NAMES)
    assert sum(name.startswith("timm__") for name in NAMES) >= 30


@pytest.mark.parametrize("name", NAMES)
def test_fresh_trace_gives_the_same_file(name: str) -> None:
    if name.startswith("timm__") and timm.__version__ != TIMM:
        pytest.skip(f"made with timm {TIMM}")
    file, name = f"{name}.json", name.replace("__", "/")
    architecture = registry().find(name)
    assert architecture.schema is not None
    with torch.device("meta"):
        model = architecture.build()
    schema = trace(model, architecture.example_input(2), architecture=name)
    assert dumps(schema).encode() == architecture.schema.read_bytes(), (
        f"schemas/{file} is out of date: python scripts/schemas.py {name}"
    )


def test_other_options_keep_the_fingerprint() -> None:
    architecture = registry().find("resnet18")
    assert architecture.schema is not None
    schema = read_schema(architecture.schema)
    for options in ({"num_classes": 10}, {"stem": "cifar"}):
        with torch.device("meta"):
            schema.check(architecture.build(**options))
