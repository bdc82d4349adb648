"""Pictures that commands write."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_ending", "write_picture"]


def check_ending(option: str, file: Path) -> None:
    """Refuse a file that no picture can be written to.

    Raises:
        ZooSlimError: an unknown ending.
        OSError: it is a folder.
    """
    from zoo_slim._errors import ZooSlimError
    from zoo_slim._files import check_replaceable

    check_replaceable(file)

    if file.suffix not in (".png", ".svg", ".pdf"):
        raise ZooSlimError(f"{option} {file}: the ending must be .png, .svg or .pdf")


def write_picture(figure: "Figure", file: Path) -> None:
    """Write a picture, and the folders that it lies in."""
    from zoo_slim._files import replacing_file

    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(file) as scratch:
        figure.savefig(scratch, dpi=130)
