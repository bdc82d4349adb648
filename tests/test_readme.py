"""What the README tells people to run, run."""

import gzip
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of the right form: noise in place of clothes."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").mkdir()
    generator = np.random.default_rng(0)
    for split, count in (("train", 128), ("t10k", 20)):
        write_idx(folder / "data" / f"{split}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder / "data" / f"{split}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return folder


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_set_up_commands_come_first() -> None:
    lines = [line for line in README.splitlines() if line.startswith("    pip install")]
    assert lines == [
        "    pip install . && zoo-slim load resnet18 --pruned 0.75",
        "    pip install -e '.[test]' && pytest",
    ]


def test_load_prints_base_beside_slim(tmp_path: Path) -> None:
    out = run([sys.executable, "-m", "zoo_slim.cli", "load", "resnet18", "--pruned", "0.75"], tmp_path)
    for word in ("parameters", "MACs", "base", "slim", "latency", "load time", "test accuracy"):
        assert word in out, out


def test_snippets(tmp_path: Path) -> None:
    snippets = blocks("python")
    assert len(snippets) >= 4
    script = tmp_path / "readme.py"
    script.write_text("\n".join(snippets), encoding="utf-8")
    run([sys.executable, str(script)], tmp_path)
    assert (tmp_path / "my_net-slim" / "pruning.safetensors").is_file()


@pytest.mark.slow
def test_commands(workshop: Path) -> None:
    lines = commands()
    assert any("train" in line for line in lines) and any("finetune" in line for line in lines)
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "zoo-slim", line
        run([sys.executable, "-m", "zoo_slim.cli", *words[1:]], workshop)
    assert (workshop / "runs" / "tuned" / "model" / "model.safetensors").is_file()


def test_every_linked_file_is_there() -> None:
    root = Path(__file__).parent.parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (root / link).is_file(), link
