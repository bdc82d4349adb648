"""Random numbers that networks draw when they are tried."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["draws_undone", "generators"]


@contextmanager
def draws_undone(model: nn.Module) -> Iterator[None]:
    """Give torch's, Python's and NumPy's generators the states back that they had: the next run draws the same."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=_gpus(model)):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def generators(model: nn.Module) -> tuple[object, ...]:
    """The states of the generators that a model may draw from, to be compared."""
    gpus = [torch.cuda.get_rng_state(device).tolist() for device in _gpus(model)]
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()), gpus


def _gpus(model: nn.Module) -> list[torch.device]:
    devices = {part.device for part in (*model.parameters(), *model.buffers()) if part.device.type == "cuda"}
    return sorted(devices, key=str)
