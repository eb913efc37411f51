"""Connections to Coze that are used again, as long as Coze surely still keeps them.

A connection that Coze closes in the very moment in which a message is written on it leaves nobody knowing whether the
message arrived. So the pool learns from the closings of idle connections how long Coze keeps one, and uses again only
what has been idle for less than half of that. What is idle for longer stays, to learn from, until `KEEP` is over.
"""

import asyncio
import select
from collections import deque
from statistics import median
from time import monotonic
from typing import Final

from gateway.upstream.aiohttp_parts import Connector, Idle, ResponseHandler
from gateway.upstream.heads import BoundedHandler

KEEP: Final = 10.0
"""Seconds that an idle connection is kept, and used again while nothing was learnt: under what most servers keep one
(nginx: 75 s)."""

_WITHIN = 0.5  # of what was learnt; the other half is for the way there and back, and for a busy loop
_LEARN_FROM = 9  # closings; a restart of Coze's closes a few early, and must not count for ever


class Pool(Connector):
    """A connector without a limit of connections: each running turn holds one. The resolver's threads keep a slow DNS
    off the loop."""

    def __init__(self) -> None:
        super().__init__(BoundedHandler, keepalive=KEEP)
        self._lives: deque[float] = deque(maxlen=_LEARN_FROM)
        self._idle: dict[ResponseHandler, float] = {}
        self._watched: set[ResponseHandler] = set()

    @property
    def reusable_for(self) -> float:
        """Seconds for which an idle connection is used again."""
        return min(KEEP, _WITHIN * median(self._lives)) if self._lives else KEEP

    def choose(self, idle: Idle) -> bool:
        """The one that was used last, of those that are fresh and have nothing to say; else a new one is made."""
        while idle:
            protocol, since = idle.pop()
            if not protocol.is_connected() or _speaks(protocol):
                protocol.close()
            elif monotonic() - since > self.reusable_for:
                idle.append((protocol, since))
                return False
            else:
                self._idle.pop(protocol, None)
                idle.appendleft((protocol, since))
                return True
        return False

    def released(self, protocol: ResponseHandler) -> None:
        if self.closed or not protocol.is_connected() or (closed := protocol.closed) is None:
            return
        self._idle[protocol] = monotonic()
        if protocol not in self._watched:
            self._watched.add(protocol)
            closed.add_done_callback(lambda done: self._lost(protocol, done))

    def _lost(self, protocol: ResponseHandler, done: "asyncio.Future[None]") -> None:
        if not done.cancelled():
            done.exception()  # how it was lost is nobody's business any more
        self._watched.discard(protocol)
        since = self._idle.pop(protocol, None)
        if since is not None and (life := monotonic() - since) < KEEP:  # else it was closed here
            self._lives.append(life)


def _speaks(protocol: ResponseHandler) -> bool:
    """Whether an idle connection has something to read: its end, which the loop has not seen yet."""
    handle = protocol.transport.get_extra_info("socket") if protocol.transport is not None else None
    if handle is None:
        return True
    look = select.poll()
    look.register(handle.fileno(), select.POLLIN)
    return bool(look.poll(0))
