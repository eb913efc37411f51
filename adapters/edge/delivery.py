"""Delivery: an answer's bytes are counted until its client has taken them or is cut."""

from aiohttp import web

from adapters.services import SERVICES

SMALL = 16 * 1024
"""Bytes of an answer that are not worth counting: the kernel takes them at once from whoever reads at all."""

_PART = 64 * 1024


async def deliver(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Sends an answer part by part, and returns when the client's machine has taken all of it.

    Raises `overloaded` when too much waits to be read. When room is needed, the client is cut that reads nothing.
    """
    body = answer.body
    transport = request.transport
    if not isinstance(body, bytes) or len(body) <= SMALL or transport is None:
        return answer
    # Exceptions keep frames, and aiohttp's tasks keep exceptions until the collector comes: nothing here may hold the
    # body but this one name.
    answer.body = None
    try:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(body)
        with request.app[SERVICES].hub.unsent.reserve(len(body), transport.abort):
            await response.prepare(request)
            transport.set_write_buffer_limits(high=0)  # so that a write ends when nothing of it waits any more
            for at in range(0, len(body), _PART):
                await response.write(body[at : at + _PART])
            await response.write_eof()
            transport.set_write_buffer_limits()
        return response
    finally:
        body = b""
