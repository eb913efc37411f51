"""Clocks: wall time that never jumps."""

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 that advance evenly, even if somebody sets the wall clock while the process lives: with a
    clock that is set back, expired tokens would be valid again."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
