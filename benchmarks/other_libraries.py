"""Networks of other libraries, given to ``zoo-slim coverage``. In this folder, with the libraries installed:

    zoo-slim --import other_libraries coverage 'smp/*' 'ultralytics/*' … --jsonl results/other-libraries.jsonl
    python other_libraries.py results/other-libraries.jsonl > ../docs/other-libraries.md

Networks have random weights; nothing is downloaded.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

import zoo_slim

PACKAGES = {
    "smp": "segmentation_models_pytorch",
    "ultralytics": "ultralytics",
    "transformers": "transformers",
    "monai": "monai",
}
"""What must be installed, by the first part of a network's name."""

COMMAND = (
    "cd benchmarks && zoo-slim --import other_libraries coverage "
    + " ".join(f"'{prefix}/*'" for prefix in PACKAGES)
    + " --jsonl results/other-libraries.jsonl"
)


def smp(decoder: str, encoder: str) -> nn.Module:
    """A segmentation network of segmentation_models_pytorch."""
    import segmentation_models_pytorch

    made: nn.Module = getattr(segmentation_models_pytorch, decoder)(encoder, encoder_weights=None, classes=3)
    return made


def ultralytics(task: str, file: str) -> nn.Module:
    """A network that one of ultralytics' YAML files describes."""
    from ultralytics.nn import tasks

    made: nn.Module = getattr(tasks, task)(file, verbose=False)
    return made


def transformers(kind: str) -> nn.Module:
    """A classifier of transformers, with its default configuration."""
    import transformers

    config = getattr(transformers, f"{kind}Config")()
    made: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
    return made


def monai(kind: str, **options: Any) -> nn.Module:
    """A network of MONAI, for images of two dimensions."""
    from monai.networks import nets

    made: nn.Module = getattr(nets, kind)(spatial_dims=2, in_channels=3, out_channels=2, **options)
    return made


DECODERS = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
)  # fmt: skip
ENCODERS = (
    "mobilenet_v2", "efficientnet-b0", "densenet121", "se_resnet50", "xception", "inceptionv4", "dpn68", "vgg11_bn",
    "mit_b0", "tu-convnext_tiny", "tu-regnetx_002",
)  # fmt: skip
YOLO = {
    "DetectionModel": (
        "yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "rtdetr-resnet50",
    ),
    "SegmentationModel": ("yolov8n-seg", "yolo11n-seg"),
    "PoseModel": ("yolov8n-pose",),
    "OBBModel": ("yolov8n-obb",),
    "ClassificationModel": ("yolov8n-cls", "yolo11n-cls"),
}  # fmt: skip
CLASSIFIERS = ("ResNet", "RegNet", "MobileNetV1", "MobileNetV2", "EfficientNet", "ConvNext", "MobileViT", "Bit")
MONAI: Mapping[str, tuple[str, dict[str, Any]]] = {
    "UNet": ("UNet", {"channels": (16, 32, 64), "strides": (2, 2), "num_res_units": 2, "norm": "batch"}),
    "UNet-instance": ("UNet", {"channels": (16, 32, 64), "strides": (2, 2), "num_res_units": 2}),
    "BasicUNet": ("BasicUNet", {"norm": "batch"}),
    "AttentionUnet": ("AttentionUnet", {"channels": (16, 32, 64), "strides": (2, 2)}),
    "DynUNet": (
        "DynUNet",
        {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "norm_name": "batch"},
    ),
    "SegResNet": ("SegResNet", {}),
    "DenseNet121": ("DenseNet121", {}),
}  # fmt: skip

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    **{f"smp/{decoder}-resnet18": partial(smp, decoder, "resnet18") for decoder in DECODERS},
    **{f"smp/Unet-{encoder}": partial(smp, "Unet", encoder) for encoder in ENCODERS},
    **{f"ultralytics/{file}": partial(ultralytics, task, f"{file}.yaml") for task in YOLO for file in YOLO[task]},
    **{f"transformers/{kind}": partial(transformers, kind) for kind in CLASSIFIERS},
    **{f"monai/{name}": partial(monai, kind, **options) for name, (kind, options) in MONAI.items()},
}

for name, build in BUILDERS.items():
    if find_spec(PACKAGES[name.split("/")[0]]):
        zoo_slim.register(name, build)


YOLO_STORY = """\
## A YOLO from start to end

`benchmarks/slim_yolo.py` trains a YOLOv8n with ultralytics' own trainer and a penalty on the BatchNorm scales, slims
it, checks that the removal is exact, saves it as a slim checkpoint and fine-tunes it with the same trainer. It takes
three things: a registered builder, `update_bn_grad` in `optimizer_step`, and a `get_model` that returns
`zoo_slim.load(folder)`, as ultralytics would otherwise build a whole network from its YAML file. On a toy set
(`benchmarks/shapes.py`: one rectangle on noise, 64 x 64, 96 images to train and 48 to test with), from random weights,
60 epochs of each training:

    cd benchmarks && python shapes.py shapes
    python slim_yolo.py shapes/data.yaml --epochs 60 --image-size 64 --device cpu

    sparse: 3,011,433 parameters, metrics/mAP50-95(B) 0.8706
    slim, trained as long again: 968,560 parameters, metrics/mAP50-95(B) 0.9104
    removal exact: True

The slim network is the better one because it was trained for as long again, without the penalty. It loads where
`yolov8n` is registered:

    zoo-slim --import slim_yolo info runs/yolo/tuned-slim

What ultralytics saves beside it (`best.pt`) is a pickle of the whole module; what `zoo_slim.save` writes is none.
"""
"""Run with the versions that the page names."""


def page(file: Path) -> str:
    """What coverage measured, and a story, as Markdown."""
    from zoo_slim.coverage import markdown, read_lines

    records = list(read_lines(file).values())
    found = markdown(records, COMMAND, "2 cores beside other work", "Networks of other libraries")
    before, heading, after = found.partition("## Only partly slimmed")
    assert heading
    return f"{before}{YOLO_STORY}\n{heading}{after}"


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
