"""Coverage: bounded processes, records that survive, what is measured of a model, and the page."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import run
from torch import nn

from zoo_slim import PruningResult
from zoo_slim._errors import DataError, RegistryError
from zoo_slim.coverage import Bounds, cover, markdown, read_lines, summary, verdict, why
from zoo_slim.coverage import _measure as measuring
from zoo_slim.coverage._bounded import Ended, run_bounded
from zoo_slim.coverage._detectors import detector_names, find_detector
from zoo_slim.coverage._lines import append_line
from zoo_slim.coverage._memory import peak_memory
from zoo_slim.coverage._names import find, matching
from zoo_slim.coverage._share import reasons, removable_share
from zoo_slim.coverage._structure import smallest_of_each_structure, structure
from zoo_slim.registry import Architecture, registry
from zoo_slim.tracing import run_trace

LINUX = sys.platform.startswith("linux")
PLENTY = 6e9


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class Net(nn.Module):
    """Two convolutions and a classifier; ``grouped`` and ``normed`` change its structure, ``width`` does not."""

    def __init__(self, width: int = 8, groups: int = 1, normed: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, groups=groups, bias=False)
        self.norm = nn.GroupNorm(1, 2 * width) if normed else nn.Identity()
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self.bn1(self.conv1(images)).relu()
        return self.fc(self.norm(self.conv2(images)).relu().mean((2, 3)))


def image(side: int = 16) -> torch.Tensor:
    return torch.empty(2, 3, side, side, device="meta")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A function: the record of a network, measured in this process."""

    def measure(builder, memory: float = PLENTY, side: int = 16) -> dict:
        monkeypatch.setattr(measuring, "find", lambda name: Architecture(name, builder, (3, side, side), options={}))
        file = tmp_path / "part.jsonl"
        measuring.measure("net", file, memory)
        return json.loads(file.read_text().splitlines()[-1])

    return measure


def record(model: str = "net", **facts) -> dict:
    found = {
        "model": model, "stage": "end", "failures": [], "params": 200, "channels": 7, "removable": 4, "inexact": 3,
        "share": 0.5, "trace_seconds": 0.25, "trace_mb": 12.0, "reasons": [["softmax | order", 3]],
        "made_with": "torch 2.6.0",
        "runs": [
            {"criterion": "random", "ratio": 0.4, "slim_params": 120, "exact": True, "difference": 1e-15,
             "training_compared": True, "training_step": "ok"},
            {"criterion": "l2", "ratio": 0.5, "slim_params": 100, "exact": True, "difference": 3e-15,
             "training_compared": True, "training_step": "ok"},
        ],
    }  # fmt: skip
    return {**found, **facts}


# Processes


@pytest.mark.skipif(not LINUX, reason="processes are watched through /proc")
def test_how_processes_end():
    commands = {
        "fine": python("print('x' * 10**6)"),
        "wrong": python("raise ValueError('this one')"),
        "busy": python("while True: pass"),
        "big": python("held = b'x' * 10**8; import time; time.sleep(60)"),
        "idle": python("import time; time.sleep(60)"),
    }
    ended = dict(run_bounded(commands, Bounds(seconds=0.5, memory=6e7), workers=3))
    assert {key: one.outcome for key, one in ended.items()} == {
        "fine": "done", "wrong": "failed", "busy": "time", "big": "memory", "idle": "time",
    }  # fmt: skip
    assert "ValueError: this one" in ended["wrong"].errors
    assert ended["big"].memory > 6e7 > ended["idle"].memory


@pytest.mark.skipif(not LINUX, reason="processes are looked for in /proc")
def test_leaving_early_kills_what_runs(tmp_path):
    noted = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(noted)!r}).write_text(str(os.getpid())); time.sleep(60)"
    for key, _ in run_bounded({"sleeper": python(code), "fast": python("import time; time.sleep(1)")}, Bounds(), 2):
        assert key == "fast"
        break
    assert not os.path.exists(f"/proc/{noted.read_text()}")


def test_processes_share_the_processors(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    file = tmp_path / "threads"
    command = python(f"import os, pathlib; pathlib.Path({str(file)!r}).write_text(os.environ['OMP_NUM_THREADS'])")
    assert [ended.outcome for _, ended in run_bounded({"one": command}, Bounds(), 10**6)] == ["done"]
    assert file.read_text() == "1"


@pytest.mark.skipif(not LINUX, reason="only Linux tells the peak")
def test_peak_memory_is_what_was_held_meanwhile():
    with peak_memory() as peak:
        bytearray(200_000_000)
        assert 195e6 < peak() < 260e6
    with peak_memory() as peak:
        assert peak() < 50e6


# Records


def test_lines_survive_what_was_cut_off(tmp_path):
    file = tmp_path / "new" / "records.jsonl"
    assert read_lines(file) == {}
    append_line(file, record("a"))
    with file.open("a") as stream:
        stream.write('{"model": "b", "pa')
    append_line(file, record("c", note="\u2028"))
    append_line(file, record("a", params=1))
    held = read_lines(file)
    assert list(held) == ["a", "c"] and held["a"]["params"] == 1 and held["c"]["note"] == "\u2028"


@pytest.mark.parametrize("line", ["[1]", '{"name": "x"}', '{"model": 3}'])
def test_other_files_are_refused(tmp_path, line):
    file = tmp_path / "other.jsonl"
    file.write_text(f'{{"model": "a"}}\n{line}\n')
    with pytest.raises(DataError, match=r"other\.jsonl, line 2: .*'model'"):
        read_lines(file)


# What is measured


def test_share_counts_positions_by_hand():
    model = Net(8)
    trace = run_trace(model, image())
    # conv1: 8 out, 3 in, bias 8; bn1: 8 + 8; conv2: 16 out, 8 in; fc: 5 out, 16 in, bias 5
    total = (8 + 3 + 8) + (8 + 8) + (16 + 8) + (5 + 16 + 5)
    assert removable_share(model, trace) == (total - 3 - 5 - 5) / total


def test_share_counts_each_group_of_a_convolution():
    model = Net(8, groups=2)
    trace = run_trace(model, image())
    total = (8 + 3 + 8) + (8 + 8) + (16 + 2 * 4) + (5 + 16 + 5)
    assert removable_share(model, trace) == (total - 3 - 5 - 5) / total


def test_share_leaves_inexact_channels_out():
    model = Net(8, normed=True)
    trace = run_trace(model, image())
    assert int(trace.inexact.sum()) == 16
    total = (8 + 3 + 8) + (8 + 8) + (16 + 8) + (16 + 16) + (5 + 16 + 5)
    assert removable_share(model, trace) == (8 + 8 + 8 + 8 + 8) / total
    assert ("normalisation over channels", 16) in reasons(trace)


def test_reasons_leave_the_outputs_out():
    assert not any("output" in what for what, _ in reasons(run_trace(Net(), image())))


@pytest.mark.parametrize(
    "builder, criterion",
    [(Net, "l2"), (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)), "bn_scale")],
)
def test_a_network_is_slimmed_twice_verified_and_trained(measured, builder, criterion):
    found = measured(builder)
    assert verdict(found) == "exact" and found["stage"] == "end" and not found["failures"]
    assert [(one["criterion"], one["ratio"]) for one in found["runs"]] == [("random", 0.4), (criterion, 0.5)]
    for one in found["runs"]:
        assert one["difference"] < 1e-12 and one["training_compared"] and one["training_step"] == "ok"
        assert one["slim_params"] < found["params"] == sum(part.numel() for part in builder().parameters())
    assert f"torch {torch.__version__.split('+')[0]}" in found["made_with"] and found["libraries"] == []


class TrainsOnLargeImages(Net):
    """As the auxiliary heads of Inception: what runs in training mode needs more of the image than the rest."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and images.shape[-1] < 80:
            raise ValueError("too small")
        return super().forward(images)


def test_a_larger_image_is_taken_where_training_mode_needs_it(measured):
    found = measured(TrainsOnLargeImages, side=128)
    assert found["side"] == 96 and found["training"] is None and verdict(found) == "exact"


def test_a_network_that_is_too_large_is_slimmed_without_weights(measured, monkeypatch):
    monkeypatch.setattr(measuring, "verify", lambda *_, **__: pytest.fail("its weights were to stay unmade"))
    found = measured(Net, memory=1e6)
    assert verdict(found) == "too large" and found["slim_params"] < found["params"] and not found["runs"]


def test_what_raises_is_recorded_by_stage(measured, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("sizes  do\nnot match")

    monkeypatch.setattr(measuring, "training_step", broken)
    original = measured(Net)
    assert [one["training_step"] for one in original["runs"]] == ["original fails"] * 2
    assert verdict(original) == "exact"
    monkeypatch.setattr(measuring, "verify", broken)
    found = measured(Net)
    assert verdict(found) == "FAILS"
    assert [one["stage"] for one in found["failures"]] == ["verify (random)", "verify (l2)"]
    assert found["failures"][0]["error"] == "RuntimeError: sizes do not match"
    assert found["failures"][0]["where"][-1].endswith(" broken")


def test_a_training_step_that_only_the_slim_network_fails_is_a_failure(measured, monkeypatch):
    width = Net().conv1.weight.numel()

    def step(model, example):
        if model.conv1.weight.numel() < width:
            raise RuntimeError("slim")

    monkeypatch.setattr(measuring, "training_step", step)
    found = measured(Net)
    assert verdict(found) == "FAILS" and "training step (random): RuntimeError: slim" in why(found)


class Raises(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such thing")


def test_a_model_that_does_not_run_fails_at_the_trace(measured):
    found = measured(Raises)
    assert verdict(found) == "FAILS" and "no such thing" in why(found) and found["failures"][0]["stage"] == "trace"


def test_a_network_that_is_not_exact_is_told(measured, monkeypatch):
    """A scale that stays is not that of the channel that stays: the slim network runs, and computes something else."""
    slim = measuring.slim

    def wrong(model, **given):
        network, result = slim(model, **given)
        kept = {axis: index.clone() for axis, index in result.kept["bn1.weight"].items()}
        kept[0][0] = next(index for index in range(8) if index not in kept[0])
        return network, PruningResult({**result.kept, "bn1.weight": kept}, result.attributes)

    monkeypatch.setattr(measuring, "slim", wrong)
    found = measured(Net)
    assert verdict(found) == "NOT EXACT" and all(one["difference"] > 1e-9 for one in found["runs"])


# Names


def test_structure_forgets_sizes_and_depth_only():
    assert structure(Net(8)) == structure(Net(32))
    assert structure(nn.Sequential(Net(), Net())) == structure(nn.Sequential(Net(), Net(), Net()))
    kinds = [Net(8), Net(8, groups=2), Net(8, groups=8), Net(8, normed=True)]
    assert len({structure(kind) for kind in kinds}) == 4


def test_the_smallest_of_each_structure_is_kept():
    names = ["timm/resnet34", "timm/resnet18", "timm/resnet50", "timm/resnet26"]
    seen, kept = zip(*smallest_of_each_structure(names), strict=True)
    assert list(seen) == names
    assert sorted(kept[-1].values()) == ["timm/resnet18", "timm/resnet26"]


def test_names_are_matched_with_those_of_detectors():
    assert matching(["squeezenet*", "ssd*", "resnet18", "squeezenet1_0"]) == [
        "squeezenet1_0", "squeezenet1_1", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "resnet18",
    ]  # fmt: skip
    assert set(detector_names()) < set(matching([]))
    for unknown in ("fasterrcnn_resnet51", "resnetx*"):
        with pytest.raises(RegistryError, match=unknown.rstrip("*")):
            matching([unknown])
    assert find("resnet18") is registry().find("resnet18") or find("resnet18").name == "resnet18"


def test_a_detector_gives_detections_and_losses():
    architecture = find_detector("ssdlite320_mobilenet_v3_large")
    model = architecture.build()
    images = architecture.example_input()
    losses = model.train()(images)
    assert {"bbox_regression", "classification"} <= losses.keys()
    assert all(loss.requires_grad for loss in losses.values())
    with torch.no_grad():
        assert all(len(found["boxes"]) for found in model.eval()(images))
    assert find_detector("ssd_of_mine") is None and find_detector("resnet18") is None


# The page


def test_verdicts():
    wrong = {**record()["runs"][0], "exact": False, "difference": 0.1}
    failure = {"stage": "trace", "error": "ValueError: x", "where": []}
    late = {"stage": "verify (l2)", "error": "not done", "where": []}
    cases = {
        "exact": record(),
        "NOT EXACT": record(runs=[record()["runs"][0], wrong]),
        "FAILS": record(failures=[failure]),
        "nothing to remove": record(removable=0, runs=[]),
        "too large": record(runs=[], slim_params=10),
    }
    assert {name: verdict(one) for name, one in cases.items()} == {name: name for name in cases}
    assert verdict(record(ended="time", failures=[late], runs=record()["runs"][:1])) == "too large"
    assert verdict(record(ended="failed", failures=[late])) == "FAILS"
    assert verdict({"model": "x", "stage": "start", "ended": "time", "failures": [late], "runs": []}) == "FAILS"
    assert summary(cases.values()) == (
        "5 models: 1 exact, 1 nothing to remove, 1 too large, 1 NOT EXACT, 1 FAILS"
    )  # fmt: skip


def test_the_page_names_what_is_wrong_and_why():
    wrong = record("wrong", runs=[{**record()["runs"][0], "exact": False, "difference": 0.125}])
    failing = record("a<b", runs=[], failures=[{"stage": "trace", "error": "KeyError: 'a|b'", "where": []}])
    records = [record("timm/x", trace_seconds=2.0), record("b", libraries=["nets 0.5"]), wrong, failing]
    page = markdown(records, "zoo-slim coverage", "2 cores", "Others")
    assert "4 models: 2 exact, 1 NOT EXACT, 1 FAILS" in page
    assert "- `wrong`: random: 1.2e-01" in page and "KeyError: 'a\\|b'" in page
    assert "median 0.25 s, longest 2.00 s (timm/x)" in page and "torch 2.6.0; nets 0.5; 2 cores" in page
    assert page.startswith("# Others\n")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| a<b", "| b", "| wrong", "| timm/x"]
    assert (
        "| b | 200 | 7 | 4 | 3 | 50% | exact | 3.0e-15 | yes | ok | 50% | 0.25 s | 12 MB | softmax \\| order (3) |"
        in page
    )
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


# The command


def test_the_command_measures_once_and_writes_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run(capsys, monkeypatch, "coverage", "squeezenet1_1", "--jsonl", "c.jsonl", "--markdown", "c.md")
    assert ran.code == 0 and "1 models: 1 exact" in ran.out
    held = read_lines(tmp_path / "c.jsonl")["squeezenet1_1"]
    assert held["peak_mb"] > 100 or not LINUX
    assert "| squeezenet1_1 | 1,235,496 |" in (tmp_path / "c.md").read_text()
    monkeypatch.setattr(
        "zoo_slim.coverage._run.run_bounded", lambda commands, *_: pytest.fail(str(commands)) if commands else ()
    )
    again = run(capsys, monkeypatch, "coverage", "squeezenet1_1", "--jsonl", "c.jsonl")
    assert again.code == 0 and "1 models: 1 exact" in again.out
    table = run(capsys, monkeypatch, "coverage", "--jsonl", "c.jsonl", "--markdown", "d.md")
    assert table.code == 0 and (tmp_path / "d.md").read_text() == (tmp_path / "c.md").read_text()


def test_the_command_tells_failures_by_its_status(tmp_path, capsys, monkeypatch):
    append_line(
        tmp_path / "c.jsonl", record("squeezenet1_1", failures=[{"stage": "trace", "error": "E: x", "where": []}])
    )
    ran = run(capsys, monkeypatch, "coverage", "squeezenet1_1", "--jsonl", tmp_path / "c.jsonl")
    assert ran.code == 1 and "squeezenet1_1: trace: E: x" in ran.out


def test_the_command_lists_and_refuses(tmp_path, capsys, monkeypatch):
    listed = run(capsys, monkeypatch, "coverage", "timm/resnet1[08]", "ssd300*", "--distinct", "--list")
    assert listed.code == 0 and listed.out.split() == ["ssd300_vgg16", "timm/resnet18"]
    nothing = run(capsys, monkeypatch, "coverage", "--jsonl", tmp_path / "c.jsonl")
    assert nothing.code == 2 and "--distinct" in nothing.err
    unknown = run(capsys, monkeypatch, "coverage", "resnet19")
    assert unknown.code == 1 and "resnet18" in unknown.err and "Traceback" not in unknown.err


@pytest.mark.skipif(not LINUX, reason="memory is bounded through /proc")
def test_a_process_beyond_its_bound_is_recorded(tmp_path):
    (found,) = cover(["squeezenet1_1"], tmp_path / "c.jsonl", Bounds(memory=5e7), 1)
    assert found["ended"] == "memory" and "takes more than 0.05 GB" in why(found) and verdict(found) == "FAILS"
    assert read_lines(tmp_path / "c.jsonl")["squeezenet1_1"] == found


def test_a_killed_process_leaves_what_it_knew(tmp_path, monkeypatch):
    def killed(commands, *_):
        for name, (*_, given, part, memory) in commands.items():
            assert given == name and float(memory) == PLENTY
            lines = [json.dumps(record(name, stage=stage, runs=[])) for stage in ("trace", "verify (random)")]
            Path(part).write_text("\n".join([*lines, '{"model": "cut o']))
            yield name, Ended("time", 7.0, 10**9, "")

    monkeypatch.setattr("zoo_slim.coverage._run.run_bounded", killed)
    (found,) = cover(["net"], tmp_path / "c.jsonl", Bounds(), 1)
    assert found["channels"] == 7 and found["peak_mb"] == 1000 and verdict(found) == "too large"
    assert why(found) == "verify (random): not done after 300 s of processor time"
