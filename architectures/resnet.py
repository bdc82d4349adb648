"""ResNet (He et al., CVPR 2016), ResNeXt and Wide ResNet as torchvision builds them."""

from typing import Literal

from torch import nn

from ._bundled import NamedFamily

NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


def build(
    name: str,
    num_classes: int = 1000,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    zero_init_residual: bool = False,
) -> nn.Module:
    """Return a ``torchvision.models.ResNet``.

    Args:
        name: one of `NAMES`.
        num_classes: outputs of the last layer.
        stem: "imagenet" is torchvision's: a 7x7 convolution of stride 2 and a max pooling, which divide the image's
            sides by 4. "cifar" keeps them: a 3x3 convolution of stride 1 and no pooling, for images of 32x32.
        zero_init_residual: start every residual branch at zero (its last gamma).
    """
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, zero_init_residual=zero_init_residual)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


family = NamedFamily(NAMES, build)
