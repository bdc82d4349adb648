"""What configs record of the trainings and slimmings before."""

from zoo_slim.checkpoint._json import check_tree
from zoo_slim.training._history import STEPS, as_base, history, trainings


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


def test_a_long_history_loses_its_oldest_steps():
    record = trained("0", {})
    for step in range(1, STEPS + 3):
        record = trained(str(step), record)
    assert commands(record) == [str(step) for step in range(STEPS + 2, 1, -1)]


def test_records_of_early_versions_are_read():
    base = {"command": "base", "epochs": 9}
    slimming = {"command": "slim", "ratio": 0.5, "base": base}
    tuned = {"command": "tune", "epochs": 1, "before": slimming, "base": base}
    assert commands(trained("again", tuned)) == ["again", "tune", "slim"]
    assert [step["command"] for step in trainings({"command": "x", "epochs": 2, "before": tuned})] == ["x", "tune"]


def test_strangers_may_write_anything_there():
    for before in (None, 3, "text", [1, "text", {"epochs": 2}], [[{"epochs": 2}]]):
        assert history({"epochs": 1, "before": before, "base": 3})["before"][0] == {"epochs": 1}
        assert trainings({"epochs": 1, "before": before})[0] == {"epochs": 1}
