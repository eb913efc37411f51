"""Unsent: the bytes that wait in memory until their clients take them, bounded in all."""

import asyncio
from collections.abc import Callable

from gateway.errors import Code, GatewayError

_STUCK_FOR = 1.0
"""Seconds for which a client may accept nothing before it can be cut because others need the room."""

_COME_AGAIN = 2.0


class Hold:
    """Bytes that wait for a client. `close` gives their room back; closing again does nothing."""

    __slots__ = ("_unsent", "cut", "planned", "since", "size")

    def __init__(self, unsent: "Unsent", size: int, cut: Callable[[], object] | None, *, planned: bool) -> None:
        self._unsent: Unsent | None = unsent
        self.size = size
        self.cut = cut
        self.planned = planned
        self.since = asyncio.get_running_loop().time()

    def close(self) -> None:
        if (unsent := self._unsent) is not None:
            self._unsent = None
            self.cut = None
            unsent._give_back(self)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Unsent:
    """Counts all bytes that wait for clients. When room is needed, it cuts the client that has accepted nothing
    longest.

    Large data are counted before they are made (`reserve`), and data that many readers share are counted once. Data in
    a connection's own buffer are counted when they are there already (`note`): each buffer has its own small bound.
    """

    def __init__(self, most: int = 24 * 1024 * 1024) -> None:
        self.held = 0
        self.making = asyncio.Lock()
        """Taken to make an answer whose size is not known before: it may need several times many megabytes."""
        self._most = most
        self._planned = 0
        self._by_age: dict[Hold, None] = {}  # the ones that can be cut, longest waiting first
        self._timer: asyncio.TimerHandle | None = None

    def reserve(self, size: int, cut: Callable[[], object] | None = None) -> Hold:
        """Room for bytes that are about to be made. Raises OVERLOADED when there is none.

        If nothing else waits there is always room, however large the data are: an event can't be sent in two parts.
        """
        if self.held + size > self._most:
            self._relieve(size)
            if self.held + size > self._most and self._planned:
                raise GatewayError(
                    Code.OVERLOADED, "too many bytes wait for clients to read them", retry_after=_COME_AGAIN
                )
        return self._hold(Hold(self, size, cut, planned=True))

    def note(self, size: int, cut: Callable[[], object]) -> Hold:
        """Counts the bytes in a connection's buffer. `cut` ends that connection if others need the room."""
        hold = self._hold(Hold(self, size, cut, planned=False))
        if self.held > self._most:
            self._relieve_later()
        return hold

    def _hold(self, hold: Hold) -> Hold:
        self.held += hold.size
        self._planned += hold.size if hold.planned else 0
        if hold.cut is not None:
            self._by_age[hold] = None
        return hold

    def _give_back(self, hold: Hold) -> None:
        self.held -= hold.size
        self._planned -= hold.size if hold.planned else 0
        self._by_age.pop(hold, None)

    def _relieve(self, wanted: int) -> None:
        """Cuts clients that have accepted nothing for long enough, longest first, until there is room."""
        now = asyncio.get_running_loop().time()
        while self.held + wanted > self._most and (oldest := next(iter(self._by_age), None)) is not None:
            if now - oldest.since < _STUCK_FOR:
                return
            cut = oldest.cut
            oldest.close()
            if cut is not None:
                cut()

    def _relieve_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_STUCK_FOR, self._look)

    def _look(self) -> None:
        self._timer = None
        self._relieve(0)
        if self.held > self._most and self._by_age:
            self._relieve_later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"Unsent({self.held} of {self._most} bytes, {len(self._by_age)} wait)"
