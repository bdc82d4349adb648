"""MobileNet V2 (Sandler et al., CVPR 2018) and V3 (Howard et al., ICCV 2019) as torchvision builds them."""

from torch import nn

from ._bundled import NamedFamily

NAMES = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
WIDEST = 16.0


def build(name: str, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2) -> nn.Module:
    """Return a ``torchvision.models.MobileNetV2`` or ``MobileNetV3``.

    Args:
        name: one of `NAMES`.
        num_classes: outputs of the last layer.
        width_mult: factor on the number of channels of every layer, in (0, `WIDEST`].
        dropout: probability of dropping an input of the last layer.

    Raises:
        ValueError: ``width_mult`` is out of range.
    """
    from torchvision.models import get_model

    if not 0 < width_mult <= WIDEST:
        raise ValueError(f"width_mult is {width_mult}; more than 0 and at most {WIDEST} was expected")
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, width_mult=width_mult, dropout=dropout)
    return model


family = NamedFamily(NAMES, build)
