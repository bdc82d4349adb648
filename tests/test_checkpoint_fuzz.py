"""A few hundred damaged and hostile checkpoints; `fuzz_files` tries as many as one likes."""

import sys
from pathlib import Path

import fuzz_files
import pytest
from hand_made import HAND_MADE


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")
def test_damaged_and_hostile_checkpoints_are_refused_or_load_as_what_they_say() -> None:
    outcomes = fuzz_files.run(range(300), seed=0, workers=1)
    wrong = [o for o in outcomes if o.what not in ("equal", "refused")]
    assert not wrong
    assert len(outcomes) == 300 and {o.kind for o in outcomes} == set(fuzz_files.KINDS)
    assert sum(o.what == "refused" for o in outcomes) > 200 and sum(o.what == "equal" for o in outcomes) > 10
    assert max(o.bytes for o in outcomes) < 200 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")
def test_each_that_is_made_by_hand_is_refused_with_what_is_wrong() -> None:
    outcomes = fuzz_files.run(list(HAND_MADE), seed=0, workers=1)
    assert {o.case for o in outcomes} == set(HAND_MADE)
    for outcome in outcomes:
        made = HAND_MADE[str(outcome.case)]
        assert outcome.what == "refused" and made.says in outcome.message, outcome
        assert outcome.bytes < fuzz_files.BYTES, outcome


def test_the_documentation_has_all_of_them() -> None:
    text = (Path(__file__).parent.parent / "docs" / "hostile.md").read_text(encoding="utf-8")
    assert [name for name in HAND_MADE if f"| {name} | ZOO/" not in text] == []
    (everything,) = (line for line in text.splitlines() if line.startswith("| all |"))
    cases, refused, equal, wrong = map(int, everything.split("|")[2:6])
    assert cases >= 10_000 + len(HAND_MADE) and refused + equal == cases and wrong == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")
def test_a_worker_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_files, "work", dies)
    outcomes = fuzz_files.run(range(2), seed=0, workers=1)
    assert [o.what for o in outcomes] == ["killed the process"] * 2


def dies(numbers, outcomes, *_):  # type: ignore[no-untyped-def]
    outcomes.put(numbers.get())
    outcomes.close()
    outcomes.join_thread()
    raise SystemExit(3)
