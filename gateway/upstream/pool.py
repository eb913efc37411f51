"""Connections to Coze that are used again, as long as Coze surely still keeps them.

A connection that Coze closes in the very moment in which a message is written on it leaves nobody knowing whether the
message arrived. So the pool learns from the closings of idle connections how long Coze keeps one, and uses again only
what has been idle for less than half of that. What is idle for longer stays, to learn from, until `KEEP` is over.

aiohttp has no public way to do this: `_get`, `_release` and `_factory` of its connector are overridden, as read in
3.14.5.
"""

import asyncio
import select
from collections import deque
from functools import partial
from statistics import median
from time import monotonic
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from gateway.upstream.heads import Handler

KEEP: Final = 10.0
"""Seconds that an idle connection is kept, and used again while nothing was learnt: under what most servers keep one
(nginx: 75 s)."""

_WITHIN = 0.5  # of what was learnt; the other half is for the way there and back, and for a busy loop
_LEARN_FROM = 9  # closings; a restart of Coze's closes a few early, and must not count for ever


class Pool(aiohttp.TCPConnector):
    """A connector without a limit of connections: each running turn holds one. The resolver's threads keep a slow DNS
    off the loop."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEP, resolver=aiohttp.ThreadedResolver())
        self._factory = cast("partial[ResponseHandler]", partial(Handler, loop=self._loop))
        self._lives: deque[float] = deque(maxlen=_LEARN_FROM)
        self._idle: dict[ResponseHandler, float] = {}
        self._watched: set[ResponseHandler] = set()

    @property
    def reusable_for(self) -> float:
        """Seconds for which an idle connection is used again."""
        return min(KEEP, _WITHIN * median(self._lives)) if self._lives else KEEP

    async def _get(self, key: Any, traces: Any) -> Any:
        """The one that was used last, of those that are fresh and have nothing to say; else a new one is made."""
        conns = self._conns.get(key)
        while conns:
            protocol, since = conns.pop()
            if not protocol.is_connected() or _speaks(protocol):
                protocol.close()
            elif monotonic() - since > self.reusable_for:
                conns.append((protocol, since))
                return None
            else:
                self._idle.pop(protocol, None)
                conns.appendleft((protocol, since))
                return await super()._get(key, traces)
        self._conns.pop(key, None)
        return None

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
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
