"""How long to wait before a request that Coze did not take is sent again. No clock, no sleep."""

import random

LONGEST = 8.0
SHORTEST = 0.5
"""Seconds. No wait is shorter, whatever the attempt; the breaker's cool-down relies on it."""

RETRY_AFTER_LIMIT = 60.0
_SPREAD_LIMIT = 2.0


def delay(attempt: int, retry_after: float | None, rng: random.Random) -> float | None:
    """Seconds to wait before try `attempt` + 1, for `attempt` from 1; None when waiting is not worth it.

    Doubling from 1 s, each between its half and its whole, so that turns that failed together don't come back
    together and none comes back at once: 7 s at the most over three. `retry_after` (seconds), where Coze gave one,
    is kept to and spread upwards; over a minute means that this turn should give up.
    """
    if retry_after is not None and retry_after > RETRY_AFTER_LIMIT:
        return None
    if retry_after is not None and retry_after > 0:
        return max(SHORTEST, retry_after + rng.uniform(0.0, min(retry_after / 2, _SPREAD_LIMIT)))
    # 2.0**attempt overflows for an attempt that no setting should allow, but one could.
    whole = min(LONGEST, SHORTEST * 2.0 ** min(attempt, 10))
    return whole * rng.uniform(0.5, 1.0)
