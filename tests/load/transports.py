"""Transports: each an async generator of a turn's events. Its first, empty batch says that the connection stands."""

import contextlib
import re
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from tests.load.reader import Event, decode

_POLL = msgspec.json.Decoder(
    msgspec.defstruct("Poll", [("events", list[Event]), ("next", str), ("ended", bool, False)])
).decode
_RETRY = re.compile(rb"^retry: ?(\d{1,7})$", re.MULTILINE)
_COMMENT = re.compile(rb"^: ?(\w+)$", re.MULTILINE)
_HANDSHAKE = aiohttp.ClientWSTimeout(ws_close=1.0)


class RefusedError(Exception):
    """The gateway answered with an error. `code` is the problem's, or the HTTP status."""

    def __init__(self, code: str, retry_after: float = 0.0) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after = retry_after


class FarewellError(Exception):
    """The stream said good-bye before its turn was over: come back after `seconds`."""

    def __init__(self, seconds: float, code: str) -> None:
        super().__init__(f"come back after {seconds} s: {code}")
        self.seconds = seconds
        self.code = code


@dataclass(frozen=True, slots=True)
class Door:
    """Where a gateway is, and how it is asked."""

    session: aiohttp.ClientSession
    url: str


Batches = AsyncGenerator[list[Event], None]
Listen = Callable[[Door, str, str | None], Batches]


async def refused(response: aiohttp.ClientResponse) -> RefusedError:
    """The refusal that `response` is."""
    code = str(response.status)
    with contextlib.suppress(ValueError, AttributeError, aiohttp.ClientError):
        code = str((await response.json(content_type=None)).get("code", code))
    try:
        return RefusedError(code, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return RefusedError(code)


async def records(response: aiohttp.ClientResponse) -> Batches:
    """The events of an open event stream. The gateway's form: one `data` line a record, LF (contract, section 4)."""
    yield []
    rest, retry, code, last = b"", 0, "", False
    while data := await response.content.readany():
        *blocks, rest = (rest + data).split(b"\n\n")
        batch = []
        for block in blocks:
            at = 0 if block.startswith(b"data:") else block.find(b"\ndata:") + 1
            if block[at : at + 5] == b"data:":
                batch.append(decode(block[at + 5 :].partition(b"\n")[0]))
            else:
                retry = int(found[1]) if (found := _RETRY.search(block)) else retry
                code = found[1].decode() if (found := _COMMENT.search(block)) else code
        if batch:
            last = batch[-1].event in ("completed", "cancelled", "error")
            yield batch
    if not last:
        raise FarewellError(retry / 1000, code)


async def sse(door: Door, turn: str, after: str | None) -> Batches:
    headers = {"Last-Event-ID": after} if after is not None else {}
    async with door.session.get(f"{door.url}/api/coze/turns/{turn}/events", headers=headers) as response:
        if response.status == 204:
            return
        if response.status != 200:
            raise await refused(response)
        async with contextlib.aclosing(records(response)) as batches:
            async for batch in batches:
                yield batch


async def websocket(door: Door, turn: str, after: str | None) -> Batches:
    query = {"after": after} if after is not None else {}
    url = f"{door.url}/api/coze/turns/{turn}/ws"
    try:
        socket_ = await door.session.ws_connect(url, params=query, compress=0, timeout=_HANDSHAKE, max_msg_size=0)
    except aiohttp.WSServerHandshakeError as error:
        raise RefusedError(str(error.status)) from None
    try:
        yield []
        async for message in socket_:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            yield [decode(message.data)]
        if socket_.close_code != 1000:
            raise FarewellError(0.0, f"close_{socket_.close_code}")
    finally:
        _cut(socket_)
        await socket_.close()


def _cut(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Ends the connection beneath, without a close frame, as a lost network does."""
    if not websocket.closed and (beneath := websocket.get_extra_info("socket")) is not None:
        # A duplicate, because uvloop's own stand-in for the socket has no shutdown.
        with contextlib.suppress(OSError), socket.fromfd(beneath.fileno(), socket.AF_INET, socket.SOCK_STREAM) as twin:
            twin.shutdown(socket.SHUT_RDWR)


async def longpoll(door: Door, turn: str, after: str | None) -> Batches:
    query: dict[str, Any] = {"wait": 25} | ({"after": after} if after is not None else {})
    while True:
        async with door.session.get(f"{door.url}/api/coze/turns/{turn}/poll", params=query) as response:
            if response.status != 200:
                raise await refused(response)
            answer: Any = _POLL(await response.read())
        yield []
        if answer.events:
            yield answer.events
        if answer.ended:
            return
        query["after"] = answer.next


LISTEN: dict[str, Listen] = {"sse": sse, "websocket": websocket, "longpoll": longpoll}
