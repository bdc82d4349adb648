"""Fold the constants that removed channels still emitted into the layers that read them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_slim._errors import SlimmingError
from zoo_slim._networks import unwrap
from zoo_slim.result import PruningResult, slice_tensor
from zoo_slim.schema import model_tensors
from zoo_slim.slimming._constants import Reader, find_readers
from zoo_slim.slimming._defaults import example_of
from zoo_slim.slimming._slim import remove
from zoo_slim.tracing import Example

__all__ = ["Folding", "fold_constants"]


@dataclass(frozen=True)
class Folding:
    """What `fold_constants` did.

    Attributes:
        targets: ``{weight that reads removed channels: the bias or running mean that took their constants}``.
        left: ``{weight that reads removed channels: why nothing was folded}``.
        folded: how many removed input channels were folded, counted once in each reader.
        varying: how many were not, since what they emit is no constant: a gate that depends on the image scales them,
            or a layer without BatchNorm adds to them.
        at_borders: readers near whose borders less is right: they pad their input with zeros.
        uneven: readers that got the mean of what differs from position to position: strided transposed convolutions,
            and what is read behind one, an unpooling or a shuffle of pixels.
    """

    targets: Mapping[str, str]
    left: Mapping[str, str]
    folded: int
    varying: int
    at_borders: frozenset[str]
    uneven: frozenset[str] = frozenset()

    def record(self) -> dict[str, int]:
        """The counts, for a checkpoint's config: removed inputs folded and not, and layers that took constants."""
        return {"channels": self.folded, "varying": self.varying, "layers": len(self.targets)}


def fold_constants(
    model: nn.Module, result: PruningResult, example_input: Example | None = None
) -> tuple[nn.Module, Folding]:
    """Slim a network as a result says, and give its layers what they got from the channels that are gone.

    A removed channel whose scale gamma is 0 still emitted ``act(beta)``: a constant, which is added to the bias of each
    layer that read it or, in front of a BatchNorm, subtracted from its running mean. In evaluation mode the slim
    network then equals the unmasked original, if each removed gamma is exactly 0; except near borders that a
    convolution pads with zeros, where it had seen fewer of the constants, and where upsampling puts something else in
    neighbouring positions, whose mean is folded.

    Where gamma is not 0 no constant is right. The one with the least squared error is the mean; it is taken over
    ``act(beta + gamma * z)`` with a normally distributed ``z``, which is what a BatchNorm is made to give (by
    quadrature, so that a kink such as ReLU's costs up to 0.05 gamma). Means over data need data: `recalibrate`.

    The constants are measured: the original runs in float64 on random inputs, with these gammas set to 0. Nothing is
    known about activations or the shape of the network. Not folded are channels scaled by something that depends on the
    input, and what layers read that have neither a bias nor a BatchNorm right behind them: no parameter is ever added,
    as the slim network must load from its architecture.

    Args:
        model: the original network. It stays as it is.
        result: what `slim` kept of it.
        example_input: what to call it with, as for `slim`.

    Returns:
        the slim network, in the mode of the given one, and what was folded. Its weights are not the kept slices of the
        original's any more: saved without weights it is refused.

    Raises:
        SlimmingError: the result does not fit the model, or the model does not run on the example in float64.

    Example:
        >>> _, result = zoo_slim.slim(model, ratio=0.5)
        >>> slim_model, folding = zoo_slim.fold_constants(model, result)
    """
    model = unwrap(model)
    example = example_of(model) if example_input is None else example_input
    slim_model = remove(model, result)
    try:
        readers, shared = find_readers(model, result, example)
    except Exception as error:
        raise SlimmingError(
            f"the constants of this {type(model).__name__} cannot be measured: it does not run on the example input in "
            f"float64 on the CPU: {error}. Slim it without folding, and recalibrate the slim network."
        ) from error
    targets, left = _targets(model, result, readers, shared)
    tensors = model_tensors(slim_model)
    by_target = {target: reader for reader in readers if (target := targets.get(reader.weight)) is not None}
    with torch.no_grad():
        for target, reader in by_target.items():
            assert reader.shift is not None
            shift = slice_tensor(reader.shift, result.kept.get(target, {}))
            tensor = tensors[target]
            sign = 1 if target == reader.bias else -1
            tensor.copy_(tensor.cpu().double() + sign * shift)
    return slim_model, Folding(
        targets,
        left,
        sum(int(reader.constant.sum()) for reader in by_target.values()),
        sum(int((~reader.constant).sum()) for reader in readers),
        frozenset(reader.weight for reader in by_target.values() if reader.at_borders),
        frozenset(reader.weight for reader in by_target.values() if reader.uneven),
    )


def _targets(
    model: nn.Module, result: PruningResult, readers: list[Reader], shared: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Where the shift of each reader goes, and why that of others cannot be placed."""
    by_weight: dict[str, list[Reader]] = {}
    for reader in readers:
        by_weight.setdefault(reader.weight, []).append(reader)
    users: dict[str, set[str]] = {}
    targets, left = {}, {}
    for weight, calls in by_weight.items():
        target = calls[0].bias or calls[0].norm
        if not any(reader.constant.any() for reader in calls):
            left[weight] = "what it reads of removed channels is not constant"
        elif any((call.bias or call.norm) != target or not _same(call.shift, calls[0].shift) for call in calls):
            left[weight] = "it is called several times, on different constants"
        elif target is None:
            left[weight] = "it has no bias, and no BatchNorm with running statistics right behind it"
        elif calls[0].bias is None and target in shared:
            left[weight] = "the BatchNorm behind it normalises other tensors too"
        else:
            targets[weight] = target
            users.setdefault(target, set()).add(weight)
    for target, weights in users.items():
        if len(weights) > 1:
            for weight in weights:
                left[weight] = f"it shares {target} with another layer"
                del targets[weight]
    modules = dict(model.named_modules())
    for name, tensor in model_tensors(model).items():
        if tensor.ndim < 2 or name in by_weight or 1 not in result.kept.get(name, {}):
            continue
        owner = modules.get(name.rpartition(".")[0])
        writes = isinstance(owner, nn.Embedding) or getattr(owner, "transposed", False)
        if not writes and tensor.numel() > tensor.shape[1]:  # others scale the channels that a layer then reads
            left[name] = "it is not called as a layer"
    return targets, left


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.allclose(one, other, rtol=1e-9, atol=1e-12)
