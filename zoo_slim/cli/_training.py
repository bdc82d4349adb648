"""The commands train, finetune, eval and run."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zoo_slim.training import Settings
    from zoo_slim.training._pipeline import Data

__all__ = ["add_commands"]

DATASETS = "cifar10, mnist, fashion-mnist or image-folder"

Pruned = Annotated[str | None, typer.Option("--pruned", help="Variant, 0.75 for instance.")]
DatasetName = Annotated[str, typer.Option("--dataset", help=f"Data set: {DATASETS}.")]
DataRoot = Annotated[Path, typer.Option("--data", help="Folder that holds the data set.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", min=1, help="Height and width for image-folder.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch MNIST or Fashion-MNIST if it is missing.")]
Output = Annotated[Path, typer.Option("--output", "--save-dir", help="Folder of the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
Epochs = Annotated[int, typer.Option("--epochs", min=1)]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
LearningRate = Annotated[float, typer.Option("--learning-rate", "--lr", help="Highest learning rate of the cosine.")]
Sparsity = Annotated[float, typer.Option("--sparsity", "--s", help="L1 penalty on BatchNorm scales; 0 = none.")]
Momentum = Annotated[float, typer.Option("--momentum")]
Nesterov = Annotated[bool, typer.Option("--nesterov/--no-nesterov", help="Nesterov momentum.")]
WeightDecay = Annotated[float, typer.Option("--weight-decay")]
WarmupEpochs = Annotated[int, typer.Option("--warmup-epochs", min=0)]
LabelSmoothing = Annotated[float, typer.Option("--label-smoothing")]
ClipNorm = Annotated[float, typer.Option("--clip-norm", help="Bound of the gradient norm; 0 = none.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Determines weights, shuffling, augmentation and dropout.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Amp = Annotated[str, typer.Option("--amp", help="Mixed precision: no, bf16 or fp16.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last/--no-channels-last", help="Memory format in training.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that decode images (image-folder).")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="At most this many images per split; 0 = all.")]
Stem = Annotated[str | None, typer.Option("--stem", help="Builder option stem, where the architecture has it.")]
NumClasses = Annotated[int | None, typer.Option("--num-classes", help="Default: as many as the data set has.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="Builder option key=value; may be repeated.")]

ORIGINAL_SPELLING = {"token_normalize_func": lambda token: token.replace("_", "-")}
"""Option names may be written with underscores, as the original tool's script wants them."""


def add_commands(app: typer.Typer) -> None:
    """Add the training commands to the command line."""
    from zoo_slim.cli._options import example

    data = "--dataset cifar10 --data data"
    for name, command, line in (
        ("train", train, f"train resnet18 {data} --sparsity 1e-4 --output runs/resnet18"),
        ("finetune", finetune, f"finetune runs/resnet18/model --pruned 0.75 {data} --output runs/tuned"),
        ("eval", evaluate, f"eval runs/resnet18/model --pruned 0.75 {data}"),
        ("run", run, f"run resnet18 {data} --sparsity-train --fine-tune --prune-ratio 0.75"),
    ):
        app.command(name, epilog=example(line), context_settings=ORIGINAL_SPELLING)(command)


def train(
    context: typer.Context,
    architecture: Annotated[str, typer.Argument(help="A registered name; `zoo-slim list` shows them.")],
    dataset: DatasetName,
    data: DataRoot,
    output: Output,
    epochs: Epochs = 120,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 0.01,
    sparsity: Sparsity = 0.0,
    momentum: Momentum = 0.9,
    nesterov: Nesterov = False,
    weight_decay: WeightDecay = 5e-4,
    warmup_epochs: WarmupEpochs = 0,
    label_smoothing: LabelSmoothing = 0.0,
    clip_norm: ClipNorm = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    amp: Amp = "no",
    channels_last: ChannelsLast = True,
    workers: Workers = 0,
    limit: Limit = 0,
    image_size: ImageSize = None,
    download: Download = False,
    stem: Stem = None,
    num_classes: NumClasses = None,
    option: Options = None,
    resume: Resume = False,
) -> None:
    """Train a network, sparsely if --sparsity is given.

    The sparsity is an L1 penalty on the BatchNorm scales.
    """
    from zoo_slim.training import _pipeline

    saved = _pipeline.train(
        architecture,
        _data(dataset, data, image_size, download),
        _settings(context),
        output,
        options=_options(option, stem, num_classes),
        resume=resume,
        command=_command(),
    )
    typer.echo(f"saved {saved}")


def finetune(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Folder of a slim checkpoint, hf-hub:org/name or a name.")],
    dataset: DatasetName,
    data: DataRoot,
    output: Output,
    pruned: Pruned = None,
    epochs: Epochs = 120,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 0.001,
    sparsity: Sparsity = 0.0,
    momentum: Momentum = 0.9,
    nesterov: Nesterov = False,
    weight_decay: WeightDecay = 5e-4,
    warmup_epochs: WarmupEpochs = 0,
    label_smoothing: LabelSmoothing = 0.0,
    clip_norm: ClipNorm = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    amp: Amp = "no",
    channels_last: ChannelsLast = True,
    workers: Workers = 0,
    limit: Limit = 0,
    image_size: ImageSize = None,
    download: Download = False,
    resume: Resume = False,
) -> None:
    """Train the network of a checkpoint further."""
    from zoo_slim.cli._checkpoints import find_folder
    from zoo_slim.training import _pipeline

    settings = _settings(context)
    saved = _pipeline.finetune(
        find_folder(checkpoint, pruned),
        _data(dataset, data, image_size, download),
        settings,
        output,
        resume=resume,
        command=_command(),
    )
    typer.echo(f"saved {saved}")


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a slim checkpoint, hf-hub:org/name or a name.")],
    dataset: DatasetName,
    data: DataRoot,
    pruned: Pruned = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    workers: Workers = 0,
    limit: Limit = 0,
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


def run(
    context: typer.Context,
    architecture: Annotated[str | None, typer.Argument(help="A registered name (or --net).")] = None,
    net: Annotated[str | None, typer.Option("--net", help="The same as the argument.")] = None,
    dataset: DatasetName = "cifar10",
    data: DataRoot = Path("data"),
    output: Output = Path("output"),
    epochs: Epochs = 120,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 0.01,
    sparsity_train: Annotated[bool, typer.Option("--sparsity-train", help="Penalise the scales in training.")] = False,
    sparsity: Sparsity = 1e-4,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Slim and fine-tune after training.")] = False,
    fine_tune_epochs: Annotated[int, typer.Option("--fine-tune-epochs", min=1)] = 120,
    fine_tune_learning_rate: Annotated[float, typer.Option("--fine-tune-learning-rate")] = 0.001,
    prune_ratio: Annotated[float, typer.Option("--prune-ratio", help="Share of the scales to remove.")] = 0.75,
    prune_schema: Annotated[Path | None, typer.Option("--prune-schema", help="Pruning schema (JSON).")] = None,
    ckpt: Annotated[str | None, typer.Option("--ckpt", help="Slim checkpoint of a trained network.")] = None,
    ckpt_pruned: Annotated[str | None, typer.Option("--ckpt-pruned", help="Variant to test.")] = None,
    momentum: Momentum = 0.9,
    nesterov: Nesterov = False,
    weight_decay: WeightDecay = 5e-4,
    warmup_epochs: WarmupEpochs = 0,
    label_smoothing: LabelSmoothing = 0.0,
    clip_norm: ClipNorm = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    amp: Amp = "no",
    channels_last: ChannelsLast = True,
    workers: Workers = 0,
    limit: Limit = 0,
    image_size: ImageSize = None,
    download: Download = False,
    stem: Stem = None,
    num_classes: NumClasses = None,
    option: Options = None,
    resume: Resume = False,
) -> None:
    """Train, slim and fine-tune in one go.

    The options are those of the original tool's train.py. --sparsity-train turns on the penalty, --fine-tune the
    slimming. With --ckpt and neither, the network is only tested; with --ckpt and --fine-tune it is slimmed and
    fine-tuned, with --ckpt and --sparsity-train it is trained on.
    """
    from zoo_slim.cli._checkpoints import find_folder
    from zoo_slim.training import _pipeline

    name = architecture or net
    if name is None and ckpt is None and ckpt_pruned is None:
        raise typer.BadParameter("name the architecture: zoo-slim run resnet18 …, or --net resnet18")
    if ckpt_pruned is not None and (sparsity_train or fine_tune):
        raise typer.BadParameter(
            "--ckpt-pruned is a network to test; to train it further use zoo-slim finetune, "
            "or leave --sparsity-train and --fine-tune out"
        )
    where = _data(dataset, data, image_size, download)
    named = ckpt_pruned or ckpt
    source = find_folder(named) if named is not None else None
    if source is not None and not sparsity_train and not fine_tune:
        _show(
            _pipeline.measure(source, where, device=device, limit=limit, workers=workers, architecture=name),
            as_json=False,
        )
        return
    settings = _settings(context, sparsity=sparsity if sparsity_train else 0.0)
    tuning = _settings(
        context, epochs=fine_tune_epochs, learning_rate=fine_tune_learning_rate, sparsity=0.0, warmup_epochs=0
    )
    summary = _pipeline.run_all(
        name,
        where,
        settings,
        tuning if fine_tune else None,
        prune_ratio,
        output,
        options=_options(option, stem, num_classes),
        start=source if sparsity_train else None,
        base=source if not sparsity_train else None,
        schema=prune_schema,
        resume=resume,
        command=_command(),
    )
    for part in ("base", "slim"):
        if part in summary:
            typer.echo(f"{part}: " + ", ".join(f"{key} {_text(value)}" for key, value in summary[part].items()))
    typer.echo(f"saved {summary['saved']}")


def _settings(context: typer.Context, **instead: Any) -> "Settings":
    """Take the settings from the command's parameters of the same names."""
    from zoo_slim.training import Settings

    names = {field.name for field in dataclasses.fields(Settings)}
    return Settings(**{**{name: value for name, value in context.params.items() if name in names}, **instead})


def _data(name: str, root: Path, size: int | None, download: bool) -> "Data":
    from zoo_slim.training._pipeline import Data

    return Data(name, root, size, download)


def _options(pairs: list[str] | None, stem: str | None, num_classes: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--option takes key=value, not {pair!r}")
        options[key.replace("-", "_")] = _value(value)
    if stem is not None:
        options["stem"] = stem
    if num_classes is not None:
        options["num_classes"] = num_classes
    return options


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _command() -> str:
    return shlex.join(["zoo-slim", *sys.argv[1:]])


def _show(measured: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(measured))
        return
    for key, value in measured.items():
        typer.echo(f"{key:>10}  {_text(value)}")


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
