"""From the classes of a trace to the groups of a schema."""

import re
import warnings
from dataclasses import replace

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from zoo_slim._names import listed
from zoo_slim._networks import unwrap
from zoo_slim._union_find import Ids
from zoo_slim.schema import Group, Layer, PruningSchema, fingerprint
from zoo_slim.tracing._trace import Example, Trace, run_trace

__all__ = ["schema_of", "trace"]


def trace(model: nn.Module, example_input: Example, *, architecture: str | None = None) -> PruningSchema:
    """Find the channel groups of a model by one forward pass in evaluation mode and one in training mode.

    Both run on meta tensors: no weights are read or allocated, and ``model`` is neither run nor changed.

    Args:
        model: any module; of one in DataParallel or `torch.compile`, the network inside.
        example_input: what to call it with: a tensor, a tuple of positional or a mapping of keyword arguments. Use a
            batch of at least 2: a batch of 1 cannot be told from a channel axis of size 1.
        architecture: a name to record in the schema.

    Raises:
        SlimmingError: the model's forward does not run on the example input.
    """
    model = unwrap(model)
    found = run_trace(model, example_input)
    if found.training is not None:
        warnings.warn(
            f"{type(model).__name__} does not run in training mode on the example input ({found.training}): branches "
            "that only run in training stay as they are, and may not fit the slim network. Try a larger example input, "
            "or one with all that training needs (a detector's targets, as example_input=[images, targets]).",
            stacklevel=2,
        )
    elif found.unused:
        warnings.warn(
            f"{type(model).__name__} does not use {listed(found.unused)} on the example input: what is not used stays "
            "as it is, and may not fit the slim network. If it ever is used, give an example input with which it is.",
            stacklevel=2,
        )
    return schema_of(model, found, architecture)


def schema_of(model: nn.Module, trace: Trace, architecture: str | None = None) -> PruningSchema:
    """Write a trace down as a schema."""
    groups, renumber = _groups(trace)
    axes = {name: {axis: renumber[part] for axis, part in places.items()} for name, places in trace.axes.items()}
    calls = {call.weight: call for call in trace.convolutions}
    layers: dict[str, Layer] = {}
    norms: dict[str, Ids] = {}
    parameters = {name: dict(places) for name, places in axes.items()}
    for name, module in model.named_modules():
        key = f"{name}.weight" if name else "weight"
        parameters_of = dict(module.named_parameters(recurse=False))  # getattr would compute parametrised ones
        weight = parameters_of.get("weight")
        own = [*parameters_of.items(), *module.named_buffers(recurse=False)]
        names = {local: f"{name}.{local}" if name else local for local, _ in own}
        if isinstance(weight, nn.Parameter) and weight.ndim >= 2 and hasattr(module, "bias") and name:
            places = axes.get(key, {})
            bias = axes.get(names.get("bias", ""), {}).get(0)
            layer = Layer(transposed=bool(getattr(module, "transposed", False)))
            if key in calls:
                layer = replace(layer, inputs=renumber[calls[key].inputs], groups=calls[key].groups)
            else:
                layer = replace(layer, inputs=places.get(layer.reads))
            inputs, outputs = layer.inputs, places.get(layer.writes)
            inputs = None if inputs is None or (inputs < 0).all() else inputs
            same_bias = (bias is None) == (outputs is None or "bias" not in names) and (
                bias is None or outputs is None or np.array_equal(bias, outputs)
            )
            same_bias &= set(axes.get(names.get("bias", ""), {})) <= {0}
            known = isinstance(module, (_ConvNd, nn.Linear)) or (
                (key, layer.writes) not in trace.reads and (inputs is None or (key, layer.reads) in trace.reads)
            )
            if known and places and same_bias and (inputs is not None or outputs is not None) and set(places) <= {0, 1}:
                layers[name] = replace(layer, inputs=inputs, outputs=outputs)
                parameters.pop(key, None)
                parameters.pop(names.get("bias", ""), None)
        elif isinstance(weight, nn.Parameter) and weight.ndim == 1 and key in axes and name:
            channels = axes[key][0]
            vectors = [names[local] for local, tensor in own if tensor.shape == weight.shape]
            if all(full in axes and np.array_equal(axes[full][0], channels) for full in vectors):
                norms[name] = channels
                for full in vectors:
                    parameters.pop(full)
        if name not in layers and isinstance(module, _ConvNd) and key in calls:
            # The weight is another layer's, or computed: only the number of groups of a depthwise one follows from it.
            call = calls[key]
            if len(call.inputs) == call.groups and (call.inputs >= 0).any():
                layers[name] = Layer(renumber[call.inputs], None, call.groups, module.transposed)
    schema = PruningSchema(groups, layers, norms, parameters)
    implied = {rows.tobytes() for rows in schema.balanced()}
    equal = {rows.tobytes(): rows for rows in (renumber[rows] for rows in trace.equal)}
    return replace(
        schema,
        attributes={name: {key: renumber[axis] for key, axis in own.items()} for name, own in trace.attributes.items()},
        equal=[rows for key, rows in equal.items() if key not in implied],
        architecture=architecture,
        fingerprint=fingerprint(model, axes),
    )


def _groups(trace: Trace) -> tuple[dict[str, Group], Ids]:
    """Put classes that lie in the same places into one group, and number the classes group by group."""
    generator = np.random.default_rng(0)
    places = np.zeros(trace.classes, dtype=np.uint64)
    writer: dict[int, str] = {}
    for axes in trace.axes.values():
        for part in axes.values():
            mark = generator.integers(1, 1 << 63, dtype=np.uint64)
            flat = part.ravel()
            np.add.at(places, flat[flat >= 0], mark)
    places += trace.inexact.astype(np.uint64)
    _, first, group_of = np.unique(places, return_index=True, return_inverse=True)
    order = np.argsort(first)  # groups in the order in which the model's tensors name their first channels
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    group_of = rank[group_of]
    written = [(name, part) for name, axes in trace.axes.items() for axis, part in axes.items() if axis == 0]
    anywhere = [(f"{name}/{axis}", part) for name, axes in trace.axes.items() for axis, part in axes.items()]
    for name, part in written + anywhere:
        for group in np.unique(group_of[part[part >= 0]]):
            writer.setdefault(int(group), name)
    groups: dict[str, Group] = {}
    renumber = np.full(trace.classes + 1, -1, dtype=np.int64)  # the last entry is that of -1
    start = 0
    for group in range(len(order)):
        classes = np.flatnonzero(group_of == group)
        stem = re.sub(
            r"[\[\]*]", "_", re.sub(r"\.(weight|bias)$", "", writer[group])
        )  # these mean something in expressions
        name, copy = stem, 1
        while name in groups:
            copy += 1
            name = f"{stem}#{copy}"
        groups[name] = Group(len(classes), inexact=bool(trace.inexact[classes[0]]))
        renumber[classes] = np.arange(start, start + len(classes))
        start += len(classes)
    return groups, renumber
