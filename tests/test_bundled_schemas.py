"""Every schema in schemas/ says what a fresh trace of its architecture says, byte for byte."""

from importlib.resources import files

import pytest
import torch

from zoo_slim.registry import registry
from zoo_slim.schema import dumps, read_schema
from zoo_slim.tracing import trace

NAMES = sorted(
    file.name.removesuffix(".json") for file in files("zoo_slim.schemas").iterdir() if file.name.endswith(".json")
)


def test_the_usual_architectures_have_one() -> None:
    assert {"resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "RepVGG-A0-woid"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_fresh_trace_gives_the_same_file(name: str) -> None:
    architecture = registry().find(name)
    assert architecture.schema is not None
    with torch.device("meta"):
        model = architecture.build()
    schema = trace(model, architecture.example_input(2), architecture=name)
    assert dumps(schema).encode() == architecture.schema.read_bytes(), (
        f"schemas/{name}.json is out of date: zoo-slim schema {name} --output schemas/{name}.json"
    )


def test_other_options_keep_the_fingerprint() -> None:
    architecture = registry().find("resnet18")
    assert architecture.schema is not None
    schema = read_schema(architecture.schema)
    for options in ({"num_classes": 10}, {"stem": "cifar"}):
        with torch.device("meta"):
            schema.check(architecture.build(**options))
