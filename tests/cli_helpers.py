"""A tiny architecture, checkpoints of it, and the command line run as a shell runs it."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import nn

from zoo_slim import checkpoint, slim
from zoo_slim.cli import main
from zoo_slim.registry import registry
from zoo_slim.slimming import count_macs, count_params, randomize

NAME = "tiny_cli_net"
CLASSES = ("ankle boot", "bag", "coat")
INPUT = {"size": [3, 32, 32], "mean": [0.25] * 3, "std": [0.5] * 3}


class TinyNet(nn.Module):
    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self.bn1(self.conv1(images)).relu()
        return self.fc(self.bn2(self.conv2(images)).relu().mean((2, 3)))


class Segmenter(nn.Module):
    """No classifier: two outputs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.out, self.aux = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.norm(self.body(images)).relu()
        return {"out": self.out(features), "aux": self.aux(features).mean((2, 3))}


def build_tiny(num_classes: int = 3, width: int = 8) -> nn.Module:
    return TinyNet(num_classes, width)


def register_tiny() -> None:
    registry().register(NAME, build_tiny, input_size=(3, 32, 32))


def save_base(folder: Path) -> nn.Module:
    """Save a trained-looking base network; return it."""
    register_tiny()
    model = randomize(registry().find(NAME).build()).eval()
    training = {"dataset": "pictures", "seed": 0}
    checkpoint.save(
        model, folder, architecture=NAME, options={}, classes=CLASSES, input=INPUT, metrics={"test_accuracy": 0.9},
        training=training,
    )  # fmt: skip
    return model


def save_slim(folder: Path, tag: str = "0.5") -> nn.Module:
    """Save a base and a variant of it in half precision, as the bundled zoo holds them; return the variant."""
    save_base(folder)
    base = checkpoint.load_folder(folder)
    image = torch.rand(2, 3, 32, 32)
    model, _ = slim(base, ratio=0.5, example_input=image)
    metrics = {"params": count_params(model), "macs": count_macs(model, image[:1]), "test_accuracy": 0.875}
    file = checkpoint.read_config(folder).files[checkpoint.MODEL]
    before = {"test_accuracy": 0.9, "file_bytes": file.bytes, "file_dtype": "float32"}
    training = {"epochs": 8, "base": {"epochs": 6, "dataset": "pictures"}}
    variant = folder / f"pruned-{tag}"
    checkpoint.save(model, variant, variant=tag, metrics=metrics, base=before, training=training, dtype=torch.float16)
    return checkpoint.load_folder(variant)


def save_picture(file: Path, size: tuple[int, int] = (28, 28), seed: int = 0, mode: str = "L") -> Path:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode=mode if mode == "RGBA" else None).save(file)
    return file


class Ran:
    """What a command printed, and its exit status."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def run(capsys, monkeypatch, *words: object) -> Ran:
    """Run ``zoo-slim WORDS`` in this process, through its entry point."""
    monkeypatch.setattr(sys, "argv", ["zoo-slim", *map(str, words)])
    code = 0
    capsys.readouterr()
    try:
        main()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    captured = capsys.readouterr()
    return Ran(code, captured.out, captured.err)


def run_exported(file: Path, images: torch.Tensor) -> tuple[np.ndarray, dict[str, object]]:
    """Outputs of an exported network, and the note in its file."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images.numpy()})
        return found, json.loads(session.get_modelmeta().custom_metadata_map["zoo_slim"])
    notes = {"zoo_slim": ""}
    found = torch.export.load(str(file), extra_files=notes).module()(images)
    return found.detach().numpy(), json.loads(notes["zoo_slim"])


def load_script(name: str) -> ModuleType:
    """Import a file of ``scripts/``, which is no package."""
    folder = Path(__file__).parent.parent / "scripts"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))  # scripts import each other by name
    try:
        spec.loader.exec_module(script)
    finally:
        sys.path.remove(str(folder))
    return script
