"""The commands push and pull."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_slim.cli._options import Name, Pruned, example

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add ``push`` and ``pull`` to the command line."""
    app.command(epilog=example("push runs/tuned/model me/resnet18-cifar10 --pruned 0.75"))(push)
    app.command(epilog=example("pull hf-hub:me/resnet18-cifar10 --pruned 0.75 --output resnet18"))(pull)


def push(
    source: Annotated[str, typer.Argument(help="A checkpoint's folder, or a registered name.")],
    repo: Annotated[str, typer.Argument(help="The repository: org/name.")],
    pruned: Annotated[
        str | None, typer.Option("--pruned", help="Only this variant, or the tag that a single variant shall have.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility, if the repository is new.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", help="Branch; made if need be. Default: the main one.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="A new tag for the commit, v1 for instance.")] = None,
    pull_request: Annotated[bool, typer.Option("--pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.")] = None,
    card: Annotated[bool, typer.Option(help="Write the model card and the picture of the channels kept.")] = True,
    license_name: Annotated[str | None, typer.Option("--license", help="For the card: apache-2.0, mit, ...")] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", help="For the card: a data set on the Hub; can be repeated.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="For the card: the repository that it was slimmed from.")
    ] = None,
) -> None:
    """Publish a network on the Hugging Face Hub.

    A folder goes with all of its variants, into one commit. Other variants in the repository stay, and so does what
    people wrote into the model card. Log in with: hf auth login
    """
    from zoo_slim import hub, loading
    from zoo_slim._errors import CheckpointError

    where = loading.place_of(source)
    (there, *_) = loading.places(where)
    if not isinstance(there, loading.LocalPlace):
        raise typer.BadParameter(f"push takes a folder, not {source!r}; pull it first", param_hint="SOURCE")
    try:
        if not there.variants():
            there.fetch(None, weights=False)
    except loading.NotThereError as error:
        lacking = f"{there}: {error}"
        if isinstance(there, loading.BundledPlace):
            lacking = f"no weights of {source} come with the package; name the folder of a checkpoint"
        raise CheckpointError(lacking) from error
    made = hub.push_folder(
        there.folder,
        repo,
        pruned,
        private=private,
        revision=branch,
        tag=tag,
        create_pr=pull_request,
        message=message,
        card=card,
        license=license_name,
        datasets=datasets,
        base_model=base_model,
    )
    typer.echo(f"pull request {made.pr_url}" if made.pr_url else f"commit {made.commit_url}")


def pull(
    name: Name,
    pruned: Pruned = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to put it into. Default: the Hub's cache only.")
    ] = None,
) -> None:
    """Download a network from the Hub, checked, to be used without a network.

    With all of its variants, or the one that --pruned names.
    """
    from zoo_slim import hub, loading
    from zoo_slim._errors import CheckpointError

    there = loading.places(loading.place_of(name))[-1]
    if not isinstance(there, hub.HubPlace):
        raise typer.BadParameter(f"pull takes hf-hub:org/name, not {name!r}", param_hint="NAME")
    try:
        found = hub.pull(there, pruned, output)
    except loading.NotThereError as error:
        known = loading.known_variants(there, error)
        more = f"; its variants are {', '.join(known)}" if known else ""
        raise CheckpointError(f"{there}: {error}{more}") from error
    for tag, folder in found.items():
        typer.echo(f"{'base' if tag is None else tag}  {folder}")
