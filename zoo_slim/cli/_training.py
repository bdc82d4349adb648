"""The commands train, finetune, eval and run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_slim.cli._command import recorded_command
from zoo_slim.cli._options import (
    GroupRatios,
    Options,
    Pruned,
    Rounding,
    example,
    parse_group_ratios,
    parse_options,
    parse_ratio,
)
from zoo_slim.cli._settings import given_options, refuse_idle, takes_changes, takes_settings
from zoo_slim.training._settings import Settings

if TYPE_CHECKING:
    from zoo_slim.training._sources import Data

__all__ = ["add_commands"]

DATASETS = "cifar10, mnist, fashion-mnist or image-folder"

DatasetName = Annotated[str, typer.Option("--dataset", help=f"Data set: {DATASETS}.")]
DataRoot = Annotated[Path, typer.Option("--data", help="Folder that holds the data set.")]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", min=1, help="Height and width for image-folder. Default: the checkpoint's, or 224."),
]
NewImageSize = Annotated[
    int | None, typer.Option("--image-size", min=1, help="Height and width for image-folder. Default: 224.")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch MNIST or Fashion-MNIST if it is missing.")]
Output = Annotated[Path, typer.Option("--output", "--save-dir", help="Folder of the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
Teacher = Annotated[str | None, typer.Option("--teacher", help="Checkpoint of a network to imitate (distillation).")]
TeacherPruned = Annotated[str | None, typer.Option("--teacher-pruned", help="Variant of the teacher.")]
SaveDtype = Annotated[
    str | None,
    typer.Option("--save-dtype", help="Dtype of the saved weights: float16, bfloat16 or float32."),
]
Stem = Annotated[str | None, typer.Option("--stem", help="Builder option stem, where the architecture has it.")]
NumClasses = Annotated[int | None, typer.Option("--num-classes", help="Default: as many as the data set has.")]

ORIGINAL = {"epochs": 120, "batch_size": 64, "learning_rate": 0.01}
"""The original tool's settings."""

CHANGES = ("epochs", "learning_rate", "batch_size", "weight_decay")
"""Settings that `run` takes a second time, for fine-tuning."""

OF_SPARSITY = ("penalty", "sparsity_schedule", "sparsity_epochs", "weight_groups")
OF_TEACHER = ("distill_weight", "distill_temperature")
OF_NAMED_TEACHER = ("teacher_pruned", *OF_TEACHER)
OF_TRAINING = ("warmup_epochs", "stem", "num_classes", "option")
OF_TUNING = (
    "prune_ratio", "group_ratio", "prune_schema", "rounding", "after_slimming", "distill",
    *(f"fine_tune_{name}" for name in CHANGES),
)  # fmt: skip
"""Parameters that need a sparsity, a teacher, one that is named, training from the beginning, and slimming."""

OF_TEST = (
    "architecture", "net", "ckpt", "ckpt_pruned", "dataset", "data", "image_size", "download",
    "batch_size", "limit", "device", "workers",
)  # fmt: skip
"""Parameters of `run` that matter where a network is only tested."""

ORIGINAL_SPELLING = {"token_normalize_func": lambda token: token.replace("_", "-")}
"""Option names may be written with underscores, as the original tool's script wants them."""


def add_commands(app: typer.Typer) -> None:
    """Add the training commands to the command line."""
    data = "--dataset cifar10 --data data"
    for name, command, line in (
        ("train", train, f"train resnet18 {data} --sparsity 1e-4 --output runs/resnet18"),
        ("finetune", finetune, f"finetune runs/resnet18/model --pruned 0.75 {data} --output runs/tuned"),
        ("eval", evaluate, f"eval runs/resnet18/model --pruned 0.75 {data}"),
        ("run", run, f"run resnet18 {data} --sparsity-train --fine-tune --prune-ratio 0.75"),
    ):
        app.command(name, epilog=example(line), context_settings=ORIGINAL_SPELLING)(command)


@takes_settings(**ORIGINAL)
def train(
    context: typer.Context,
    architecture: Annotated[str, typer.Argument(help="A registered name; `zoo-slim list` shows them.")],
    dataset: DatasetName,
    data: DataRoot,
    output: Output,
    settings: Settings,
    teacher: Teacher = None,
    teacher_pruned: TeacherPruned = None,
    image_size: NewImageSize = None,
    download: Download = False,
    stem: Stem = None,
    num_classes: NumClasses = None,
    option: Options = None,
    save_dtype: SaveDtype = None,
    resume: Resume = False,
) -> None:
    """Train a network, sparsely if --sparsity is given.

    The sparsity is an L1 penalty on the BatchNorm scales.
    """
    from zoo_slim.training import _pipeline

    _refuse_idle_settings(context, teacher)
    saved = _pipeline.train(
        architecture,
        _data(dataset, data, image_size, download),
        settings,
        output,
        options=parse_options(option, stem, num_classes),
        teacher=_teacher_folder(teacher, teacher_pruned),
        resume=resume,
        dtype=save_dtype,
        command=recorded_command(),
    )
    _say(f"saved {saved}")


@takes_settings(**{**ORIGINAL, "learning_rate": 0.001})
def finetune(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Folder of a slim checkpoint, hf-hub:org/name or a name.")],
    dataset: DatasetName,
    data: DataRoot,
    output: Output,
    settings: Settings,
    pruned: Pruned = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="For other classes: a last layer for those of the data set, untrained.")
    ] = False,
    teacher: Teacher = None,
    teacher_pruned: TeacherPruned = None,
    image_size: ImageSize = None,
    download: Download = False,
    save_dtype: SaveDtype = None,
    resume: Resume = False,
) -> None:
    """Train the network of a checkpoint further."""
    from zoo_slim.cli._checkpoints import find_folder
    from zoo_slim.training import _pipeline

    _refuse_idle_settings(context, teacher)
    saved = _pipeline.finetune(
        find_folder(checkpoint, pruned),
        _data(dataset, data, image_size, download),
        settings,
        output,
        new_head=new_head,
        teacher=_teacher_folder(teacher, teacher_pruned),
        resume=resume,
        dtype=save_dtype,
        command=recorded_command(),
    )
    _say(f"saved {saved}")


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a slim checkpoint, hf-hub:org/name or a name.")],
    dataset: DatasetName,
    data: DataRoot,
    pruned: Pruned = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 256,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that decode images.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many images; 0 = all.")] = 0,
    image_size: ImageSize = None,
    download: Download = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test the network of a checkpoint."""
    from zoo_slim.cli._checkpoints import find_folder
    from zoo_slim.training import _pipeline

    measured = _pipeline.measure(
        find_folder(checkpoint, pruned),
        _data(dataset, data, image_size, download),
        batch_size=batch_size,
        device=device,
        limit=limit,
        workers=workers,
    )
    _show(measured, as_json)


@takes_settings(**ORIGINAL, sparsity=1e-4)
@takes_changes("fine_tune", CHANGES, epochs=120, learning_rate=0.001)
def run(
    context: typer.Context,
    architecture: Annotated[str | None, typer.Argument(help="A registered name (or --net).")] = None,
    net: Annotated[str | None, typer.Option("--net", help="The same as the argument.")] = None,
    dataset: DatasetName = "cifar10",
    data: DataRoot = Path("data"),
    output: Output = Path("output"),
    sparsity_train: Annotated[bool, typer.Option("--sparsity-train", help="Penalise the scales in training.")] = False,
    slim_and_tune: Annotated[bool, typer.Option("--fine-tune", help="Slim and fine-tune after training.")] = False,
    prune_ratio: Annotated[
        list[str], typer.Option("--prune-ratio", help="Share of the scales to remove, or auto; may be repeated.")
    ] = ["0.75"],  # noqa: B006  # typer copies it
    group_ratio: GroupRatios = None,
    prune_schema: Annotated[Path | None, typer.Option("--prune-schema", help="Pruning schema (JSON).")] = None,
    rounding: Rounding = None,
    after_slimming: Annotated[
        str,
        typer.Option("--after-slimming", help="What fine-tuning starts from: plain, folded, recalibrated or both."),
    ] = "plain",
    distill: Annotated[bool, typer.Option("--distill", help="Let the slim network imitate its parent.")] = False,
    ckpt: Annotated[str | None, typer.Option("--ckpt", help="Slim checkpoint of a trained network.")] = None,
    ckpt_pruned: Annotated[
        str | None, typer.Option("--ckpt-pruned", help="Slim checkpoint to test: a folder or a name.")
    ] = None,
    *,
    fine_tune: dict[str, Any],
    settings: Settings,
    image_size: ImageSize = None,
    download: Download = False,
    stem: Stem = None,
    num_classes: NumClasses = None,
    option: Options = None,
    save_dtype: SaveDtype = None,
    resume: Resume = False,
) -> None:
    """Train, slim and fine-tune in one go.

    The options are those of the original tool's train.py. --sparsity-train turns on the penalty, --fine-tune the
    slimming. With --ckpt and neither, the network is only tested; with --ckpt and --fine-tune it is slimmed and
    fine-tuned, with --ckpt and --sparsity-train it is trained on.
    """
    from dataclasses import replace

    from zoo_slim.cli._checkpoints import find_folder
    from zoo_slim.training import _pipeline, _run_all

    if architecture and net and architecture != net:
        raise typer.BadParameter(f"{architecture!r} and --net {net!r} are two architectures; give one of them")
    name = architecture or net
    if name is None and ckpt is None and ckpt_pruned is None:
        raise typer.BadParameter("name the architecture: zoo-slim run resnet18 …, or --net resnet18")
    if ckpt_pruned is not None and (sparsity_train or slim_and_tune):
        raise typer.BadParameter(
            "--ckpt-pruned is a network to test; to train it further use zoo-slim finetune, "
            "or leave --sparsity-train and --fine-tune out"
        )
    named = ckpt_pruned or ckpt
    if named is not None and not sparsity_train and not slim_and_tune:
        idle = [name for name in context.params if name not in OF_TEST]
        refuse_idle(context, "--ckpt with --sparsity-train or --fine-tune", False, idle)
    refuse_idle(context, "--sparsity-train", sparsity_train, ("sparsity", *OF_SPARSITY))
    refuse_idle(context, "--fine-tune", slim_and_tune, OF_TUNING)
    refuse_idle(context, "--distill", distill, OF_TEACHER)
    refuse_idle(context, "--sparsity-train", sparsity_train or ckpt is None, (*OF_TRAINING, *fine_tune))
    where = _data(dataset, data, image_size, download)
    source = find_folder(named) if named is not None else None
    if source is not None and not sparsity_train and not slim_and_tune:
        measured = _pipeline.measure(
            source,
            where,
            batch_size=settings.batch_size,
            device=settings.device,
            limit=settings.limit,
            workers=settings.workers,
            architecture=name,
        )
        _show(measured, as_json=False)
        return
    tuning = None
    if slim_and_tune:
        lowest = min(settings.min_lr, fine_tune["learning_rate"])
        tuning = replace(settings, sparsity=0.0, sparsity_epochs=0, warmup_epochs=0, min_lr=lowest, **fine_tune)
    summary = _run_all.run_all(
        name,
        where,
        settings if sparsity_train else replace(settings, sparsity=0.0),
        tuning,
        [parse_ratio(text, "--prune-ratio") for text in prune_ratio],
        output,
        options=parse_options(option, stem, num_classes),
        start=source if sparsity_train else None,
        base=source if not sparsity_train else None,
        group_ratios=parse_group_ratios(group_ratio),
        schema=prune_schema,
        rounding=rounding,
        after_slimming=after_slimming,
        distill=distill,
        resume=resume,
        dtype=save_dtype,
        command=recorded_command(),
    )
    for part, metrics in {"base": summary["base"], **summary.get("variants", {})}.items():
        _say(f"{part}: " + ", ".join(f"{key} {_text(value)}" for key, value in metrics.items()))
    _say(f"saved {summary['saved']}")


def _refuse_idle_settings(context: typer.Context, teacher: str | None) -> None:
    refuse_idle(context, "--sparsity", given_options(context, ["sparsity"]), OF_SPARSITY)
    refuse_idle(context, "--teacher", teacher, OF_NAMED_TEACHER)


def _teacher_folder(name: str | None, pruned: str | None) -> Path | None:
    from zoo_slim.cli._checkpoints import find_folder

    return None if name is None else find_folder(name, pruned, option="--teacher-pruned")


def _data(name: str, root: Path, size: int | None, download: bool) -> "Data":
    from zoo_slim.training._sources import Data

    return Data(name, root, size, download)


def _show(measured: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(measured))
        return
    for key, value in measured.items():
        typer.echo(f"{key:>10}  {_text(value)}")


def _say(line: str) -> None:
    from zoo_slim.training._processes import is_main

    if is_main():
        typer.echo(line)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(item)}" for key, item in value.items())
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
