"""The command info."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from zoo_slim._amount import amount
from zoo_slim.cli._checkpoints import example_of, find_folder
from zoo_slim.cli._options import AsJson, Name, Pruned, example
from zoo_slim.cli._output import accuracy, console, facts, percent, size, status, table

if TYPE_CHECKING:
    from zoo_slim._plugins import Package
    from zoo_slim.checkpoint import Config

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``info`` to the command line."""
    app.command(epilog=example("info resnet18 --pruned 0.75"))(info)


def info(name: Name, pruned: Pruned = None, as_json: AsJson = False) -> None:
    """Show what is known of an architecture or a checkpoint.

    No weights are read, and none are made.
    """
    from zoo_slim import loading

    where = loading.place_of(name)
    if pruned is None and ":" not in where:
        known = _of_architecture(where)
    elif pruned is None and where.startswith(loading.HUB_PREFIX):
        known = _of_repository(where)
    else:
        known = _of_checkpoint(find_folder(name, pruned, weights=False))
    if as_json:
        import json

        typer.echo(json.dumps(known))
        return
    _show(known)


def _of_architecture(name: str) -> dict[str, Any]:
    from zoo_slim import loading
    from zoo_slim.checkpoint._meta import build_on_meta
    from zoo_slim.registry import registry

    loading.places(name)  # which says what else a name may mean that is not registered
    architecture = registry().find(name)
    with status(f"building {name}"):
        model = build_on_meta(architecture, {})
        costs = _costs(model, architecture.example_input(1, device="meta"))
    return {
        "architecture": name,
        "package": _package(registry().package(name)),
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "input": list(architecture.input_size),
        **costs,
        "schema": "bundled" if architecture.schema is not None else "traced when needed",
        "options": {option: _kind(kind) for option, kind in architecture.options.items()},
        "variants": _variants(loading.bundled_zoo() / name),
    }


def _package(package: "Package | None") -> str | None:
    return None if package is None else str(package)


def _of_repository(name: str) -> dict[str, Any]:
    from zoo_slim import hub, loading
    from zoo_slim._errors import CheckpointError

    (there,) = loading.places(name)
    assert isinstance(there, hub.HubPlace)
    try:
        with status(f"asking for {name}"):
            model = hub.describe(there)
    except loading.NotThereError as error:
        raise CheckpointError(f"{name}: {error}") from error
    base = model.base
    return {
        "name": model.name,
        "commit": model.commit,
        "visibility": {True: "private", False: "public", None: None}[model.private],
        "architecture": ", ".join(model.architectures),
        "package": ", ".join(model.packages) or None,
        "options": dict(base.options) if base else {},
        "metrics": dict(base.metrics) if base else {},
        "input": base.input if base else None,
        "classes": list(base.classes or ()) if base else [],
        "files": _files(base) if base else {},
        "training": dict(base.training) if base else {},
        "unreadable": {tag or "base": text for tag, text in model.unreadable.items()},
        "variants": {tag: _variant(config) for tag, config in model.variants.items()},
    }


def _of_checkpoint(folder: Path) -> dict[str, Any]:
    from zoo_slim.checkpoint._load import read_skeleton

    skeleton = read_skeleton(folder)
    config, original, model = skeleton.config, skeleton.original, skeleton.model
    with status("counting"):
        example_input = example_of(skeleton.architecture, config, device="meta")
        costs = _costs(model, example_input)
        base = _costs(original, example_input) if model is not original else {}
    return {
        "architecture": config.architecture,
        "package": _package(config.package),
        **({"libraries": list(map(str, config.libraries))} if config.libraries else {}),
        "options": dict(config.options),
        "variant": config.variant,
        **({"removed_blocks": list(skeleton.result.removed)} if skeleton.result and skeleton.result.removed else {}),
        **costs,
        "base": {**base, **config.base},
        "metrics": dict(config.metrics),
        "input": config.input,
        "classes": list(config.classes or ()),
        "dtype": config.dtype,
        "stored_dtype": config.stored_dtype,
        "files": _files(config),
        "training": dict(config.training),
        "variants": _variants(folder),
    }


def _costs(model: Any, example_input: Any) -> dict[str, Any]:
    """Parameters and MACs; a network that does not run without values has no MACs here."""
    from zoo_slim.slimming import count_macs, count_params

    try:
        macs = count_macs(model, example_input)
    except Exception:
        macs = None
    return {"params": count_params(model), "macs": macs}


def _variants(folder: Path) -> dict[str, dict[str, Any]]:
    from zoo_slim import checkpoint

    tags = checkpoint.variants(folder)
    return {tag: _variant(checkpoint.read_config(folder / f"{checkpoint.VARIANT_PREFIX}{tag}")) for tag in tags}


def _variant(config: "Config") -> dict[str, Any]:
    from zoo_slim.checkpoint import MODEL
    from zoo_slim.checkpoint._origin import part_tested

    weights = config.files.get(MODEL)
    recorded = {"file_bytes": weights.bytes if weights else None, "part_tested": part_tested(config.training)}
    return {**config.metrics, **recorded}


def _files(config: "Config") -> dict[str, dict[str, Any]]:
    return {file: {"bytes": record.bytes, "sha256": record.sha256} for file, record in config.files.items()}


def _kind(kind: Any) -> str:
    return " | ".join(word or "''" for word in kind) if isinstance(kind, tuple) else kind.__name__


def _show(known: Mapping[str, Any]) -> None:
    out = console()
    variants = known.get("variants", {})
    plain = {name: _text(name, value) for name, value in known.items() if name != "variants"}
    out.print(facts(plain.items()))
    if variants:
        shown = table(
            "variant", "parameters", "MACs", "weights", "test accuracy",
            title="\nvariants", numbers=("parameters", "MACs", "weights", "test accuracy"),
        )  # fmt: skip
        for tag, metrics in variants.items():
            weights = size(metrics["file_bytes"]) if metrics["file_bytes"] else "the base's"
            counts = amount(metrics.get("params")), amount(metrics.get("macs"))
            shown.add_row(tag, *counts, weights, accuracy(metrics.get("test_accuracy"), metrics["part_tested"]))
        out.print(shown)


def _text(name: str, value: Any, depth: int = 0) -> str:
    if name in ("params", "macs"):
        return f"{value:,}" if isinstance(value, int) else "—"
    if name == "files" and depth == 0:
        return "\n".join(f"{file} ({size(record['bytes'])})" for file, record in value.items())
    if name in ("size", "input") and isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    if name == "file_bytes":
        return size(value)
    if name == "classes" and isinstance(value, (list, tuple)) and len(value) > 12:
        return f"{len(value)}: {', '.join(value[:6])}, …, {value[-1]}"
    if name == "training" and depth == 0 and isinstance(value, Mapping):
        return "\n".join(_trainings(value))
    if name == "after_slimming" and isinstance(value, Mapping):
        return ", ".join(f"{way}: {percent(share)}" for way, share in value.items())
    if name.endswith(("accuracy", "accuracy_before_finetuning")):
        return percent(value)
    if isinstance(value, Mapping):
        lines = (f"{key}: {_text(key, part, depth + 1)}" for key, part in value.items() if key != "settings")
        return "\n".join(lines) if depth == 0 else ", ".join(lines)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return ""
    return str(value) if value != "" or depth == 0 else "''"


def _trainings(record: Mapping[str, Any]) -> Iterator[str]:
    """What was recorded of the last training, and one line for each step before it."""
    from zoo_slim.training._history import steps

    last, *before = steps(record) or [{}]
    yield from _text("", last).splitlines()
    yield from (f"before: {_step(step)}" for step in before)
    while isinstance(record := record.get("base") or {}, Mapping) and record:
        yield from (f"base: {_step(step)}" for step in steps(record))


def _step(record: Mapping[str, Any]) -> str:
    """A training or slimming in one line: the command up to its options, and what matters most of these."""
    command, options, _ = str(record.get("command", "")).partition(" --")
    parts = [f"{command} …" if options else command]
    asked = {key: record[key] for key in ("ratio", "params", "macs", "group_ratios", "remove_blocks") if key in record}
    for key, value in asked.items():
        parts.append(f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if "epochs" in record:
        parts.append(f"{record['epochs']} epochs")
    parts += [str(record[key]) for key in ("dataset", "device") if key in record]
    return ", ".join(part for part in parts if part)
