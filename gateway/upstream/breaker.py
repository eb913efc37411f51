"""A circuit breaker: whether Coze is worth asking at all. No I/O."""

from collections.abc import Callable
from typing import Literal

from gateway.upstream.backoff import SHORTEST

THRESHOLD = 5
COOLDOWN = 0.8 * SHORTEST
"""Seconds. Shorter than a turn's own shortest wait: so a single turn finds the breaker ready for a probe at each of its
attempts, however many it makes, and only turns that fail together are held back."""

PROBE_SECONDS = 5.0
"""How long one probe blocks all others. A slow answer is not a failure, and the probe's caller may have gone."""


class Breaker:
    """Opens after `threshold` failures in a row; then one probe at a time, each `cooldown` seconds after the last.

    After each `allow` that returned True, call one of `succeeded`, `failed` and `released`. Only if Coze can't be
    reached, that is a failure; any answer of Coze's own, even a refusal, is a success here.
    """

    __slots__ = ("_clock", "_cooldown", "_failures", "_not_before", "_state", "_threshold", "why")

    def __init__(self, clock: Callable[[], float], *, threshold: int = THRESHOLD, cooldown: float = COOLDOWN) -> None:
        self._clock = clock
        self._threshold = threshold
        self._cooldown = cooldown
        self._state: Literal["closed", "open", "probing"] = "closed"
        self._failures = 0
        self.why = ""  # the last failure, in a sentence
        self._not_before = 0.0  # when open or probing: the time of the next probe

    @property
    def state(self) -> Literal["closed", "open", "probing"]:
        return self._state

    def allow(self) -> bool:
        """Whether to ask Coze now. A probe that is allowed blocks all others until it is reported or overdue."""
        if self._state == "closed":
            return True
        now = self._clock()
        if now < self._not_before:
            return False
        self._state = "probing"
        self._not_before = now + PROBE_SECONDS
        return True

    def succeeded(self) -> None:
        self._state = "closed"
        self._failures = 0

    def failed(self, why: str = "") -> None:
        self.why = why
        self._failures += 1
        # A request that was under way when the breaker opened must not postpone the next probe by its failure.
        if self._state == "probing" or (self._state == "closed" and self._failures >= self._threshold):
            self._state = "open"
            self._not_before = self._clock() + self._cooldown

    def released(self) -> None:
        """The request was given up before its outcome was known: the next one may probe at once."""
        if self._state == "probing":
            self._state = "open"
            self._not_before = self._clock()

    def __repr__(self) -> str:
        return f"Breaker({self._state}, {self._failures} failures)"
