"""Outlets: what the hub asks of a connection that it serves."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.errors import Code
from gateway.log.stretch import Entry
from gateway.log.tail import Tail
from gateway.reading.frames import Frame
from gateway.reading.subscription import Subscription
from gateway.telemetry.faults import Part

Encode = Callable[[Tail, list[Entry]], bytes]
"""Turns entries into one frame of a transport. Pure, so that all readers at one position share the result."""


class Heart(Protocol):
    """A connection that is kept alive and told of the end. All calls come from the event loop's thread."""

    def beat(self, now: float) -> None:
        """A heartbeat is due; also the time to notice a peer that accepts nothing."""

    def farewell(self, code: Code) -> None:
        """Tells the reader to come back, or to go, and ends."""

    def busy(self) -> bool:
        """Whether it hears a turn that still runs."""


class Outlet(Heart, Protocol):
    """The last mile to one reader that mostly waits. Never blocks."""

    subscription: Subscription
    encode: Encode
    label: str
    greeting: bytes

    @property
    def paused(self) -> bool:
        """Whether its socket accepts nothing now; it is served again once it does."""

    spoke: bool

    def hand(self, frame: Frame) -> None:
        """Gives it a large frame, which it sends bit by bit; it is `paused` until all of it is on its way."""

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """Where frames go while `paused` is false; None once it is closed."""

    def finish(self) -> None:
        """The turn has nothing more to give."""


class Cutting(Protocol):
    """Where the parts of the hub report a connection at which our own code fails."""

    def cut(self, heart: Heart, part: Part, error: Exception) -> None:
        """The connection is told of the failure, and served no more."""
