"""Parameters and multiply-accumulates."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo_slim.tracing import Example, call_model, meta_copy, to_device

__all__ = ["count_macs", "count_params"]


def count_params(model: nn.Module) -> int:
    """Number of parameters, each shared one once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_input: Example) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, for the whole batch of the example input.

    Convolutions and matrix products are counted, as torch's `FlopCounterMode` does (two FLOPs are one MAC). Runs on
    meta tensors.
    """
    probe = meta_copy(model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call_model(probe, to_device(example_input, "meta"))
    return counter.get_total_flops() // 2
