"""The client's own effort: how busy it is and how late, so that its limits are not taken for the gateway's."""

import asyncio
import time
from typing import Any

from tests.load.spread import Spread

_EVERY = 0.02
_BUSY = 0.9
"""Share of one core above which the client is what limits."""
_LATE = 0.05
"""Seconds of p99 of its own loop above which its figures say more about itself."""


class Effort:
    """Watches this process from `start` to `stop`. One timer, no task."""

    def __init__(self) -> None:
        self.late = Spread()
        self.share = 0.0
        """Of one core, over all of the time."""
        self.peak = 0.0
        """Of one core, in the busiest second."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = self._second = time.perf_counter()
        self._cpu = self._cpu_second = time.process_time()
        self._tick(self._loop.time())

    def stop(self) -> None:
        self._timer.cancel()
        self.share = (time.process_time() - self._cpu) / max(1e-9, time.perf_counter() - self._begun)
        self.peak = max(self.peak, self.share)

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        self.late.add(max(0.0, now - due))
        wall, cpu = time.perf_counter(), time.process_time()
        if wall - self._second >= 1:
            self.peak = max(self.peak, (cpu - self._cpu_second) / (wall - self._second))
            self._second, self._cpu_second = wall, cpu
        self._timer = self._loop.call_at(now + _EVERY, self._tick, now + _EVERY)

    def limits(self) -> list[str]:
        """Why the figures may be the client's own rather than the gateway's; empty when they are not."""
        found = []
        if self.peak >= _BUSY:
            found.append(f"the client used {self.peak:.0%} of its core in its busiest second")
        if (late := self.late.quantile(0.99)) >= _LATE:
            found.append(f"the client's own loop was {late * 1000:.0f} ms late (p99): every delay holds that too")
        return found

    def summary(self) -> dict[str, Any]:
        return {
            "cpu_share": round(self.share, 3),
            "cpu_share_peak": round(self.peak, 3),
            "loop_delay_ms": self.late.summary(),
            "was_the_limit": bool(self.limits()),
            "why": self.limits(),
        }
