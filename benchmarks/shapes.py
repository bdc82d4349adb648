"""A toy data set for detectors: one rectangle, red, green or blue, on noise. ``python shapes.py FOLDER``."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230)}
IMAGES = {"train": 96, "val": 48}
SIDE = 64


def make(folder: Path) -> None:
    """Write images, labels and ``data.yaml`` as ultralytics reads them."""
    draw = np.random.default_rng(0)
    for part, count in IMAGES.items():
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            colour = int(draw.integers(len(COLOURS)))
            width, height = (int(length) for length in draw.integers(16, 40, 2))
            left, top = int(draw.integers(0, SIDE - width)), int(draw.integers(0, SIDE - height))
            pixels[top : top + height, left : left + width] = list(COLOURS.values())[colour]
            Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
            box = ((left + width / 2) / SIDE, (top + height / 2) / SIDE, width / SIDE, height / SIDE)
            (folder / "labels" / part / f"{number}.txt").write_text(" ".join(map(str, (colour, *box))) + "\n")
    (folder / "data.yaml").write_text(
        f"path: {folder.absolute()}\ntrain: images/train\nval: images/val\nnames: [{', '.join(COLOURS)}]\n"
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
