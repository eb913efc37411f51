"""Seldom: warnings about a trouble that lasts, each written when the trouble begins and then once a minute."""

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import structlog

logger = structlog.get_logger()

_AGAIN_AFTER: Final = 60.0


class Seldom:
    """One part's warnings. `times` in a line says how often its trouble was met since the line before it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._said: dict[tuple[str, str], float] = {}
        self._unsaid: dict[tuple[str, str], int] = {}

    def warning(self, event: str, *, reason: str, **fields: Any) -> bool:
        """Writes the warning, unless the same one was written less than a minute ago. Returns whether it did."""
        trouble, now = (event, reason), self._clock()
        times = self._unsaid.get(trouble, 0) + 1
        if now - self._said.get(trouble, -_AGAIN_AFTER) < _AGAIN_AFTER:
            self._unsaid[trouble] = times
            return False
        self._said[trouble] = now
        self._unsaid[trouble] = 0
        logger.warning(event, reason=reason, **fields, **({"times": times} if times > 1 else {}))
        return True

    def __repr__(self) -> str:
        return f"Seldom({len(self._said)} troubles)"
