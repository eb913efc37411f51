"""Faults: every one of the table can be asked for, acts, and does what it says."""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from gateway.simulator import Fault, start_simulator, whole_text
from gateway.simulator.faults import SHAPING, TAKING_NOTHING, UnknownFault, parse_plan
from tests.simulator.caller import Caller, exact_records, raw_exchange

BRIEFLY = {Fault.SLOW_HEAD, Fault.SLOW_FIRST, Fault.HOLD_OPEN, Fault.RETRIEVE_SLOW}
NEEDS = {Fault.TIMES: "status", Fault.RETRY_AFTER: "status:429", Fault.CLOCK: "", Fault.AUDIO_ONLY: ""}


def message_with(fault: Fault) -> str:
    value = ":20" if fault in BRIEFLY else ""
    return f"/fault {NEEDS.get(fault, 'plain pieces:12')} {fault.value}{value} 你好"


@pytest.mark.parametrize("fault", Fault)
async def test_every_fault_acts(caller: Caller, fault: Fault) -> None:
    await raw_exchange(caller.simulator.url, message_with(fault), within=0.2, total=0.4)
    if fault not in TAKING_NOTHING and fault not in NEEDS:
        chat = await caller.start(message_with(fault))
        ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}
        await caller.ask("GET", "/v3/chat/retrieve", params=ids)
        await caller.ask("GET", "/v3/chat/message/list", params=ids)
        await caller.ask("POST", "/v3/chat/cancel", json=ids)
    assert caller.simulator.faults_fired[fault] >= 1


async def test_without_a_plan_nothing_acts(caller: Caller) -> None:
    for message in ("你好", "/faulty towers", "a /fault status", "--"):
        records = await caller.records(message)
        assert records[-1] == ("done", "[DONE]")
    assert not caller.simulator.faults_fired


def test_a_plan_is_its_faults_and_the_rest_of_the_message() -> None:
    plan = parse_plan("/fault drop-after:5  retrieve-500 tell me: why")
    assert dict(plan.faults) == {Fault.DROP_AFTER: 5, Fault.RETRIEVE_500: 2}
    assert plan.message == "tell me: why"
    assert parse_plan("/fault empty -- empty words").message == "empty words"
    assert parse_plan("/fault empty").message == ""
    assert parse_plan("/fault\tempty\n bom\r\nline one\n line two \n").message == "line one\n line two \n"
    assert parse_plan("/fault redirect:http://h:1/a_b x").text(Fault.REDIRECT) == "http://h:1/a_b"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("/fault", "names no fault"),
        ("/fault  ", "names no fault"),
        ("/fault nosuch x", "'nosuch'"),
        ("/fault drop-after:3 retreive-500:2 x", "'retreive-500'"),
        ("/fault drop-after:three x", "whole number"),
        ("/fault drop-after:-1 x", "whole number"),
        ("/fault drop-after: x", "whole number"),
        ("/fault status:99 x", "200 to 599"),
        ("/fault giant:999999999999 x", "whole number, 0 to 67108864"),
        ("/fault drop-after:٣ x", "whole number"),
        ("/fault empty:1 x", "no value"),
    ],
)
async def test_a_plan_that_cannot_be_read_is_refused_with_what_is_known(
    caller: Caller, message: str, says: str
) -> None:
    with pytest.raises(UnknownFault, match=says):
        parse_plan(message)
    async with caller.post(message) as response:
        body = await response.json()
    assert (response.status, body["code"]) == (200, 4000)
    assert says in body["msg"]
    assert caller.simulator.chats_started == 0


@pytest.mark.parametrize("fault", sorted(TAKING_NOTHING))
async def test_a_refused_message_starts_no_chat_and_is_taken_after_its_times(caller: Caller, fault: Fault) -> None:
    message = f"/fault {fault.value} times:2 pieces:1 x"
    for _ in range(2):
        got, _ = await raw_exchange(caller.simulator.url, message)
        assert b"event:" not in got
    assert caller.simulator.chats_started == 0
    assert (await caller.records(message))[-1] == ("done", "[DONE]")
    assert caller.simulator.chats_started == 1
    assert caller.simulator.posts_of(message) == 3


async def test_refusals_have_the_status_code_page_or_address_asked_for(caller: Caller) -> None:
    async with caller.post("/fault status:429 retry-after:Wed,_21_Oct_2099_07:28:00_GMT x") as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "Wed, 21 Oct 2099 07:28:00 GMT"
    async with caller.post("/fault code:4016 x") as response:
        assert (response.status, (await response.json())["code"]) == (200, 4016)
    async with caller.post("/fault status:502 html x") as response:
        assert (response.status, response.content_type) == (502, "text/html")
    async with caller.post("/fault html x") as response:
        assert (response.status, response.content_type) == (200, "text/html")
    async with caller.post("/fault redirect:http://127.0.0.1:9/x_y x") as response:
        assert (response.status, response.headers["Location"]) == (307, "http://127.0.0.1:9/x_y")
    with pytest.raises(aiohttp.ClientConnectionError):
        await caller.stream("/fault refuse x")
    with pytest.raises(aiohttp.ClientError):
        await caller.stream("/fault bad-http x")
    got, _ = await raw_exchange(caller.simulator.url, "/fault big-header:100000 x")
    assert len(got) > 100_000
    assert got.startswith(b"HTTP/1.1 200 OK\r\nX-Filler: ")


@pytest.mark.parametrize(
    ("fault", "end", "has_head", "pieces"),
    [
        ("no-head", "silence", False, 0),
        ("reset-before-head", "reset", False, 0),
        ("silent", "silence", True, 0),
        ("eof-before-created", "eof", True, 0),
        ("drop-before-created", "eof", True, 0),
        ("reset-before-created", "reset", True, 0),
        ("stall-after:4", "silence", True, 4),
        ("eof-after:4", "eof", True, 4),
        ("drop-after:4", "eof", True, 4),
        ("reset-after:4", "reset", True, 4),
        ("cut-record-after:4", "eof", True, 5),
        ("cut-utf8-after:4", "eof", True, 5),
        ("cut-chunk-after:4", "eof", True, 5),
        ("reset-after:0", "reset", True, 0),
    ],
)
async def test_a_broken_stream_ends_as_asked_and_the_record_is_whole(
    caller: Caller, fault: str, end: str, has_head: bool, pieces: int
) -> None:
    message = f"/fault {fault} pieces:12 plain rate:200 x"
    got, ended = await raw_exchange(caller.simulator.url, message, within=0.4)
    assert ended == end
    assert (b"text/event-stream" in got) == has_head
    assert got.count(b"event:conversation.message.delta") == pieces
    clean = got.endswith(b"0\r\n\r\n")
    assert clean == (fault.startswith(("eof", "cut-record", "cut-utf8")))
    assert caller.simulator.chats_started == 1
    chat = await caller.start(message)
    await caller.finished(chat)
    answer = next(m for m in await caller.messages(chat) if m["type"] == "answer")
    assert answer["content"] == whole_text(message)


async def test_a_cut_character_is_cut_inside_its_bytes(caller: Caller) -> None:
    stream = await caller.stream("/fault cut-utf8-after:2 plain x")
    with pytest.raises(UnicodeDecodeError):
        stream.decode()
    assert stream[:-2].decode()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_resets_are_resets_on_either_loop(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def ends() -> list[str]:
        simulator = await start_simulator(first_ms=0, rate=0)
        try:
            faults = ("refuse", "reset-before-head", "reset-before-created", "reset-after:2")
            return [(await raw_exchange(simulator.url, f"/fault {fault} x"))[1] for fault in faults]
        finally:
            await simulator.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(ends()) == ["reset"] * 4


async def test_slowness_is_where_it_was_asked_for(caller: Caller) -> None:
    loop = asyncio.get_running_loop()

    async def moments(faults: str) -> tuple[float, float, float]:
        """Milliseconds to the head, to the first line, to the end."""
        began = loop.time()
        async with caller.post(f"/fault {faults} pieces:2 x") as response:
            head = loop.time()
            await response.content.readline()
            first = loop.time()
            await response.read()
        return tuple((at - began) * 1000 for at in (head, first, loop.time()))  # type: ignore[return-value]

    head, _, _ = await moments("slow-head:200")
    assert head >= 195
    head, first, _ = await moments("slow-first:200")
    assert head < 195 <= first
    head, first, end = await moments("hold-open:200")
    assert first < 195 <= end
    head, first, end = await moments("first:200")
    assert first < 195 <= end


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ("no-done", {"done"}),
        ("no-completed", {"conversation.chat.completed"}),
        ("no-created", {"conversation.chat.created"}),
        ("done-early", {"conversation.message.delta", "conversation.message.completed", "conversation.chat.completed"}),
        ("done-only", {"conversation.chat.created", "conversation.message.delta", "conversation.chat.completed"}),
    ],
)
async def test_a_stream_that_lacks_its_last_records_lacks_no_others(
    caller: Caller, fault: str, missing: set[str]
) -> None:
    usual = {event for event, _ in await caller.records("/fault pieces:3 x")}
    sent = {event for event, _ in await caller.records(f"/fault pieces:3 {fault} x")}
    assert not sent & missing
    assert sent == ({"done"} if fault == "done-only" else usual - missing)


async def test_done_comes_in_other_forms(caller: Caller) -> None:
    assert (await caller.stream("/fault pieces:1 done-bare x")).endswith(b"event:done\ndata:[DONE]\n\n")
    assert b'event:done\ndata:{"debug_url":"' in await caller.stream("/fault pieces:1 done-debug x")


async def test_a_gzip_bomb_is_gzip_and_a_thousandfold(caller: Caller) -> None:
    got, ended = await raw_exchange(caller.simulator.url, "/fault gzip-bomb x", limit=200_000)
    assert ended == "limit"
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    packed = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        packed, body = packed + rest[:length], rest[length + 2 :]
    unpacked = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(packed[:20_000], 64 << 20)
    assert unpacked == b" " * len(unpacked)
    assert len(unpacked) > 500 * 20_000
    assert gzip.compress(b"")[:2] == packed[:2]


@pytest.mark.parametrize(
    ("fault", "mark"), [("endless", b"event:conversation.message.delta\n"), ("endless-record", b"x" * 1000)]
)
async def test_the_unbounded_goes_on_as_long_as_it_is_read_and_its_record_is_never_over(
    caller: Caller, fault: str, mark: bytes
) -> None:
    message = f"/fault {fault} plain x"
    got, ended = await raw_exchange(caller.simulator.url, message, limit=3 << 20)
    assert ended == "limit"
    assert got.count(mark) > 100
    assert b"conversation.chat.completed" not in got
    assert (await caller.retrieve(await caller.start(message)))["status"] == "in_progress"


async def test_an_unbounded_stream_leaves_room_for_the_others(caller: Caller) -> None:
    greedy = [asyncio.create_task(raw_exchange(caller.simulator.url, "/fault endless x", limit=1 << 30))] * 2
    async with asyncio.timeout(5):
        for _ in range(5):
            assert (await caller.records("/fault pieces:5 x"))[-1][0] == "done"
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_comments_for_ever_are_comments(caller: Caller) -> None:
    got, ended = await raw_exchange(caller.simulator.url, "/fault comments-forever plain x", total=0.6)
    assert ended == "limit"
    assert got.count(b": still here\n") >= 2


@pytest.mark.parametrize(
    ("fault", "calls", "expected"),
    [
        ("retrieve-500:2", "retrieve", [500, 500, 200]),
        ("list-500:1", "messages", [500, 200]),
        ("cancel-500:1", "cancel", [500, 200]),
    ],
)
async def test_the_record_fails_the_first_times(caller: Caller, fault: str, calls: str, expected: list[int]) -> None:
    chat = await caller.start(f"/fault {fault} rate:1 x")
    ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "retrieve": ("POST", "/v3/chat/retrieve", {"params": ids}),
        "messages": ("GET", "/v3/chat/message/list", {"params": ids}),
        "cancel": ("POST", "/v3/chat/cancel", {"json": ids}),
    }
    method, path, arguments = requests[calls]
    assert [(await caller.ask(method, path, **arguments))[0] for _ in expected] == expected


async def test_with_empty_messages_the_list_is_empty_at_first_and_with_never_complete_always(caller: Caller) -> None:
    chat = await caller.start("/fault list-empty:2 pieces:3 x")
    assert [len(await caller.messages(chat)) for _ in range(3)] == [0, 0, 5]
    chat = (await caller.records("/fault never-complete pieces:3 x"))[0][1]
    assert (await caller.retrieve(chat))["status"] == "in_progress"


async def test_a_stream_of_another_content_type_is_a_stream_all_the_same(caller: Caller) -> None:
    async with caller.post("/fault wrong-type pieces:1 x") as response:
        assert response.content_type == "text/plain"
        assert exact_records(await response.read())[-1][0] == "done"


async def test_bytes_come_one_by_one(caller: Caller) -> None:
    got, _ = await raw_exchange(caller.simulator.url, "/fault bytes pieces:1 x")
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"chunked" in head
    assert body.startswith(b"1\r\ne\r\n1\r\nv\r\n")
    assert exact_records(await caller.stream("/fault bytes pieces:1 x"))[-1][0] == "done"


async def test_faults_apply_without_stream_where_they_can(caller: Caller) -> None:
    async with caller.post("/fault code:4013 x", stream=False) as response:
        assert (await response.json())["code"] == 4013
    chat = await caller.start("/fault drop-after:1 pieces:3 x")
    assert (await caller.finished(chat))["status"] == "completed"


def test_the_groups_of_faults_do_not_overlap() -> None:
    assert not SHAPING & TAKING_NOTHING


def test_the_documentation_lists_every_fault_in_its_own_words() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "simulator.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4]
    expected = {
        f"| `{fault.value}` | {'' if fault.default is None else f'`{fault.default}`'} | {fault.about} |"
        for fault in Fault
    }
    assert set(rows) >= expected
    named = {row.split("`")[1] for row in rows[rows.index(next(r for r in rows if "`status`" in r)) :]}
    assert named == {fault.value for fault in Fault}
