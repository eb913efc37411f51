"""Answers that come compressed although nobody asked for that: they are read like any other, and bombs are stopped."""

import asyncio
import gzip
import itertools
import json
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import Code, UpstreamError
from gateway.upstream.coze import CozeUpstream
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import Answer, ChatRef, ChatRequest, Created, Delta, Done, Item, Opened
from gateway.upstream.sse import SseDecoder
from gateway.upstream.unpack import FREE, BadPacking, Overflow, Unpacker, packing
from tests.upstream.conftest import Connect
from tests.upstream.servers import LAST_CHUNK, SAMPLES, STREAM_HEAD, Peer, Play, chunk, sample, serving
from tests.upstream.test_first_word import CREATED, FORMS, Heard, cut, head

REQUEST = ChatRequest(bot_id="b", user_id="u", message="hello")
REF = ChatRef("7569330550164291619", "7569312240118845480")


def flushed(text: bytes, bits: int) -> bytes:
    """Packed as a proxy does it: flushed after each record."""
    packer = zlib.compressobj(6, zlib.DEFLATED, bits)
    out = b"".join(packer.compress(part + b"\n\n") + packer.flush(zlib.Z_SYNC_FLUSH) for part in text.split(b"\n\n"))
    return out + packer.flush()


PACKINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip, flushed": ("GZip", lambda text: flushed(text, 31)),
    "gzip, in members": ("x-gzip", lambda text: gzip.compress(text[:99]) + gzip.compress(text[99:]) + bytes(20)),
    "gzip that is none": ("gzip", bytes),
    "deflate": ("deflate", zlib.compress),
    "deflate, flushed": ("deflate", lambda text: flushed(text, 15)),
    "deflate without its frame": ("deflate", lambda text: flushed(text, -15)),
    "nothing": ("identity, ,Identity", bytes),
}


def packed_head(name: str, plain: bytes = STREAM_HEAD) -> bytes:
    return plain[:-2] + f"Content-Encoding: {PACKINGS[name][0]}\r\n\r\n".encode()


async def chat(connect: Connect, play: Play | bytes, **options: Any) -> tuple[list[Item], str]:
    async with serving(play) as server, connect(server.url, **options) as coze:
        stream = await coze.chat(REQUEST, heard := Heard())
        async with asyncio.timeout(10):
            end = await stream.ended()
        stream.close()
        assert server.requests[0].headers["accept-encoding"] == "identity"
        return [item for item in heard if not isinstance(item, Opened)], end


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("size", [1, 37, 100_000])
async def test_a_packed_stream_is_the_stream(connect: Connect, name: str, size: int) -> None:
    for path in sorted(SAMPLES.glob("chat-*.sse"))[:: 3 if size == 1 else 1]:
        text = path.read_bytes()
        body = PACKINGS[name][1](text)
        play = packed_head(name) + b"".join(chunk(body[i : i + size]) for i in range(0, len(body), size)) + LAST_CHUNK
        assert (await chat(connect, play))[0] == ChatReader().items(SseDecoder().feed(text)), path.name


@pytest.mark.parametrize("name", ["gzip, flushed", "deflate, flushed", "deflate without its frame"])
async def test_a_packed_piece_is_shown_when_it_comes(connect: Connect, name: str) -> None:
    pieces: asyncio.Queue[None] = asyncio.Queue()
    packer = zlib.compressobj(6, zlib.DEFLATED, {"gzip, flushed": 31, "deflate, flushed": 15}.get(name, -15))

    async def play(peer: Peer) -> None:
        await peer.send(packed_head(name))
        for number in range(5):
            said = b'event:conversation.message.delta\ndata:{"type":"answer","content":"%d"}\n\n' % number
            await peer.send(chunk(packer.compress(said) + packer.flush(zlib.Z_SYNC_FLUSH)))
            await pieces.get()
        await peer.send(chunk(packer.compress(b"event:done\ndata:\n\n") + packer.flush()) + LAST_CHUNK)

    seen: list[Item] = []

    def take(items: list[Item]) -> None:
        seen.extend(items)
        pieces.put_nowait(None)

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, take)
        assert await stream.ended() == "finished"
        stream.close()
    assert seen[1:] == [*(Delta("", str(number)) for number in range(5)), Done()]


@pytest.mark.parametrize("name", ["gzip", "gzip, flushed", "deflate", "deflate without its frame"])
@pytest.mark.parametrize("form", ["JSON", "JSON labelled as a stream", "the event", "the event without any line's end"])
async def test_a_packed_refusal_is_the_refusal(connect: Connect, name: str, form: str) -> None:
    plain = FORMS[form](4016)
    heading, _, body = plain.partition(b"\r\n\r\n")
    data = packed_head(name, heading + b"\r\n\r\n") + PACKINGS[name][1](body)
    for status in (b"200 OK", b"400 Bad Request"):
        async with serving(cut(data.replace(b"200 OK", status), 20)) as server, connect(server.url) as coze:
            with pytest.raises(UpstreamError) as caught:
                await coze.chat(REQUEST, Heard())
            assert (caught.value.code, caught.value.coze_code) == (Code.CONVERSATION_BUSY, 4016)


@pytest.mark.parametrize("name", PACKINGS)
async def test_the_chats_record_may_be_packed(connect: Connect, name: str) -> None:
    def answer(text: bytes) -> bytes:
        body = PACKINGS[name][1](text)
        plain = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        return packed_head(name, plain) + body

    answers = answer(sample("retrieve.json")), answer(sample("message-list.json"))
    async with serving(*answers) as server, connect(server.url) as coze:
        assert (await coze.retrieve(REF)).status == "completed"
        assert any(isinstance(item, Answer) for item in await coze.messages(REF))
        assert server.connections == 1


# -- what cannot be unpacked


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate, gzip", "x-unknown"])
async def test_an_unknown_packing_is_refused_unread(connect: Connect, encoding: str) -> None:
    plain = STREAM_HEAD[:-2] + f"Content-Encoding: {encoding}\r\n\r\n".encode()
    async with serving(plain, plain.replace(b"200 OK", b"503 No")) as server, connect(server.url) as coze:
        for code, taken in ((Code.UPSTREAM_FAILED, "yes"), (Code.UPSTREAM_UNAVAILABLE, "no")):
            with pytest.raises(UpstreamError) as caught:
                await coze.chat(REQUEST, Heard())
            assert (caught.value.code, caught.value.taken, caught.value.log_id) == (code, taken, "2025ABC")
    async with serving(plain) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.retrieve(REF)
        assert caught.value.code is Code.UPSTREAM_FAILED


@pytest.mark.parametrize("name", ["gzip, flushed", "deflate, flushed"])
@pytest.mark.parametrize("how", ["cut", "garbled"])
async def test_a_packed_stream_that_cannot_be_unpacked_on_is_broken(connect: Connect, name: str, how: str) -> None:
    begin = CREATED + b'event:conversation.message.delta\ndata:{"type":"answer","content":"hi"}\n\n'
    body = PACKINGS[name][1](begin + sample("recorded-reasoning.sse"))
    at = len(PACKINGS[name][1](begin)) + 6000  # what zlib reads at once is lost with what is wrong in it
    body = body[:at] + (b"" if how == "cut" else b"\xff" * 50)
    items, end = await chat(connect, packed_head(name) + chunk(body) + LAST_CHUNK)
    assert items[:2] == [Created("7", "8"), Delta("", "hi")]
    assert end == "broken"


async def test_a_record_cut_or_garbled_in_its_packing_is_a_failure(connect: Connect) -> None:
    body = gzip.compress(sample("retrieve.json"))
    plain = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    for data in (body[:-20], body[:20] + b"\xff" * 30):
        answer = f"{plain}Content-Length: {len(data)}\r\n\r\n".encode() + data
        async with serving(answer) as server, connect(server.url) as coze:
            with pytest.raises(UpstreamError) as caught:
                await coze.retrieve(REF)
            assert caught.value.code in (Code.UPSTREAM_UNAVAILABLE, Code.UPSTREAM_FAILED)


# -- bombs


def blanks(unit: bytes, *, raw: bool = False) -> tuple[bytes, bytes]:
    """The beginning of a bomb, and a block of it that may follow itself for ever."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(unit * (1_048_576 // len(unit))) + packer.flush(zlib.Z_FULL_FLUSH)
    return (b"" if raw else gzip.compress(b"")[:10]), block


class Watch:
    """How long the loop was held at a time, at most."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> "Watch":
        self._task = asyncio.create_task(self._look())
        await asyncio.sleep(0)
        return self

    async def _look(self) -> None:
        last = time.thread_time()  # the processor's time in this thread: other processes don't count
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest = max(self.longest, now - last)
            last = now

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()


UNITS = [b" ", b"x", b"\n", b": ping\n", b"data:\n\n", b"data:{}\n\n", b"event:error", b'{"', b"[", b"\r", b"id\n"]


async def bombed(coze: CozeUpstream) -> str:
    try:
        stream = await coze.chat(REQUEST, lambda items: None)
    except UpstreamError as error:
        return error.code
    end = await stream.ended()
    stream.close()
    return end


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("label", ["text/event-stream", "application/json", "text/plain"])
async def test_a_bomb_ends_the_stream_and_holds_nobody_up(connect: Connect, unit: bytes, label: str) -> None:
    begin, block = blanks(unit)
    sent = 0

    async def play(peer: Peer) -> None:
        nonlocal sent
        await peer.send(head(label, "200 OK", "Content-Encoding: gzip") + begin)
        while True:
            await peer.send(block * 64)
            sent += 64

    async with Watch() as watch, serving(play) as server, connect(server.url) as coze:
        began = time.thread_time()
        async with asyncio.timeout(30):
            end = await bombed(coze)
        assert time.thread_time() - began < 3
    assert end in ("too_large", "upstream_failed")
    assert watch.longest < 0.1


async def test_a_bomb_in_a_refusal_or_a_record_is_not_unpacked(connect: Connect) -> None:
    begin, block = blanks(b" ")
    bomb = begin + block * 2000

    async def play(peer: Peer) -> None:
        assert peer.request is not None
        status = "500 Oops" if "retrieve" not in peer.request.target else "200 OK"
        await peer.send(head("application/json", status, "Content-Encoding: gzip") + bomb)
        peer.writer.close()

    async with Watch() as watch, serving(play) as server, connect(server.url) as coze:
        began = time.process_time()
        for call, code in (
            (coze.chat(REQUEST, Heard()), Code.UPSTREAM_UNAVAILABLE),
            (coze.retrieve(REF), Code.UPSTREAM_FAILED),
        ):
            with pytest.raises(UpstreamError) as caught:
                await call
            assert caught.value.code is code
        assert time.process_time() - began < 2
    assert watch.longest < 0.1


async def test_after_done_nothing_is_unpacked(connect: Connect) -> None:
    begin, block = blanks(b"event:done\ndata:\n\n")
    began = time.process_time()
    items, end = await chat(connect, packed_head("gzip") + chunk(begin + block * 500))
    assert (items, end) == ([Done()], "finished")
    assert time.process_time() - began < 1


async def test_a_paused_packed_stream_unpacks_nothing(connect: Connect) -> None:
    text = CREATED + b"".join(
        b'event:conversation.message.delta\ndata:{"type":"answer","content":"%d "}\n\n' % n for n in range(20_000)
    )
    body = gzip.compress(text + b"event:done\ndata:\n\n")
    heard = Heard()
    async with serving(packed_head("gzip") + chunk(body) + LAST_CHUNK) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, heard)
        for _ in range(5):
            stream.pause()
            count = len(heard)
            await asyncio.sleep(0.02)  # nothing may come meanwhile
            assert len(heard) == count
            stream.resume()
            await asyncio.sleep(0.002)  # as long as some of it takes
        assert await stream.ended() == "finished"
        stream.close()
    pieces = "".join(item.text for item in heard if isinstance(item, Delta))
    assert pieces == "".join(f"{n} " for n in range(20_000))


async def test_a_large_record_may_be_packed(connect: Connect) -> None:
    text = "x" * 7_000_000
    record = f"event:conversation.message.delta\ndata:{json.dumps({'type': 'answer', 'content': text})}\n\n".encode()
    body = gzip.compress(record + b"event:done\ndata:\n\n")
    items, end = await chat(connect, packed_head("gzip") + chunk(body) + LAST_CHUNK)
    assert (items, end) == ([Delta("", text), Done()], "finished")


# -- the unpacker by itself


def unpack(data: bytes, sizes: list[int], *, is_gzip: bool) -> bytes:
    unpacker, out, at = Unpacker(gzip=is_gzip), b"", 0
    for size in itertools.cycle(sizes):
        if at >= len(data):
            break
        unpacker.feed(data[at : at + size])
        at += size
        while (piece := unpacker.step()) is not None:
            assert len(piece) <= 16 * 1024
            out += piece
    assert unpacker.whole
    return out


@pytest.mark.parametrize("seed", range(20))
def test_anything_packed_in_any_way_is_unpacked(seed: int) -> None:
    rng = random.Random(seed)
    texts = [rng.randbytes(rng.choice([0, 1, 500, 50_000])), bytes(rng.choice([0, 1, 16_384, 900_000]))]
    text = b"".join(texts)
    sizes = [rng.choice([1, 2, 5, 4096, 100_000]) for _ in range(3)]
    assert unpack(b"".join(map(gzip.compress, texts)) + bytes(rng.choice([0, 30])), sizes, is_gzip=True) == text
    assert unpack(zlib.compress(text) + bytes(rng.choice([0, 30])), sizes, is_gzip=False) == text


def test_thousands_of_members_cost_no_more_than_their_bytes() -> None:
    data = gzip.compress(b"x") * 20_000
    began = time.process_time()
    assert unpack(data, [len(data)], is_gzip=True) == b"x" * 20_000
    assert time.process_time() - began < 2


def test_what_is_cut_is_not_whole_and_what_is_wrong_is_said() -> None:
    data = gzip.compress(b"hello" * 100)
    for at in range(1, len(data)):
        unpacker = Unpacker(gzip=True)
        unpacker.feed(data[:at])
        while unpacker.step() is not None:
            pass
        assert not unpacker.whole
    unpacker = Unpacker(gzip=False)
    unpacker.feed(b"\xff\xff\xff")
    with pytest.raises(BadPacking):
        unpacker.step()


def test_beyond_8_mib_the_ratio_is_bounded() -> None:
    begin, block = blanks(b" ")
    unpacker = Unpacker(gzip=True)
    bomb = begin + block * 100
    unpacker.feed(bomb)
    out = 0

    def unpack_all() -> None:
        nonlocal out
        while (piece := unpacker.step()) is not None:
            out += len(piece)

    with pytest.raises(Overflow):
        unpack_all()
    assert FREE - 16_384 <= out <= FREE + 100 * len(bomb)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], ""),
        (["identity"], ""),
        (["", " , "], ""),
        (["GZIP"], "gzip"),
        (["identity", "x-gzip"], "gzip"),
        (["deflate,identity"], "deflate"),
        (["gzip", "gzip"], "unknown"),
        (["gzip;q=1"], "unknown"),
        (["br"], "unknown"),
    ],
)
def test_a_packing_goes_by_its_headers(values: list[str], kind: str) -> None:
    assert packing(values) == kind
