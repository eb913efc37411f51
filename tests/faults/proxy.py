"""A TCP proxy that misbehaves on demand, between a gateway and Coze or between a client and a gateway."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["close", "reset", "stall", "half"]
"""What happens where the trigger is: FIN, RST, silence, or half of the trigger's own bytes and then FIN."""


@dataclass
class Trap:
    """Acts when `before` is about to pass downstream, on `times` connections and then no more."""

    before: bytes
    fault: Fault
    times: int = 1


@dataclass
class Weather:
    """How the proxy treats bytes from now on, also those of open connections."""

    trap: Callable[[bytes], Trap | None] = lambda request: None
    bytewise: bool = False
    frozen: bool = False


class Proxy:
    """`url` leads to the target. `fired` counts each fault at the moment when it acts. `held` is what was sent while
    it was frozen."""

    def __init__(self, target: str) -> None:
        self.target(target)
        self.weather = Weather()
        self.fired: Counter[str] = Counter()
        self.held: list[bytes] = []
        self.url = ""
        self._listening: socket.socket | None = None
        self._coming: set[asyncio.Task[None]] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._thaw = asyncio.Event()

    async def listen(self) -> None:
        """Begins to listen, or listens again on the same port."""
        listening = self._listening = socket.create_server(("127.0.0.1", urlsplit(self.url).port or 0))
        listening.setblocking(False)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        asyncio.get_running_loop().add_reader(listening, self._accept_one, listening)

    def _accept_one(self, listening: socket.socket) -> None:
        """Instead of a server of asyncio's, which forgets to close what it accepts just when it is closed."""
        with suppress(BlockingIOError):
            connection, _ = listening.accept()
            connection.setblocking(False)
            coming = asyncio.create_task(self._begin(connection))
            self._coming.add(coming)
            coming.add_done_callback(self._coming.discard)

    async def _begin(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=2**20), self._accept)

        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)

    def target(self, url: str) -> None:
        """Where new connections lead. A path is that of a socket."""
        parts = urlsplit(url)
        if parts.hostname is None:
            self._connect = partial(asyncio.open_unix_connection, url, limit=2**20)
        else:
            self._connect = partial(asyncio.open_connection, parts.hostname, parts.port or 80, limit=2**20)

    def refuse(self) -> None:
        """From now on new connections are refused."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def cut_all(self, fault: Fault = "reset") -> int:
        """Ends every connection now. Returns how many there were."""
        links = list(self._links)
        for link in links:
            self.fired[fault] += 1
            link.cancel(fault)
        return len(links)

    def freeze(self) -> None:
        """Passes no more bytes, and keeps all connections open."""
        self.weather.frozen = True
        self.fired["frozen"] += 1
        self._thaw.clear()

    def thaw(self) -> None:
        """Passes the bytes that it held back, and all later ones."""
        self.weather.frozen = False
        self._thaw.set()

    async def close(self) -> None:
        self.refuse()
        if self._coming:
            await asyncio.wait(self._coming)
        for _ in range(5):
            await asyncio.sleep(0)  # connections that were just accepted begin
        while links := [*self._links, *self._closing]:
            for link in links:
                link.cancel("close")
            await asyncio.gather(*links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await self._connect()
            request = bytearray()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, far, request))
                group.create_task(self._down(far_reader, writer, request))
        except* (OSError, _Over):
            pass
        except* asyncio.CancelledError as cancelled:
            if "reset" in str(cancelled.exceptions):
                _abort(writer)
        finally:
            self._links.discard(link)
            self._closing.add(link)
            await _close([end for end in (writer, far) if end is not None])
            self._closing.discard(link)

    async def _up(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, request: bytearray) -> None:
        while data := await reader.read(2**16):
            request += data
            await self._carry(data, far)
        raise _Over

    async def _down(self, far: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytearray) -> None:
        seen = b""
        while data := await far.read(2**16):
            trap = self.weather.trap(bytes(request))
            if trap is not None and trap.times > 0 and (at := (seen + data).find(trap.before)) >= 0:
                trap.times -= 1
                self.fired[trap.fault] += 1
                left = (seen + data)[len(seen) : at + (len(trap.before) // 2 if trap.fault == "half" else 0)]
                await self._carry(left, writer)
                if trap.fault == "reset":
                    _abort(writer)
                if trap.fault == "stall":
                    await asyncio.Event().wait()
                raise _Over
            seen = (seen + data)[-256:]
            await self._carry(data, writer)
        raise _Over

    async def _carry(self, data: bytes, to: asyncio.StreamWriter) -> None:
        if self.weather.frozen:
            self.held.append(data)
            await self._thaw.wait()
        if not self.weather.bytewise:
            to.write(data)
            await to.drain()
            return
        self.fired["bytewise"] += 1
        sock = to.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(len(data)):
            to.write(data[number : number + 1])
            if number % 16 == 0:
                await asyncio.sleep(0)
        await to.drain()


class _Over(Exception):
    """One side has ended: so does the other."""


async def _close(ends: list[asyncio.StreamWriter]) -> None:
    """Ends connections when all is written, or at once if the waiting for that is cancelled: one whose process is
    paused takes nothing more."""
    for end in ends:
        end.close()
    try:
        for end in ends:
            with suppress(OSError):
                await end.wait_closed()
    except asyncio.CancelledError:
        for end in ends:
            end.transport.abort()
        await asyncio.sleep(0)  # until they are closed


def _abort(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()
