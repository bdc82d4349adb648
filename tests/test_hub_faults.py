"""Nothing corrupt ever loads, and nothing half is ever pushed: see `hub_faults` for what is tried."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_clients import needs_fork
from hub_faults import CASES, PUSH_CASES, measure, measure_push
from test_hub_load import a_model

pytestmark = needs_fork


@pytest.mark.slow
def test_nothing_corrupt_ever_loads(tmp_path: Path) -> None:
    files = a_model(tmp_path / "model", delta=False)
    folders = [tmp_path / str(number) for number in range(len(CASES))]
    with ThreadPoolExecutor(6) as pool:  # most of the time they wait
        outcomes = list(pool.map(measure, CASES, [files] * len(CASES), folders))
    for case, outcome in zip(CASES, outcomes, strict=True):
        told = f"{case.name}, {case.where}: {outcome}"
        assert outcome.loaded == outcome.same == (not case.error), told
        assert case.error in outcome.error and any(case.warning in text for text in ("", *outcome.warnings)), told
        assert (case.warning == "") == (outcome.warnings == ()), told
        assert set(outcome.left) <= set(case.left) and (case.error or outcome.left == case.left), told
        assert not outcome.damaged or "offline" in case.name or "no answer" in case.name, told
        assert outcome.afterwards, told


@pytest.mark.slow
def test_nothing_half_is_ever_pushed(tmp_path: Path) -> None:
    files = a_model(tmp_path / "model", delta=False)
    folders = [tmp_path / str(number) for number in range(len(PUSH_CASES))]
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(measure_push, PUSH_CASES, [files] * len(PUSH_CASES), folders))
    for case, outcome in zip(PUSH_CASES, outcomes, strict=True):
        told = f"{case.name}, {case.where}: {outcome}"
        assert (case.error in outcome.error) and bool(case.error) == bool(outcome.error), told
        assert outcome.commits == int(case.done) and outcome.same and outcome.afterwards, told


def test_the_documentation_has_all_of_them() -> None:
    text = (Path(__file__).parent.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "bit for bit |" in line]
    assert [row.split(" | ")[:2] for row in rows] == [[f"| {case.name}", case.where] for case in (*CASES, *PUSH_CASES)]
    assert "A WRONG NETWORK" not in text and "FAILS" not in text
