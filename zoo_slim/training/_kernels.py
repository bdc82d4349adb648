"""How a GPU chooses its kernels while a run lasts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["chosen_kernels"]


@contextmanager
def chosen_kernels(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Let cuDNN try which convolutions are fastest, or take what always gives the same numbers, where torch has it."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        torch.use_deterministic_algorithms(before[2], warn_only=warn_only)
