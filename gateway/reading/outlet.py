"""Outlets: what the hub asks of a connection that it serves."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.errors import Code
from gateway.log.entry import Entry
from gateway.log.tail import Tail
from gateway.reading.frames import Frame
from gateway.reading.subscription import Subscription
from gateway.telemetry.words import Part

Encode = Callable[[Tail, list[Entry]], bytes]
"""Turns entries into one frame of a transport. Pure, so that all readers at one position share the result."""


class Heart(Protocol):
    """A connection that gets heartbeats and is told when the gateway stops. All calls come from the loop's thread."""

    def beat(self, now: float) -> None:
        """A heartbeat is due. This is also the moment to notice a peer that accepts nothing."""

    def farewell(self, code: Code) -> None:
        """Tells the reader to come back, or to go away, and ends the connection."""

    def busy(self) -> bool:
        """Whether the connection listens to a turn that still runs."""


class Outlet(Heart, Protocol):
    """The last mile to one reader that mostly waits. Never blocks."""

    subscription: Subscription
    encode: Encode
    label: str
    greeting: bytes

    @property
    def paused(self) -> bool:
        """Whether its socket accepts nothing now. The outlet is served again once the socket accepts data."""

    spoke: bool

    def hand(self, frame: Frame) -> None:
        """Gives the outlet a large frame, which it sends bit by bit; it is `paused` until the whole frame is sent."""

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """The transport for frames while `paused` is false; None once the connection is closed."""

    def finish(self) -> None:
        """The turn has nothing more to give."""


class Cutting(Protocol):
    """Where the parts of the hub report a connection at which our own code fails."""

    def cut(self, heart: Heart, part: Part, error: Exception) -> None:
        """Tells the connection about the failure, and stops serving it."""
