"""Which residual blocks to take out: named ones, those that score lowest, or those that are dead."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
from torch import nn

from zoo_slim._errors import SlimmingError
from zoo_slim._names import listed
from zoo_slim._networks import unwrap
from zoo_slim._replacement import Zeros, around, is_within
from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming._blocks import BlockSearch
from zoo_slim.slimming._criteria import Scores
from zoo_slim.slimming._run_check import fault
from zoo_slim.slimming._select import Keep
from zoo_slim.tracing import Example, meta_copy

__all__ = ["Removal", "RemoveBlocks", "find_blocks", "own_channels", "present_channels", "without"]

RemoveBlocks = Sequence[str] | int | Literal["dead", "needed"]
"""Names of blocks; how many of the lowest score; all that are dead; or as many as a budget needs."""


def find_blocks(model: nn.Module, example_input: Example) -> dict[str, str]:
    """The residual blocks of a model that `slim` can take out whole.

    A block computes ``act(x + branch(x))`` of one tensor, and nothing is left of it but ``act(x)`` where all of its
    parameters are zero. That is found out by running each module on its own, whatever it is called.

    Args:
        model: with real weights. It is neither run nor changed.
        example_input: what to call it with.

    Returns:
        ``{module name: what takes its place}``, in the model's order: ``Identity``, or the name of an activation.

    Raises:
        SlimmingError: the model does not run on the example input.
    """
    model = unwrap(model)
    return Removal(model, meta_copy(model), example_input).blocks


class Removal:
    """The blocks of one model, and ways to choose among them. Each gives ``{module name: what takes its place}``.

    Args:
        model: with real weights.
        probe: the same on the meta device.
        example: what to call it with.
    """

    def __init__(self, model: nn.Module, probe: nn.Module, example: Example) -> None:
        self._probe, self._example = probe, example
        self._search = BlockSearch(model, example)
        self._faults: dict[frozenset[tuple[str, str]], str | None] = {}

    @cached_property
    def blocks(self) -> dict[str, str]:
        """All blocks without which the network runs."""
        found = self._search.blocks()
        if self._fault(_outermost(found)) is None:
            return found
        return {name: becomes for name, becomes in found.items() if self._fault({name: becomes}) is None}

    def named(self, names: Iterable[str]) -> dict[str, str]:
        """The blocks and branches of those names.

        Raises:
            SlimmingError: one cannot be removed; the message says why, and lists those that can.
        """
        chosen = self._whole({name: self._search.becomes(name) or self._as_branch(name) for name in names})
        if self._fault(chosen) is not None:
            for name, becomes in chosen.items():
                if (wrong := self._fault({name: becomes})) is not None:
                    raise SlimmingError(
                        f"{name!r} cannot be taken out: without it the network {wrong}. Something refers to it beyond "
                        "calling it"
                    )
        return chosen

    def lowest(self, schema: PruningSchema, scores: Scores) -> list[dict[str, str]]:
        """For 0, 1, 2, … up to all blocks with scores: so many of those whose own channels score lowest in the mean."""
        means = {}
        for name, channels in own_channels(schema, self._probe, self.blocks).items():
            scored = channels & np.isfinite(scores)
            if scored.any():
                means[name] = float(scores[scored].mean())
        growing: list[dict[str, str]] = [{}]
        for name in sorted(means, key=means.__getitem__):
            if not any(is_within(name, other) or is_within(other, name) for other in growing[-1]):
                growing.append({**growing[-1], name: self.blocks[name]})
        return growing

    def dead(self, schema: PruningSchema, keep: Keep, candidates: Keep) -> dict[str, str]:
        """The blocks and branches that keep none of their own channels, and so pass nothing on.

        Args:
            schema: all channels.
            keep: bool ``[channels]``: what the threshold keeps.
            candidates: bool ``[channels]``: what it could remove.
        """
        reads = _reads(schema, self._probe, ~keep)

        def are_dead(names: Iterable[str]) -> list[str]:
            owned = own_channels(schema, self._probe, names)
            suspects = [
                name for name, own in owned.items() if (own & candidates).any() and not keep[own & candidates].any()
            ]
            # Channels that are no candidates may pass something on: of another branch, say.
            return [name for name in suspects if self._search.is_cut(name, reads)]

        chosen = {name: self.blocks[name] for name in are_dead(self.blocks)}
        for block in self.blocks:
            dead = [] if block in chosen else are_dead(self._search.called_in(block))
            for name in dead:
                if name in self._search.branches(block) and self._fault({name: Zeros.__name__}) is None:
                    chosen[name] = Zeros.__name__
        return self._whole(chosen)

    def _as_branch(self, name: str) -> str:
        for block in around(name):
            if self._search.becomes(block) is not None and name in self._search.branches(block):
                return Zeros.__name__
        known = list(self.blocks)
        others = f"The network's blocks are {listed(known, 12)}" if known else "This network has no residual blocks"
        raise SlimmingError(f"{name!r} is no residual block: {self._search.refusal(name)}. {others}")

    def _whole(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """A block of which all branches were chosen goes whole; what lies in a block goes with it."""
        whole = {
            block: becomes
            for branch, kind in chosen.items()
            if kind == Zeros.__name__
            for block in around(branch)
            if (becomes := self._search.becomes(block)) is not None
            and branch in (branches := self._search.branches(block))
            and chosen.keys() >= set(branches)
            and self._fault({block: becomes}) is None
        }
        return _outermost({**chosen, **whole})

    def _fault(self, removed: Mapping[str, str]) -> str | None:
        key = frozenset(removed.items())
        if key not in self._faults:
            network = apply_result(self._probe, PruningResult(removed=removed))
            self._faults[key] = fault(network, self._probe, self._example)
        return self._faults[key]


def without(schema: PruningSchema, removed: Iterable[str]) -> PruningSchema:
    """The schema of the network without these modules, without a fingerprint. Channels keep their numbers."""
    removed = list(removed)

    def stays(name: str) -> bool:
        return not any(is_within(name, module) for module in removed)

    return replace(
        schema,
        fingerprint=None,
        layers={name: layer for name, layer in schema.layers.items() if stays(name)},
        norms={name: channels for name, channels in schema.norms.items() if stays(name)},
        parameters={name: places for name, places in schema.parameters.items() if stays(name)},
        attributes={name: sizes for name, sizes in schema.attributes.items() if stays(name)},
    )


def present_channels(schema: PruningSchema, model: nn.Module) -> Keep:
    """The channels that lie anywhere: bool ``[channels]``."""
    present = np.zeros(schema.channels, dtype=bool)
    for axes in schema.axes(model).values():
        for channels in axes.values():
            present[channels[channels >= 0]] = True
    return present


def _reads(schema: PruningSchema, model: nn.Module, dead: Keep) -> dict[str, tuple[int, Keep]]:
    """Where weights read dead channels: ``{weight: (axis, bool of the axis's channels' shape)}``."""
    lookup = np.append(dead, False)  # -1, what stays, looks up the last entry
    axes = schema.axes(model)
    found = {}
    for name, layer in schema.layers.items():
        channels = axes.get(f"{name}.weight", {}).get(layer.reads)
        if channels is not None and lookup[channels].any():
            found[f"{name}.weight"] = (layer.reads, lookup[channels])
    return found


def own_channels(schema: PruningSchema, model: nn.Module, modules: Iterable[str]) -> dict[str, Keep]:
    """The channels that lie in tensors of a module and nowhere else: ``{module name: bool [channels]}``."""
    places = {}
    for tensor, axes in schema.axes(model).items():
        channels = np.unique(np.concatenate([part.ravel() for part in axes.values()]))
        places[tensor] = channels[channels >= 0]

    def count(tensors: Iterable[str]) -> np.ndarray:
        counts = np.zeros(schema.channels, dtype=np.int64)
        for tensor in tensors:
            counts[places[tensor]] += 1
        return counts

    everywhere = count(places)
    found = {}
    for module in modules:
        here = count(tensor for tensor in places if is_within(tensor, module))
        found[module] = (here > 0) & (here == everywhere)
    return found


def _outermost(names: Mapping[str, str]) -> dict[str, str]:
    return {
        name: becomes
        for name, becomes in names.items()
        if not any(is_within(name, other) and name != other for other in names)
    }
