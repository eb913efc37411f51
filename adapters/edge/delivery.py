"""Delivery of ordinary answers: their bytes are counted until the client has taken them or is cut."""

from aiohttp import web

from adapters.services import SERVICES

SMALL = 16 * 1024
"""Answers up to so many bytes are not counted: the kernel takes them at once, unless the client reads nothing."""

_PART = 64 * 1024


async def deliver(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Sends an answer part by part, and returns when the client's machine has taken all of it.

    Raises `overloaded` when too many bytes wait for slow readers. When room is needed, the connection of a client that
    reads nothing is cut.
    """
    body = answer.body
    transport = request.transport
    if not isinstance(body, bytes) or len(body) <= SMALL or transport is None:
        return answer
    # Exceptions keep frames alive, and aiohttp's tasks keep exceptions until the collector runs: nothing here may
    # hold the body but this one name.
    answer.body = None
    try:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(body)
        with request.app[SERVICES].hub.unsent.reserve(len(body), transport.abort):
            await response.prepare(request)
            transport.set_write_buffer_limits(high=0)  # a write then ends only when the kernel has all of it
            for at in range(0, len(body), _PART):
                await response.write(body[at : at + _PART])
            await response.write_eof()
            transport.set_write_buffer_limits()
        return response
    finally:
        body = b""
