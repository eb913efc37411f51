"""Recordings: served byte for byte, at any pace, with a record to ask for."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.simulator.caller import raw_exchange
from tests.simulator.conftest import Start

SAMPLES = Path(__file__).parent.parent / "coze"
RECORDED = SAMPLES / "recorded-reasoning.sse"


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.glob("*.sse")))
async def test_every_sample_is_served_byte_for_byte(start: Start, sample: str) -> None:
    caller = await start(replay=SAMPLES / sample, pace=0)
    assert await caller.stream("hello") == (SAMPLES / sample).read_bytes()
    assert await caller.stream("/fault bytes rate:0 hello") == (SAMPLES / sample).read_bytes()


async def test_the_recorded_answer_is_in_the_record_with_the_recorded_ids(start: Start) -> None:
    caller = await start(replay=RECORDED, pace=0)
    chat = await caller.start("hello")
    assert (chat["id"], chat["conversation_id"]) == ("7507152942412283930", "7507152932924669963")
    state = await caller.retrieve(chat)
    assert (state["status"], state["usage"]["token_count"]) == ("completed", 1724)
    listed = await caller.messages(chat)
    assert [m["type"] for m in listed] == ["answer", "follow_up", "follow_up", "follow_up"]
    assert len(listed[0]["content"]) == 2016


async def test_a_recording_may_be_asked_for_again_and_by_two_at_once(start: Start) -> None:
    caller = await start(replay=RECORDED, pace=0)
    streams = await asyncio.gather(caller.stream("a"), caller.stream("b"))
    assert set(streams) == {RECORDED.read_bytes()}
    assert caller.simulator.chats_started == 2


async def test_a_rate_is_records_a_second_and_the_pace_original_is_40(start: Start) -> None:
    loop = asyncio.get_running_loop()
    sample = SAMPLES / "chat-failed.sse"
    records = sample.read_bytes().count(b"\n\n")
    for options, rate in (({"pace": 20}, 20), ({"pace": "original"}, 40), ({}, 40)):
        caller = await start(replay=sample, **options)
        began = loop.time()
        await caller.stream("hello")
        took = loop.time() - began
        assert (records - 3) / rate - 0.01 <= took < (records - 3) / rate + 1


async def test_a_recorded_failure_is_in_the_record(start: Start) -> None:
    for sample, code in (("chat-failed.sse", 5000), ("chat-error-event.sse", 4013)):
        caller = await start(replay=SAMPLES / sample, pace=0)
        chat = await caller.start("hello")
        state = await caller.retrieve(chat)
        assert (state["status"], state["last_error"]["code"]) == ("failed", code)


async def test_a_recording_can_be_broken_too(start: Start) -> None:
    caller = await start(replay=RECORDED, pace=0)
    got, ended = await raw_exchange(caller.simulator.url, "/fault drop-after:100 x")
    assert ended == "eof"
    assert got.count(b"event:conversation.message.delta") == 100
    assert not got.endswith(b"0\r\n\r\n")
    stream = await caller.stream("/fault bom x")
    assert stream == b"\xef\xbb\xbf" + RECORDED.read_bytes()


async def test_a_recording_without_ids_gets_new_ones(start: Start) -> None:
    caller = await start(replay=SAMPLES / "v2-chat.sse", pace=0)
    chat = await caller.start("hello")
    assert len(chat["id"]) == len(chat["conversation_id"]) == 19
    assert (await caller.retrieve(chat))["status"] == "completed"


async def test_a_file_that_is_no_recording_stops_the_start(start: Start, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await start(replay=tmp_path / "none.sse")
    (tmp_path / "empty.sse").write_bytes(b"\n\n")
    with pytest.raises(ValueError, match="no record"):
        await start(replay=tmp_path / "empty.sse")
    with pytest.raises(ValueError):
        await start(replay=RECORDED, pace="fast")


async def test_what_the_recording_says_of_its_chat_is_read_from_any_line_ends(start: Start, tmp_path: Path) -> None:
    for end in (b"\r\n", b"\r"):
        path = tmp_path / "other.sse"
        path.write_bytes((SAMPLES / "chat-plain.sse").read_bytes().replace(b"\n", end))
        caller = await start(replay=path, pace=0)
        assert await caller.stream("x") == path.read_bytes()
        chat = await caller.start("x")
        assert chat["id"] == "7569312240118861864"
        assert json.dumps(await caller.messages(chat)).count("follow_up") == 3
