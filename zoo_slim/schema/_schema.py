"""The pruning schema: the channel groups of an architecture, and which layer writes and reads which."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from zoo_slim._errors import SchemaError
from zoo_slim._names import listed
from zoo_slim._union_find import Ids

__all__ = ["ROUNDINGS", "Axes", "Group", "Layer", "PruningSchema", "attribute_value", "is_share", "model_tensors"]

ROUNDINGS = ("none", "eight", "two_pow")
"""What the channels that a group keeps may be rounded up to: nothing, a multiple of 8, a power of two."""

Axes = dict[str, dict[int, Ids]]
"""``{state-dict name: {axis: channel of each position}}``, -1 where nothing may be removed."""


def is_share(value: object) -> TypeGuard[float]:
    """Whether a value can be the share of channels to remove."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return is_number and bool(0 <= value < 1)  # type: ignore[operator]


@dataclass(frozen=True)
class Group:
    """Channels that lie in the same places of the network, removed one by one but everywhere at once.

    Attributes:
        width: number of channels.
        merge: what several norms say of one channel: ``or`` keeps it when any of them does, ``and`` when all do.
        ratio: the share to remove from this group, whatever the global threshold says. 0 leaves the group alone. A
            group that the criterion says nothing of, `bn_scale` of one without BatchNorms, is then ranked by `l2`. Of
            groups that must lose equally many (`PruningSchema.equal`) the largest share goes for all.
        minimum: channels to keep at least. `None`: the rule of the selection.
        inexact: removal cannot equal masking (the channels pass a normalisation over channels, say).
    """

    width: int
    merge: Literal["or", "and"] = "or"
    ratio: float | None = None
    minimum: int | None = None
    inexact: bool = False


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: the channel of each input and output position, -1 for those that stay."""

    inputs: Ids | None = None
    outputs: Ids | None = None
    groups: int = 1
    transposed: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution whose groups go with its inputs, one each."""
        return self.inputs is not None and len(self.inputs) == self.groups > 1

    @property
    def reads(self) -> int:
        """The axis of its weight that reads channels; of a depthwise one, it has one position and reads none."""
        return 1 - self.writes

    @property
    def writes(self) -> int:
        """The axis of its weight that writes channels: 1 of a transposed convolution that is not depthwise, else 0."""
        return int(self.transposed and not self.depthwise)


@dataclass(frozen=True)
class PruningSchema:
    """Channel groups, and where their channels lie. Channels are numbered through all groups in order.

    Attributes:
        groups: by name, in order: the first ``width`` channels belong to the first group, and so on.
        layers: convolution and linear layers by module name.
        norms: normalisation layers by module name: the channel of each position.
        parameters: other tensors by state-dict name: ``{axis: channel of each position}``.
        attributes: integers that modules hold and that are sizes of axes: ``{module name: {attribute: channel of each
            position}}``. ``name[i]`` is the item of a list or tuple. The root module's name is ``""``.
        equal: arrays ``[rows, n]`` of channels; each row must keep equally many positions. See also `balanced`.
        architecture: the name of the architecture that it was made for, if it has one.
        fingerprint: see `fingerprint`.
        rounding: ``eight`` or ``two_pow``: keep a multiple of 8, or a power of two, of each group.
    """

    groups: Mapping[str, Group]
    layers: Mapping[str, Layer] = field(default_factory=dict)
    norms: Mapping[str, Ids] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[int, Ids]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Ids]] = field(default_factory=dict)
    equal: Sequence[Ids] = ()
    architecture: str | None = None
    fingerprint: str | None = None
    rounding: Literal["none", "eight", "two_pow"] = "none"

    @property
    def channels(self) -> int:
        """How many channels there are in all groups."""
        return sum(group.width for group in self.groups.values())

    def members(self) -> dict[str, Ids]:
        """The channel numbers of each group."""
        first, members = 0, {}
        for name, group in self.groups.items():
            members[name] = np.arange(first, first + group.width, dtype=np.int64)
            first += group.width
        return members

    def untouched(self, allow_inexact: bool = False) -> NDArray[np.bool_]:
        """The channels of groups that are left alone: those of ratio 0, and unless they are asked for the inexact ones.

        Returns:
            bool ``[channels]``.
        """
        alone = np.zeros(self.channels, dtype=bool)
        for group, channels in zip(self.groups.values(), self.members().values(), strict=True):
            alone[channels] = group.ratio == 0 or (group.inexact and not allow_inexact)
        return alone

    def own_ratio(self) -> NDArray[np.bool_]:
        """The channels of groups that have a ratio of their own, bool ``[channels]``."""
        owned = [np.full(group.width, group.ratio is not None) for group in self.groups.values()]
        return np.concatenate([np.zeros(0, dtype=bool), *owned])

    def check(self, model: nn.Module) -> None:
        """Compare with the model that is to be slimmed.

        Raises:
            SchemaError: a layer, a width or an attribute differs, or there is a tensor that it was not made with.
        """
        for name, own in self.attributes.items():
            for key, channels in own.items():
                attribute_value(model, name, key, len(channels))
        found = fingerprint(model, self.axes(model))
        if self.fingerprint is not None and found != self.fingerprint:
            raise SchemaError(
                f"the schema was made for another build of {self.architecture or 'the model'}, or edited: its "
                f"fingerprint is {self.fingerprint}, this {type(model).__name__}'s {found}. Trace the model anew; or, "
                "if the schema is right, or new tensors meet no channel that is removed, take 'fingerprint' out of it."
            )

    def balanced(self) -> list[Ids]:
        """Arrays ``[rows, n]`` of channels of which each row must keep equally many: `equal`, and what grouped
        convolutions ask of their inputs and outputs.
        """
        found = list(self.equal)
        for layer in self.layers.values():
            if layer.groups > 1 and not layer.depthwise:
                ends = (layer.inputs, layer.outputs)
                found += [channels.reshape(layer.groups, -1) for channels in ends if channels is not None]
        return found

    def with_groups(self, **changes: object) -> "PruningSchema":
        """The same schema with every group changed, ``merge="and"`` for instance."""
        return replace(self, groups={name: replace(group, **changes) for name, group in self.groups.items()})  # type: ignore[arg-type]

    def with_ratios(self, ratios: Mapping[str, float]) -> "PruningSchema":
        """The same schema with ratios of their own for single groups.

        Args:
            ratios: shares to remove, ``0 <= ratio < 1``, by the name of a group, or by a pattern of such names as of
                files: ``classifier.*``. Where several fit a group, the last one counts.

        Raises:
            SchemaError: a ratio out of range, or a name that fits no group.
        """
        if not isinstance(ratios, Mapping) or not all(isinstance(pattern, str) for pattern in ratios):
            raise SchemaError(f"ratios of groups are given by name, {{'conv1': 0.5}} for instance, not {ratios!r}")
        groups = dict(self.groups)
        for pattern, ratio in ratios.items():
            if not is_share(ratio):
                raise SchemaError(
                    f"the ratio {ratio!r} of group {pattern!r} is not a share from 0 up to, but not including, 1"
                )
            found = [name for name in groups if name == pattern or fnmatchcase(name, pattern)]
            if not found:
                raise SchemaError(f"no channel group is called {pattern!r}: there are {listed(list(groups), 20)}")
            groups |= {name: replace(groups[name], ratio=float(ratio)) for name in found}
        return replace(self, groups=groups)

    def axes(self, model: nn.Module) -> Axes:
        """Where the channels lie in the tensors of ``model``.

        Raises:
            SchemaError: a layer that the model does not have, or whose width is another.
        """
        modules = dict(model.named_modules())
        axes: Axes = {}
        for name, layer in self.layers.items():
            module = _module(modules, name)
            own = dict(module.named_parameters(recurse=False))  # getattr would compute parametrised ones
            weight, bias = own.get("weight"), own.get("bias")
            if weight is None and layer.outputs is None and layer.depthwise:
                continue  # parametrised: only its number of groups follows
            if not isinstance(weight, Tensor) or weight.ndim < 2:
                raise SchemaError(f"layer {name!r} of the schema is a {type(module).__name__} without a weight matrix")
            _check_layer(name, layer, module)
            if layer.outputs is not None:
                _put(axes, f"{name}.weight", layer.writes, layer.outputs, weight, "out")
                if isinstance(bias, Tensor):
                    _put(axes, f"{name}.bias", 0, layer.outputs, bias, "out")
            if layer.inputs is not None and layer.groups == 1:
                _put(axes, f"{name}.weight", layer.reads, layer.inputs, weight, "in")
            elif layer.inputs is not None and weight.shape[1] > 1:
                if len(layer.inputs) % layer.groups:
                    raise SchemaError(f"{name}: {len(layer.inputs)} inputs do not divide into {layer.groups} groups")
                _put(axes, f"{name}.weight", 1, layer.inputs.reshape(layer.groups, -1), weight, "in")
        for name, channels in self.norms.items():
            module = _module(modules, name)
            held: dict[str, Tensor] = {
                **dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))
            }  # fmt: skip
            main = held.get("weight", held.get("running_mean"))
            for local, tensor in held.items():
                if tensor.ndim == 1 and (main is None or len(tensor) == len(main)):
                    _put(axes, f"{name}.{local}", 0, channels, tensor, "norm")
        tensors = model_tensors(model)
        for name, places in self.parameters.items():
            if name not in tensors:
                raise SchemaError(f"the schema names the parameter {name!r}, which the model does not have")
            for axis, channels in places.items():
                _put(axes, name, axis, channels, tensors[name], str(axis))
        return axes


def _check_layer(name: str, layer: Layer, module: nn.Module) -> None:
    """Compare what a schema says of a layer besides its widths.

    Raises:
        SchemaError: naming the layer.
    """
    transposed = bool(getattr(module, "transposed", False))
    if layer.transposed != transposed:
        raise SchemaError(f"{name}: the schema says transposed: {layer.transposed}, the model's {transposed}")
    depthwise = isinstance(module, _ConvNd) and module.groups == module.in_channels and layer.depthwise
    if depthwise and layer.inputs is not None and layer.outputs is not None:
        each = len(layer.outputs) // len(layer.inputs)
        if not np.array_equal(layer.outputs, layer.inputs.repeat(each)):
            raise SchemaError(
                f"{name}: is a depthwise convolution, whose outputs go with its inputs: 'out' must name the channels"
                " of 'in' (the original tool's files say so in depthwise_conv_adjacent_bn)"
            )


def attribute_value(model: nn.Module, name: str, key: str, size: int) -> tuple[str, int, int | tuple[int, ...]]:
    """An attribute that a schema calls the size of an axis.

    Args:
        model: the model.
        name: the module's name.
        key: ``attribute`` or ``attribute[i]``.
        size: how many positions the axis has.

    Returns:
        the attribute's name, the item's place in it, and its value: an integer, or a tuple of all its items.

    Raises:
        SchemaError: the model has no such attribute, or another value there.
    """
    attribute, _, place = key.removesuffix("]").partition("[")
    module = dict(model.named_modules()).get(name)
    value: Any = None if module is None else vars(module).get(attribute)
    several = isinstance(value, (list, tuple))
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    index = int(place or 0)
    if several != bool(place) or index >= len(items) or type(items[index]) is not int or items[index] != size:
        raise SchemaError(
            f"the schema says that attribute {key!r} of module {name!r} is {size}, but the model has {value!r}: "
            "it was made for another architecture, or for an older version of this one. Trace the model anew."
        )
    return attribute, index, tuple(items) if several else size


def _module(modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in modules:
        raise SchemaError(
            f"the schema names layer {name!r}, which the model does not have: it was made for another architecture, "
            "or for an older version of this one. Trace the model anew."
        )
    return modules[name]


def _put(axes: Axes, name: str, axis: int, channels: Ids, tensor: Tensor, field_name: str) -> None:
    if axis >= tensor.ndim or tensor.shape[axis] != channels.shape[-1]:
        raise SchemaError(
            f"{name}: the schema's {field_name!r} describes {channels.shape[-1]} positions, "
            f"but the tensor has shape {list(tensor.shape)}. It was made for a model of other widths."
        )
    axes.setdefault(name, {})[axis] = channels


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each shared tensor once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def fingerprint(model: nn.Module, axes: Mapping[str, Mapping[int, Ids]]) -> str:
    """A short hash of the names of all tensors and of the sizes of their channel axes.

    Sizes that the schema does not speak of (the number of classes, a kernel's size) leave it as it is.
    """
    lines = []
    for name, tensor in model_tensors(model).items():
        sizes = [str(size) if axis in axes.get(name, {}) else "*" for axis, size in enumerate(tensor.shape)]
        lines.append(f"{name} {'x'.join(sizes)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
