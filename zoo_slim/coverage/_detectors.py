"""The detection models of torchvision, taking a batch of images as the other models do."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim.registry import Architecture

__all__ = ["Detector", "build_detector", "detector_names", "find_detector"]

_SIDE = 96
_KEYPOINTS = 17
"""Of a person, in torchvision's keypoint model."""


class Detector(nn.Module):
    """A detection model that makes its own lists.

    Args:
        detector: called with a list of images, and in training mode with a list of targets.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        """Detections of images ``[N, 3, H, W]``; in training mode the losses, with one box in each image as target."""
        targets = [_target(image) for image in images] if self.training else None
        return self.detector(list(images.unbind(0)), targets)


def _target(image: Tensor) -> dict[str, Tensor]:
    side = image.shape[-1]
    box = image.new_tensor([[side / 4, side / 4, side / 2, side / 2]])
    return {
        "boxes": box,
        "labels": torch.ones(1, dtype=torch.int64, device=image.device),
        "masks": torch.ones(1, side, side, dtype=torch.uint8, device=image.device),
        "keypoints": torch.full((1, _KEYPOINTS, 3), side / 3, device=image.device),
    }


def detector_names() -> list[str]:
    """Their names in torchvision."""
    from torchvision import models

    names: list[str] = models.list_models(module=models.detection)
    return names


def build_detector(name: str) -> nn.Module:
    """Return a detection model with random weights.

    It keeps detections of any score, so that there are some to compare; few of them, and small images, so that this is
    quick. No channel depends on these settings.
    """
    from torchvision.models import get_model

    options: dict[str, Any] = {"score_thresh": 0.0, "detections_per_img": 8}
    if "rcnn" in name:
        options = {f"box_{option}": value for option, value in options.items()}
        stages = ("pre", "train"), ("pre", "test"), ("post", "train"), ("post", "test")
        options |= {f"rpn_{when}_nms_top_n_{mode}": 32 for when, mode in stages}
        options |= {"box_batch_size_per_image": 16}
    else:
        options["topk_candidates"] = 32
    if not name.startswith("ssd"):
        options |= {"min_size": _SIDE, "max_size": _SIDE}
    model: nn.Module = get_model(name, weights=None, weights_backbone=None, **options)
    return Detector(model)


def find_detector(name: str) -> Architecture | None:
    """The detection model of that name, or None. Imports torchvision if the name looks like one."""
    if "rcnn" not in name and not name.startswith(("fcos_", "retinanet_", "ssd")):
        return None
    if name not in detector_names():
        return None
    return Architecture(name, partial(build_detector, name), (3, _SIDE, _SIDE), options={})
