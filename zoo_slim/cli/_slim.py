"""The command slim."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_slim import _plugins
from zoo_slim._amount import amount
from zoo_slim.cli._budget import parse_blocks, parse_budget
from zoo_slim.cli._channels import bars, kept_per_group, removed
from zoo_slim.cli._checkpoints import example_of, find_folder
from zoo_slim.cli._command import recorded_command
from zoo_slim.cli._options import (
    GroupRatios,
    Pruned,
    Rounding,
    example,
    parse_group_ratios,
    parse_ratio,
    parse_share,
)
from zoo_slim.cli._output import console, percent, size, status, table
from zoo_slim.cli._scales import check_picture, draw_scales, scales_report
from zoo_slim.cli._settings import given_options
from zoo_slim.cli._training import DATASETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zoo_slim.checkpoint import Config
    from zoo_slim.slimming import Criterion, Folding
    from zoo_slim.training import Dataset

__all__ = ["add_commands"]

BATCH = 64
CRITERIA = f"{', '.join(_plugins.names('zoo_slim.criteria'))}."


def add_commands(app: typer.Typer) -> None:
    """Add ``slim`` to the command line."""
    app.command(epilog=example("slim runs/resnet18/model --ratio 0.75"))(slim)


def slim(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A trained network: a registered name, hf-hub:org/name or a folder.")],
    pruned: Pruned = None,
    ratio: Annotated[
        str | None,
        typer.Option(
            "--ratio",
            help="Share of the channels to remove, 0 to 1; or auto: as far as --fold and --recalibrate make up for it.",
        ),
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", help="Keep at most this many: 2500000, 2.5M, or 0.25.")
    ] = None,
    macs: Annotated[str | None, typer.Option("--macs", help="Keep at most this many per image: 300M, or 0.25.")] = None,
    group_ratio: GroupRatios = None,
    remove_blocks: Annotated[
        str | None,
        typer.Option(
            "--remove-blocks",
            help="Residual blocks to take out whole: names with commas; how many, lowest score first; 'dead': all that "
            "would lose each of their channels; 'needed': as few as --params or --macs needs.",
        ),
    ] = None,
    criterion: Annotated[str, typer.Option("--criterion", help=CRITERIA)] = "bn_scale",
    batches: Annotated[
        int,
        typer.Option("--batches", min=1, help="Batches of 64 training images, for gradients and for --recalibrate."),
    ] = 16,
    minimum: Annotated[
        str, typer.Option("--minimum", help="What each group keeps at least: 8 channels, or a share such as 0.1.")
    ] = "0.02",
    rounding: Rounding = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", help="Schema file; the original tool's format means its rules. Default: bundled or traced."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to be made. Default: pruned-VARIANT in SOURCE; of what is no folder, in ./NAME.",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant", help="Tag of the slim network. Default: the ratio, or what else was asked for: macs-300M."
        ),
    ] = None,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold the constants of removed channels into what read them. Needs no data.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure BatchNorm statistics anew; needs --dataset and --data.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say where the cliff is, and what would be left; save nothing.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the sorted scales and the cliff: .png, .svg or .pdf.")
    ] = None,
    weights: Annotated[
        bool, typer.Option(help="--no-weights: tens of KB; the weights are cut from the source's, one folder up.")
    ] = True,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help=f"For accuracy, gradients and --recalibrate: {DATASETS}.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder that holds the data set.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random criterion, and of the batches.")] = 0,
) -> None:
    """Remove channels of a network, and save what is left.

    Those that matter least go; give one of --ratio, --params and --macs, or --group-ratio, or --remove-blocks, or
    several of the three. What is left is saved as a slim checkpoint; a variant (--pruned) can be slimmed further.
    Nothing is trained: see zoo-slim finetune. Before anything is removed, it is said how many scales are dead, and
    where the cliff is.
    """
    import torch

    from zoo_slim import checkpoint, find_cliff, fold_constants
    from zoo_slim import recalibrate as recalibrate_statistics
    from zoo_slim import slim as slim_model
    from zoo_slim._errors import SlimmingError
    from zoo_slim.checkpoint._config import check_variant, further_tag
    from zoo_slim.loading import load_folder
    from zoo_slim.registry import registry
    from zoo_slim.schema import OriginalSchema, as_schema, convert_original
    from zoo_slim.slimming._defaults import schema_for
    from zoo_slim.slimming._pruner import slim_by_schema
    from zoo_slim.training import evaluate
    from zoo_slim.training._evaluate import is_of, protocol
    from zoo_slim.training._history import as_base, group_ratios_record
    from zoo_slim.training._progress import progress

    blocks = None if remove_blocks is None else parse_blocks(remove_blocks)
    share = None if ratio is None else parse_ratio(ratio, "--ratio")
    if isinstance(share, float) and not 0 <= share < 1:
        raise SlimmingError(f"ratio {ratio} is not a share of channels to remove: give 0 <= ratio < 1, or auto")
    group_ratios = parse_group_ratios(group_ratio)
    budget, tag = parse_budget(share, params, macs, group_ratios, blocks, dry_run)
    if (dataset is None) != (data is None):
        raise typer.BadParameter("--dataset and --data belong together; give both, or neither")
    if recalibrate and dataset is None:
        raise typer.BadParameter("--recalibrate measures statistics of training images: give --dataset and --data")
    if not weights and (fold or recalibrate):
        raise typer.BadParameter("--fold and --recalibrate make weights that must be saved: leave out --no-weights")
    if variant is not None:
        check_variant(variant, source, "--variant")
    if picture is not None:
        check_picture(picture)
    least = parse_share(minimum, "--minimum")
    rules = None if schema is None else as_schema(schema)
    if isinstance(rules, OriginalSchema):
        _refuse_beside_original(context)
    folder = find_folder(source, pruned)
    config = checkpoint.read_config(folder)
    slim_already = checkpoint.PRUNING in config.files
    if slim_already and not weights and checkpoint.MODEL in config.files:
        raise typer.BadParameter(f"the weights of {source} are its own, not cut from others: leave out --no-weights")
    tag = check_variant(variant or further_tag(config.variant, tag), source, "--variant")
    target = None if dry_run else _target(source, folder, output, tag, slim_already)
    with status(f"loading {source}"):
        model = load_folder(folder)
    example_input = example_of(registry().find(config.architecture), config, 2)
    out, scales = console(), None
    with status("looking at the scales"):
        original = rules if isinstance(rules, OriginalSchema) else None
        if isinstance(rules, OriginalSchema):
            groups = convert_original(rules, model)
        else:
            groups = schema_for(model, rules, example_input).with_ratios(group_ratios)
        wanted = budget.get("ratio")
        if criterion == "bn_scale" or dry_run or picture:
            cliff = find_cliff(model, schema=groups, minimum=least, rounding=rounding)
            fewer = blocks not in (None, "dead")  # of the network without these, the cliff is another
            if wanted == "auto" and cliff.ratio and original is None and not fewer:
                budget["ratio"] = wanted = cliff.ratio
            scales = scales_report(cliff, wanted if isinstance(wanted, float) else None)
            if picture is not None:
                draw_scales(cliff, f"{config.architecture}: {source}", wanted, picture)
    if dry_run and not (budget or any(group_ratios.values()) or blocks):
        out.print(scales)
        return
    images = None if dataset is None or data is None else _load_dataset(config, dataset, data)
    chosen = criterion if original else _criterion(criterion, images, batches, seed)
    torch.manual_seed(seed)
    with status("slimming") if isinstance(chosen, str) else nullcontext():  # gradients have a bar of their own
        if original is not None:
            slimmed, result = slim_by_schema(model, original, budget["ratio"], example_input)
        else:
            slimmed, result = slim_model(
                model,
                group_ratios=group_ratios,  # they may be all that is asked for
                remove_blocks=blocks,
                criterion=chosen,
                example_input=example_input,
                schema=groups,
                minimum=least,
                rounding=rounding,
                **budget | ({"ratio": "auto"} if ratio == "auto" else {}),
            )
    if scales is not None:
        out.print(scales, "")
    if ratio == "auto" and not (fold or recalibrate):
        out.print("auto counts on --fold or --recalibrate; removal alone loses more than this")
    metrics = _measured(slimmed, example_input)
    before = {**config.metrics, **_measured(model, example_input)}
    if (stored := config.files.get(checkpoint.MODEL)) is not None:
        before = {"file_bytes": stored.bytes, "file_dtype": config.stored_dtype, **before}
    plain = None if images is None else evaluate(slimmed, images)["accuracy"]
    steps: dict[str, Any] = {}
    if fold:
        with status("folding"):
            slimmed, folding = fold_constants(model, result, example_input)
        steps["folded"] = folding.record()
        out.print(_folded(folding))
    if recalibrate and images is not None:
        with progress("statistics", batches) as advance:
            count = recalibrate_statistics(slimmed, _drawn(images, batches, seed, advance))
        steps["recalibrated"] = {"dataset": dataset, "batches": count, "batch_size": BATCH, "seed": seed}
    if plain is not None and images is not None:
        metrics["test_accuracy"] = evaluate(slimmed, images)["accuracy"] if steps else plain
    if target is not None:
        checkpoint.save(
            slimmed,
            target,
            variant=tag,
            metrics=metrics,
            base=config.base if slim_already else before,
            training={
                **({} if images is None else {"dataset": images.name, "evaluation": protocol("as trained", images)}),
                "command": recorded_command(),
                "criterion": criterion,
                **budget,
                **steps,
                **group_ratios_record(group_ratios),
                **({} if blocks is None else {"remove_blocks": blocks}),
                "base": as_base(config.training),
            },
            dtype=getattr(torch, config.stored_dtype) if weights and not steps else None,  # cut weights are exact in it
            weights=weights,
        )
    out.print(bars(kept_per_group(groups, removed(groups, model, result))))
    if result.removed:
        out.print(f"blocks taken out: {', '.join(result.removed)}")
    elif blocks is not None:
        out.print("no block was taken out")
    if images is not None and not is_of(config.training, images):
        before = {**before, "test_accuracy": None}  # of other images than those measured here
    saved = None if target is None else checkpoint.read_config(target)
    out.print(_before_and_after(before, metrics, saved, plain if steps else None))
    typer.echo("saved nothing" if target is None else f"saved {target}")


def _criterion(name: str, images: "Dataset | None", batches: int, seed: int) -> "str | Criterion":
    """Return the criterion; one that needs gradients with those of batches of training images."""
    from zoo_slim.slimming import over_batches
    from zoo_slim.slimming._score import find_criterion
    from zoo_slim.training import classification_loss
    from zoo_slim.training._progress import progress

    if not getattr(find_criterion(name), "needs_gradients", False):
        return name
    if images is None:
        raise typer.BadParameter(f"--criterion {name} needs gradients of training images: give --dataset and --data")

    def drawn() -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        with progress("gradients", batches) as advance:
            yield from _drawn(images, batches, seed, advance)

    return over_batches(name, drawn(), classification_loss)


def _drawn(
    images: "Dataset", batches: int, seed: int, advance: "Callable[[str], object]"
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Batches of training images and labels, as they are trained on."""
    import torch

    size = min(BATCH, images.train_count)
    for batch in islice(images.train_batches(size, seed=seed, epoch=0, device=torch.device("cpu")), batches):
        yield batch
        advance("")


def _refuse_beside_original(context: typer.Context) -> None:
    """Refuse options that the original's rules leave no room for: its schema files say it themselves."""
    known = ("params", "macs", "group_ratio", "remove_blocks", "criterion", "batches", "minimum", "rounding")
    if said := given_options(context, known):
        raise typer.BadParameter(
            f"{' and '.join(said)} cannot be given with a schema of the original tool's format, whose rules take "
            "--ratio alone; convert the file with zoo-slim schema NAME --from-original FILE"
        )


def _target(source: str, folder: Path, output: Path | None, tag: str, is_slim: bool) -> Path:
    """Where the slim checkpoint goes: a folder that does not exist yet.

    Args:
        source: as it was named.
        folder: where the network is.
        output: where the user wants it.
        tag: of the slim network.
        is_slim: whether it is slim itself.

    Raises:
        CheckpointError: it does, or nobody says where it should be.
        OSError: its path leads through a file.
    """
    from zoo_slim._errors import CheckpointError
    from zoo_slim._files import check_parents
    from zoo_slim.checkpoint import VARIANT_PREFIX
    from zoo_slim.loading import LOCAL_PREFIX, place_of

    where = place_of(source)
    if where.startswith(LOCAL_PREFIX):
        home = Path(where.removeprefix(LOCAL_PREFIX)).expanduser()
        if is_slim and output is None and os.path.realpath(home) == os.path.realpath(folder):
            raise CheckpointError(
                f"{source}: is slim itself and holds no variants; say with --output where the new one goes"
            )
    else:
        home = Path(source.rpartition(":")[2].partition("@")[0].replace("/", "__"))
    target = output or home / f"{VARIANT_PREFIX}{tag}"
    if target.exists():
        raise CheckpointError(f"{target}: exists already; choose another with --output or --variant, or remove it")
    check_parents(target)
    return target


def _measured(model: "nn.Module", example_input: "Tensor") -> dict[str, Any]:
    from zoo_slim.slimming import count_macs, count_params

    return {"params": count_params(model), "macs": count_macs(model, example_input[:1])}


def _load_dataset(config: "Config", dataset: str, data: Path) -> "Dataset":
    from zoo_slim.training._sources import Data, compare_classes

    found = Data(dataset, data).load(config.input)
    compare_classes(config.classes or (), found)
    return found


def _folded(folding: "Folding") -> str:
    text = f"folded the constants of {folding.folded} removed inputs into {len(folding.targets)} layers"
    if folding.varying:
        text += f"; {folding.varying} inputs are no constants"
    if folding.left:
        name, reason = next(iter(folding.left.items()))
        text += f"; {len(folding.left)} layers were left alone, such as {name}: {reason}"
    return text


def _before_and_after(
    before: dict[str, Any], metrics: dict[str, Any], saved: "Config | None", plain: float | None
) -> Any:
    from zoo_slim.checkpoint import MODEL

    weights = None if saved is None else saved.files.get(MODEL)
    shown = table("", "before", "after", "left", numbers=("before", "after", "left"))
    for label, key in (("parameters", "params"), ("MACs per image", "macs")):
        shown.add_row(label, amount(before[key]), amount(metrics[key]), percent(metrics[key] / before[key], 1))
    if weights is not None and (stored := before.get("file_bytes")):
        shown.add_row("weights file", size(stored), size(weights.bytes), percent(weights.bytes / stored, 1))
    if plain is not None:
        shown.add_row("test accuracy", percent(before.get("test_accuracy")), percent(plain), "plain removal")
    if "test_accuracy" in metrics:
        accuracies = percent(before.get("test_accuracy")), percent(metrics["test_accuracy"])
        shown.add_row("test accuracy", *accuracies, "before fine-tuning")
    return shown
