"""A copy of a model on the meta device: its structure without its weights."""

import copy

import torch
from torch import nn

__all__ = ["meta_copy"]


def meta_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose parameters and buffers are meta tensors of the same shapes and dtypes."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
