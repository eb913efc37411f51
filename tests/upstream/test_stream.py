"""An accepted chat: its items, its end, and what becomes of its connection."""

import asyncio
import json
import time
from typing import Any

import pytest

from gateway.errors import Code, UpstreamError
from gateway.telemetry.ledger import Ledger
from gateway.upstream import stream as stream_module
from gateway.upstream.coze import CozeUpstream
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import (
    Answer,
    ChatCompleted,
    ChatRef,
    ChatRequest,
    ChatStream,
    Created,
    Delta,
    Done,
    Item,
    Opened,
    Skipped,
    StreamEnd,
)
from gateway.upstream.sse import SseDecoder
from tests.upstream.conftest import Connect, Outcomes
from tests.upstream.servers import LAST_CHUNK, SAMPLES, STREAM_HEAD, Peer, Play, chunk, sample, serving, streaming

REQUEST = ChatRequest(bot_id="b", user_id="u", message="hello")
CREATED = b'event:conversation.chat.created\ndata:{"id":"7","conversation_id":"8"}\n\n'
DONE = b"event:done\ndata:\n\n"


def delta(text: str) -> bytes:
    return f"event:conversation.message.delta\ndata:{json.dumps({'type': 'answer', 'content': text})}\n\n".encode()


class Listener:
    """Takes a stream's items, and lets a test wait for them. Its name comes before the first, and only there."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.named: list[Item] = []
        self.calls = 0
        self.news = asyncio.Event()

    def __call__(self, items: list[Item]) -> None:
        assert items
        named = [item for item in items if isinstance(item, Opened)]
        assert not named or (items[0] == named[0] and not (self.items or self.named))
        self.named += named
        self.items += [item for item in items if not isinstance(item, Opened)]
        self.calls += 1
        self.news.set()

    @property
    def text(self) -> str:
        return "".join(item.text for item in self.items if isinstance(item, Delta))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.items) < count:
                self.news.clear()
                await self.news.wait()


async def ended(stream: ChatStream) -> StreamEnd:
    async with asyncio.timeout(10):
        return await stream.ended()


async def played(connect: Connect, play: Play | bytes, **options: Any) -> tuple[list[Item], StreamEnd]:
    """The items and the end of a stream that the play gives."""
    listener = Listener()
    async with serving(play) as server, connect(server.url, **options) as coze:
        stream = await coze.chat(REQUEST, listener)
        end = await ended(stream)
        count = len(listener.items)
        stream.close()
        stream.close()
        assert await ended(stream) is end
        assert len(listener.items) == count
        return listener.items, end


@pytest.mark.parametrize(
    "path", [path for path in sorted(SAMPLES.glob("*.sse")) if path.stem != "v2-chat-error"], ids=lambda path: path.name
)
@pytest.mark.parametrize("size", [100, 4096])
async def test_each_sample_arrives_over_http_as_it_is_decoded(connect: Connect, path: Any, size: int) -> None:
    text = path.read_bytes()
    expected = ChatReader().items(SseDecoder().feed(text))
    items, end = await played(connect, streaming(*(text[i : i + size] for i in range(0, len(text), size))))
    assert items == expected
    assert end is (StreamEnd.FINISHED if Done() in expected else StreamEnd.EOF)


async def test_the_log_id_is_cozes_own(connect: Connect) -> None:
    async with serving(streaming(DONE)) as server, connect(server.url) as coze:
        listener = Listener()
        stream = await coze.chat(REQUEST, listener)
        assert stream.log_id == "2025ABC"
        assert listener.named == [Opened("2025ABC")]
        stream.close()


@pytest.mark.parametrize(
    "kind",
    [
        b"text/event-stream; charset=utf-8",
        b"TEXT/Event-Stream",
        b"text/plain",
        b"application/octet-stream",
        b"text/html",
        b"",
    ],
)
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b": hello\n\n", b"id: 1\n"])
async def test_an_event_stream_under_a_wrong_name_works(connect: Connect, kind: bytes, begin: bytes) -> None:
    head = STREAM_HEAD.replace(b"text/event-stream", kind)
    items, end = await played(connect, head + chunk(begin + delta("hi")) + chunk(DONE) + LAST_CHUNK)
    assert (items, end) == ([Delta("", "hi"), Done()], StreamEnd.FINISHED)


# -- how a stream ends


async def send_and(peer: Peer, data: bytes, how: str) -> None:
    await peer.send(STREAM_HEAD + data)
    await asyncio.sleep(0.02)  # so that the end is a read of its own, as it is in life
    if how == "RST":
        peer.reset()
    elif how == "FIN":
        peer.writer.close()
    else:
        await peer.send(how.encode())


@pytest.mark.parametrize(
    ("data", "how", "end"),
    [
        (chunk(delta("a")), "0\r\n\r\n", StreamEnd.EOF),
        (chunk(delta("a")) + chunk(b": ping\n\n"), "0\r\n\r\n", StreamEnd.EOF),
        (chunk(delta("a")) + chunk(delta("b")[:-9]), "0\r\n\r\n", StreamEnd.BROKEN),
        (chunk(delta("a")) + chunk(delta("b")[:-3]), "0\r\n\r\n", StreamEnd.BROKEN),
        (chunk(delta("a")) + chunk(delta("b")[:-1]), "FIN", StreamEnd.BROKEN),
        (chunk(delta("a")) + chunk(delta("b")[:-1]), "RST", StreamEnd.BROKEN),
        (chunk(delta("a")) + chunk("data:西".encode()[:-1]), "0\r\n\r\n", StreamEnd.BROKEN),
        (chunk(delta("a")), "FIN", StreamEnd.BROKEN),
        (chunk(delta("a")), "RST", StreamEnd.BROKEN),
        (chunk(delta("a")) + b"ff\r\n" + delta("b")[:20], "FIN", StreamEnd.BROKEN),
        (chunk(delta("a")) + b"ff\r\n" + delta("b")[:20], "RST", StreamEnd.BROKEN),
        (chunk(delta("a")), "not a chunk\r\n", StreamEnd.BROKEN),
        (chunk(delta("a")) + chunk(DONE), "RST", StreamEnd.FINISHED),
        (chunk(delta("a")) + chunk(DONE), "FIN", StreamEnd.FINISHED),
        (chunk(delta("a")) + chunk(DONE + delta("late")), "0\r\n\r\n", StreamEnd.FINISHED),
    ],
)
async def test_an_end_is_told_for_what_it_is(connect: Connect, data: bytes, how: str, end: StreamEnd) -> None:
    items, found = await played(connect, lambda peer: send_and(peer, data, how))
    assert found is end
    assert [item for item in items if item != Done()] == [Delta("", "a")]


async def test_a_body_without_length_may_end_with_done(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + delta("a") + DONE)
        peer.writer.close()

    assert await played(connect, play) == ([Delta("", "a"), Done()], StreamEnd.FINISHED)


async def test_silence_ends_the_stream_after_the_idle_time_out(connect: Connect) -> None:
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(delta("a")))
        await peer.closed()
        gone.set()

    listener = Listener()
    async with serving(play) as server, connect(server.url, idle_timeout=0.3) as coze:
        stream = await coze.chat(REQUEST, listener)
        began = time.monotonic()
        assert await ended(stream) is StreamEnd.IDLE
        assert 0.25 < time.monotonic() - began < 1.5
        async with asyncio.timeout(1):
            await gone.wait()
        assert listener.items == [Delta("", "a")]


async def test_a_stream_that_sends_only_its_head_is_idle(connect: Connect) -> None:
    assert await played(connect, STREAM_HEAD, idle_timeout=0.2) == ([], StreamEnd.IDLE)


async def test_any_byte_counts_against_silence(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        for _ in range(8):
            await asyncio.sleep(0.1)  # Coze drips, more often than silence is allowed
            await peer.send(chunk(b":\n"))
        await peer.send(chunk(DONE) + LAST_CHUNK)

    assert await played(connect, play, idle_timeout=0.4) == ([Done()], StreamEnd.FINISHED)


@pytest.mark.parametrize("piece", [b"data:" + b"x" * 65_531, b"data:" + b"x" * 1000 + b"\n"])
async def test_a_record_without_end_is_given_up(connect: Connect, piece: bytes) -> None:
    sent, gone = 0, asyncio.Event()

    async def play(peer: Peer) -> None:
        nonlocal sent
        await peer.send(STREAM_HEAD + chunk(delta("a")))
        many = chunk(piece) * 16
        try:
            while sent < 100_000_000:
                await peer.send(many)
                sent += len(many)
        finally:
            gone.set()

    items, end = await played(connect, play)
    assert (items, end) == ([Delta("", "a")], StreamEnd.TOO_LARGE)
    async with asyncio.timeout(1):
        await gone.wait()
    assert sent < 40_000_000


async def test_a_record_of_a_mebibyte_passes(connect: Connect) -> None:
    text = "西" * 400_000
    items, end = await played(connect, streaming(delta(text), DONE))
    assert (items, end) == ([Delta("", text), Done()], StreamEnd.FINISHED)


# -- pausing and closing


async def test_a_paused_stream_is_not_idle_and_goes_on(connect: Connect) -> None:
    listener, go_on = Listener(), asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(delta("a")))
        await go_on.wait()
        await peer.send(chunk(delta("b")) + chunk(DONE) + LAST_CHUNK)

    async with serving(play) as server, connect(server.url, idle_timeout=0.3) as coze:
        stream = await coze.chat(REQUEST, listener)
        await listener.until(1)
        stream.pause()
        stream.pause()
        go_on.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.8):
                await stream.ended()
        assert listener.text == "a"
        stream.resume()
        stream.resume()
        assert await ended(stream) is StreamEnd.FINISHED
        assert listener.text == "ab"
        stream.close()
        stream.pause()
        stream.resume()


async def test_a_stream_that_was_resumed_can_be_idle_again(connect: Connect) -> None:
    async with serving(STREAM_HEAD) as server, connect(server.url, idle_timeout=0.2) as coze:
        stream = await coze.chat(REQUEST, Listener())
        stream.pause()
        await asyncio.sleep(0.3)  # longer than silence is allowed: while paused it is none
        stream.resume()
        assert await ended(stream) is StreamEnd.IDLE


async def test_a_closed_stream_is_closed_at_coze_and_says_nothing_more(connect: Connect, ledger: Ledger) -> None:
    listener, gone = Listener(), asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(delta("a")))
        await peer.closed()
        gone.set()

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, listener)
        await listener.until(1)
        waiting = asyncio.create_task(stream.ended())
        await asyncio.sleep(0)
        stream.close()
        assert ledger.count("upstream") == 0
        assert await waiting is StreamEnd.BROKEN
        async with asyncio.timeout(1):
            await gone.wait()


async def test_a_stream_can_be_closed_from_inside_its_own_items(connect: Connect, ledger: Ledger) -> None:
    seen: list[Item] = []
    got: asyncio.Future[ChatStream] = asyncio.get_running_loop().create_future()
    ready = asyncio.Event()

    def on_items(items: list[Item]) -> None:
        seen.extend(item for item in items if not isinstance(item, Opened))
        if got.done():
            got.result().close()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(CREATED))
        await ready.wait()
        await peer.send(chunk(delta("a")) + chunk(DONE) + LAST_CHUNK + b"junk")
        await peer.send(chunk(delta("b")))

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, on_items)
        got.set_result(stream)
        ready.set()
        await ended(stream)
        await asyncio.sleep(0.05)  # nothing may come meanwhile
        assert seen == [Created("7", "8"), Delta("", "a"), Done()]
        assert ledger.count("upstream") == 0


async def test_waiting_for_the_end_can_be_cancelled_and_begun_again(connect: Connect) -> None:
    go_on = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(CREATED))
        await go_on.wait()
        await peer.send(chunk(DONE) + LAST_CHUNK)

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, Listener())
        for _ in range(2):
            waiting = asyncio.create_task(stream.ended())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        go_on.set()
        assert await ended(stream) is StreamEnd.FINISHED
        stream.close()


# -- connections


async def test_a_finished_streams_connection_is_used_again(connect: Connect, ledger: Ledger) -> None:
    async with serving(streaming(delta("a"), DONE)) as server, connect(server.url) as coze:
        for _ in range(3):
            stream = await coze.chat(REQUEST, Listener())
            assert await ended(stream) is StreamEnd.FINISHED
            stream.close()
        assert (server.connections, len(server.requests)) == (1, 3)
        assert ledger.count("upstream") == 0


async def test_a_last_chunk_that_comes_late_still_gives_the_connection_back(connect: Connect, ledger: Ledger) -> None:
    closed = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(DONE))
        await closed.wait()
        await peer.send(LAST_CHUNK)

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, Listener())
        await ended(stream)
        stream.close()
        assert ledger.count("upstream") == 1, "still waiting for the last chunk"
        closed.set()
        await asyncio.sleep(stream_module.LINGER_SECONDS / 4)  # loopback takes no time; waiting for the limit would
        assert ledger.count("upstream") == 0
        again = await coze.chat(REQUEST, Listener())
        again.close()
        assert server.connections == 1


async def test_a_response_held_open_after_done_is_closed_before_long(connect: Connect, ledger: Ledger) -> None:
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(DONE))
        await peer.closed()
        gone.set()

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, Listener())
        assert await ended(stream) is StreamEnd.FINISHED
        stream.close()
        async with asyncio.timeout(stream_module.LINGER_SECONDS + 0.5):
            await gone.wait()
        assert ledger.count("upstream") == 0


async def test_a_stream_closed_early_gives_nothing_back(connect: Connect) -> None:
    async with serving(STREAM_HEAD + chunk(CREATED), streaming(DONE)) as server, connect(server.url) as coze:
        (await coze.chat(REQUEST, Listener())).close()
        stream = await coze.chat(REQUEST, Listener())
        assert await ended(stream) is StreamEnd.FINISHED
        assert server.connections == 2


async def test_closing_the_client_ends_its_streams(connect: Connect, ledger: Ledger) -> None:
    async with serving(STREAM_HEAD + chunk(DONE), STREAM_HEAD + chunk(CREATED)) as server, connect(server.url) as coze:
        streams = [await coze.chat(REQUEST, Listener()) for _ in range(2)]
        await ended(streams[0])
        await coze.close()
        assert [await ended(stream) for stream in streams] == [StreamEnd.FINISHED, StreamEnd.BROKEN]
        assert ledger.count("upstream") == 0


async def test_an_exception_in_a_listener_leaves_nothing_open(connect: Connect, ledger: Ledger) -> None:
    def on_items(items: list[Item]) -> None:
        raise RuntimeError("broken listener")

    async with serving(STREAM_HEAD + chunk(delta("a"))) as server, connect(server.url) as coze:
        loud: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: loud.append(context))
        try:
            stream = await coze.chat(REQUEST, on_items)
        except RuntimeError:
            pass
        else:
            assert await ended(stream) is StreamEnd.BROKEN
            assert [str(context["exception"]) for context in loud] == ["broken listener"]
        assert ledger.count("upstream") == 0


async def test_two_hundred_streams_at_once_keep_apart(connect: Connect, ledger: Ledger) -> None:
    async def play(peer: Peer) -> None:
        assert peer.request is not None
        name = json.loads(peer.request.body)["user_id"]
        await peer.send(STREAM_HEAD)
        for number in range(20):
            await peer.send(chunk(delta(f"{name}:{number} ")))
            await asyncio.sleep(0)
        await peer.send(chunk(DONE) + LAST_CHUNK)

    async def one(coze: CozeUpstream, name: str) -> str:
        listener = Listener()
        stream = await coze.chat(ChatRequest("b", name, "x"), listener)
        assert await ended(stream) is StreamEnd.FINISHED
        stream.close()
        return listener.text

    async with serving(play) as server, connect(server.url) as coze:
        names = [f"user{i}" for i in range(200)]
        texts = await asyncio.gather(*(one(coze, name) for name in names))
        assert texts == ["".join(f"{name}:{number} " for number in range(20)) for name in names]


async def test_raw_bytes_are_logged_masked_on_demand(connect: Connect) -> None:
    lines: list[str] = []
    items, _ = await played(connect, streaming(delta("call 138"), delta("mail a@b.com"), DONE), log_bytes=lines.append)
    assert "".join(lines) == (delta("call 138") + delta("mail a@b.com") + DONE).decode().replace("a@b.com", "***")
    assert items[1] == Delta("", "mail a@b.com")


# -- tool outputs


async def test_tool_outputs_go_on_with_the_same_chat(connect: Connect, outcomes: Outcomes) -> None:
    ref = ChatRef("7569351190027943976", "7569312240118845480")
    foreign = sample("chat-plain.sse")
    async with (
        serving(streaming(sample("chat-submit-tool-outputs.sse")), streaming(foreign)) as server,
        connect(server.url) as coze,
    ):
        listener = Listener()
        stream = await coze.submit_tool_outputs(ref, [("BUJJ+/=", "on\ud800")], listener)
        assert await ended(stream) is StreamEnd.FINISHED
        stream.close()
        assert listener.items[0] == Created(ref.chat_id, ref.conversation_id)
        assert any(isinstance(item, Answer) for item in listener.items)
        request = server.requests[0]
        assert request.method == "POST"
        assert request.target == (
            f"/v3/chat/submit_tool_outputs?conversation_id={ref.conversation_id}&chat_id={ref.chat_id}"
        )
        assert json.loads(request.body) == {
            "stream": True,
            "tool_outputs": [{"tool_call_id": "BUJJ+/=", "output": "on\ufffd"}],
        }
        assert outcomes == [("submit_tool_outputs", "ok")]

        strange = Listener()
        await ended(await coze.submit_tool_outputs(ref, [], strange))
        assert {type(item) for item in strange.items} == {Skipped, Done}


async def test_a_refused_submission_is_refused_like_a_chat(connect: Connect) -> None:
    async with serving(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.submit_tool_outputs(ChatRef("7", "8"), [("a", "b")], Listener())
        assert (caught.value.code, caught.value.taken) == (Code.UPSTREAM_UNAVAILABLE, "no")


async def test_one_call_brings_all_items_of_a_read(connect: Connect) -> None:
    listener = Listener()
    text = sample("chat-plain.sse")
    async with (
        serving(streaming(*(b + b"\n\n" for b in text.split(b"\n\n") if b))) as server,
        connect(server.url) as coze,
    ):
        stream = await coze.chat(REQUEST, listener)
        await ended(stream)
        stream.close()
    assert len(listener.items) > 60
    assert listener.calls < 10
    assert any(isinstance(item, ChatCompleted) for item in listener.items)
