"""Reading from Coze never holds the loop for more than a moment, however small or large the records are."""

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gateway.errors import Code, UpstreamError
from gateway.ids import ConversationId, TurnId
from gateway.turns.turn import Turn
from gateway.upstream.coze_objects import Message
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.listing import entries_of, messages_of
from gateway.upstream.portions import PORTION, Portions
from gateway.upstream.protocol import (
    Answer,
    ChatCompleted,
    ChatFailed,
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
from gateway.upstream.refusal import refused
from gateway.upstream.sse import SseDecoder
from tests.upstream.conftest import Connect
from tests.upstream.servers import LAST_CHUNK, STREAM_HEAD, Peer, chunk, flooding, sample, serving
from tests.upstream.test_unpacking import Watch

REQUEST = ChatRequest(bot_id="b", user_id="u", message="hello")
MOMENT = 0.3
"""Seconds: three times the 0.1 s that nothing may hold the loop for, because the machine is busy."""
DELTA, COMPLETED, OVER = "conversation.message.delta", "conversation.message.completed", "conversation.chat.completed"
CREATED = b'event:conversation.chat.created\ndata:{"id":"7","conversation_id":"8"}\n\n'
SAID = b'event:conversation.message.delta\ndata:{"type":"answer","content":"hi","chat_id":"7"}\n\n'
DONE = b'event:done\ndata:"[DONE]"\n\n'


class Heard(list[Item]):
    def __call__(self, items: list[Item]) -> None:
        self.extend(item for item in items if not isinstance(item, Opened))


TINY = [
    b"\n",
    b"\r",
    b"\r\n",
    b":\n",
    b"id\n",
    b"event\n\n",
    b"data\n",
    b"data\n\n",
    b"data\r\r",
    b"data:x\n\n",
    b"data:[]\n\n",
    b'data:{"a":NaN}\n\n',
    b'data:{"message":1}\n\n',
    b'data:{"message":{"id":1}}\n\n',
    b'data:{"message":{"type":"answer","content":"\\ud83d"}}\n\n',
    b'data:{"message":{"type":"follow_up","content":"a"}}\n\n',
    b"event:a\rdata:\r\r",
    b"event:conversation.message.delta\ndata:x\n\n",
    b'event:conversation.message.delta\ndata:{"chat_id":"9"}\n\n',
    b'event:conversation.audio.delta\ndata:{"content":"a"}\n\n',
]


@pytest.fixture(autouse=True)
def no_old_garbage() -> None:
    """Keeps the garbage collector from objects of earlier tests, which may take as long as the reading itself."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize(
    ("unit", "chunked"), [*((unit, True) for unit in TINY), *((unit, False) for unit in TINY[::5])]
)
async def test_a_megabyte_of_anything_tiny_holds_nobody_up(connect: Connect, unit: bytes, chunked: bool) -> None:
    text = CREATED + unit * (300_000 // len(unit)) + b"\n\n" + SAID
    turn = Turn(ConversationId("conv_1"), TurnId("turn_1"), "en")
    items = Heard()

    def take(more: list[Item]) -> None:
        items(more)
        turn.take(more)

    async def play(peer: Peer) -> None:
        if chunked:
            await peer.send(STREAM_HEAD + b"".join(chunk(text[i : i + 50_000]) for i in range(0, len(text), 50_000)))
            await peer.send(chunk(DONE) + LAST_CHUNK)
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + text + DONE)

    async with serving(play) as server, connect(server.url) as coze, Watch() as watch:
        stream = await coze.chat(REQUEST, take)
        async with asyncio.timeout(30):
            assert await stream.ended() is StreamEnd.FINISHED
        stream.close()
    assert watch.longest < MOMENT
    assert items == ChatReader().items(SseDecoder().feed(text + DONE))


@pytest.mark.parametrize("whole", [True, False])
async def test_records_before_the_end_of_a_body_are_taken_before_the_end_is_told(connect: Connect, whole: bool) -> None:
    text = CREATED + b"data:x\n\n" * 100_000 + SAID
    heard = Heard()

    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(text) + (LAST_CHUNK if whole else b"no chunk\r\n"))
        peer.writer.close()

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, heard)
        async with asyncio.timeout(10):
            end = await stream.ended()
        stream.close()
    assert end is (StreamEnd.EOF if whole else StreamEnd.BROKEN)
    assert heard[0] == Created("7", "8")
    assert heard[-1] == Delta("", "hi")
    assert len(heard) == 100_002


async def test_a_stream_that_was_paused_in_the_middle_of_a_read_goes_on_with_it(connect: Connect) -> None:
    text = CREATED + SAID * 5_000
    heard = Heard()

    async with (
        serving(STREAM_HEAD + chunk(text) + chunk(DONE) + LAST_CHUNK) as server,
        connect(server.url, idle_timeout=0.2) as coze,
    ):
        stream = await coze.chat(REQUEST, heard)
        stream.pause()
        seen = len(heard)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(heard) == seen
        stream.resume()
        async with asyncio.timeout(10):
            assert await stream.ended() is StreamEnd.FINISHED
        stream.close()
    assert heard == ChatReader().items(SseDecoder().feed(text + DONE))


def test_portions_are_the_bytes_and_are_bounded() -> None:
    rng = random.Random(5)
    texts = [unit * (200_000 // len(unit)) for unit in TINY] + [sample("chat-plain.sse") * 3, b"x" * 300_000, b""]
    for text in texts:
        portions, out = Portions(), []
        at = 0
        while at < len(text):
            size = rng.choice([1, 100, 5_000, 70_000])
            portions.feed(text[at : at + size])
            at += size
            for _ in range(rng.choice([0, 1, 100])):
                if (portion := portions.step()) is None:
                    break
                out.append(portion)
        while (portion := portions.step()) is not None:
            out.append(portion)
        assert b"".join(out) == text
        assert portions.taken == len(text)
        assert all(len(portion) <= PORTION for portion in out)


def test_portions_of_ordinary_text_end_where_a_record_does() -> None:
    portions = Portions()
    portions.feed(sample("chat-plain.sse"))
    out = list(iter(portions.step, None))
    assert all(portion.endswith(b"\n\n") for portion in out if portion is not None)
    assert len(out) < len(sample("chat-plain.sse")) / 10_000


async def test_a_connection_is_used_again_after_a_large_last_read(connect: Connect) -> None:
    large = CREATED + b"data:x\n\n" * 20_000 + SAID + DONE

    async with serving(STREAM_HEAD + chunk(large) + LAST_CHUNK) as server, connect(server.url) as coze:
        for _ in range(3):
            stream = await coze.chat(REQUEST, heard := Heard())
            async with asyncio.timeout(2):
                assert await stream.ended() is StreamEnd.FINISHED
            await asyncio.sleep(0)
            stream.close()
            assert heard[-2:] == [Delta("", "hi"), Done()]
        assert server.connections == 1


async def test_a_stream_that_is_paused_after_its_body_has_ended_pauses_nobody_elses(connect: Connect) -> None:
    large = CREATED + b"data:x\n\n" * 20_000 + SAID
    streams: list[ChatStream] = []
    paused = asyncio.Event()

    def take(items: list[Item]) -> None:
        if Delta("", "hi") in items:
            streams[0].pause()
            paused.set()

    async with serving(STREAM_HEAD + chunk(large) + LAST_CHUNK) as server, connect(server.url) as coze:
        streams.append(await coze.chat(REQUEST, take))
        async with asyncio.timeout(5):
            await paused.wait()
            streams.append(await coze.chat(REQUEST, heard := Heard()))
            assert await streams[1].ended() is StreamEnd.EOF
        assert heard[-1] == Delta("", "hi")
        assert server.connections == 1
        for stream in streams:
            stream.close()


# -- how many heads, how many chunks

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FLOODS = {
    "informational heads": CONTINUE,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    "answers": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
}


def held_up(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """How long `work` holds the loop that the gateway runs on, which reads again and again while there is more."""

    async def watched() -> float:
        async with Watch() as watch:
            await work()
        return watch.longest

    return uvloop.run(watched())


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_heads_is_cut(name: str, connect: Connect) -> None:
    with flooding(FLOODS[name] * (3_000_000 // len(FLOODS[name]))) as url:

        async def work() -> None:
            async with connect(url) as coze:
                with pytest.raises(UpstreamError) as caught:
                    await coze.chat(REQUEST, lambda items: None)
                assert caught.value.code is Code.UPSTREAM_FAILED

        assert held_up(work) < MOMENT


async def test_a_few_informational_heads_do_no_harm(connect: Connect) -> None:
    async with (
        serving(CONTINUE * 3 + STREAM_HEAD + chunk(CREATED + SAID + DONE) + LAST_CHUNK) as server,
        connect(server.url) as coze,
    ):
        stream = await coze.chat(REQUEST, heard := Heard())
        assert await stream.ended() is StreamEnd.FINISHED
        stream.close()
        assert heard == [Created("7", "8"), Delta("", "hi"), Done()]


def test_a_flood_of_chunks_of_a_byte_is_read_a_moment_at_a_time(connect: Connect) -> None:
    text = CREATED + SAID * 5_000 + DONE
    heard = Heard()
    with flooding(STREAM_HEAD + b"".join(b"1\r\n%c\r\n" % byte for byte in text) + LAST_CHUNK) as url:

        async def work() -> None:
            async with connect(url) as coze:
                stream = await coze.chat(REQUEST, heard)
                assert await stream.ended() is StreamEnd.FINISHED
                stream.close()

        assert held_up(work) < MOMENT
    assert heard == ChatReader().items(SseDecoder().feed(text))


# -- one large record


def record(name: str, form: str, filling: str = "") -> bytes:
    """A record whose data is `form` with `filling` at its mark."""
    return f"event:{name}\ndata:{form.replace('@', filling)}\n\n".encode()


def times(unit: str, size: int = 8_380_000) -> str:
    return unit * (size // len(unit.encode()))


LARGE: dict[str, Callable[[], bytes]] = {
    "lone halves": lambda: record(DELTA, '{"content":"@"}', times("\\ud83d")),
    "lone halves that are skipped": lambda: record(DELTA, '{"x":"@"}', times("\\ude00")),
    "a lone half and a text": lambda: record(DELTA, '{"content":"\\ud83d@"}', times("ab", 6_000_000)),
    "a lone half and emoji": lambda: record(DELTA, '{"content":"\\ud83d@"}', times("😀", 6_000_000)),
    "digits": lambda: record(COMPLETED, '{"id":@}', times("9")),
    "many fields and a number as an id": lambda: record(DELTA, '{"id":1,@"z":1}', times('"a":1,', 1_100_000)),
    "many fields and a wrong one": lambda: record(DELTA, '{"id":1e999,@"z":1}', times('"a":1,', 1_100_000)),
    "usage": lambda: record(OVER, json.dumps({"usage": {str(n): 1 for n in range(199_000)}})),
    "usage with halves": lambda: record(OVER, '{"usage":["\\ud83d"@]}', times(',"\\ud83d"', 1_800_000)),
    "tool calls": lambda: record(
        "conversation.chat.requires_action",
        '{"required_action":{"submit_tool_outputs":{"tool_calls":[{}@]}}}',
        times(",{}", 500_000),
    ),
    "deep tool calls": lambda: record(
        "conversation.chat.requires_action",
        '{"required_action":{"submit_tool_outputs":{"tool_calls":[{}@]}}}',
        times(',{"a":' + "[" * 50 + "]" * 50 + "}", 100_000),
    ),
    "a failure": lambda: record("conversation.chat.failed", '{"last_error":{"msg":"@"}}', times("\\ud83d")),
    "a failure without a name": lambda: record("message", '{"error_information":[[]@]}', times(",[]")),
    "nonsense with digits": lambda: record(DELTA, '{"content":x@', times("1" * 18 + " ")),
    "nonsense after blanks": lambda: record(DELTA, times(" ") + "x"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_record_is_read_in_a_moment(name: str) -> None:
    events = SseDecoder().feed(LARGE[name]())
    assert len(events) == 1
    took = []
    for _ in range(4):  # a busy machine makes one slow, not all
        reader, turn = ChatReader("7"), Turn(ConversationId("conv_1"), TurnId("turn_1"), "en")
        began = time.thread_time()
        turn.take(reader.items(events))
        took.append(time.thread_time() - began)
        if took[-1] < MOMENT:
            break
    assert min(took) < MOMENT


def test_the_largest_text_of_a_turn_is_read_with_a_lone_half_in_it() -> None:
    text = "\\u4e2d" * 690_000
    assert ChatReader().items(SseDecoder().feed(record(COMPLETED, '{"type":"answer","content":"@\\ud83d"}', text))) == [
        Answer("", "中" * 690_000 + "\ufffd", "text")
    ]


def test_a_failure_is_one_however_large() -> None:
    reader = ChatReader()
    items = reader.items(SseDecoder().feed(record("conversation.chat.failed", '{"x":[1@]}', times(",1", 100_000))))
    assert items == [Skipped("malformed"), ChatFailed(None, "", exists=True)]


def test_of_the_usage_a_few_counts_are_passed_on() -> None:
    usage = {"token_count": 3, "x" * 1000: "y" * 1000, "none": None, "list": [1]} | {str(n): n for n in range(1000)}
    (item,) = ChatReader().items(SseDecoder().feed(record(OVER, json.dumps({"usage": usage}))))
    assert isinstance(item, ChatCompleted)
    assert item.usage is not None
    assert item.usage["token_count"] == 3
    assert len(item.usage) <= 64
    assert len(json.dumps(item.usage)) < 2_000


def test_levels_in_a_field_that_is_not_used_do_no_harm() -> None:
    body = r'{"type":"answer","content":"a\ud800b","x":' + "[" * 100 + "]" * 100 + "}"
    assert ChatReader().items(SseDecoder().feed(record(DELTA, body))) == [Delta("", "a\ufffdb")]


def test_a_record_of_many_lines_is_kept_as_its_bytes() -> None:
    import tracemalloc

    text = b"data: xy\n" * 100_000
    tracemalloc.start()
    decoder = SseDecoder()
    for at in range(0, len(text), 4096):
        assert not decoder.feed(text[at : at + 4096])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * len(text)
    assert decoder.feed(b"\n") == [(b"", b"\n".join([b"xy"] * 100_000))]


def test_many_answers_rewritten_in_one_portion_take_a_moment() -> None:
    took = []
    for _ in range(4):
        turn = Turn(ConversationId("conv_1"), TurnId("turn_1"), "en")
        say(turn, DELTA, "a", range(990))
        began = time.thread_time()
        say(turn, COMPLETED, "b", range(170))
        took.append(time.thread_time() - began)
        assert turn.content == "\n\n".join(["b"] * 170 + ["a"] * 820)
    assert min(took) < MOMENT


def say(turn: Turn, name: str, content: str, numbers: range) -> None:
    form = '{"id":"@","type":"answer","content":"' + content + '"}'
    text = b"".join(record(name, form, str(number)) for number in numbers)
    turn.take(ChatReader().items(SseDecoder().feed(text)))


# -- answers that are no stream


def test_an_answer_that_is_no_stream_is_looked_at_in_a_moment() -> None:
    for body in (b"x\n" + b"data\n\n" * 50_000, b"x" + b"id\n" * 100_000, b'{"code":' + b"1e999," * 50_000):
        began = time.thread_time()
        refused(200, {}, body)
        assert time.thread_time() - began < MOMENT


@pytest.mark.parametrize("entry", ['{"type":"answer","content":"a","id":%d}', '["%d"]', '{"content":"\\ud83d","x":%d}'])
async def test_a_list_of_messages_is_read_a_moment_at_a_time(entry: str) -> None:
    body = ('{"code":0,"data":[' + ",".join(entry % n for n in range(9_999)) + "]}").encode()
    async with Watch() as watch:
        messages: list[Message] = [message async for message, _ in messages_of(entries_of(200, {}, body))]
    assert len(messages) == (0 if entry.startswith("[") else 9_999)
    assert watch.longest < MOMENT


def test_the_portion_in_which_a_long_record_ends_has_nothing_after_it() -> None:
    long, short = b"data:" + b"x" * 300_000 + b"\n\n", b"data:y\n\n"
    portions = Portions()
    portions.feed(short + long + short + short)
    given: list[bytes] = []
    while (piece := portions.step()) is not None:
        given.append(piece)
    assert b"".join(given) == short + long + short + short
    assert given[0] == short
    assert given[-1] == short + short
    assert given[-2].endswith(b"x\n\n")
    assert not portions.in_long_record
