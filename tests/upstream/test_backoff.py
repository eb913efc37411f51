import random

import pytest

from gateway.upstream.backoff import SHORTEST, delay


@pytest.mark.parametrize(("attempt", "whole"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10_000, 8.0)])
def test_waits_double_to_a_limit_and_lie_between_half_and_whole(attempt: int, whole: float) -> None:
    waits = [delay(attempt, None, random.Random(seed)) for seed in range(200)]
    assert all(wait is not None and whole / 2 <= wait <= whole for wait in waits)
    assert len(set(waits)) == 200


def test_three_retries_wait_less_than_thirty_seconds_and_never_nearly_nothing() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        waits = [delay(attempt, None, rng) or 0.0 for attempt in (1, 2, 3)]
        assert sum(waits) <= 7.0
        assert min(waits) >= SHORTEST


@pytest.mark.parametrize("attempt", [1, 3, 6])
@pytest.mark.parametrize(("asked", "most"), [(2.0, 3.0), (1.0, 1.5), (30.0, 32.0), (60.0, 62.0)])
def test_retry_after_is_kept_to_and_spread_upwards(asked: float, most: float, attempt: int) -> None:
    waits = [delay(attempt, asked, random.Random(seed)) for seed in range(200)]
    assert all(wait is not None and asked <= wait <= most for wait in waits)
    assert len(set(waits)) == 200


@pytest.mark.parametrize("asked", [60.001, 9999.0, 1e300, float("inf")])
def test_a_retry_after_over_a_minute_is_not_waited_for(asked: float) -> None:
    assert delay(1, asked, random.Random(0)) is None


@pytest.mark.parametrize("asked", [0.0, -1.0, 0.001])
def test_a_retry_after_of_nothing_still_waits(asked: float) -> None:
    wait = delay(1, asked, random.Random(0))
    assert wait is not None
    assert wait >= SHORTEST
