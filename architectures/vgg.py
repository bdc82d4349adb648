"""VGG (Simonyan and Zisserman, ICLR 2015) as torchvision builds it, with and without batch normalisation."""

from torch import nn

from ._bundled import NamedFamily

NAMES = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))


def build(name: str, num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """Return a ``torchvision.models.VGG``.

    Args:
        name: one of `NAMES`.
        num_classes: outputs of the last layer.
        dropout: probability of dropping an input of the two last linear layers.
    """
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, dropout=dropout)
    return model


family = NamedFamily(NAMES, build)
