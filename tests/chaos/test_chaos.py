"""Ten short runs of everything at once. A failing seed is in the test's name: `make chaos ARGS="--seed N"` plays it."""

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.crowd import side_by_side
from tests.chaos.plan import BLOWS, strikes
from tests.chaos.world import run

SECONDS = 4.0


@pytest.mark.parametrize("seeds", [range(3), range(3, 6), range(6, 10)], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
async def test_whatever_breaks_every_answer_arrives_whole_and_once(tmp_path: Path, seeds: range) -> None:
    worlds = await side_by_side(seeds, lambda seed: run(seed, SECONDS, tmp_path / str(seed)))
    outcomes = sum((world.crowd.outcomes() for world in worlds), Counter[str]())
    assert outcomes["completed"] > sum(outcomes.values()) / 2
    assert sum(sum(world.blows.values()) for world in worlds) > len(worlds) * 3


def test_the_same_seed_is_the_same_run() -> None:
    assert strikes(7, 60, BLOWS) == strikes(7, 60, BLOWS) != strikes(8, 60, BLOWS)


def test_ten_seeds_hold_every_blow() -> None:
    struck = {strike.blow for seed in range(10) for strike in strikes(seed, SECONDS, BLOWS)}
    assert struck == set(BLOWS)
