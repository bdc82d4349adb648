"""Prune one model with torch-pruning as its documentation shows, and compare it with the masked original.

    python benchmarks/prune_one.py NAME RECORD

NAME is one of zoo_slim's; RECORD is a file to which what is known so far is appended after every stage, as JSON lines.

What follows the library's documentation (README and examples of 1.6.1): autograd on, ``BasePruner`` with
``global_pruning=True`` and a ratio of 0.5; ``BNScaleImportance`` where the model has BatchNorm, else
``GroupMagnitudeImportance``; the layers that give the model's output ignored; ``num_heads`` for the projections of
attention, and the attributes ``num_heads`` and ``head_dim`` set after pruning; fused attention of timm off;
torchvision's ViT rounded to its number of heads, and its ``hidden_dim`` set.

What was removed is read from the weights: all entries of a weight differ, and pruning only slices them.
"""

import copy
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["TIMM_FUSED_ATTN"] = "0"

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo_slim.registry import registry

TOLERANCE = 1e-9
RATIO = 0.5
LARGEST_SIDE = 288
"""Models made for larger images are given 224 pixels, if they take them: the bound on time is for pruning."""

CHECKED_SIDE = 96
"""Side of the images on which outputs are compared, where both networks take it: float64 is slow."""


@torch.no_grad()
def mark(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter and statistic values of ordinary size that all differ, in place.

    Evenly spaced values in random order: float32 tells up to 2**23 of them apart. In larger tensors some coincide.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or tensor.ndim == 0:
            continue
        order = torch.randperm(tensor.numel(), generator=generator).double().add_(0.5) / tensor.numel()
        if tensor.ndim > 1 and isinstance(tensor, nn.Parameter):
            value = (order * 2 - 1) * (3 / tensor[0].numel()) ** 0.5
        elif tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            value = order + 0.5
        elif tensor.ndim == 1:
            value = (order * 2 - 1) * 0.35
        else:
            continue
        tensor.copy_(value.reshape(tensor.shape))


def kept_indices(slim: Tensor, original: Tensor) -> dict[int, Tensor]:
    """Which indices of each axis a slice of ``original`` keeps, for axes that lost some.

    Raises:
        ValueError: ``slim`` is no slice of ``original``.
    """
    if slim.ndim != original.ndim:
        raise ValueError(f"{list(slim.shape)} is no slice of {list(original.shape)}")
    if slim.shape == original.shape:
        if not torch.equal(slim, original):
            raise ValueError("its values have changed")
        return {}
    values, order = original.flatten().sort(stable=True)
    kept = {}
    for axis in range(slim.ndim):
        if slim.shape[axis] == original.shape[axis]:
            continue
        fibres = slim.movedim(axis, 0).reshape(slim.shape[axis], -1)
        picked = torch.randperm(fibres.shape[1], generator=torch.Generator().manual_seed(0))[:64]
        found = order[torch.searchsorted(values, fibres[:, picked].contiguous()).clamp_(max=len(order) - 1)]
        position = found // math.prod(original.shape[axis + 1 :]) % original.shape[axis]
        kept[axis] = position.mode(1).values
    expected = original
    for axis, index in kept.items():
        expected = expected.index_select(axis, index)
    if not torch.equal(slim, expected):
        raise ValueError(f"the {list(slim.shape)} kept of {list(original.shape)} cannot be told")
    return kept


def reading_axes(model: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """The parameters of torch's layers that read channels: name, parameter, and axis."""
    for name, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{local}" if name else local
            if isinstance(module, nn.modules.conv._ConvNd) and local == "weight":
                yield full, parameter, 0 if module.transposed else 1
            elif (isinstance(module, (nn.Linear, nn.Bilinear)) and local == "weight") or (
                isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and parameter.ndim == 2
            ):
                yield full, parameter, 1


@torch.no_grad()
def mask(model: nn.Module, kept: dict[str, dict[int, Tensor]]) -> None:
    """Set to zero, in place, the slices that read a removed channel."""
    for name, parameter, axis in reading_axes(model):
        if (index := kept.get(name, {}).get(axis)) is not None:
            gone = torch.ones(parameter.shape[axis], dtype=torch.bool)
            gone[index] = False
            parameter.index_fill_(axis, gone.nonzero().flatten(), 0.0)


def output_layers(model: nn.Module, classes: int, example: Tensor) -> list[nn.Module]:
    """The layers with as many outputs as there are classes; without classes, the last layer that runs."""
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    if classes:
        found = [
            module
            for module in model.modules()
            if isinstance(module, layers)
            and classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
        ]
        if found:
            return found
    ran: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in model.modules()
        if isinstance(module, layers)
    ]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return ran[-1:]


def attention(model: nn.Module, names: Mapping[str, int]) -> list[tuple[nn.Module, nn.Module, int]]:
    """Attention layers, their projections of these names, and how many times the heads' width each projection gives."""
    found = []
    for module in model.modules():
        if isinstance(getattr(module, "num_heads", None), int):
            for name, times in names.items():
                projection = getattr(module, name, None)
                if isinstance(projection, (nn.Linear, nn.Conv2d)):
                    found.append((module, projection, times))
    return found


PARTS = ("q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value")
PROJECTIONS = {"qkv": 3, "qkv_proj": 3, "kv": 2, **dict.fromkeys(PARTS, 1)}
TRIALS = (PROJECTIONS, {"qkv": 3, "qkv_proj": 3}, {})
"""Projections to be named in ``num_heads``: all that are known, those of the example for timm, none.

The first trial that gives a network that runs counts.
"""


def outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    """All tensors that the model returns."""
    return [leaf for leaf in tree_leaves(model(example)) if isinstance(leaf, Tensor)]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, over the largest expected value."""
    if [out.shape for out in found] != [out.shape for out in expected]:
        raise RuntimeError(
            f"outputs of shapes {[list(out.shape) for out in found]}, not {[list(out.shape) for out in expected]}"
        )
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if other.is_floating_point() and other.numel():
            gap = float((one - other).abs().max()) / (float(other.abs().max()) or 1.0)
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def prune(model: nn.Module, example: Tensor, classes: int, names: Mapping[str, int], record: dict[str, Any]) -> None:
    """Prune in place, and note how long the graph and the whole took."""
    from torchvision.models import VisionTransformer

    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    importance = tp.importance.BNScaleImportance() if has_norm else tp.importance.GroupMagnitudeImportance(p=2)
    record["importance"] = type(importance).__name__
    build = tp.DependencyGraph.build_dependency

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        graph = build(*args, **kwargs)
        record["graph_seconds"] = time.process_time() - start
        return graph

    tp.DependencyGraph.build_dependency = timed
    projections = attention(model, names)
    start = time.process_time()
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=importance,
        global_pruning=True,
        pruning_ratio=RATIO,
        ignored_layers=output_layers(model, classes, example),
        num_heads={projection: module.num_heads for module, projection, _ in projections},
        in_channel_groups={},
        out_channel_groups={},
        round_to=model.encoder.layers[0].num_heads if isinstance(model, VisionTransformer) else None,
    )
    pruner.step()
    record["prune_seconds"] = time.process_time() - start
    for module, projection, times in projections:
        width = projection.out_features if isinstance(projection, nn.Linear) else projection.out_channels
        module.num_heads = pruner.num_heads[projection]
        module.head_dim = width // (times * module.num_heads)
        if hasattr(module, "attn_dim"):
            module.attn_dim = module.num_heads * module.head_dim
    if isinstance(model, VisionTransformer):
        model.hidden_dim = model.conv_proj.out_channels


def training_step(model: nn.Module, architecture: Any, record: dict[str, Any]) -> None:
    """Forward, backward and an SGD step in training mode, on images of the side that was compared, else of the own."""
    for side in sorted({record["compared_side"], record["side"]}):
        try:
            network = copy.deepcopy(model).train()
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
            found = outputs(network, architecture.example_input(2, side))
            torch.stack([out.square().mean() for out in found if out.requires_grad]).sum().backward()
            optimizer.step()
            record["training_step"] = True
            return
        except Exception:
            if side == record["side"]:
                raise


def note(record: dict[str, Any], file: Path) -> None:
    """Append the record as it stands."""
    with file.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def main(name: str, file: Path) -> None:
    """Run all stages."""
    from timm.layers import set_layer_config

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    record: dict[str, Any] = {"model": name, "torch_pruning": metadata.version("torch-pruning"), "stage": "build"}
    note(record, file)
    try:
        architecture = registry().find(name)
        with set_layer_config(no_jit=True):
            original = architecture.build().eval().requires_grad_(True)
        mark(original)
        record["params"] = sum(part.numel() for part in original.parameters())
        own = max(architecture.input_size[1:])
        record["side"] = own if own <= LARGEST_SIDE else smaller(original, architecture, own)
        example = architecture.example_input(1, record["side"])
        slim = pruned(original, example, record, file)
        record["slim_params"] = sum(part.numel() for part in slim.parameters())
        advance(record, "read back", file)
        kept = read_back(slim, original)
        record["removed"] = bool(kept)
        record["norms"] = sliced_norms(slim, kept)
        advance(record, "compare", file)
        compare(slim, original, kept, architecture, record)
        del original
        advance(record, "training step", file)
        training_step(slim, architecture, record)
        advance(record, "end", file)
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        note(record, file)


def pruned(original: nn.Module, example: Tensor, record: dict[str, Any], file: Path) -> nn.Module:
    """The network of the first trial that runs; what the first trial raised, if none does."""
    trials = [names for number, names in enumerate(TRIALS) if not number or attention(original, TRIALS[number - 1])]
    failed: tuple[Exception, str] | None = None
    for names in trials:
        slim = copy.deepcopy(original)
        try:
            advance(record, "prune", file)
            prune(slim, example, number_of_classes(original), names, record)
            advance(record, "run", file)
            with torch.no_grad():
                outputs(slim, example)
            record["num_heads"] = list(names)
            return slim
        except Exception as error:
            failed = failed or (error, record["stage"])
    assert failed is not None
    record["stage"] = failed[1]
    raise failed[0]


def smaller(model: nn.Module, architecture: Any, own: int) -> int:
    """224 for a model made for larger images, if it takes that."""
    try:
        with torch.no_grad():
            model(architecture.example_input(1, 224))
        return 224
    except Exception:
        return own


def number_of_classes(model: nn.Module) -> int:
    """Timm's models tell; torchvision's have 1000, for segmentation 21."""
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int):
        return classes
    return 21 if type(model).__name__ in ("FCN", "DeepLabV3", "LRASPP") else 1000


def advance(record: dict[str, Any], stage: str, file: Path) -> None:
    """Note that the next stage begins."""
    record["stage"] = stage
    note(record, file)


def read_back(slim: nn.Module, original: nn.Module) -> dict[str, dict[int, Tensor]]:
    """What each parameter keeps, by name."""
    before = dict(original.named_parameters())
    kept = {}
    for name, parameter in slim.named_parameters():
        try:
            if axes := kept_indices(parameter.detach(), before[name].detach()):
                kept[name] = axes
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return kept


def sliced_norms(model: nn.Module, kept: dict[str, dict[int, Tensor]]) -> list[str]:
    """The kinds of normalisation over channels that lost some: there removal cannot equal masking."""
    kinds = {
        type(module).__name__
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and not isinstance(module, nn.modules.batchnorm._BatchNorm)
        and f"{name}.weight" in kept
    }
    return sorted(kinds)


@torch.no_grad()
def compare(
    slim: nn.Module, original: nn.Module, kept: dict[str, dict[int, Tensor]], architecture: Any, record: dict[str, Any]
) -> None:
    """The largest relative difference in float64, on small images if both networks take them."""
    slim, masked = copy.deepcopy(slim).double(), copy.deepcopy(original).double()
    mask(masked, kept)
    for side in [CHECKED_SIDE, record["side"]] if record["side"] > CHECKED_SIDE else [record["side"]]:
        example = architecture.example_input(2, side, dtype=torch.float64)
        try:
            record["difference"] = difference(outputs(slim, example), outputs(masked, example))
            record["compared_side"] = side
            break
        except Exception:
            if side == record["side"]:
                raise
    record["exact"] = record["difference"] < TOLERANCE


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
