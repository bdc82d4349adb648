"""L1 penalties ``s * sum(w * |gamma|)`` on BatchNorm scales (Liu et al., ICCV 2017, section 3)."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError

__all__ = ["PENALTIES", "Penalty", "make_penalty", "update_bn_grad"]


class Penalty(Protocol):
    """What a training step does about sparsity. The methods around a step do not wait for the device."""

    def before_step(self, strength: float) -> None:
        """Call it when the gradients are final (unscaled and clipped), before ``optimizer.step()``."""

    def after_step(self, strength: float, learning_rate: float) -> None:
        """Call it after ``optimizer.step()``, with the learning rate of that step.

        Not for a step that was left out, as a gradient scaler does after an overflow.
        """

    def within(self, distance: float) -> float:
        """Return the share of the penalised scales that are not 0 for which ``|gamma| <= distance * w``, 0..1."""
        ...


class _Scales:
    """The BatchNorm scales of a model, looked up at each call, so that they may move or be replaced meanwhile."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor] | None) -> None:
        norms = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(module.weight, nn.Parameter)
        }
        for name, weight in (weights or {}).items():
            if name not in norms:
                raise SlimmingError(f"the weights name {name!r}, which is no BatchNorm with scales of this model")
            if weight.shape != norms[name].weight.shape:
                raise SlimmingError(
                    f"{name}: weights of shape {list(weight.shape)} for {len(norms[name].weight)} scales; give one each"
                )
        self._norms = list(norms.values())
        self._weights = [None if weights is None else weights.get(name) for name in norms]

    def __len__(self) -> int:
        return len(self._norms)

    def parameters(self) -> list[tuple[Tensor, Tensor]]:
        """Each scale that is trained, once, and its weights as a tensor like it."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for place, norm in enumerate(self._norms):
            scale = norm.weight
            if not scale.requires_grad:
                continue
            weight = self._weights[place]
            if weight is None:
                weight = self._weights[place] = torch.ones_like(scale, requires_grad=False)
            elif weight.device != scale.device or weight.dtype != scale.dtype:
                weight = self._weights[place] = weight.to(scale)
            found.setdefault(id(scale), (scale, weight))
        return list(found.values())


class _OnScales:
    """What the penalties share."""

    def __init__(self, scales: _Scales) -> None:
        self._scales = scales

    @torch.no_grad()
    def within(self, distance: float) -> float:
        near = count = 0
        for scale, weight in self._scales.parameters():
            penalised = (weight > 0) & (scale != 0)
            near += int((penalised & (scale.abs() <= distance * weight)).sum())
            count += int(penalised.sum())
        return near / max(count, 1)


class _Subgradient(_OnScales):
    """Adds the subgradient ``s * w * sign(gamma)``, 0 at 0, to the gradients. Scales without a gradient are left alone.

    Scales swing around zero with the size of the step, and do not reach it.
    """

    @torch.no_grad()
    def before_step(self, strength: float) -> None:
        triples = [(scale.grad, scale, weight) for scale, weight in self._scales.parameters() if scale.grad is not None]
        if not strength or not triples:
            return
        gradients, scales, weights = map(list, zip(*triples, strict=True))
        signs = torch._foreach_sign(scales)
        torch._foreach_mul_(signs, weights)
        torch._foreach_add_(gradients, signs, alpha=strength)

    def after_step(self, strength: float, learning_rate: float) -> None:
        pass


class _Proximal(_OnScales):
    """Moves each gamma to zero by ``learning_rate * s * w`` after the step, to exactly 0 where it is no further.

    That is the proximal operator of the penalty, soft thresholding (Parikh and Boyd, "Proximal Algorithms", Foundations
    and Trends in Optimization 1(3), 2014, section 6.5.2), and with a plain gradient step the proximal gradient method
    (section 4.2).
    """

    def before_step(self, strength: float) -> None:
        pass

    @torch.no_grad()
    def after_step(self, strength: float, learning_rate: float) -> None:
        if not 0 <= strength * learning_rate < math.inf:
            raise SlimmingError(
                f"a penalty of strength {strength} with the learning rate {learning_rate} is none: give 0 or more"
            )
        pairs = self._scales.parameters()
        if not strength or not learning_rate or not pairs:
            return
        scales, weights = map(list, zip(*pairs, strict=True))
        thresholds = torch._foreach_mul(weights, strength * learning_rate)
        within = torch._foreach_maximum(scales, torch._foreach_neg(thresholds))
        torch._foreach_sub_(scales, torch._foreach_minimum(within, thresholds))


_PENALTIES: dict[str, Callable[[_Scales], Penalty]] = {"subgradient": _Subgradient, "proximal": _Proximal}
PENALTIES = tuple(_PENALTIES)


def make_penalty(name: str, model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> Penalty:
    """Return an L1 penalty on the scales of a model's BatchNorms (``BatchNorm1d/2d/3d`` and ``SyncBatchNorm``).

    Args:
        name: how it acts:

            - ``subgradient``: adds ``strength * w * sign(gamma)`` to the gradients before the step, as the original
              does. Momentum and adaptive scaling see it; no scale becomes exactly 0.
            - ``proximal``: soft thresholding of gamma by ``learning_rate * strength * w`` after the step. Gives exact
              zeros. With SGD, ``learning_rate`` is the scales' own. An adaptive optimiser moves a scale by about
              ``learning_rate`` however small its gradient is; given the same ``learning_rate``, the threshold is
              decoupled from that scaling, as the weight decay of AdamW is (the proximal step in the optimiser's own
              metric would need its second moments), so that ``strength`` counts in shares of such a step and wants to
              be larger than with SGD.
        model: the bare module, not what DDP or ``torch.compile`` wraps it in.
        weights: ``{BatchNorm's module name: w, float [C]}``, see `group_weights`; 1 for those not named. They follow
            the scales to their device.

    Raises:
        SlimmingError: an unknown name, a model without scales, or weights that do not fit it.
    """
    if name not in PENALTIES:
        raise SlimmingError(f"there is no penalty {name!r}; choose one of {', '.join(PENALTIES)}")
    scales = _Scales(model, weights)
    if not len(scales):
        raise SlimmingError(f"this {type(model).__name__} has no BatchNorm scales: there is nothing to penalise")
    return _PENALTIES[name](scales)


def update_bn_grad(model: nn.Module, s: float = 1e-4) -> None:
    """Add the subgradient of ``s * sum |gamma|`` to the gradients of all BatchNorm scales.

    Call it between ``loss.backward()`` and ``optimizer.step()``. Scales without a gradient are left alone.

    Args:
        model: any module; its ``BatchNorm1d/2d/3d`` (and ``SyncBatchNorm``) weights, shape ``[C]``, are penalised.
        s: strength of the L1 penalty (the paper's lambda; 1e-4 there for ResNet and VGG).
    """
    _Subgradient(_Scales(model, None)).before_step(s)
