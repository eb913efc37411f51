"""Tiny HTTP servers that do exactly what a test says, well or badly, byte by byte."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "coze"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-Tt-Logid: 2025ABC\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_answer(body: bytes, status: str = "200 OK") -> bytes:
    return answer(status, body, "Content-Type: application/json")


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """A connection that the client has opened."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Request | None = None

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Closes with RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Waits until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Play = Callable[[Peer], Awaitable[None]]
"""What is done after a request was read. A connection stays open unless the play closes it."""


@dataclass
class Server:
    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    plays: list[Play] = field(default_factory=list)
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def serving(*plays: Play | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server whose nth request gets the nth play, the last one again and again. Bytes are sent as they are."""
    server = Server(plays=[_sending(play) if isinstance(play, bytes) else play for play in plays], tls=tls is not None)
    tasks: set[asyncio.Task[None]] = set()

    async def connection(peer: Peer) -> None:
        try:
            while (request := await _request(peer.reader)) is not None:
                server.requests.append(request)
                peer.request = request
                await server.plays[min(len(server.requests), len(server.plays)) - 1](peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            peer.writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.get_running_loop().create_task(connection(Peer(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.contextmanager
def flooding(data: bytes) -> Iterator[str]:
    """The address of a server of one connection, whose thread sends `data` as fast as it is taken."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(20)
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += peer.recv(65536)
                peer.sendall(data)
                while peer.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.close()
            thread.join()


def streaming(*pieces: bytes) -> Play:
    """An event stream whose chunks are `pieces`, well ended."""
    return _sending(STREAM_HEAD + b"".join(map(chunk, pieces)) + LAST_CHUNK)


def _sending(data: bytes) -> Play:
    async def play(peer: Peer) -> None:
        await peer.send(data)

    return play


async def _request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)
