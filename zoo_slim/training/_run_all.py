"""Train sparsely once, then slim and fine-tune for each ratio."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from zoo_slim.result import PruningResult
from zoo_slim.training._after_slimming import check_way, each_way
from zoo_slim.training._claim import check_unclaimed
from zoo_slim.training._data import Dataset, rows_of
from zoo_slim.training._evaluate import is_of
from zoo_slim.training._history import group_ratios_record, history
from zoo_slim.training._keep import accuracy_of, keep, provenance, size_of, tested_part
from zoo_slim.training._loop import fit
from zoo_slim.training._pipeline import MODEL, enter, identity_of, train
from zoo_slim.training._preflight import check_forward, check_ratio, check_scales, check_schema, part_size
from zoo_slim.training._processes import by_main
from zoo_slim.training._progress import announce
from zoo_slim.training._settings import Settings, TrainingError
from zoo_slim.training._sources import (
    Data,
    check_architecture,
    check_classes,
    check_outputs,
    example_of,
    load_network,
    read,
    structure,
    training_of,
    with_classes,
)
from zoo_slim.training._state import digest_of, write_json

__all__ = ["Ratio", "run_all"]

Ratio = float | Literal["auto"]


def run_all(
    architecture: str | None,
    data: Data | Dataset,
    settings: Settings,
    tuning: Settings | None,
    ratios: Sequence[Ratio],
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    base: str | Path | None = None,
    group_ratios: Mapping[str, float] | None = None,
    schema: str | Path | None = None,
    rounding: str | None = None,
    after_slimming: str = "plain",
    distill: bool = False,
    resume: bool = False,
    dtype: str | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train sparsely, then slim and fine-tune for each ratio.

    ``folder`` gets the training run, its slim checkpoint in ``model/`` with the slim variants in
    ``model/pruned-<ratio>/``, the fine-tuning runs in ``finetune-<ratio>/`` and ``summary.json``.

    Args:
        architecture: as in `train`; None = that of ``base``, or of ``start`` with its options.
        data: as in `train`.
        settings: of the sparsity training.
        tuning: of the fine-tuning; None = train only.
        ratios: shares of the BatchNorm scales below the threshold, between 0 and 1; or ``auto``: see `slim`.
        folder: of this run and all its parts.
        options: as in `train`; where ``architecture`` is None they change those of ``start``.
        start: as in `train`.
        base: slim checkpoint of a trained network; nothing is trained before slimming then. The variants of one that
            is slim itself, ``0.5`` for instance, are ``0.5-<ratio>``.
        group_ratios: as for `zoo_slim.slim`.
        schema: file of a pruning schema, or of the original tool's, whose rules are then followed; default: the
            architecture's own schema, or a traced one.
        rounding: as for `zoo_slim.slim`.
        after_slimming: what fine-tuning starts from: ``plain``, ``folded``, ``recalibrated`` or ``both``.
        distill: let the network imitate the one that it was slimmed from.
        resume: go on where the last run in ``folder`` stopped.
        dtype: as in `train`, for the variants too.
        command: recorded in the checkpoints.

    Returns:
        The summary: ``base`` and, by ratio, ``variants``, each with ``test_accuracy``, ``params`` and ``macs``;
        variants also with ``after_slimming``, the accuracy before fine-tuning each way, and
        ``test_accuracy_before_finetuning``, that of the way gone; ``saved``, the folder of the last checkpoint.

    Raises:
        TrainingError: neither an architecture nor a checkpoint is given, a ratio is out of range, or a run cannot go
            on.
        SlimmingError: an unknown rounding.
        SchemaError: the schema cannot be read, or does not fit, or the group ratios do not fit it. Like the ratios,
            these are checked before anything is trained.
    """
    from zoo_slim import checkpoint
    from zoo_slim.checkpoint._config import further_tag
    from zoo_slim.slimming._defaults import schema_for
    from zoo_slim.slimming._select import check_rounding

    for ratio in ratios:
        check_ratio(ratio)
    if rounding is not None:
        check_rounding(rounding)
        if schema is not None:
            raise TrainingError("a schema file says its rounding itself: leave the rounding out, or write it there")
    if group_ratios and schema is not None:
        raise TrainingError("a schema file says the ratios of its groups itself: leave them out, or write them there")
    if "auto" in ratios and schema is not None:
        raise TrainingError("the ratio auto follows zoo_slim's own schema: give a number, or no schema")
    check_way(after_slimming)
    part = enter(settings, dtype)
    folder = Path(folder)
    if architecture is None and base is None:
        architecture, options = _built(start, options)
    given = start if base is None else base
    known = load_network(given) if given is not None else None
    source = checkpoint.origin_of(known) if known is not None and base is not None else None
    for tag in map(_tag, ratios if tuning is not None else ()):
        further = further_tag(source.variant if source is not None else None, tag)
        check_unclaimed(folder / MODEL / f"pruned-{further}", folder / f"finetune-{tag}")
    dataset = read(data, known)
    if schema is not None or tuning is not None:
        whole = known if known is not None and base is not None else structure(str(architecture), options, dataset)
        if schema is not None:
            check_schema(schema, whole)
        if tuning is not None:
            size = part_size(tested_part(dataset, tuning), tuning)
            rows_of(size, part)
            check_scales(whole)
            if group_ratios:
                schema_for(whole, None, example_of(dataset)).with_ratios(group_ratios)
            if size == 1 and base is None:  # two images are tried before the training
                check_forward(_build(str(architecture), options, dataset), dataset, str(architecture), tuning)
    if known is not None and base is not None:
        check_architecture(known, architecture, base)
    del known  # it need not be kept while others are trained
    trained = base
    if trained is None:
        assert architecture is not None
        trained = train(
            architecture,
            dataset,
            settings,
            folder,
            options=options,
            start=start,
            resume=resume,
            dtype=dtype,
            command=command,
        )
    whole = load_network(trained)
    check_classes(whole, dataset)
    if base is not None:
        check_forward(whole, dataset, str(base), tuning)
        if tuning is not None:
            check_outputs(whole, dataset, base)
    origin = checkpoint.origin_of(whole)
    base_metrics = dict(origin.metrics) if origin is not None else {}
    tested = tested_part(dataset, tuning or settings)
    if "test_accuracy" not in base_metrics or not is_of(training_of(whole), tested):
        base_metrics |= {"test_accuracy": accuracy_of(whole, tested, tuning or settings), **size_of(whole, dataset)}
    summary: dict[str, Any] = {"architecture": architecture, "base": base_metrics, "saved": str(trained)}
    if tuning is not None:
        summary["variants"] = {}
        for ratio in dict.fromkeys(ratios):
            whole = load_network(trained)
            slimmed, result, share = _slim(whole, ratio, schema, dataset, rounding, group_ratios)
            target = _tune(
                whole, slimmed, result, share, _tag(ratio), dataset, tuning, folder, schema=schema, rounding=rounding,
                group_ratios=group_ratios, after_slimming=after_slimming, distill=distill, resume=resume, dtype=dtype,
                command=command, base_metrics=base_metrics,
            )  # fmt: skip
            summary["variants"][_tag(ratio)] = dict(checkpoint.read_config(target).metrics)
            summary["saved"] = str(target)
    by_main(lambda: write_json(folder / "summary.json", summary))
    return summary


def _built(start: str | Path | None, options: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return the architecture of a checkpoint, and its options with the changes given."""
    from zoo_slim.checkpoint import origin_of

    origin = origin_of(load_network(start)) if start is not None else None
    if origin is None:
        raise TrainingError("nothing to train: name an architecture, or a trained checkpoint")
    return origin.architecture, {**origin.options, **(options or {})}


def _build(name: str, options: Mapping[str, Any] | None, dataset: Dataset) -> nn.Module:
    """Return the network that training begins with, with weights of some kind."""
    from zoo_slim.registry import registry

    found = registry().find(name)
    return found.build(**with_classes(found, dict(options or {}), dataset))


def _tag(ratio: Ratio) -> str:
    return ratio if isinstance(ratio, str) else f"{ratio:g}"


def _slim(
    whole: nn.Module,
    ratio: Ratio,
    schema: str | Path | None,
    dataset: Dataset,
    rounding: str | None = None,
    group_ratios: Mapping[str, float] | None = None,
) -> tuple[nn.Module, PruningResult, float]:
    """Return the slim network, the pruning result, and the ratio as a number."""
    from zoo_slim import slim
    from zoo_slim.slimming._cliff import before_cliff
    from zoo_slim.slimming._defaults import schema_for
    from zoo_slim.slimming._pruner import slim_by_schema

    example = example_of(dataset)
    if schema is not None:
        assert not isinstance(ratio, str)
        return *slim_by_schema(whole, schema, ratio, example), ratio
    groups = schema_for(whole, None, example).with_ratios(group_ratios or {})
    share = before_cliff(whole, groups, rounding=rounding) if isinstance(ratio, str) else ratio
    return *slim(whole, ratio=ratio, schema=groups, example_input=example, rounding=rounding), share


def _tune(
    whole: nn.Module,
    slimmed: nn.Module,
    result: PruningResult,
    ratio: float,
    variant: str,
    dataset: Dataset,
    tuning: Settings,
    folder: Path,
    *,
    schema: str | Path | None,
    rounding: str | None,
    group_ratios: Mapping[str, float] | None,
    after_slimming: str,
    distill: bool,
    resume: bool,
    dtype: str | None,
    command: str | None,
    base_metrics: Mapping[str, Any],
) -> Path:
    """Fine-tune a slim network, save it as a variant, and return the variant's folder."""
    from zoo_slim.checkpoint import origin_of
    from zoo_slim.checkpoint._config import further_tag

    origin = origin_of(whole)
    tested = tested_part(dataset, tuning)
    accuracies: dict[str, float] = {}
    model, steps = slimmed, {}
    for found in each_way(whole, slimmed, result, tested, tuning):
        if found.network is not None:
            accuracies[found.way] = accuracy_of(found.network, tested, tuning)
        if found.way == after_slimming:
            if found.network is None:
                raise TrainingError(f"this network cannot be used {after_slimming} after slimming: {found.reason}")
            model, steps = found.network, found.steps
    said = ", ".join(f"{way} {accuracy:.4f}" for way, accuracy in accuracies.items())
    announce(f"slimmed at ratio {variant}; test accuracy before fine-tuning: {said}")
    slimming = {
        **({"command": command} if command else {}),
        "criterion": "bn_scale",
        "ratio": ratio,
        **group_ratios_record(group_ratios),
        "after_slimming": after_slimming,
        **steps,
        **({"schema": Path(schema).name} if schema is not None else {}),
        **({"rounding": rounding} if rounding is not None else {}),
        "base": training_of(whole),
    }
    identity = identity_of(slimmed)
    if after_slimming != "plain":
        identity["after_slimming"] = after_slimming
    teacher_sha256 = digest_of(whole.state_dict()) if distill else None
    teacher = whole if distill else None
    lines = fit(model, dataset, tuning, folder / f"finetune-{variant}", resume, identity=identity, teacher=teacher)
    tag = further_tag(origin.variant if origin is not None else None, variant)
    target = folder / MODEL / f"pruned-{tag}"
    keep(
        model,
        target,
        dataset,
        tuning,
        provenance(dataset, tuning, lines, command, teacher_sha256) | history(slimming),
        dtype=dtype,
        metrics={"test_accuracy_before_finetuning": accuracies[after_slimming], "after_slimming": accuracies},
        variant=tag,
        base=origin.base if origin is not None and origin.result is not None else base_metrics,
    )
    return target
