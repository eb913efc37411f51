"""Clients that send exactly the given bytes, which well-behaved clients never would."""

import asyncio
import base64
import os
import socket
from typing import Any, NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        return int.from_bytes(self.payload[:2], "big")


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """A client's frame (RFC 6455, 5.2)."""
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


class RawSocket:
    """A WebSocket without manners. Close it with `hang_up`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str, path: str, *, buffer: int | None = None, **headers: str) -> "RawSocket":
        """`buffer`: about how many bytes of answers the kernel holds for this client."""
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect(("127.0.0.1", port_of(url)))
        reader, writer = await asyncio.open_connection(sock=sock)
        fields = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
        } | headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 101"), head
        return cls(reader, writer)

    def send(self, *args: Any, **kwargs: Any) -> None:
        self.writer.write(frame(*args, **kwargs))

    async def receive(self, *, within: float = 5.0) -> Frame:
        async with asyncio.timeout(within):
            first, size = await self.reader.readexactly(2)
            assert not size & 0x80, "a server's frame is never masked"
            assert first & 0x70 == 0
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return Frame(first & 0x0F, await self.reader.readexactly(size))

    async def closed(self, *, within: float = 5.0) -> int:
        """Reads up to the close frame, and returns its code."""
        async with asyncio.timeout(within):
            while (got := await self.receive(within=within)).opcode != CLOSE:
                pass
            return got.close_code

    async def at_end(self, *, within: float = 5.0) -> None:
        """Waits until the server has ended the connection."""
        async with asyncio.timeout(within):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass

    async def hang_up(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def never_reading(url: str, request: bytes, *, buffer: int = 4096) -> socket.socket:
    """A connection that has sent a request and reads nothing of the answer. Its caller closes it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", port_of(url)))
    client.sendall(request)
    return client
