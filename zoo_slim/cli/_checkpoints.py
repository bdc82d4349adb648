"""Find a checkpoint's folder by name, and what it holds, as a shell's user asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_slim.checkpoint import Config
    from zoo_slim.registry import Architecture

__all__ = ["example_of", "find_folder", "running"]


def find_folder(name: str, pruned: str | None = None, *, weights: bool = True, option: str = "--pruned") -> Path:
    """Return the folder of a checkpoint, downloaded if need be.

    Args:
        name: a registered name, ``hf-hub:org/name``, or a folder with or without ``local-dir:``.
        pruned: the variant.
        weights: whether the weights are needed, too.
        option: how the variant is given, for messages.

    Raises:
        CheckpointError: it is nowhere; the message says where it was looked for, and which variants there are.
        RegistryError: no architecture has the name.
    """
    from zoo_slim import loading
    from zoo_slim._errors import CheckpointError

    lines, where, has_variants = [], loading.place_of(name), False
    candidates = loading.places(where)
    if pruned is not None:
        loading.check_tag(pruned, name, option, candidates)
    for there in candidates:
        if isinstance(there, loading.HubPlace):
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()  # not a line per retry: the last failure is in our message
        try:
            return there.fetch(pruned, weights)
        except loading.NotThereError as error:
            lines.append(f"  {there}: {error}")
            if known := loading.known_variants(there, error):
                has_variants = True
                lines[-1] += f"; its variants are {', '.join(known)}: add {option} {loading.nearest(pruned, known)}"
    if not has_variants:
        lines += loading.weights_of_your_own(where)
    if loading.is_hidden_folder(where):
        lines.append(f"There is a folder {name}, too: write ./{name} or {loading.LOCAL_PREFIX}{name}.")
    what = f"variant {pruned!r} of {name!r}" if pruned else f"weights of {name!r}" if weights else repr(name)
    raise CheckpointError("\n".join([f"{what} could not be found:", *lines]))


@contextmanager
def running(name: str) -> Iterator[None]:
    """Name the network that fails in the block; where it does not say why, it does not run on the recorded images."""
    from zoo_slim._errors import ZooSlimError
    from zoo_slim.hub._errors import first_line

    try:
        yield
    except ZooSlimError as error:
        raise ZooSlimError(f"{name}: {error}") from error
    except OSError:
        raise
    except Exception as error:  # of whatever kind: it is the network's own code
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ZooSlimError(
            f"{name}: does not run on images of the size that its config.json, or else its architecture, says "
            f"({first_line(error)}); save it with the right input="
        ) from error


def example_of(architecture: "Architecture", config: "Config", batch_size: int = 1, device: str = "cpu") -> "Tensor":
    """Return images of the size that the checkpoint was made for, else of the architecture's."""
    return architecture.example_input(batch_size, (config.input or {}).get("size"), device, options=config.options)
