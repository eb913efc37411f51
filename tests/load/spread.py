"""Durations in bounded memory: a histogram whose buckets grow by two percent."""

import math
from collections import Counter
from typing import Any

_GROWTH = math.log(1.02)
_LEAST = 1e-6
"""Seconds; what is shorter, or negative because clocks differ, counts as this."""


class Spread:
    """How durations in seconds are spread. A quantile is right within two percent, the largest one exactly."""

    __slots__ = ("_buckets", "count", "largest", "negative", "total")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.negative = 0
        self.total = 0.0
        self.largest = 0.0

    def __repr__(self) -> str:
        return f"<Spread {self.count} p50={self.quantile(0.5):.6f} p99={self.quantile(0.99):.6f}>"

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        if seconds < 0:
            self.negative += 1
        self.largest = max(self.largest, seconds)
        self._buckets[int(math.log(seconds / _LEAST) / _GROWTH) if seconds > _LEAST else 0] += 1

    def quantile(self, share: float) -> float:
        """The duration, in seconds, that this share of all stays below; 0 where there are none."""
        wanted = share * self.count
        passed = 0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            if passed >= wanted:
                return min(_LEAST * math.exp((bucket + 0.5) * _GROWTH), self.largest) if self.largest > 0 else 0.0
        return self.largest

    def curve(self) -> list[tuple[float, float]]:
        """Points (seconds, share of all up to there), for a plot."""
        points = []
        passed = 0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            points.append((_LEAST * math.exp((bucket + 0.5) * _GROWTH), passed / self.count))
        return points

    def summary(self) -> dict[str, Any]:
        """In milliseconds, as the result has it."""
        quantiles = {f"p{share * 100:g}": round(self.quantile(share) * 1000, 3) for share in (0.5, 0.9, 0.99, 0.999)}
        found: dict[str, Any] = {"count": self.count, **quantiles, "max": round(self.largest * 1000, 3)}
        return found | {"negative": self.negative} if self.negative else found
