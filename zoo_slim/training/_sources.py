"""Where a training gets its data and its networks from, and whether they fit each other."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo_slim.training._data import Dataset, ImageTensors, load_dataset
from zoo_slim.training._folder import FolderImages
from zoo_slim.training._processes import by_main, is_main
from zoo_slim.training._settings import TrainingError

__all__ = [
    "Data", "check_architecture", "check_classes", "check_outputs", "compare_classes", "example_of", "load_network",
    "read", "structure", "training_of", "warn_of_normalisation", "with_classes",
]  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Which data set to use, as `zoo_slim.training.load_dataset` takes it.

    Images are normalised as the network expects, and those of an image folder without a ``size`` are as large; where
    there is no network yet, or it does not say, the data set's statistics are taken, for a folder ImageNet's and 224.
    """

    name: str
    root: str | Path
    size: int | None = None
    download: bool = False

    def load(self, expected: Mapping[str, Any] | None = None) -> Dataset:
        """Read it, for a network whose checkpoint says ``expected`` of its input."""
        size = (expected or {}).get("size")
        default: dict[str, Any] = {"default_size": int(size[-1])} if size else {}
        if self.download:
            by_main(lambda: load_dataset(self.name, self.root, self.size, download=True))
        found = load_dataset(self.name, self.root, self.size, **default)
        mean, std = (tuple((expected or {}).get(key) or ()) for key in ("mean", "std"))
        if isinstance(found, (FolderImages, ImageTensors)) and len(mean) == len(std) == len(found.mean):
            return replace(found, mean=mean, std=std)
        return found


def read(data: Data | Dataset, model: nn.Module | None = None) -> Dataset:
    """Return a data set that may have been read already; ``model`` is the loaded network that it is for, if any.

    Raises:
        TrainingError: it is somebody's own, and lacks something.
    """
    from zoo_slim.checkpoint import origin_of

    if isinstance(data, Data):
        origin = origin_of(model) if model is not None else None
        return data.load(origin.input if origin is not None else None)
    lacking = [name for name in vars(Dataset) if not name.startswith("_") and not hasattr(data, name)]
    if lacking:
        raise TrainingError(f"{type(data).__name__} is no data set: it has no {', '.join(lacking)} (see Dataset)")
    return data


def load_network(source: str | Path) -> nn.Module:
    """Load a checkpoint: a path is a folder, and so is the name of one unless it is a registered name."""
    from zoo_slim.loading import LOCAL_PREFIX, load, place_of

    return load(f"{LOCAL_PREFIX}{source}" if isinstance(source, Path) else place_of(source))


def structure(name: str, options: Mapping[str, Any] | None, dataset: Dataset) -> nn.Module:
    """Return the network that training begins with, without weights."""
    from zoo_slim.checkpoint._meta import build_on_meta
    from zoo_slim.registry import registry

    found = registry().find(name)
    return build_on_meta(found, with_classes(found, dict(options or {}), dataset))


def with_classes(architecture: Any, options: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Return the builder's options, with as many classes as the data set has where the architecture can.

    Raises:
        TrainingError: another number of classes is asked for.
    """
    from zoo_slim import ZooSlimError

    count = len(dataset.classes)
    if "num_classes" in options:
        if options["num_classes"] != count:
            raise TrainingError(f"num_classes is {options['num_classes']}, but {dataset.name} has {count} classes")
        return architecture.check(options)
    try:
        return architecture.check({**options, "num_classes": count})
    except ZooSlimError:
        return architecture.check(options)


def check_classes(model: nn.Module, dataset: Dataset, role: str = "model") -> None:
    """Compare the classes that a loaded network was trained for with the data set's, see `compare_classes`."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(model)
    if origin is not None:
        compare_classes(origin.classes or (), dataset, role)


def check_outputs(model: nn.Module, dataset: Dataset, source: str | Path) -> None:
    """Compare the number of outputs that a loaded network was built with, as far as it is known, with the classes.

    Raises:
        TrainingError: they differ; once trained, it could not be saved with the names of the classes.
    """
    from zoo_slim.checkpoint import origin_of
    from zoo_slim.registry import registry

    origin, count = origin_of(model), len(dataset.classes)
    if origin is None:
        return
    built = registry().find(origin.architecture).class_count(origin.options)
    if built not in (None, count):
        raise TrainingError(
            f"{source} was built with num_classes={built}, but {dataset.name} has {count} classes: "
            f"finetune with --new-head, or build the {origin.architecture} with num_classes={count} and save it"
        )


def warn_of_normalisation(teacher: nn.Module, dataset: Dataset) -> None:
    """Warn where a teacher expects other images than it will see, which are normalised for the network."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(teacher)
    expected = (origin.input if origin is not None else None) or {}
    given = {"mean": dataset.mean, "std": dataset.std}
    differ = [key for key, numbers in given.items() if expected.get(key) and not np.allclose(expected[key], numbers)]
    if differ and is_main():
        warnings.warn(
            f"the teacher expects images of another {' and '.join(differ)} than {dataset.name} is normalised with for "
            "the network; its answers may be wrong",
            stacklevel=3,
        )


def compare_classes(classes: Sequence[str], dataset: Dataset, role: str = "model") -> None:
    """Compare the classes of a network, if they are known, with those of a data set. Of other names it warns.

    Raises:
        TrainingError: their number differs, or they are the same in another order.
    """
    theirs = tuple(dataset.classes)
    if not classes or tuple(classes) == theirs:
        return
    if len(classes) != len(theirs):
        raise TrainingError(
            f"the {role} tells {len(classes)} classes apart, {dataset.name} has {len(theirs)}; "
            "choose the data set that it was trained for"
            + ("" if role == "teacher" else ", or finetune with --new-head")
        )
    first = next(n for n, (ours, other) in enumerate(zip(classes, theirs, strict=True)) if ours != other)
    differ = f"class {first} of the {role} is {classes[first]!r}, of {dataset.name} {theirs[first]!r}"
    if sorted(classes) == sorted(theirs):
        raise TrainingError(f"{differ}: the same classes in another order; number the data set's as the {role}'s")
    if is_main():
        warnings.warn(f"{differ}; is it the data set that it was trained for?", stacklevel=3)


def check_architecture(model: nn.Module, asked: str | None, source: str | Path) -> None:
    """Compare a loaded network with the architecture that was named, if one was.

    Raises:
        TrainingError: it is another one.
    """
    from zoo_slim.checkpoint import origin_of
    from zoo_slim.registry import registry

    origin = origin_of(model)
    if asked is None or origin is None:
        return
    if registry().find(asked).name != registry().find(origin.architecture).name:
        raise TrainingError(
            f"{source} holds a {origin.architecture}, but {asked} was asked for; leave the name out, "
            "or name the checkpoint of another network"
        )


def example_of(dataset: Dataset) -> torch.Tensor:
    """Return two random images of the data set's size."""
    return torch.rand(2, *dataset.input_size, generator=torch.Generator().manual_seed(0))


def training_of(model: nn.Module) -> dict[str, Any]:
    """Return how a loaded network was trained, as its checkpoint says."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(model)
    return dict(origin.training) if origin is not None else {}
