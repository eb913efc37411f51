"""The heads of Coze's answers: one for each request. Whoever sends hundreds is cut before they cost anything.

aiohttp reads all heads that a read brings (an informational one has 25 bytes, a read 256 KiB) before anybody can say a
word: it takes a second and 140 MiB. So they are given to its parser a few at a time. `_payload`, `_buffer` and what it
does after an error are private, as read in 3.14.5.
"""

from typing import Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

HEADS: Final = 16
"""Heads that may wait to be read. A server sends one, or two where the first is informational."""

_STEP = 4 * 1024


class Handler(ResponseHandler):
    """aiohttp's protocol of one connection."""

    def data_received(self, data: bytes) -> None:
        if self._in_body():
            super().data_received(data)
            return
        for at in range(0, len(data), _STEP):
            if self._in_body():
                super().data_received(data[at:])
                return
            super().data_received(data[at : at + _STEP])
            if self.transport is None or self.transport.is_closing():
                return
            if len(self) > HEADS:
                self.transport.close()
                self.set_exception(HttpProcessingError(message="too many heads"))
                return

    def _in_body(self) -> bool:
        return self._payload is not None and not self._payload.is_eof()
