"""How long to wait before a request that Coze did not accept is sent again. No clock, no sleep."""

import random

LONGEST = 8.0
SHORTEST = 0.5
"""Seconds. No wait is shorter, whatever the attempt; the breaker's cool-down relies on it."""

RETRY_AFTER_LIMIT = 60.0
_SPREAD_LIMIT = 2.0


def delay(attempt: int, retry_after: float | None, rng: random.Random) -> float | None:
    """Seconds to wait after failed attempt number `attempt` (from 1); None if waiting is not worth it.

    The delays double from 1 s, and each is reduced at random, to half at most, so that turns that failed together don't
    retry together, and none retries at once: three delays take 7 s at most. If Coze gave `retry_after` (seconds), it is
    respected and randomly increased; if it is over a minute, the turn should give up.
    """
    if retry_after is not None and retry_after > RETRY_AFTER_LIMIT:
        return None
    if retry_after is not None and retry_after > 0:
        return max(SHORTEST, retry_after + rng.uniform(0.0, min(retry_after / 2, _SPREAD_LIMIT)))
    # 2.0**attempt overflows for attempt numbers that no sensible setting allows, but some setting could.
    whole = min(LONGEST, SHORTEST * 2.0 ** min(attempt, 10))
    return whole * rng.uniform(0.5, 1.0)
