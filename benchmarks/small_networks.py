"""Networks that train in minutes on half of CIFAR-10, with proximal L1 on their scales; `lossless.py` slims them.

python benchmarks/small_networks.py small_vgg --data ~/cifar10 --output runs/small_vgg
"""

import argparse
import json
import math
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import zoo_slim
from zoo_slim import checkpoint
from zoo_slim.sparsity import group_weights, make_penalty
from zoo_slim.training import evaluate, load_dataset, seed_everything

INPUT = (3, 32, 32)
CLASSES = (0, 2, 4, 6, 8)
"""Airplane, bird, deer, frog and ship: half of the images."""


def conv_norm(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution without a bias, and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


def of_classes(data: Any, classes: tuple[int, ...]) -> Any:
    """The images of some classes alone; they keep their labels."""
    chosen = torch.tensor(classes)
    train, test = (torch.isin(labels, chosen) for labels in (data.train_labels, data.test_labels))
    return replace(
        data,
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        test_images=data.test_images[test],
        test_labels=data.test_labels[test],
    )


@zoo_slim.register("small_vgg", input_size=INPUT)
def small_vgg(num_classes: int = 10) -> nn.Module:
    """Four convolutions, 6 million multiply-accumulates an image."""
    return nn.Sequential(
        *(conv_norm(3, 32, 2), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv_norm(32, 96), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv_norm(96, 128), nn.ReLU(), conv_norm(128, 128), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes)),
    )


class Block(nn.Module):
    """The basic block of He et al. (CVPR 2016), with a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_norm(inputs, outputs, stride), conv_norm(outputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


@zoo_slim.register("small_resnet", input_size=INPUT)
def small_resnet(num_classes: int = 10) -> nn.Module:
    """Three residual blocks behind a strided stem, 4 million multiply-accumulates an image."""
    blocks = [Block(16, 16, 2), Block(16, 32, 1), Block(32, 64, 2)]
    return nn.Sequential(
        conv_norm(3, 16, 2), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)
    )


def train(model: nn.Module, data: Any, epochs: int, peak: float, strength: float, seed: int) -> None:
    """SGD with momentum 0.9 and decay 5e-4, batches of 128, cosine after one epoch of warm-up, constant proximal L1."""
    schema = zoo_slim.trace(model, torch.zeros(2, *INPUT))
    penalty = make_penalty("proximal", model, group_weights(model, schema))
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps, start = data.train_count // 128, time.perf_counter()
    for epoch in range(epochs):
        model.train()
        for step, (images, labels) in enumerate(
            data.train_batches(128, seed=seed, epoch=epoch, device=torch.device("cpu"))
        ):
            done = (epoch * steps + step) / (epochs * steps)
            rate = peak * min(done * epochs, (1 + math.cos(math.pi * done)) / 2)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            penalty.after_step(strength, rate)
        scales = torch.cat([m.weight.detach() for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
        zero = round(float((scales == 0).float().mean()), 4)
        print(json.dumps({"epoch": epoch + 1, "seconds": round(time.perf_counter() - start), "zero": zero}), flush=True)


def main() -> None:
    """Train one of the networks and save it as a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["small_vgg", "small_resnet"])
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint, to be made")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.1, help="highest learning rate")
    parser.add_argument("--sparsity", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seed_everything(options.seed)
    data = of_classes(load_dataset("cifar10", options.data), CLASSES)
    model = {"small_vgg": small_vgg, "small_resnet": small_resnet}[options.network]()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    train(model, data, options.epochs, options.rate, options.sparsity, options.seed)
    settings = {key: getattr(options, key) for key in ("epochs", "rate", "sparsity", "seed")}
    accuracy = evaluate(model, data)["accuracy"]
    print(f"test accuracy {accuracy:.4f}", flush=True)
    checkpoint.save(
        model.eval(),
        options.output,
        architecture=options.network,
        classes=data.classes,
        input={"size": list(INPUT), "mean": list(data.mean), "std": list(data.std)},
        metrics={"test_accuracy": accuracy},
        training={"dataset": "cifar10", "classes": list(CLASSES), **settings},
    )


if __name__ == "__main__":
    main()
