"""The table is trained by one command, and the figures of the documents are those of the networks in the package."""

import sys
from pathlib import Path

import pytest
from cli_helpers import load_script

from zoo_slim import checkpoint

ROOT = Path(__file__).parent.parent
ZOO = ROOT / "zoo_slim" / "zoo"
BUNDLED = sorted(ZOO.glob("*/pruned-*"))


def test_the_cifar10_table_is_that_of_the_bundled_networks() -> None:
    assert load_script("table").page(ZOO) == (ROOT / "docs" / "cifar10.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_the_accuracy_is_said(folder: Path) -> None:
    accuracy = checkpoint.read_config(folder).metrics["test_accuracy"]
    for page in ("docs/training.md", f"zoo_slim/zoo/{folder.parent.name}/README.md"):
        assert f"{100 * accuracy:.2f} %" in (ROOT / page).read_text(encoding="utf-8"), page


def test_the_readme_says_what_the_networks_have() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for name in ("resnet18", "RepVGG-A0-woid"):
        config = checkpoint.read_config(ZOO / name / "pruned-0.75")
        metrics, size = config.metrics, config.files[checkpoint.MODEL].bytes
        cells = (
            f"{metrics['params'] / 1e6:.2f} M", f"{metrics['macs'] / 1e6:.1f} M", f"{size / 1e6:.1f} MB",
            f"{100 * metrics['test_accuracy']:.2f} %",
        )  # fmt: skip
        assert any(all(f" {cell} |" in line for cell in cells) for line in lines), cells


def test_networks_are_trained_next_to_each_other_until_the_time_is_over(tmp_path: Path) -> None:
    python = [sys.executable, "-c"]
    waits = "import time; print('waits', flush=True); time.sleep(60)"
    commands = {
        "ends": [*python, "print('one'); print('two')"],
        "fails": [*python, "exit(3)"],
        "waits": [*python, waits],
    }
    codes = load_script("train_table").run_all(commands, tmp_path, 5)
    assert (codes["ends"], codes["fails"]) == (0, 3) and codes["waits"] not in (0, 3)
    assert (tmp_path / "ends" / "log.txt").read_text().splitlines()[1:] == ["one", "two"]
    assert (tmp_path / "waits" / "log.txt").read_text().splitlines()[1:] == ["waits"]
