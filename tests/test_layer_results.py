"""Results that say which blocks are gone: applied again, saved, loaded, made from the command line."""

import pytest
import torch
from block_networks import IMAGES, Block, Net, TakesMore, graded
from torch import nn

import zoo_slim
from zoo_slim import PruningResult, apply_result, slim
from zoo_slim._errors import SlimmingError
from zoo_slim._replacement import Removed
from zoo_slim.checkpoint import origin_of
from zoo_slim.slimming import randomize


def test_one_result_after_another():
    model = graded(0.5, 0.1, 2.0).eval()
    once, first = slim(model, remove_blocks=["blocks.1"], ratio=0.2, example_input=IMAGES)
    twice, second = slim(once, remove_blocks=["blocks.0"], ratio=0.2, example_input=IMAGES)
    both = first.then(second)
    assert both.removed == {"blocks.1": "Identity", "blocks.0": "Identity"}
    assert not any(name.startswith("blocks.0") for name in (*both.kept, *both.attributes))
    assert torch.equal(apply_result(model, both)(IMAGES), twice(IMAGES))
    assert both != PruningResult(both.kept, both.attributes, {"blocks.1": "Identity"})
    assert both != PruningResult(both.kept, both.attributes, {"blocks.1": "Identity", "blocks.0": "ReLU"})
    for later in (
        PruningResult({"blocks.1.inner.0.weight": {0: torch.tensor([0])}}),
        PruningResult({}, {"blocks.1": {"width": 1}}),
        PruningResult(removed={"blocks.1": "Identity"}),
        PruningResult(removed={"blocks.1.inner": "Zeros"}),
    ):
        with pytest.raises(SlimmingError, match=r"but the first removes 'blocks.1'"):
            first.then(later)
    outer = PruningResult(removed={"blocks.1.inner": "Zeros"}).then(PruningResult(removed={"blocks.1": "Identity"}))
    assert outer.removed == {"blocks.1": "Identity"}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (PruningResult(removed={"blocks.7": "Identity"}), "'blocks.7', which does not exist"),
        (PruningResult(removed={"": "Identity"}), "'', which does not exist"),
        (
            PruningResult(removed={"blocks.0": "Dropout"}),
            "'blocks.0': it cannot become 'Dropout', only one of",
        ),
        (PruningResult({}, {"blocks.0": {"width": 1}}, {"blocks.0": "Identity"}), "names 'blocks.0', which lies in"),
        (
            PruningResult({"blocks.0.inner.0.weight": {0: torch.tensor([0])}}, {}, {"blocks.0": "Identity"}),
            "'blocks.0.inner.0.weight', which lies in 'blocks.0'",
        ),
        (
            PruningResult(removed={"blocks.0": "Identity", "blocks.0.inner": "Zeros"}),
            "'blocks.0.inner', which lies in 'blocks.0'",
        ),
    ],
)
def test_results_that_do_not_fit(result, message):
    with pytest.raises(SlimmingError, match=message):
        apply_result(graded(1.0, 2.0), result)


def test_a_container_is_no_block():
    model = Net(Block())
    model.blocks = nn.ModuleList([Block()])
    with pytest.raises(SlimmingError, match=r"a ModuleList takes no tensor"):
        apply_result(model, PruningResult(removed={"blocks": "Identity"}))


def test_the_originals_form_has_no_words_for_it():
    from zoo_slim.slimming import to_original

    model = graded(1.0, 2.0)
    _, result = slim(model, remove_blocks=1, example_input=IMAGES)
    with pytest.raises(SlimmingError, match=r"'blocks.0' was removed"):
        to_original(result, model)


@pytest.fixture
def registered():
    from zoo_slim.registry import registry

    @zoo_slim.register("blocks-test-net", input_size=(6, 8, 8))
    def build(num_classes: int = 3) -> nn.Module:
        return Net(Block(), Block(lambda x, y: (x + y).relu()), TakesMore())

    yield "blocks-test-net"
    registry()._registered.pop("blocks-test-net")


def test_what_was_saved_loads_bit_for_bit(tmp_path, registered):
    model = randomize(zoo_slim.load(registered, pretrained=False)).eval()
    names = ["blocks.1", "blocks.2"]
    small, _ = slim(model, remove_blocks=names, ratio=0.3, example_input=IMAGES)
    bare, _ = slim(model, remove_blocks=names, example_input=IMAGES)
    zoo_slim.save(model, tmp_path / "net")
    zoo_slim.save(small, tmp_path / "net" / "pruned-a")
    zoo_slim.save(bare, tmp_path / "net" / "pruned-b", weights=False)
    assert not (tmp_path / "net" / "pruned-b" / "model.safetensors").exists()
    for tag, expected in (("a", small), ("b", bare)):
        again = zoo_slim.load(f"local-dir:{tmp_path / 'net'}", tag)
        assert repr(again) == repr(expected) and torch.equal(again(IMAGES), expected(IMAGES))
        assert list(again.state_dict()) == list(expected.state_dict())
    assert origin_of(again).result.removed == {"blocks.1": "ReLU", "blocks.2": "Identity"}
    assert type(again.blocks[2]) is Removed
    once = zoo_slim.load(f"local-dir:{tmp_path / 'net'}", "a")
    twice, _ = slim(once, remove_blocks=["blocks.0"], example_input=IMAGES)
    zoo_slim.save(twice, tmp_path / "twice")
    assert torch.equal(zoo_slim.load(f"local-dir:{tmp_path / 'twice'}")(IMAGES), twice(IMAGES))


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path, registered):
    from cli_helpers import run

    monkeypatch.chdir(tmp_path)
    zoo_slim.save(randomize(zoo_slim.load(registered, pretrained=False)), tmp_path / "base")
    return lambda *words: run(capsys, monkeypatch, *words)


@pytest.mark.parametrize(
    ("words", "tag", "removed"),
    [
        (("--remove-blocks", "blocks.0, blocks.2"), "blocks-2", ["blocks.0", "blocks.2"]),
        (("--remove-blocks", "1", "--criterion", "l1"), "blocks-1", 1),
        (("--remove-blocks", "1", "--ratio", "0.25"), "0.25-blocks-1", 1),
        (("--remove-blocks", "needed", "--params", "0.4", "--minimum", "0.9"), "params-0.4-needed-blocks", 2),
        (("--remove-blocks", "dead", "--ratio", "0.1"), "0.1-dead-blocks", 0),
    ],
)
def test_slim_from_the_command_line(shell, tmp_path, words, tag, removed):
    ran = shell("slim", "base", *words)
    assert ran.code == 0, ran.err
    model = zoo_slim.load(f"local-dir:{tmp_path / 'base'}", tag)
    found = origin_of(model).result.removed
    assert list(found) == removed if isinstance(removed, list) else len(found) == removed
    assert ("blocks taken out: " in ran.out) == bool(found) and all(name in ran.out for name in found)
    info = shell("info", "base", "--pruned", tag)
    assert info.code == 0 and all(name in info.out for name in found)
    report = shell("report", "base", "--pruned", tag, "--output", "kept.svg")
    assert report.code == 0 and (tmp_path / "kept.svg").exists()
    checked = shell("verify", "base", "--pruned", tag)
    assert checked.code == 0 and "1 of 1 exact" in checked.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--remove-blocks", "stem"), 1, "'stem' is no residual block"),
        (("--remove-blocks", "blocks.0,"), 2, "--remove-blocks takes names"),
        (("--remove-blocks", "dead"), 2, "give exactly one of --ratio, --params and --macs, not none"),
        (("--remove-blocks", "needed", "--ratio", "0.5"), 1, "'needed' needs one of params, macs"),
        (("--remove-blocks", "9"), 1, "remove_blocks=9 is too many"),
    ],
)
def test_slim_refuses_from_the_command_line(shell, tmp_path, words, code, message):
    ran = shell("slim", "base", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split()) and "Traceback" not in ran.err
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["config.json", "model.safetensors"]
