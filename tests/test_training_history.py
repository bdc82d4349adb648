"""What configs record of the trainings and slimmings before."""

import json

import pytest

from zoo_slim.checkpoint._json import check_tree
from zoo_slim.training import _history
from zoo_slim.training._history import LENGTH, as_base, history, trainings


def trained(name, before):
    return {"command": name, "epochs": 3, "settings": {"lr": 0.1}, **history(before)}


def slimmed(name, base):
    return {"command": name, "ratio": 0.5, "folded": {"layers": 3}, "base": as_base(base)}


def commands(record):
    return [record["command"], *(step["command"] for step in record.get("before", []))]


def test_the_latest_comes_first_and_the_base_by_itself():
    base = trained("base", {})
    tuned = trained("again", trained("tune", slimmed("slim", base)))
    assert commands(tuned) == ["again", "tune", "slim"]
    assert tuned["base"] == base and all("base" not in step and "before" not in step for step in tuned["before"])
    assert [step["command"] for step in trainings(tuned)] == ["again", "tune"]
    assert history({}) == {} and "base" not in trained("more", base)


def test_slimmed_and_tuned_again_and_again_a_record_can_still_be_written():
    record = trained("base", {})
    for step in range(6):
        record = trained(f"tune {step}", slimmed(f"slim {step}", record))
        check_tree(record, "config.json", "training")
        check_tree(slimmed("slim", record), "config.json", "training")
    assert commands(record) == ["tune 5", "slim 5"]
    assert commands(record["base"]) == ["tune 4", "slim 4"] and commands(record["base"]["base"]) == ["tune 3", "slim 3"]
    assert "base" not in record["base"]["base"]


def test_a_long_history_loses_its_oldest_steps(monkeypatch):
    record = trained("0", {})
    for step in range(1, 9):
        record = trained(str(step), record)
    assert commands(record) == [str(step) for step in range(8, -1, -1)]
    monkeypatch.setattr(_history, "LENGTH", 3 * len(json.dumps(trained("0", {}))) + 1)
    assert commands(trained("9", record)) == ["9", "8", "7", "6"]


STRANGE = [
    None,
    3,
    "text",
    [1, "text", {"epochs": 2}],
    [[{"epochs": 2}]],
    {"epochs": 2},
    [{"epochs": 2, "deep": {"a": [{"b": [1]}]}, "before": [{"epochs": 2}], "base": {"base": {"base": {}}}}],
    [{"epochs": 2, "long": "x" * 10 * LENGTH}],
]


@pytest.mark.parametrize("before", STRANGE, ids=lambda before: str(before)[:30])
def test_strangers_may_write_anything_there(before):
    record = {"epochs": 1, "before": before, "base": 3}
    assert trainings(record)[0] == {"epochs": 1} == history(record)["before"][0]
    for _ in range(3):
        record = trained("tune", slimmed("slim", {**record, "base": record}))
        check_tree(record, "config.json", "training")
        assert len(json.dumps(record)) < 5 * LENGTH


def test_what_is_too_deep_for_an_earlier_step_is_left_out():
    record = {"epochs": 1, "deep": {"a": {"b": 1}}, "flat": {"a": [1]}, "scores": [1, 2], "rows": [[1]]}
    assert history(record) == {"before": [{"epochs": 1, "scores": [1, 2]}]}
