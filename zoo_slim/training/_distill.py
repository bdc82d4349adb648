"""Knowledge distillation (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["distillation_loss", "frozen"]


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 * KL(softmax(taught / T) || softmax(logits / T))``, the mean over the images.

    Args:
        logits: the student's, ``[N, classes]``.
        taught: the teacher's, of the same shape; no gradient is wanted of them.
        temperature: T. The factor keeps the gradients' size when it changes (section 2.1 there).
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    student = functional.log_softmax(logits.to(precise) / temperature, dim=1)
    teacher = functional.log_softmax(taught.detach().to(precise) / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def frozen(teacher: nn.Module, device: torch.device, memory_format: torch.memory_format) -> nn.Module:
    """Put a teacher on the device, in evaluation mode, without gradients."""
    teacher = teacher.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    return teacher.eval().requires_grad_(False)
