"""Deadlines, at three times the goals of speed: they fail when something has become slow, not when a machine is busy.

What other programs do on the machine only adds, so the best of some tries counts.
"""

from collections.abc import AsyncIterator

import pytest

from tests.bench import measures
from tests.bench.rounds import simulated
from tests.bench.servers import GATEWAY, serving, upstream
from tests.load.own import Own

TRIES = 4


@pytest.fixture
async def gateway() -> AsyncIterator[Own]:
    async with upstream() as coze, serving(GATEWAY, coze) as own:
        await measures.warm(own)
        yield own


async def test_a_piece_of_one_stream_reaches_its_listener_in_15_ms_and_nearly_all_in_90() -> None:
    for _ in range(TRIES):
        figures = await simulated(0.2)
        if figures["delay_p50"] <= 15 and figures["delay_p99"] <= 90:
            return
    pytest.fail(f"{figures}")


async def test_a_turn_says_started_within_9_ms(gateway: Own) -> None:
    for _ in range(TRIES):
        figures = await measures.first_byte(gateway, 0.2)
        if figures["started_p50"] <= 9:
            return
    pytest.fail(f"{figures}")


async def test_an_idle_listener_holds_less_than_9_kib(gateway: Own) -> None:
    figures = await measures.idle(gateway, 0.25)
    assert figures["kib"] <= 9


async def test_a_resume_does_not_get_dearer_with_each_piece_missed(gateway: Own) -> None:
    for _ in range(TRIES):
        figures = await measures.resume(gateway, 0.2)
        if figures["behind_1000_cpu_us"] <= 3.6 * figures["behind_10_cpu_us"] and figures["behind_1000_ms"] <= 60:
            return
    pytest.fail(f"{figures}")
