"""Ten short runs over three nodes on PostgreSQL, and two planted faults that they must find.

A failing seed is in the test's name: `make chaos ARGS="--nodes --seed N"` plays it.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.crowd import side_by_side
from tests.chaos.nodes import run_nodes
from tests.chaos.plan import NODE_BLOWS, REDIS_BLOWS, node_strikes
from tests.chaos.servers import Programs
from tests.conftest import Require
from tests.faults.reading import Broken

pytestmark = pytest.mark.timeout(300)

SECONDS = 3.0
SEEDS = (3, 4, 5, 0, 1, 2)
"""In one of these seeds a planted fault must be found. The first ones nearly always find it."""


@pytest.fixture(scope="module")
def programs(require: Require) -> Programs:
    return Programs(Path(require("postgres")).resolve().parent, require("redis-server"))


@pytest.mark.parametrize("seeds", [range(3), range(3, 6), range(6, 10)], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
async def test_whatever_breaks_every_answer_arrives_whole_and_once(programs: Programs, seeds: range) -> None:
    found = await side_by_side(seeds, lambda seed: run_nodes(seed, SECONDS, programs))
    outcomes = sum((nodes.crowd.outcomes() for nodes in found), Counter[str]())
    assert outcomes["completed"] > sum(outcomes.values()) / 2


@pytest.mark.parametrize("planted", ["double-writer", "lost-batch"])
async def test_a_planted_fault_is_found(programs: Programs, planted: str) -> None:
    for seed in SEEDS:
        try:
            await run_nodes(seed, SECONDS, programs, planted=planted, rest=5.0)
        except Exception as error:
            if _is_broken(error):
                return
            raise
    pytest.fail(f"{len(SEEDS)} runs have not noticed a {planted}")


def _is_broken(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_broken, error.exceptions))
    return isinstance(error, Broken)


def test_ten_seeds_hold_every_blow() -> None:
    struck = {strike.blow for seed in range(10) for strike in node_strikes(seed, SECONDS)}
    assert struck == set(NODE_BLOWS + REDIS_BLOWS)
