"""What was written: the newest of what a node gave PostgreSQL, which may lose its last moments at a failover."""

from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, NamedTuple

from gateway.log.rows import Rows
from gateway.postgres.link import Execute

SECONDS: Final = 30.0
"""A standby that lacks more than this is not one that is failed over to."""

_MOST_BYTES = 64 * 1024 * 1024
_BESIDE = 500  # bytes that an entry takes besides its text

Work = Callable[[Execute], Awaitable[None]]
"""What may be done twice, in a transaction."""


class _Entry(NamedTuple):
    at: float
    size: int
    what: Rows | Work


class Written:
    """Batches, and other work, in their order. Bounded by age and by bytes."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self.forgotten = 0
        """The last batch that is not kept here any more."""

    def add(self, what: Rows | Work, size: int) -> None:
        """It is durable now, as far as PostgreSQL said."""
        now = monotonic()
        self._entries.append(_Entry(now, size + _BESIDE, what))
        self._size += size + _BESIDE
        while self._size > _MOST_BYTES or self._entries[0].at < now - SECONDS:
            gone = self._entries.popleft()
            self._size -= gone.size
            if isinstance(gone.what, Rows):
                self.forgotten = gone.what.number
            if not self._entries:
                return

    def after(self, batch: int) -> list[Rows | Work]:
        """What was written after a batch that PostgreSQL has, in its order. Since that batch waited for the disk,
        PostgreSQL also has what was written before it."""
        found: list[Rows | Work] = []
        for entry in reversed(self._entries):
            if isinstance(entry.what, Rows) and entry.what.number <= batch:
                break
            found.append(entry.what)
        return found[::-1]

    def __repr__(self) -> str:
        return f"Written({len(self._entries)} entries of {self._size} bytes)"
