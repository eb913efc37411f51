"""How a response's bytes are read, on both event loops, pushed and read by a task.

`test_bytes_are_pushed` fails when a newer aiohttp no longer lets itself be listened to: the gateway would still work
then, more slowly.
"""

import asyncio
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp.streams import StreamReader

from gateway.upstream.push import Body, PushedBody, ReadBody, body_of
from tests.upstream.certificates import self_signed
from tests.upstream.servers import LAST_CHUNK, STREAM_HEAD, Peer, Play, chunk, serving

Run = Callable[[Coroutine[Any, Any, None]], None]
How = Callable[[aiohttp.ClientResponse, "Heard"], Body]

BOTH_LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
BOTH_WAYS = pytest.mark.parametrize(
    "how", [body_of, lambda response, sink: ReadBody(response.content, sink)], ids=["pushed", "read"]
)


class Heard:
    """A sink that remembers, and lets a test wait."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.ends: list[str] = []
        self.news = asyncio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(self.reads)

    def received(self, data: bytes) -> None:
        assert data
        assert not self.ends
        self.reads.append(data)
        self.news.set()

    def finished(self) -> None:
        self.ends.append("finished")
        self.news.set()

    def lost(self) -> None:
        self.ends.append("lost")
        self.news.set()

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not there():
                self.news.clear()
                await self.news.wait()

    async def end(self) -> str:
        await self.until(lambda: bool(self.ends))
        return self.ends[0]


async def heard(play: Play | bytes, how: How, *, tls: bool = False) -> Heard:
    """What a sink hears of the play, to its end."""
    server_tls, client_tls = self_signed() if tls else (None, None)
    async with serving(play, tls=server_tls) as server, aiohttp.ClientSession() as session:
        response = await session.get(server.url, ssl=client_tls or True)
        sink = Heard()
        how(response, sink).start()
        await sink.end()
        response.close()
        assert len(sink.ends) == 1
        return sink


def slowly(*parts: bytes, end: Callable[[Peer], Any] | None = None) -> Play:
    """Sends the parts in reads of their own."""

    async def play(peer: Peer) -> None:
        for part in parts:
            await peer.send(part)
            await asyncio.sleep(0.02)  # the one way to have a read of its own: nothing tells that the peer has read
        if end is not None:
            end(peer)

    return play


@BOTH_LOOPS
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_bytes_are_pushed(run: Run, tls: bool) -> None:
    async def main() -> None:
        server_tls, client_tls = self_signed() if tls else (None, None)
        play = slowly(STREAM_HEAD, chunk(b"a"), chunk(b"b") + chunk(b"c"), LAST_CHUNK)
        async with serving(play, tls=server_tls) as server, aiohttp.ClientSession() as session:
            response = await session.get(server.url, ssl=client_tls or True)
            sink = Heard()
            body = body_of(response, sink)
            tasks = asyncio.all_tasks()
            body.start()
            assert isinstance(body, PushedBody)
            assert await sink.end() == "finished"
            assert sink.reads == [b"a", b"bc"], "one call a read, however many chunks"
            assert len(asyncio.all_tasks()) <= len(tasks), "no task reads"

    run(main())


@BOTH_LOOPS
@BOTH_WAYS
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "parts",
    [
        [STREAM_HEAD + chunk(b"one") + chunk(b"two") + LAST_CHUNK],
        [STREAM_HEAD, chunk(b"one"), chunk(b"two"), LAST_CHUNK],
        [STREAM_HEAD[:20], STREAM_HEAD[20:] + b"6", b"\r", b"\non", b"etwo", b"\r\n0\r\n", b"\r\n"],
        [STREAM_HEAD + chunk(b"o"), chunk(b"n") + b"1\r\ne", b"\r\n", chunk(b"t") + b"2", b"\r\nwo\r\n", LAST_CHUNK],
        [STREAM_HEAD + chunk(b"o"), b"002\r\nne\r\n", b"3;x=y\r\ntwo\r\n", LAST_CHUNK],
        [STREAM_HEAD + b"3;x=y\r\none\r\n", chunk(b"two") + b"0\r\nTrailer: x\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"one", b"two"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nonetwo"],
    ],
    ids=[
        "at once",
        "chunk by chunk",
        "cut anywhere",
        "whole and cut",
        "odd sizes",
        "extensions and trailers",
        "with length",
        "with length at once",
    ],
)
def test_a_whole_body_arrives_whole(run: Run, how: How, parts: list[bytes], tls: bool) -> None:
    async def main() -> None:
        sink = await heard(slowly(*parts), how, tls=tls)
        assert (sink.data, sink.ends) == (b"onetwo", ["finished"])

    run(main())


@BOTH_LOOPS
def test_a_compressed_body_is_unpacked_chunk_by_chunk(run: Run) -> None:
    async def main() -> None:
        packer = zlib.compressobj(wbits=31)
        packed = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in (b"one", b"two\r\n", b"three")]
        head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
        sink = await heard(slowly(head, *map(chunk, [*packed, packer.flush()]), LAST_CHUNK), body_of)
        assert (sink.data, sink.ends) == (b"onetwo\r\nthree", ["finished"])

    run(main())


@BOTH_LOOPS
@BOTH_WAYS
def test_a_body_without_length_ends_with_its_connection(run: Run, how: How) -> None:
    async def main() -> None:
        parts = (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"one", b"two")
        sink = await heard(slowly(*parts, end=lambda peer: peer.writer.close()), how)
        assert (sink.data, sink.ends) == (b"onetwo", ["finished"])

    run(main())


@BOTH_LOOPS
@BOTH_WAYS
@pytest.mark.parametrize("cut", [Peer.reset, lambda peer: peer.writer.close()], ids=["RST", "FIN"])
@pytest.mark.parametrize(
    "parts",
    [[STREAM_HEAD + chunk(b"one")], [STREAM_HEAD, b"9\r\none"], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none"]],
    ids=["between chunks", "inside a chunk", "short of its length"],
)
def test_a_cut_body_is_lost(run: Run, how: How, parts: list[bytes], cut: Callable[[Peer], None]) -> None:
    async def main() -> None:
        sink = await heard(slowly(*parts, end=cut), how)
        assert (sink.data, sink.ends) == (b"one", ["lost"])

    run(main())


@BOTH_LOOPS
def test_a_malformed_chunk_is_lost(run: Run) -> None:
    async def main() -> None:
        sink = await heard(slowly(STREAM_HEAD + chunk(b"one"), b"zzz\r\nnothing\r\n"), body_of)
        assert (sink.data, sink.ends) == (b"one", ["lost"])

    run(main())


@BOTH_LOOPS
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_connection_is_used_again_and_again(run: Run, tls: bool) -> None:
    async def main() -> None:
        server_tls, client_tls = self_signed() if tls else (None, None)
        play = slowly(STREAM_HEAD + chunk(b"one"), chunk(b"two") + LAST_CHUNK)
        async with serving(play, tls=server_tls) as server, aiohttp.ClientSession() as session:
            for _ in range(3):
                response = await session.get(server.url, ssl=client_tls or True)
                sink = Heard()
                body_of(response, sink).start()
                assert await sink.end() == "finished"
                assert sink.data == b"onetwo"
            async with session.get(server.url, ssl=client_tls or True) as response:
                assert await response.read() == b"onetwo", "also by aiohttp's own reading"
            assert (server.connections, len(server.requests)) == (1, 4)

    run(main())


@BOTH_LOOPS
@BOTH_WAYS
def test_a_paused_body_holds_the_sender_back_and_goes_on_exactly(run: Run, how: How) -> None:
    piece, count = b"x" * 65_536, 400  # 26 MB: more than two socket buffers hold

    async def main() -> None:
        sent = 0

        async def play(peer: Peer) -> None:
            nonlocal sent
            peer.writer.transport.set_write_buffer_limits(high=65_536)
            await peer.send(STREAM_HEAD)
            for _ in range(count):
                await peer.send(chunk(piece))
                sent += 1
            await peer.send(LAST_CHUNK)

        async with serving(play) as server, aiohttp.ClientSession() as session:
            response = await session.get(server.url)
            sink = Heard()
            body = how(response, sink)
            body.start()
            body.pause()
            before = -1
            while sent > before:  # until the sender has stood still for a while
                before = sent
                await asyncio.sleep(0.2)  # nothing tells that a sender stands still
            assert sent < count
            held = len(sink.data)
            assert held < len(piece) * count / 2
            body.resume()
            assert await sink.end() == "finished"
            assert sink.data == piece * count

    run(main())


@BOTH_LOOPS
@BOTH_WAYS
def test_a_detached_body_says_nothing_more(run: Run, how: How) -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def play(peer: Peer) -> None:
            await peer.send(STREAM_HEAD + chunk(b"one"))
            await peer.closed()
            closed.set()

        async with serving(play) as server, aiohttp.ClientSession() as session:
            response = await session.get(server.url)
            sink = Heard()
            body = how(response, sink)
            body.start()
            await sink.until(lambda: sink.data == b"one")
            body.detach()
            response.close()
            async with asyncio.timeout(5):
                await closed.wait()
            body.pause()
            body.resume()
            assert sink.ends == []

    run(main())


def test_where_aiohttp_cannot_be_listened_to_a_task_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with (
            serving(slowly(STREAM_HEAD, chunk(b"one"), LAST_CHUNK)) as server,
            aiohttp.ClientSession() as session,
        ):
            response = await session.get(server.url)
            assert response._protocol is not None
            response.content = Other(response._protocol, 2**16, loop=asyncio.get_running_loop())
            body = body_of(response, Heard())
            assert isinstance(body, ReadBody)
            response.close()

    class Other(StreamReader):
        """A reader of another layout, as a newer aiohttp may have."""

    asyncio.run(main())
