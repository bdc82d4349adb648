"""The labelled pictures that come with a checkpoint, and how a terminal shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_slim.cli._output import percent, printable, table

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["Answer", "Sample", "draw", "read_samples", "show_answers"]

FOLDER, INDEX = "samples", "samples.json"
FORMAT, VERSION = "zoo_slim.samples", 1
LEAST_TILE, WIDEST_TILE, GAP = 18, 28, 2
"""Columns of one picture, and between two. Every character shows two pixels, one above the other."""
SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Sample:
    """A picture and its true class."""

    file: Path
    label: str


@dataclass(frozen=True)
class Answer:
    """What the network said of a sample."""

    sample: Sample
    picture: "Image"
    predicted: str
    probability: float

    @property
    def right(self) -> bool:
        """Whether it is the true class."""
        return self.predicted == self.sample.label


def read_samples(folder: Path) -> tuple[list[Sample], str]:
    """Return the samples of a checkpoint, or of the base whose variant it is, and where they come from.

    They lie in ``samples/``, with an index ``samples.json``: ``format``, ``version``, ``source`` and ``images``, a list
    of ``{"file", "label"}``. Empty where there are none.

    Raises:
        DataError: the index is damaged.
        CheckpointError: the index or a picture is a link that leads out of the checkpoint.
    """
    import json

    from zoo_slim._errors import DataError
    from zoo_slim.checkpoint import VARIANT_PREFIX
    from zoo_slim.checkpoint._load import inside

    homes = [folder, folder.parent] if folder.name.startswith(VARIANT_PREFIX) else [folder]
    home = next((home for home in homes if (home / FOLDER / INDEX).is_file()), None)
    if home is None:
        return [], ""
    index = inside(home, f"{FOLDER}/{INDEX}")
    try:
        document = json.loads(index.read_bytes())
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"expected format {FORMAT!r}, version {VERSION}")
        samples = []
        for entry in document["images"]:
            file, label = str(entry["file"]), str(entry["label"])
            if not file or file != Path(file).name:
                raise ValueError(f"{file!r} is not the name of a file beside it")
            samples.append(Sample(inside(home, f"{FOLDER}/{file}"), label))
        return samples, str(document.get("source", ""))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{index}: is not an index of samples: {type(error).__name__}: {error}") from None


def show_answers(out: "Console", answers: Sequence[Answer]) -> None:
    """Show the pictures with labels and predictions; only the names where pictures cannot be seen."""
    if not out.is_terminal or out.width < 2 * LEAST_TILE + GAP or not out.encoding.startswith("utf"):
        shown = table("image", "label", "prediction", "probability", "", numbers=("probability",))
        for answer in answers:
            words = answer.sample.file.name, printable(answer.sample.label), printable(answer.predicted)
            shown.add_row(*words, percent(answer.probability, 1), "right" if answer.right else "wrong")
        out.print(shown)
        return
    from rich.table import Table

    per_row = min(len(answers), 5, (out.width + GAP) // (LEAST_TILE + GAP))
    width = min(WIDEST_TILE, (out.width + GAP) // per_row - GAP)
    for start in range(0, len(answers), per_row):
        row = Table.grid(padding=(0, GAP, 0, 0))
        for _ in range(per_row):
            row.add_column(width=width)
        colour = out.color_system is not None and not out.no_color
        row.add_row(*(_tile(answer, width, colour) for answer in answers[start : start + per_row]))
        out.print(row)


def _tile(answer: Answer, width: int, colour: bool) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    mark, style = ("✓", "green") if answer.right else ("✗", "red")
    end = f" {percent(answer.probability, 0)}"
    said = Text(f"{mark} {printable(answer.predicted)}", style)
    said.truncate(width - len(end), overflow="ellipsis")
    said.append(end, style)
    label = Text(printable(answer.sample.label), "bold")
    label.truncate(width, overflow="ellipsis")
    return Group(*draw(answer.picture, width, colour), label, said, "")


def draw(picture: "Image", width: int, colour: bool = True) -> "list[Text]":
    """Return a picture as lines of ``width`` characters: half blocks in colour, or ASCII shades."""
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    lines = max(1, round(picture.height / picture.width * width / 2))
    small = picture.convert("RGB").resize((width, 2 * lines), Image.Resampling.BOX)
    pixels = small.tobytes()

    def pixel(x: int, y: int) -> tuple[int, int, int]:
        at = 3 * (y * width + x)
        return pixels[at], pixels[at + 1], pixels[at + 2]

    drawn = []
    for y in range(0, 2 * lines, 2):
        line = Text()
        for x in range(width):
            upper, lower = pixel(x, y), pixel(x, y + 1)
            if colour:
                line.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
            else:
                line.append(SHADES[(sum(upper) + sum(lower)) * len(SHADES) // (6 * 256)])
        drawn.append(line)
    return drawn
