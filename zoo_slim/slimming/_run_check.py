"""Does a slim network run, and are its outputs of the original's shapes."""

import copy

import torch
from torch import nn

from zoo_slim._containers import tensors_in
from zoo_slim._errors import SlimmingError
from zoo_slim.tracing import Example, call_model, to_device

__all__ = ["fault", "run_check"]


def run_check(network: nn.Module, original: nn.Module, example: Example) -> None:
    """Run a slim network on meta tensors in both modes, and compare the shapes of its outputs with the original's.

    Raises:
        SlimmingError: it does not run, or its outputs have other shapes.
    """
    found = fault(network, original, example)
    if found is not None:
        raise SlimmingError(
            f"the slim {type(network).__name__} {found}. Its forward depends on widths in a way that tracing did not "
            "see; please report it, and exclude the layer by setting its group's ratio to 0."
        )


def fault(network: nn.Module, original: nn.Module, example: Example) -> str | None:
    """What is wrong with a slim network: that it does not run, or gives other shapes."""
    meta = to_device(example, "meta")
    for training in (False, True):
        expected = None
        try:
            with torch.no_grad():
                expected = [out.shape for out in tensors_in(call_model(copy.deepcopy(original).train(training), meta))]
        except Exception:
            continue  # the original does not run on meta tensors in this mode: there is nothing to compare with
        try:
            with torch.no_grad():
                found = [out.shape for out in tensors_in(call_model(copy.deepcopy(network).train(training), meta))]
        except Exception as error:
            return f"does not run: {type(error).__name__}: {error}"
        if found != expected:
            return f"gives outputs of shapes {list(map(list, found))}, the original {list(map(list, expected))}"
    return None
