"""Parameters and multiply-accumulates."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo_slim._draws import draws_undone
from zoo_slim._errors import SlimmingError
from zoo_slim._networks import copy_of
from zoo_slim.tracing import Example, call_model, meta_copy, to_device

__all__ = ["count_macs", "count_params"]


def count_params(model: nn.Module) -> int:
    """Number of parameters, each shared one once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_input: Example) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, for the whole batch of the example input.

    Convolutions and matrix products are counted, as torch's `FlopCounterMode` does (two FLOPs are one MAC). Runs on
    meta tensors; where a forward looks at values, on a copy.

    Raises:
        SlimmingError: the model does not run on the example input.
    """
    try:
        return _counted(meta_copy(model), to_device(example_input, "meta"))
    except SlimmingError:
        raise
    except Exception as meta_error:
        if any(part.is_meta for part in model.parameters()):
            raise SlimmingError(
                f"the MACs of this {type(model).__name__} cannot be counted without weights: {meta_error}"
            ) from meta_error
        try:
            with draws_undone(model):
                return _counted(copy_of(model), example_input)
        except SlimmingError:
            raise
        except Exception as error:
            raise SlimmingError(
                f"the MACs of this {type(model).__name__} cannot be counted: its forward failed on the example input: "
                f"{error} (and without weights: {meta_error}). Check that the example input is what the model expects"
            ) from error


def _counted(network: nn.Module, example: Example) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call_model(network.eval(), example)
    return counter.get_total_flops() // 2
