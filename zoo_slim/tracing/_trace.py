"""One forward pass in each mode, and the facts it gave."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim._containers import tensors_in, with_tensors
from zoo_slim._draws import draws_undone
from zoo_slim._errors import SlimmingError
from zoo_slim._networks import copy_of
from zoo_slim.tracing._attributes import follow_attributes
from zoo_slim.tracing._dims import held_by_readers
from zoo_slim.tracing._ids import Ids
from zoo_slim.tracing._interpreter import Interpreter
from zoo_slim.tracing._labels import full_ids, support
from zoo_slim.tracing._meta import meta_copy
from zoo_slim.tracing._shapes import ShapeArguments
from zoo_slim.tracing._state import Convolution, TraceState

__all__ = ["Example", "Trace", "call_model", "run_trace", "to_device", "watch_modules"]

Example = Tensor | Sequence[Any] | Mapping[str, Any]
"""What the model is called with: one tensor, positional arguments, or keyword arguments."""


@dataclass(frozen=True)
class Trace:
    """The channel classes of a model.

    Attributes:
        axes: ``{state-dict name: {axis: class of each position}}``, int64, -1 where nothing may be removed. Shape
            ``[n]``, or ``[g, n]`` on axis 1 of a grouped convolution's weight.
        classes: how many classes there are.
        inexact: bool ``[classes]``: removal cannot equal masking.
        equal: arrays ``[rows, n]`` of classes; every row must keep equally many positions.
        convolutions: the grouped convolutions met, ids replaced by classes.
        norms: ``{name of the scale: kind of normalisation}``.
        reads: the parameters and axes that read channels: masking sets their slices to zero.
        reasons: ``(why, classes)`` of everything inexact, and why channels were frozen.
        training: whether a pass in training mode succeeded, and if not, why.
        attributes: ``{module name: {attribute: class of each position}}`` of the integers that are sizes of axes:
            an attribute becomes the number of positions kept. ``name[i]`` is the item of a list or tuple.
        unused: names of modules with parameters of their own, none of which an operation used in either mode.
    """

    axes: Mapping[str, Mapping[int, Ids]]
    classes: int
    inexact: Ids
    equal: Sequence[Ids]
    convolutions: Sequence[Convolution]
    norms: Mapping[str, str]
    reads: frozenset[tuple[str, int]]
    reasons: Sequence[tuple[str, int]]
    training: str | None
    attributes: Mapping[str, Mapping[str, Ids]] = field(default_factory=dict)
    unused: Sequence[str] = ()


def call_model(model: nn.Module, example: Example) -> Any:
    """Call ``model`` with one tensor, positional or keyword arguments."""
    if isinstance(example, Tensor):
        return model(example)
    return model(**example) if isinstance(example, Mapping) else model(*example)


def to_device(example: Example, device: str) -> Example:
    """The same example on another device."""
    moved: Example = with_tensors(example, lambda tensor: tensor.to(device))
    return moved


def watch_modules(model: nn.Module, entered: list[tuple[str, nn.Module]]) -> None:
    """Let a model keep ``entered`` up to date while it runs: the modules whose forward runs, the innermost last."""

    def enter(name: str, module: nn.Module) -> Callable[..., None]:
        return lambda *_: entered.append((name or "the model", module))

    def leave(*_: Any) -> None:
        entered.pop()

    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # it takes no hooks
        module.register_forward_pre_hook(enter(name, module))
        module.register_forward_hook(leave, always_call=True)


def run_trace(model: nn.Module, example: Example) -> Trace:
    """Trace ``model`` in evaluation and in training mode. The model itself is never run: a copy on meta tensors is.

    Generators of random numbers are in the end as before.

    Raises:
        SlimmingError: the example is none, or not even the evaluation pass runs, on meta tensors or on real ones.
    """
    if isinstance(example, Tensor) and not example.numel():
        raise SlimmingError(f"example_input is empty, of shape {list(example.shape)}: give a batch of 2")
    try:
        facts = _trace(meta_copy(model), to_device(example, "meta"))
        if facts.training is not None:
            with contextlib.suppress(Exception):
                real = _trace(copy_of(model), example)
                facts = real if real.training is None else facts
        return facts
    except SlimmingError:
        raise
    except Exception as meta_error:
        # Some forwards look at values: those run on real tensors, at the cost of a copy of the weights.
        try:
            return _trace(copy_of(model), example)
        except SlimmingError:
            raise
        except Exception as error:
            _check_example(example)
            raise SlimmingError(
                f"{type(model).__name__} cannot be traced: its forward failed on the example input: {error} "
                f"(and without weights: {meta_error}). Check that the example input is what the model expects."
            ) from error


def _check_example(example: Any) -> None:
    plain = (str, bytes, int, float, np.ndarray, np.generic, torch.Size)
    numbers = isinstance(example, (list, tuple)) and example and all(isinstance(item, int) for item in example)
    if isinstance(example, plain) or numbers:
        what = f"the numbers {list(example)}" if numbers else f"of type {type(example).__name__}"
        raise SlimmingError(
            f"example_input is {what}: give what the model is called with, a tensor for instance, such as "
            "torch.rand(2, 3, 224, 224)"
        )


def _trace(model: nn.Module, example: Example) -> Trace:
    state = TraceState()
    state.mint_parameters(model)
    attributes = follow_attributes(model, state)
    watch_modules(model, state.modules)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    failure = None
    seen: set[str] = set()
    try:
        for training in (False, True):
            model.train(training)
            state.modules.clear()
            try:
                with torch.no_grad(), draws_undone(model), held_by_readers(), ShapeArguments(state), Interpreter(state):
                    outputs = tensors_in(returned := call_model(model, example))
                if not outputs:
                    raise SlimmingError(
                        f"{type(model).__name__} returns no tensor on the example input but {type(returned).__name__}: "
                        "nobody sees what becomes of its channels. Give a network, or a part of one, that returns "
                        "tensors"
                    )
            except Exception as error:
                if not training:
                    raise
                failure = str(error)
                for name in state.used - seen:
                    for factor in state.minted[name]:
                        state.ids.freeze(factor.ids, f"its use in training mode is not known: {failure}")
                break
            seen = set(state.used)
            for tensor in outputs:
                for factor in state.label(tensor):
                    state.ids.freeze(factor.ids, "it is an output of the model")
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return _facts(model, state, attributes, failure)


def _facts(
    model: nn.Module, state: TraceState, attributes: Mapping[str, Mapping[str, Ids]], failure: str | None
) -> Trace:
    ids = state.ids
    for name, label in state.minted.items():
        if name not in state.used:
            for factor in label:
                ids.freeze(factor.ids, "no operation of the forward pass uses it")
    grouped = {call.weight for call in state.convolutions}
    for name, label in state.minted.items():
        for factor in label:
            if len(support(factor)) > 1 and name not in grouped:
                ids.freeze(factor.ids, "the weight of a grouped convolution that does something else")
    state.rules.settle(state.equal)
    positions: dict[str, dict[int, Ids]] = {}
    for name, label in state.minted.items():
        shape = state.sizes[name]
        for factor in label:
            dims = support(factor)
            if not dims:
                continue
            axis = max(dims)
            if dims == {0, 1}:
                groups = len(np.unique(factor.ids[:, 0]))
                rows = factor.ids.reshape(groups, -1, shape[1])[:, 0]
            else:
                rows = full_ids(factor, shape, [axis]).ravel()
            roots = ids.find(rows)
            if roots.any():
                positions.setdefault(name, {})[axis] = roots
    found = [roots.ravel() for axes in positions.values() for roots in axes.values()]
    roots, first = np.unique(np.concatenate([*found, np.zeros(1, dtype=np.int64)]), return_index=True)
    first, roots = first[roots != 0], roots[roots != 0]
    order = np.argsort(first)  # classes are numbered in the order in which the model's tensors name them
    table = np.full(len(ids), -1, dtype=np.int64)
    table[roots[order]] = np.arange(len(roots))

    def classes(given: Ids) -> Ids:
        return table[ids.find(given)]

    inexact = np.zeros(len(roots), dtype=bool)
    marked = table[ids.inexact_roots()]
    inexact[marked[marked >= 0]] = True
    return Trace(
        axes={name: {axis: table[part] for axis, part in axes.items()} for name, axes in positions.items()},
        classes=len(roots),
        inexact=inexact,
        equal=[rows for rows in map(classes, state.equal) if (rows >= 0).any()],
        convolutions=[
            Convolution(call.weight, call.groups, classes(call.inputs), classes(call.outputs))
            for call in {call.weight or id(call): call for call in state.convolutions}.values()
        ],
        norms=state.norms,
        reads=frozenset(state.reads),
        reasons=ids.reasons,
        training=failure,
        attributes=_live({name: {key: classes(axis) for key, axis in own.items()} for name, own in attributes.items()}),
        unused=_unused(model, state),
    )


def _unused(model: nn.Module, state: TraceState) -> list[str]:
    """Modules of which no parameter is used. Those of size 1 do not count: they fit any width."""
    used: dict[str, bool] = {}
    for name, _ in model.named_parameters():
        if state.minted.get(name):
            module = name.rpartition(".")[0]
            used[module] = used.get(module, False) or name in state.used
    return [name for name, any_used in used.items() if name and not any_used]


def _live(attributes: Mapping[str, Mapping[str, Ids]]) -> dict[str, dict[str, Ids]]:
    """The attributes of which anything may be removed."""
    live = {name: {key: axis for key, axis in own.items() if (axis >= 0).any()} for name, own in attributes.items()}
    return {name: own for name, own in live.items() if own}
