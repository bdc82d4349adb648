"""Slim checkpoints of weights from elsewhere: those that timm and torchvision publish, and those of a file."""

import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._errors import CheckpointError
from zoo_slim._names import listed
from zoo_slim.checkpoint import save
from zoo_slim.checkpoint._config import check_input
from zoo_slim.checkpoint._meta import build_real
from zoo_slim.hub._errors import first_line
from zoo_slim.hub._verify import read_digests
from zoo_slim.registry import Architecture, registry

__all__ = ["convert"]

_TIMM = "timm/"
_WITH_WEIGHTS = ("aux_loss", "transform_input")
"""Options that torchvision's builders turn on where there are weights."""

_NESTS = ("state_dict", "model_state_dict", "model")
"""Where trainers put the state dict in what they save."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and `torch.compile` put in front of each name."""


def convert(
    name: str,
    folder: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    input: Mapping[str, Any] | None = None,
    classes: Iterable[str] | None = None,
) -> Path:
    """Save weights from elsewhere as a slim checkpoint, to be slimmed, trained further and pushed.

    Args:
        name: a registered architecture.
        folder: of the checkpoint; as for `zoo_slim.save`.
        weights: a file with the state dict: safetensors, or what ``torch.save`` wrote, alone or beside other things.
            The latter is a pickle, read with ``weights_only=True``, which makes nothing but tensors and containers.
            None: the weights that timm publishes for a ``timm/`` name, or torchvision's ``DEFAULT`` for one of its
            names; what they expect of images is saved with them, and the classes as far as they are named.
        options: keyword arguments that the architecture is built with, ``num_classes`` for instance.
        input: what the weights expect of images: ``size``, ``mean`` and ``std`` as for `zoo_slim.save`, or some of
            these. The others are as published; without that, the size is the architecture's.
        classes: names of the outputs, in order, instead of those published.

    Returns:
        The folder.

    Raises:
        CheckpointError: nobody publishes weights of the architecture, they cannot be fetched or read, or do not fit;
            ``input`` or ``classes`` are wrong, or only one of mean and standard deviation is known.
        RegistryError: no such architecture, or not one of its options.
    """
    known = registry().find(name)
    checked = known.check(options or {})
    size = list(known.input_size_of(checked))
    check_input({"size": size, **(input or {})}, "convert")
    if weights is not None:
        model, fields = _from_file(known, checked, Path(weights).expanduser())
    elif name.startswith(_TIMM):
        model, fields = _from_timm(known, checked)
    else:
        model, fields = _from_torchvision(known, checked)
    if input:
        fields["input"] = {"size": size, **fields.get("input", {}), **input}
        if len(fields["input"].keys() & {"mean", "std"}) == 1:
            raise CheckpointError("convert: mean and std of the images belong together; give both")
    if classes is not None:
        fields["classes"] = classes
    return save(model.eval(), folder, architecture=known.name, **{"options": checked, **fields})


Found = tuple[nn.Module, dict[str, Any]]
"""A network, and what else `zoo_slim.save` is given."""


def _from_timm(architecture: Architecture, options: dict[str, Any]) -> Found:
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    name = architecture.name.removeprefix(_TIMM)
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise _unpublished(architecture, "timm")
    _check_count(architecture, options, published.num_classes)
    try:
        model = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # of whatever kind: the client's, torch's, the builder's
        raise _unfetched(architecture, error) from error
    config: Any = model.pretrained_cfg
    if published.num_classes:
        options = {**options, "num_classes": published.num_classes}
    size = [int(length) for length in config["input_size"]]
    size[0] = options.get("in_chans", size[0])
    expected: dict[str, Any] = {"size": size}
    if len(config["mean"]) == size[0]:
        expected |= {"mean": list(config["mean"]), "std": list(config["std"])}
    fields: dict[str, Any] = {"options": options, "input": expected}
    # timm publishes no names: by their number it knows which of ImageNet's subsets the classes are.
    if subset := infer_imagenet_subset({"num_classes": published.num_classes}):
        named = ImageNetInfo(subset)
        fields["classes"] = tuple(named.index_to_description(index) for index in range(named.num_classes()))
    source = {
        "from": f"timm {timm.__version__}",
        "name": f"{config['architecture']}.{config.get('tag') or ''}".strip("."),
    }
    if config.get("license"):
        source["license"] = str(config["license"])
    return model, {**fields, "training": {"weights": source}}


def _from_torchvision(architecture: Architecture, options: dict[str, Any]) -> Found:
    import torchvision
    from torchvision.models import get_model_weights, list_models

    if architecture.name not in list_models() or not len(published := get_model_weights(architecture.name)):
        raise _unpublished(architecture, "torchvision or timm")
    chosen = published.DEFAULT
    classes = tuple(chosen.meta["categories"])
    _check_count(architecture, options, len(classes))
    options = {name: True for name in _WITH_WEIGHTS if name in architecture.options} | options
    model = build_real(architecture, options)
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # of whatever kind, as above
        raise _unfetched(architecture, error) from error
    _put(state, model, architecture, f"torchvision's {chosen}")
    preset = chosen.transforms()
    side = (getattr(preset, "crop_size", None) or preset.resize_size)[0]
    expected = {"size": [3, side, side], "mean": list(preset.mean), "std": list(preset.std)}
    source = {"from": f"torchvision {torchvision.__version__}", "name": str(chosen)}
    return model, {"options": options, "input": expected, "classes": classes, "training": {"weights": source}}


def _from_file(architecture: Architecture, options: dict[str, Any], file: Path) -> Found:
    state = _read(file)
    model = build_real(architecture, options)
    _put(state, model, architecture, str(file))
    return model, {"training": {"weights": {"from": file.name, "sha256": read_digests(file).sha256}}}


def _read(file: Path) -> dict[str, Tensor]:
    """Read a state dict, whose names are freed of what wrappers put in front of them."""
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds more than tensors, which is not unpickled: it could run code. Where it was made, save the"
            f" state dict alone: torch.save(model.state_dict(), file) ({first_line(error)})"
        ) from error
    except Exception as error:  # of whatever kind: each format has its own
        raise CheckpointError(f"{file}: cannot be read ({first_line(error)})") from error
    while isinstance(found, Mapping) and (nests := [key for key in _NESTS if isinstance(found.get(key), Mapping)]):
        found = found[nests[0]]
    if not isinstance(found, Mapping) or not found or not all(isinstance(part, Tensor) for part in found.values()):
        raise CheckpointError(f"{file}: holds no state dict: names and tensors, alone or as {listed(list(_NESTS))}")
    state = {str(name): tensor for name, tensor in found.items()}
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _put(state: Mapping[str, Tensor], model: nn.Module, architecture: Architecture, source: str) -> None:
    """Load a state dict, all of it. Counters of batches, which old files lack, may be missing."""
    own = model.state_dict()
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    foreign = [name for name in state if name not in own]
    other = [name for name, tensor in state.items() if name in own and tensor.shape != own[name].shape]
    wrong = [
        *(f"{name} is {list(state[name].shape)} there, {list(own[name].shape)} here" for name in other),
        *(f"{name} is missing" for name in lacking),
        *(f"{name} is not of this network" for name in foreign),
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: does not fit {architecture.name} as it was built: {listed(wrong, 3)}. Say how it was built"
            f" (options=, --option): {listed(list(architecture.options)) or 'it has no options'}"
        )
    model.load_state_dict(state, strict=False)


def _check_count(architecture: Architecture, options: Mapping[str, Any], count: int) -> None:
    if architecture.class_count(options) not in (None, count):
        raise CheckpointError(
            f"{architecture.name}: the published weights are for {count} classes; leave num_classes out, and give what"
            " is saved a head of its own: zoo_slim.new_head, or zoo-slim finetune --new-head"
        )


def _unpublished(architecture: Architecture, who: str) -> CheckpointError:
    return CheckpointError(
        f"{architecture.name}: {who} publishes no weights of it; give a file (weights=, --weights), or train it"
    )


def _unfetched(architecture: Architecture, error: Exception) -> CheckpointError:
    return CheckpointError(f"{architecture.name}: its published weights could not be had ({first_line(error)})")
