"""Sparsity training on BatchNorm scales (Liu et al., ICCV 2017, section 3)."""

from torch import nn

__all__ = ["update_bn_grad"]


def update_bn_grad(model: nn.Module, s: float = 1e-4) -> None:
    """Add the subgradient of ``s * sum |gamma|`` to the gradients of all BatchNorm scales.

    Call it between ``loss.backward()`` and ``optimizer.step()``. Scales without a gradient are left alone.

    Args:
        model: any module; its ``BatchNorm1d/2d/3d`` (and ``SyncBatchNorm``) weights, shape ``[C]``, are penalised.
        s: strength of the L1 penalty (the paper's lambda; 1e-4 there for ResNet and VGG).
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and module.weight.grad is not None:
            module.weight.grad.add_(module.weight.detach().sign(), alpha=s)
