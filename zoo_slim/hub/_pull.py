"""Copy checkpoints from the Hub into a folder, in the layout of the repository."""

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from zoo_slim import checkpoint
from zoo_slim._errors import HubError, NotThereError
from zoo_slim._files import flush_file
from zoo_slim.checkpoint import CONFIG, MODEL, PRUNING, VARIANT_PREFIX, BaseWeights
from zoo_slim.checkpoint._folder import replacing
from zoo_slim.checkpoint._save import check_dependants
from zoo_slim.hub._place import HubPlace, checkpoints_in, fetch_config

__all__ = ["pull"]


def pull(place: HubPlace, pruned: str | None, folder: Path | None) -> dict[str | None, Path]:
    """Fetch the checkpoints of a repository, all of one commit.

    Args:
        place: the repository.
        pruned: only this variant, with the base network where it is cut from that; None: all checkpoints.
        folder: where to put them, too: the base network into the folder itself, variants into folders in it. Each
            checkpoint appears as a whole. None: they stay in the Hub's cache.

    Returns:
        The folder of each checkpoint; the base network's tag is None.

    Raises:
        NotThereError: the repository, the revision or the variant does not exist, is kept from us, or cannot be had.
        CheckpointError: what it has is damaged or too large; or the folder holds something else, or variants that are
            cut from a base network which would be replaced.
        HubError: the repository has no checkpoints.
    """
    contents = place.contents(place.revision)
    there = checkpoints_in(contents.files)
    if not there:
        raise HubError(f"{place}: has no checkpoints of zoo_slim; its files are {', '.join(contents.files[:10])}")
    if pruned is not None and pruned not in there:
        raise NotThereError(f"it has no variant {pruned!r}")
    fetch_config(place, pruned if pruned is not None else there[0])  # the cache then knows what the revision was
    pinned = replace(place, revision=contents.commit)
    found: dict[str | None, Path] = {}
    for tag in there if pruned is None else [pruned]:
        found[tag] = pinned.fetch(tag, weights=not _is_bare(pinned, tag))
        config = checkpoint.read_config(found[tag])
        if MODEL not in config.files and not isinstance(config.base_weights, BaseWeights) and None in there:
            found[None] = pinned.fetch(None, weights=True)
    if folder is None:
        return found
    tags = sorted(found, key=lambda tag: (tag is not None, tag or ""))
    return {tag: _copy(found[tag], tag, folder, tags) for tag in tags}


def _is_bare(place: HubPlace, tag: str | None) -> bool:
    """Whether a checkpoint is a base network without weights."""
    return tag is None and not checkpoint.read_config(place.fetch(None, weights=False)).files


def _copy(source: Path, tag: str | None, folder: Path, tags: Collection[str | None]) -> Path:
    """Put a checkpoint into its place in a folder, as one of those with these tags."""
    target = folder if tag is None else folder / f"{VARIANT_PREFIX}{tag}"
    files = checkpoint.read_config(source).files
    with replacing(target) as place:
        if tag is None:
            check_dependants(target, files.get(MODEL), but=tags)
        for name in (CONFIG, *(name for name in (PRUNING, MODEL) if name in files)):
            shutil.copyfile(source / name, place / name)
            flush_file(place / name)
    return target
