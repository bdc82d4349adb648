"""Write a network as a slim checkpoint."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo_slim._errors import CheckpointError
from zoo_slim._networks import unwrap
from zoo_slim.checkpoint._base import BaseWeights, FileRecord
from zoo_slim.checkpoint._config import (
    CONFIG,
    MODEL,
    PRUNING,
    Config,
    check_input,
    check_variant,
    parse_config,
    read_config_file,
)
from zoo_slim.checkpoint._delta import check_still_there, cut_from_file, cut_from_folder_above
from zoo_slim.checkpoint._fits import check_fits
from zoo_slim.checkpoint._folder import VARIANT_PREFIX, list_variants, named, replacing
from zoo_slim.checkpoint._json import check_tree
from zoo_slim.checkpoint._meta import build_on_meta, named_tensors, shapes_of
from zoo_slim.checkpoint._origin import Origin, origin_of
from zoo_slim.checkpoint._packages import libraries_of
from zoo_slim.checkpoint._result_file import check_meaning, write_result
from zoo_slim.checkpoint._weights import floating_dtype, write_weights
from zoo_slim.registry import Architecture, registry
from zoo_slim.result import PruningResult, apply_result

__all__ = ["check_dependants", "save"]


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    options: Mapping[str, Any] | None = None,
    result: PruningResult | None = None,
    variant: str | None = None,
    classes: Iterable[str] | None = None,
    input: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    weights: bool = True,
    base_weights: BaseWeights | None = None,
    base_file: str | os.PathLike[str] | None = None,
) -> Path:
    """Save a network as a slim checkpoint; all of the folder appears at once, or nothing does.

    What is not given is taken from the model's `Origin`, which loading and slimming attach. A checkpoint that is in
    ``folder`` already is replaced as a whole, but for its variants (``pruned-...``) and files of other kinds.

    Args:
        model: a network of a registered architecture, or a slim network made from one; any device, any mode.
        folder: the checkpoint's own folder: ``NAME`` for a base network, ``NAME/pruned-VARIANT`` for a variant of it.
            A leading ``~`` is the user's home.
        architecture: registered name of the architecture.
        options: keyword arguments that the architecture was built with.
        result: what was kept of the original network, if the model is slim.
        variant: tag of a slim network; defaults to what follows ``pruned-`` in the folder's name.
        classes: names of the outputs, in order; as many as the architecture's ``num_classes``, if it has that option.
        input: ``{"size": [channels, height, width], "mean": [...], "std": [...]}``.
        metrics: what was measured of this network; measure it after a cast to ``dtype``.
        training: how it was trained. Plain data, as are ``metrics`` and ``base``.
        base: metrics of the original network, if the model is slim.
        dtype: store tensors of the network's floating dtype as this one (``torch.float16`` halves the file). They load
            as the dtype that they had, with the values that were stored.
        weights: False leaves the weights out, for a slim network whose weights are the kept slices of the base's,
            which must be saved in the folder above.
        base_weights: leaves the weights out, for a slim network whose weights are the kept slices of this file in a
            repository on the Hub (see `describe_base`). That they are is checked, bit for bit.
        base_file: where that file is on this machine.

    Returns:
        The folder.

    Warns:
        UserWarning: a buffer that is not in the state dict has other values than the architecture gives it.

    Raises:
        CheckpointError: the architecture is not known from the model, the model does not fit it (a tensor, a layer or
            its settings differ), the folder holds something else, or cannot be written.
        RegistryError: no such architecture, or not one of its options.
    """
    folder = named(folder)
    if isinstance(classes, str):
        raise CheckpointError(f"save: classes must be a list of names, found the text {classes!r}")
    model = unwrap(model)
    origin = _origin(
        origin_of(model),
        architecture=architecture,
        options=None if options is None else dict(options),
        result=result,
        variant=variant,
        classes=None if classes is None else tuple(classes),
        input=None if input is None else dict(input),
        metrics=None if metrics is None else dict(metrics),
        training=None if training is None else dict(training),
        base=None if base is None else dict(base),
    )
    origin = replace(origin, variant=_variant(origin, variant, folder))
    known = registry().find(origin.architecture)
    checked = known.check(origin.options)
    original = build_on_meta(known, checked)
    described = f"architecture {known.name!r}"
    expected = original
    if origin.result is not None:
        check_meaning(origin.result, original, f"the pruning result for {described}")
        expected = apply_result(original, origin.result)
        described += " with its pruning result"
    check_fits(model, expected, described)
    main = floating_dtype(named_tensors(model))
    package = registry().package(known.name)
    where = str(folder / CONFIG)
    config = Config(
        architecture=known.name,
        options=checked,
        variant=origin.variant,
        input=check_input(origin.input, where),
        classes=origin.classes,
        metrics=_plain(origin.metrics, "metrics"),
        base=_plain(origin.base, "base"),
        training=_plain(origin.training, "training"),
        dtype=str(main).removeprefix("torch."),
        stored_dtype=str(dtype or main).removeprefix("torch."),
        package=package,
        libraries=libraries_of(original, besides=package),
    )
    unwritten = FileRecord("0" * 64, 0)
    expected_files = {PRUNING: unwritten} if origin.result is not None else {}
    parse_config(replace(config, files=expected_files).to_json().encode(), where)
    if classes is not None:
        _check_classes(origin.classes or (), known, checked)
    delta = not weights or base_weights is not None
    if delta:
        config = _delta(model, original, origin, config, folder, dtype, base_weights, base_file)
    with replacing(folder) as place:
        files: dict[str, FileRecord] = {}
        if origin.result is not None:
            if list_variants(folder):
                raise CheckpointError(
                    f"{folder}: holds variants of a base network; save a slim one in a folder pruned-VARIANT in it"
                )
            files[PRUNING] = FileRecord(*write_result(origin.result, place / PRUNING, shapes_of(original)))
        if isinstance(config.base_weights, FileRecord):
            check_still_there(config.base_weights, folder)
        if not delta:
            files[MODEL] = write_weights(model, expected, place / MODEL, dtype)
            check_dependants(folder, files[MODEL])
        text = replace(config, files=files).to_json()
        parse_config(text.encode(), where)
        with (place / CONFIG).open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    return folder


def _origin(attached: Origin | None, architecture: str | None, **fields: Any) -> Origin:
    given = {name: value for name, value in fields.items() if value is not None}
    if architecture is not None and (attached is None or attached.architecture != architecture):
        return Origin(architecture, **given)
    if attached is None:
        raise CheckpointError(
            "save: the architecture of this model is not known, as zoo_slim did not build it. Register its builder with"
            " zoo_slim.register, and build it by that name: zoo_slim.load(name, pretrained=False). Or pass"
            " architecture= (a registered name, see zoo_slim.list_models()), options= (the keyword arguments it was"
            " built with) and, if it is slim, result="
        )
    return replace(attached, **given)


def _check_classes(classes: Collection[str], known: Architecture, options: Mapping[str, Any]) -> None:
    """Compare the number of names with ``num_classes``, as far as that is known."""
    if (count := known.class_count(options)) not in (None, len(classes)):
        raise CheckpointError(f"save: classes must be {count} names, as num_classes says, found {len(classes)}")


def _variant(origin: Origin, given: str | None, folder: Path) -> str | None:
    named = folder.name.removeprefix(VARIANT_PREFIX) if folder.name.startswith(VARIANT_PREFIX) else None
    if origin.result is None:
        if given is not None or named is not None:
            raise CheckpointError(
                f"{folder}: variant {given or named!r} is a slim network's, but the model has no pruning result;"
                " pass result=, or leave the variant out"
            )
        return None
    if named is not None and given is not None and named != given:
        raise CheckpointError(f"{folder}: the folder is that of variant {named!r}, but variant={given!r} was given")
    variant = named or origin.variant
    return None if variant is None else check_variant(variant, str(folder))


def _plain(value: dict[str, Any], field: str) -> dict[str, Any]:
    tree = check_tree(value, "save", field)
    assert isinstance(tree, dict)
    return tree


def _delta(
    model: nn.Module,
    original: nn.Module,
    origin: Origin,
    config: Config,
    folder: Path,
    dtype: torch.dtype | None,
    base_weights: BaseWeights | None,
    base_file: str | os.PathLike[str] | None,
) -> Config:
    if origin.result is None:
        raise CheckpointError(f"{folder}: only a slim network can do without weights; pass result=, or weights=True")
    if dtype is not None:
        raise CheckpointError(f"{folder}: dtype= has no meaning without weights; they are stored as the base's are")
    if base_weights is None:
        return cut_from_folder_above(model, original, origin.result, config, folder)
    if base_file is None:
        raise CheckpointError(f"{folder}: base_weights= needs base_file=, the downloaded {base_weights}, to check it")
    return cut_from_file(model, original, origin.result, config, base_weights, base_file)


def check_dependants(folder: Path, new: FileRecord | None, but: Collection[str | None] = ()) -> None:
    """Refuse to replace a base's weights while variants in its folder are cut from them.

    Args:
        folder: the base's.
        new: its weights to be; None: it is to have none.
        but: variants that are to be replaced, too.

    Raises:
        CheckpointError: naming the variant.
    """
    for variant in list_variants(folder):
        if variant in but:
            continue
        file = folder / f"{VARIANT_PREFIX}{variant}" / CONFIG
        needed = read_config_file(file).base_weights
        if isinstance(needed, FileRecord) and needed != new:
            raise CheckpointError(
                f"{folder}: variant {variant!r} has no weights of its own and is cut from those that would be replaced;"
                " save it with weights=True, or remove it, first"
            )
