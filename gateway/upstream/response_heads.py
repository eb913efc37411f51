"""The heads of Coze's answers: there is one per request. A server that sends hundreds is cut before they cost anything.

aiohttp reads all heads in one read before any other code runs (an informational head has 25 bytes, a read 256 KiB),
which takes a second and 140 MiB. So its parser gets them a few at a time.
"""

from typing import Final

from gateway.upstream.aiohttp_parts import Handler

HEADS: Final = 16
"""Heads that may wait to be read. A server sends one, or two where the first is informational."""

_STEP = 4 * 1024


class BoundedHandler(Handler):
    """A connection that is closed if too many heads arrive over it."""

    def data_received(self, data: bytes) -> None:
        if self.in_body:
            super().data_received(data)
            return
        for at in range(0, len(data), _STEP):
            if self.in_body:
                super().data_received(data[at:])
                return
            super().data_received(data[at : at + _STEP])
            if self.transport is None or self.transport.is_closing():
                return
            if self.heads > HEADS:
                self.transport.close()
                self.fail("too many heads")
                return
