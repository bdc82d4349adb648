"""A data set and a network that train in a second."""

import json
import os
import signal

import torch
from torch import nn

from zoo_slim.training import ImageTensors, Settings, seed_everything

TIMES = ("seconds", "images_per_second")


def toy_data(count: int = 48, seed: int = 0, size: int = 8) -> ImageTensors:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 100
    test_images, test_labels = images.flip(0).roll(1, 3), labels.flip(0)
    return ImageTensors("toy", ("r", "g", "b"), images, labels, test_images, test_labels, (0.4,) * 3, (0.2,) * 3)


def toy_model(seed: int = 0, width: int = 6) -> nn.Module:
    seed_everything(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(width, 3),
    )


SETTINGS = Settings(
    epochs=3,
    batch_size=8,
    learning_rate=0.1,
    warmup_epochs=1,
    sparsity=1e-3,
    label_smoothing=0.1,
    clip_norm=5.0,
    nesterov=True,
    seed=3,
    device="cpu",
)


def changed(**values) -> Settings:
    return Settings(**{**SETTINGS.as_dict(), **values})


def metrics(folder) -> list[dict]:
    return without_times(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())


def without_times(lines) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def interrupted(model, step):
    """Interrupt the training of ``model`` after so many forward passes."""
    seen = 0

    def interrupt(module, inputs):
        nonlocal seen
        if module.training:
            if seen == step:
                raise KeyboardInterrupt
            seen += 1

    return model.register_forward_pre_hook(interrupt)


def told_to_stop(model, step):
    """Send this process a SIGTERM in the forward pass of that number of a training."""
    return signal_at(model, step, signal.SIGTERM)


def kill_at(model, step):
    """Kill this process when ``model`` has made so many forward passes in training; never at a negative number."""
    signal_at(model, step, signal.SIGKILL)


def signal_at(model, step, number):
    """Send this process a signal when ``model`` has made so many forward passes in training."""
    left = step

    def send(module, inputs):
        nonlocal left
        if module.training and not inputs[0].is_meta:
            if left == 0:
                os.kill(os.getpid(), number)
            left -= 1

    return model.register_forward_pre_hook(send)
