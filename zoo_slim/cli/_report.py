"""The command report: a picture of the channels that a slim network kept."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_slim._amount import amount
from zoo_slim.cli._checkpoints import example_of, find_folder
from zoo_slim.cli._options import Name, Pruned, example
from zoo_slim.cli._output import percent
from zoo_slim.cli._pictures import check_ending, write_picture

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``report`` to the command line."""
    app.command(epilog=example("report resnet18 --pruned 0.75 --output resnet18.png"))(report)


def report(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .png, .svg or .pdf.")],
    pruned: Pruned = None,
) -> None:
    """Draw the channels that each layer of a slim network kept."""
    from zoo_slim._errors import ZooSlimError

    check_ending("--output", output)
    from zoo_slim.checkpoint._load import read_skeleton
    from zoo_slim.checkpoint._origin import part_tested
    from zoo_slim.pictures import channels_kept, layer_widths
    from zoo_slim.slimming import count_macs, count_params

    skeleton = read_skeleton(find_folder(name, pruned, weights=False))
    config, base, model = skeleton.config, skeleton.original, skeleton.model
    if skeleton.result is None:
        raise ZooSlimError(f"{name} is not slim: all of its channels were kept; name a variant with --pruned")
    image = example_of(skeleton.architecture, config)
    lines = [f"{config.architecture} {config.variant or ''}".strip()]
    lines.append(f"parameters {amount(count_params(base))} → {amount(count_params(model))}")
    lines.append(f"MACs {amount(count_macs(base, image))} → {amount(count_macs(model, image))}")
    accuracies = [metrics["test_accuracy"] for metrics in (config.base, config.metrics) if "test_accuracy" in metrics]
    parts = part_tested(config.training), part_tested(config.training.get("base"))
    if len(accuracies) == 2 and parts == (None, None):
        lines.append(f"test accuracy {percent(accuracies[0])} → {percent(accuracies[1])}")
    try:
        figure = channels_kept(layer_widths(base, model), "   ·   ".join(lines))
    except ModuleNotFoundError as error:
        raise ZooSlimError(f"a picture needs {error.name}: pip install {error.name}") from None
    write_picture(figure, output)
    typer.echo(f"drew {output}", err=True)
