"""The original tool's interface, and its rules of selection."""

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from torch import nn

from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim._networks import unwrap
from zoo_slim.result import PruningResult
from zoo_slim.schema import OriginalSchema, PruningSchema, SchemaLike, as_schema, convert_original
from zoo_slim.slimming._cliff import before_cliff
from zoo_slim.slimming._criteria import Scores, check_finite
from zoo_slim.slimming._keep import result_from_keep
from zoo_slim.slimming._original_result import from_original, to_original
from zoo_slim.slimming._run_check import run_check
from zoo_slim.slimming._score import by_weights, score
from zoo_slim.slimming._select import Keep, rounded, select
from zoo_slim.slimming._slim import remove
from zoo_slim.tracing import Example, meta_copy

__all__ = ["SlimPruner", "select_as_original", "slim_by_schema"]


class SlimPruner:
    """Slim a model by a schema, or rebuild a slim model from a pruning result.

    Args:
        model: the network; of one in DataParallel or `torch.compile`, the network inside. It stays as it is.
        schema: a `PruningSchema`, or a file or dict in the new or the original tool's format. With the original's
            format, `run` follows the original's rules, see `select_as_original`. Not needed to apply a result.

    Attributes:
        result: the `PruningResult` of the last `run` or `apply_pruning_result`.
    """

    def __init__(self, model: nn.Module, schema: SchemaLike | None = None) -> None:
        self._model = unwrap(model)
        self._wrapper = next(
            (f"{name}." for name, module in model.named_modules() if name and module is self._model), ""
        )
        self._schema = None if schema is None else as_schema(schema)
        if isinstance(self._schema, OriginalSchema):
            self._schema = self._schema.without(self._wrapper)
        self._pruned: nn.Module | None = None
        self.result: PruningResult | None = None

    @property
    def pruned_model(self) -> nn.Module:
        """The slim network."""
        if self._pruned is None:
            raise SlimmingError(
                "there is no slim network yet: call run(prune_ratio=…) or apply_pruning_result(…) first"
            )
        return self._pruned

    def run(self, prune_ratio: float | Literal["auto"]) -> list[dict[str, Any]]:
        """Slim by the |gamma| of the BatchNorms.

        Args:
            prune_ratio: the share of all channels whose scale falls below the threshold; or, but with a schema of the
                original tool's format, ``"auto"``, see `find_cliff`.

        Returns:
            the result in the original's form: for each BatchNorm ``name`` and ``keep_idxes``, for each convolution
            ``in_channels_keep_idxes`` and ``out_channels_keep_idxes``, for each Linear ``in_features_keep_idxes``.

        Raises:
            SlimmingError: no schema was given, the ratio is not in ``[0, 1)``, nothing could go before the cliff, or
                the original's form has no words for the result; nothing is slimmed then.
            SchemaError: the schema does not fit the model.
        """
        result = self._chosen(prune_ratio)
        entries = to_original(result, self._model)
        self._apply(result)
        return entries

    def _chosen(self, prune_ratio: float | Literal["auto"]) -> PruningResult:
        if self._schema is None:
            raise SlimmingError("no schema to slim by: SlimPruner(model, schema), where zoo_slim.trace makes one")
        if isinstance(self._schema, OriginalSchema):
            if isinstance(prune_ratio, str):
                raise SlimmingError(
                    f"prune_ratio={prune_ratio!r}: the original's rules know shares only; give a number, or convert "
                    "the schema with zoo_slim.schema.convert_original"
                )
            schema = convert_original(self._schema, self._model)
            keep = select_as_original(self._schema, schema, self._model, prune_ratio)
        else:
            schema = self._schema
            schema.check(self._model)
            if prune_ratio == "auto":
                prune_ratio = before_cliff(self._model, schema)
            scores = by_weights(self._model, schema, score(self._model, schema, "bn_scale"))
            keep = select(schema, scores, prune_ratio)
        return result_from_keep(self._model, schema, keep)

    def apply_pruning_result(self, pruning_result: PruningResult | Sequence[dict[str, Any]]) -> None:
        """Slim as a result says, in the original's form or ours. No schema is needed.

        Raises:
            SlimmingError: the result does not fit the model.
        """
        given = pruning_result
        self._apply(given if isinstance(given, PruningResult) else from_original(given, self._model, self._wrapper))

    def _apply(self, result: PruningResult) -> None:
        self._pruned = remove(self._model, result)
        self.result = copy.deepcopy(result)


def slim_by_schema(
    model: nn.Module, schema: SchemaLike, ratio: float, example_input: Example
) -> tuple[nn.Module, PruningResult]:
    """Slim as `SlimPruner` does, and try whether the slim network runs.

    Raises:
        SlimmingError: as `SlimPruner.run`; or it does not run.
        SchemaError: the schema cannot be read, or does not fit the model.
    """
    pruner = SlimPruner(model, schema)
    result = pruner._chosen(ratio)
    pruner.apply_pruning_result(result)
    run_check(meta_copy(pruner.pruned_model), meta_copy(unwrap(model)), example_input)
    return pruner.pruned_model, result


def select_as_original(original: OriginalSchema, schema: PruningSchema, model: nn.Module, ratio: float) -> Keep:
    """Choose channels by the original's rules.

    The threshold is the value at index ``int(n * ratio)`` of all ``n`` sorted |gamma| of the model's BatchNorm2d; what
    is strictly greater stays. A BatchNorm that would keep none keeps its ``max(int(width * 0.02), 2)`` largest. Merged
    BatchNorms keep the union or the intersection. Where that is empty, the 5 % stay whose smallest |gamma| is largest:
    the original let each BatchNorm keep its own 5 %, which adds unlike channels to each other.

    Args:
        original: the parsed schema.
        schema: the same, converted.
        model: the network whose gammas are read.
        ratio: ``0 <= ratio < 1``.

    Returns:
        bool ``[channels of schema]``.
    """
    if not isinstance(ratio, Real) or not 0 <= ratio < 1:
        raise SlimmingError(f"prune_ratio {ratio!r} is not a share of channels: give 0 <= prune_ratio < 1")
    gammas = {
        name: module.weight.detach().abs().cpu().double().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    }
    if not gammas:
        raise SlimmingError(f"this {type(model).__name__} has no BatchNorm2d with a scale to slim by")
    for name, gamma in gammas.items():
        check_finite(name, gamma)
    for name in schema.norms:
        if name not in gammas:
            raise SchemaError(
                f"the schema names {name!r}, which is no BatchNorm2d with a scale; the original knows no other"
            )
    everything = np.sort(np.concatenate(list(gammas.values())))
    threshold = everything[int(len(everything) * ratio)]
    keep = np.ones(schema.channels, dtype=bool)
    for name, channels in schema.members().items():
        group = schema.groups[name]
        norms = [norm for norm, place in schema.norms.items() if place[0] == channels[0]]
        masks = [_norm_mask(gammas[norm], threshold, original.fixed.get(norm)) for norm in norms]
        scales = np.stack([gammas[norm] for norm in norms])
        merged = np.logical_and.reduce(masks) if group.merge == "and" else np.logical_or.reduce(masks)
        if not merged.any():
            merged = _largest(scales.min(axis=0), max(int(group.width * 0.05), 1))
        count = int(merged.sum())
        want = rounded(count, group.width, original.rounding)
        if want > count:
            merged |= _largest(np.where(merged, np.inf, scales.max(axis=0)), want)
        keep[channels] = merged
    return keep


def _norm_mask(gamma: Scores, threshold: float, fixed: float | None) -> Keep:
    if fixed is not None:
        return _largest(gamma, len(gamma) - int(len(gamma) * fixed))
    mask = gamma > threshold
    return mask if mask.any() else _largest(gamma, max(int(len(gamma) * 0.02), 2))


def _largest(values: Scores, count: int) -> Keep:
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask
