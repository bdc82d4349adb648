"""A ratio that is not met is told, and one that is met is not."""

from importlib.resources import files

import numpy as np
import pytest
from test_bundled_schemas import NAMES

from zoo_slim.schema import Group, PruningSchema, read_schema
from zoo_slim.slimming._shortfall import shortfall

SCHEMA = PruningSchema({"wide": Group(100), "narrow": Group(20)})
RISING = np.arange(120.0)


def short(schema=SCHEMA, scores=RISING, ratio=0.5, present=None, minimum=0.02, rounding=None):
    present = np.ones(schema.channels, dtype=bool) if present is None else present
    return shortfall(schema, scores, ratio, present, minimum=minimum, rounding=rounding, allow_inexact=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9])
def test_ordinary_uses_meet_the_ratio(name, ratio):
    schema = read_schema(files("zoo_slim.schemas") / f"{name}.json")
    draw = np.random.default_rng(0)
    for spread in (0, 1, 3):  # of the logarithms of what whole groups score
        scores = draw.random(schema.channels)
        for channels in schema.members().values():
            scores[channels] *= np.exp(spread * draw.normal())
        if any(not group.inexact for group in schema.groups.values()):
            for rounding in (None, "eight"):
                assert short(schema, scores, ratio, rounding=rounding) is None


def test_minima_are_named():
    assert short(minimum=46) is None  # 54 of 60
    assert short(minimum=47) == "removed 44.2 % of the channels, not 50 %: 1 of 2 groups are at their minimum"
    assert short(minimum=1000) == "removed none of the channels, not 50 %: 1 of 2 groups are at their minimum"


def test_single_channels_do_not_count():
    few = PruningSchema({"one": Group(8), "two": Group(8)})
    scores = np.asarray([*range(8), *range(8, 16)], dtype=float)
    assert short(few, scores, 0.3, minimum=5) is None  # three of four
    assert "18.8 %" in short(few, scores, 0.5, minimum=5)


def test_roundings_are_named_where_they_keep_most():
    assert short(rounding="eight") is None
    told = short(ratio=0.25, rounding="two_pow")
    assert told == "removed none of the channels, not 25 %: what groups keep is rounded up (two_pow)"


def test_less_than_what_goes_at_once():
    assert short(ratio=0.005) == "removed none of the channels, not 0.5 %: that is less than one of 120 channels"
    tied = PruningSchema({"group": Group(8)}, equal=[np.arange(8).reshape(4, 2)])
    assert short(tied, np.arange(8.0), 0.4).endswith("that is less than the 4 that go together of 8 channels")
    assert short(tied, np.arange(8.0), 0.7) is None  # four of five


def test_nothing_that_could_go():
    held = PruningSchema({"wide": Group(100, inexact=True), "narrow": Group(20, inexact=True)})
    assert short(held).endswith("what could go is inexact (allow_inexact=True)")
    assert short(scores=np.full(120, np.nan)).endswith("no channel of it may go")
    own = PruningSchema({"wide": Group(100, ratio=0.3), "narrow": Group(20, inexact=True)})
    assert short(own) is None


def test_blocks_taken_out_count():
    present = np.arange(120) >= 55
    assert short(minimum=60) and short(minimum=60, present=present) is None


def test_groups_with_a_ratio_of_their_own_can_hold_others():
    own = {"free": Group(4), "own": Group(4, ratio=0.5, minimum=4)}
    tied = PruningSchema(own, equal=[np.arange(8).reshape(2, 4)])
    assert short(tied, np.arange(8.0), 0.75, minimum=1) == (
        "removed none of the channels, not 75 %: channels that go together with others stay"
    )
