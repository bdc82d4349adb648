"""The other classification models of torchvision, and its segmentation models."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from zoo_slim import Architecture

from ._bundled import schema_of

CLASSIFICATION = (
    "alexnet",
    "convnext_",
    "densenet",
    "efficientnet_",
    "googlenet",
    "inception_v3",
    "maxvit_",
    "mnasnet",
    "regnet_",
    "shufflenet_",
    "squeezenet",
    "swin_",
    "vit_",
)
SEGMENTATION = ("deeplabv3_", "fcn_", "lraspp_")
"""How the family's names begin. Names that begin otherwise are refused without importing torchvision."""


def build_classifier(name: str, num_classes: int = 1000) -> nn.Module:
    """Return a classification model of torchvision.

    Args:
        name: its name there.
        num_classes: outputs of the last layer.
    """
    return _build(name, num_classes=num_classes)


def build_inception(
    name: str, num_classes: int = 1000, aux_logits: bool = True, transform_input: bool = False
) -> nn.Module:
    """Return GoogLeNet or Inception v3, with weights drawn as torchvision recommends.

    Args:
        name: "googlenet" or "inception_v3".
        num_classes: outputs of the last layer.
        aux_logits: whether to have auxiliary classifiers; in training mode the outputs are then a named tuple.
        transform_input: normalise the input anew, as torchvision's pretrained weights need it.
    """
    return _build(
        name, num_classes=num_classes, aux_logits=aux_logits, transform_input=transform_input, init_weights=True
    )


def build_segmenter(name: str, num_classes: int = 21, aux_loss: bool = False) -> nn.Module:
    """Return a segmentation model; its output is a dict with "out" ``[N, num_classes, H, W]`` (and "aux").

    Args:
        name: its name in ``torchvision.models.segmentation``.
        num_classes: classes per pixel.
        aux_loss: whether to have an auxiliary classifier.
    """
    return _build(name, weights_backbone=None, num_classes=num_classes, aux_loss=aux_loss)


def build_lraspp(name: str, num_classes: int = 21) -> nn.Module:
    """Return an LR-ASPP segmentation model; its output is a dict with "out" ``[N, num_classes, H, W]``.

    Args:
        name: its name in ``torchvision.models.segmentation``.
        num_classes: classes per pixel.
    """
    return _build(name, weights_backbone=None, num_classes=num_classes)


class _SizesOnCpu(TorchFunctionMode):
    """Keeps small tensors from which a builder computes layer sizes real when it runs under the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextmanager
def _sizes_on_cpu(name: str) -> Iterator[None]:
    # RegNets read `torch.arange(depth) * w_a + w_0` back as Python integers.
    if name.startswith("regnet_"):
        with _SizesOnCpu():
            yield
    else:
        yield


def _build(name: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    with _sizes_on_cpu(name):
        model: nn.Module = get_model(name, weights=None, **options)
    return model


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in ("googlenet", "inception_v3"):
        return build_inception
    if name.startswith("lraspp_"):
        return build_lraspp
    return build_segmenter if name.startswith(SEGMENTATION) else build_classifier


def _side(name: str) -> int:
    """The side in pixels of the images that torchvision's weights take: the least one, if several weights differ."""
    from torchvision.models import get_model_weights

    presets = [weights.transforms.keywords for weights in get_model_weights(name)]
    return min((preset.get("crop_size") or preset["resize_size"] for preset in presets), default=224)


class TorchvisionFamily:
    """Models of torchvision that have no family of their own here."""

    def names(self) -> list[str]:
        """All names. Imports torchvision."""
        from torchvision import models

        classifiers = [name for name in models.list_models(module=models) if name.startswith(CLASSIFICATION)]
        return classifiers + models.list_models(module=models.segmentation)

    def find(self, name: str) -> Architecture | None:
        """The architecture of that name, or None. Imports torchvision if the name begins like one of its models."""
        if not name.startswith(CLASSIFICATION + SEGMENTATION) or name not in self.names():
            return None
        side = _side(name)
        return Architecture(name, partial(_builder(name), name), (3, side, side), schema=schema_of(name))


family = TorchvisionFamily()
