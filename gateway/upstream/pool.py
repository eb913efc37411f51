"""Connections to Coze that are reused, as long as Coze certainly still keeps them open.

If Coze closes a connection at the very moment when a message is written to it, nobody knows whether the message
arrived. So the pool learns from the closings of idle connections how long Coze keeps one open, and reuses only those
that have been idle for less than half of that. Others are kept until `KEEP` is over, to learn from their closings.
"""

import asyncio
import select
from collections import deque
from statistics import median
from time import monotonic
from typing import Final

from gateway.upstream.aiohttp_parts import Connector, Idle, ResponseHandler
from gateway.upstream.response_heads import BoundedHandler

KEEP: Final = 10.0
"""Seconds for which an idle connection is kept, and for which it is reused as long as nothing has been learnt: less
than most servers keep one open (nginx: 75 s)."""

_WITHIN = 0.5  # the share of the learnt time; the rest is for the round trip, and for a busy loop
_LEARN_FROM = 9  # closings; a restart of Coze closes a few connections early, which must not count for ever


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
        """Seconds for which an idle connection is reused."""
        return min(KEEP, _WITHIN * median(self._lives)) if self._lives else KEEP

    def choose(self, idle: Idle) -> bool:
        """Chooses the most recently used connection that is fresh and has no unread data; otherwise a new one is
        made."""
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
            done.exception()  # nobody needs to know any more how it was lost
        self._watched.discard(protocol)
        since = self._idle.pop(protocol, None)
        if since is not None and (life := monotonic() - since) < KEEP:  # otherwise we closed it
            self._lives.append(life)


def _speaks(protocol: ResponseHandler) -> bool:
    """Whether an idle connection has unread data: usually its end, which the loop has not noticed yet."""
    handle = protocol.transport.get_extra_info("socket") if protocol.transport is not None else None
    if handle is None:
        return True
    look = select.poll()
    look.register(handle.fileno(), select.POLLIN)
    return bool(look.poll(0))
