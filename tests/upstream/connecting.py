"""A real HTTP proxy: tunnels what asks for CONNECT (RFC 9110, 9.3.6), passes on what names a whole URL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class ConnectProxy:
    """Wants `authorization` of each request, where one is set. `heads` are the requests' heads as they came."""

    def __init__(self, authorization: str = "") -> None:
        self.authorization = authorization
        self.heads: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            first, *lines = head.split("\r\n")
            method, target, _ = first.split(" ")
            given = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            if self.authorization and given.get("proxy-authorization") != self.authorization:
                writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            place = urlsplit(target if "://" in target else f"//{target}")
            there, back = await asyncio.open_connection(place.hostname, place.port or 80)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [line for line in lines if not line.lower().startswith("proxy-authorization")]
                path = f"{place.path}?{place.query}" if place.query else place.path
                back.write("\r\n".join([f"{method} {path} HTTP/1.1", *kept]).encode())
            async with asyncio.TaskGroup() as group:
                group.create_task(pass_on(reader, back))
                group.create_task(pass_on(there, writer))


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def connecting(authorization: str = "") -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy(authorization)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def serve() -> None:
            try:
                await proxy.serve(reader, writer)
            finally:
                writer.close()

        task = asyncio.get_running_loop().create_task(serve())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for task in (running := list(tasks)):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
