"""The loss of whatever a classifier returns in training mode."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo_slim.training._settings import TrainingError

__all__ = ["classification_loss", "logits_of"]

AUXILIARY_WEIGHTS = {1: 0.4, 2: 0.3}
"""Weight of each auxiliary classifier, by their number. Two, as in GoogLeNet: 0.3 (Szegedy et al., "Going deeper with
convolutions", CVPR 2015, section 5). One, as in Inception v3: 0.4 (torchvision's fine-tuning tutorial)."""


def classification_loss(outputs: Any, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy, with the weighted ones of auxiliary classifiers added.

    Args:
        outputs: logits ``[N, classes]``, or a (named) tuple, list or dict with the logits first (in a dict: under
            ``logits`` or ``out``) and one or two auxiliary logits, which may be None.
        labels: int64 ``[N]``, or probabilities ``[N, C]`` of the first C classes.
        label_smoothing: between 0 and 1.

    Raises:
        TrainingError: outputs of another kind.
    """
    # The labels that mixup makes become what the logits are: not half precision.
    wide = (logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in _all_logits(outputs))
    main, *auxiliary = wide
    if labels.is_floating_point():
        labels = functional.pad(labels.to(main.dtype), (0, main.shape[1] - labels.shape[1]))
    loss = functional.cross_entropy(main, labels, label_smoothing=label_smoothing)
    for other in auxiliary:
        weight = AUXILIARY_WEIGHTS[len(auxiliary)]
        loss = loss + weight * functional.cross_entropy(other, labels, label_smoothing=label_smoothing)
    return loss


def logits_of(outputs: Any) -> Tensor:
    """Return the main logits ``[N, classes]`` of the outputs of a model."""
    return _all_logits(outputs)[0]


def _all_logits(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Mapping):
        first = next((outputs[key] for key in ("logits", "out") if key in outputs), None)
        found = [first, *(value for key, value in outputs.items() if key not in ("logits", "out"))]
    elif isinstance(outputs, Sequence):
        found = list(outputs)
    else:
        found = [outputs]
    logits = [value for value in found if value is not None]
    if not found or not all(isinstance(value, Tensor) and value.ndim == 2 for value in logits) or found[0] is None:
        raise TrainingError(
            "a classifier must return logits of shape [N, classes], perhaps with auxiliary ones, "
            f"not {_describe(outputs)}"
        )
    if len(logits) - 1 > max(AUXILIARY_WEIGHTS):
        raise TrainingError(f"the model returns {len(logits) - 1} auxiliary logits; at most 2 can be weighted")
    return logits


def _describe(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {list(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a dict of {', '.join(f'{key}: {_describe(value)}' for key, value in outputs.items())}"
    return f"a {type(outputs).__name__}"
