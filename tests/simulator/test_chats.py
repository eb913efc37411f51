"""Chats: they go on without a client, one per conversation, through a crash, and not for ever."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Fault, whole_text
from gateway.simulator.chats import KEPT_SECONDS
from tests.clocks import Clock
from tests.simulator.caller import Caller, deltas
from tests.simulator.conftest import Start


async def begun(caller: Caller, message: str, **fields: Any) -> dict[str, Any]:
    """Starts a stream and leaves it once the chat is there; the Chat."""
    async with caller.post(message, **fields) as response:
        event, data = await response.content.readline(), await response.content.readline()
    assert event == b"event:conversation.chat.created\n"
    chat: dict[str, Any] = json.loads(data.removeprefix(b"data:"))
    return chat


async def test_the_same_message_gets_the_same_answer_from_another_simulator(start: Start) -> None:
    one, other = await start(), await start()
    texts = {deltas(await caller.records("/fault plain 你好")) for caller in (one, one, other)}
    assert texts == {whole_text("/fault plain 你好")}


async def test_a_chat_goes_on_when_its_client_has_gone(start: Start) -> None:
    caller = await start(first_ms=50, rate=400)
    chat = await begun(caller, "/fault pieces:40 plain 你好")
    assert (await caller.retrieve(chat))["status"] == "in_progress"
    state = await caller.finished(chat)
    assert state["status"] == "completed"
    assert state["usage"]["output_count"] == 40
    answer = next(m for m in await caller.messages(chat) if m["type"] == "answer")
    assert answer["content"] == whole_text("/fault pieces:40 plain 你好")
    assert caller.simulator.chats_started == 1


async def test_the_pace_is_first_ms_and_then_rate(start: Start) -> None:
    clock = Clock(1_800_000_000.0)
    caller = await start(first_ms=300, rate=40, clock=clock)
    chat = await caller.start("/fault pieces:40 plain x")
    for seconds, status, messages in ((0.29, "in_progress", 0), (1.29, "in_progress", 0), (1.31, "in_progress", 5)):
        clock.now = 1_800_000_000.0 + seconds
        assert (await caller.retrieve(chat))["status"] == status
        assert len(await caller.messages(chat)) == messages
    clock.now = 1_800_000_000.0 + 1.33
    assert (await caller.retrieve(chat))["status"] == "completed"


async def test_pieces_come_one_by_one_when_they_are_due(start: Start) -> None:
    caller = await start(first_ms=100, rate=100)
    loop = asyncio.get_running_loop()
    began = loop.time()
    moments = []
    async with caller.post("/fault pieces:20 plain x") as response:
        async for line in response.content:
            if b"message.delta" in line:
                moments.append(loop.time() - began)
    assert len(moments) == 20
    # Never early; late by what a busy machine may add.
    for number, moment in enumerate(moments):
        assert 0.1 + number / 100 - 0.005 < moment < 0.1 + number / 100 + 1


async def test_a_second_chat_in_a_running_conversation_is_4016_until_the_first_is_over(start: Start) -> None:
    caller = await start(first_ms=0, rate=100)
    chat = await caller.start("/fault pieces:10 x")
    async with caller.post("y", conversation_id=chat["conversation_id"]) as response:
        assert (response.status, (await response.json())["code"]) == (200, 4016)
    await caller.finished(chat)
    records = await caller.records("/fault pieces:1 y", conversation_id=chat["conversation_id"])
    assert records[-1][0] == "done"
    assert caller.simulator.chats_started == 2


async def test_cancel_flips_the_status_frees_the_conversation_and_does_not_stop_the_stream(start: Start) -> None:
    caller = await start(first_ms=0, rate=100)
    async with caller.post("/fault pieces:20 x") as response:
        await response.content.readline()
        chat = json.loads((await response.content.readline()).removeprefix(b"data:"))
        answer = await caller.cancel(chat)
        assert answer["data"]["status"] == "canceled"
        assert (await caller.retrieve(chat))["status"] == "canceled"
        async with caller.post("/fault pieces:1 y", conversation_id=chat["conversation_id"]) as second:
            assert second.content_type == "text/event-stream"
        rest = await response.read()
    assert rest.count(b"event:conversation.message.delta") == 20
    assert rest.endswith(b'event:done\ndata:"[DONE]"\n\n')
    assert [m for m in await caller.messages(chat) if m["type"] == "answer"] == []


async def test_a_chat_that_is_over_or_waits_cannot_be_cancelled(caller: Caller) -> None:
    for message in ("/fault pieces:1 x", "/fault failed:5000 x", "/fault action x"):
        chat = (await caller.records(message))[0][1]
        assert (await caller.cancel(chat))["code"] == 4104


async def test_a_local_tool_s_outputs_are_asked_for_and_go_into_the_answer(caller: Caller) -> None:
    records = await caller.records("/fault action 开灯")
    assert [event for event, _ in records[-2:]] == ["conversation.chat.requires_action", "done"]
    chat = records[-2][1]
    calls = chat["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["room"] for call in calls] == ["客厅", "客厅"]
    assert (await caller.retrieve(chat))["required_action"] == chat["required_action"]

    ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}
    path = "/v3/chat/submit_tool_outputs"
    one = [{"tool_call_id": calls[0]["id"], "output": "first"}]
    bodies: list[dict[str, Any]] = [
        {},
        {"tool_outputs": []},
        {"tool_outputs": one},
        {"tool_outputs": [{"tool_call_id": 1}]},
    ]
    for body in bodies:
        assert (await caller.ask("POST", path, params=ids, json=body))[1]["code"] == 4000
    both = [*one, {"tool_call_id": calls[1]["id"], "output": "第二"}]
    status, stream = await caller.ask("POST", path, params=ids, json={"stream": True, "tool_outputs": both})
    assert status == 200
    assert stream.startswith("event:conversation.chat.in_progress\n")
    assert stream.endswith('event:done\ndata:"[DONE]"\n\n')
    assert "conversation.chat.created" not in stream
    listed = await caller.messages(chat)
    assert [m["type"] for m in listed][:6] == ["function_call"] * 2 + ["verbose"] * 2 + ["tool_response"] * 2
    answer = next(m for m in listed if m["type"] == "answer")
    assert "- first\n- 第二" in answer["content"]
    assert len({m["id"] for m in listed}) == len(listed)
    assert (await caller.ask("POST", path, params=ids, json={"tool_outputs": both}))[1]["code"] == 4000


async def test_a_failed_chat_s_record_says_why_and_its_list_has_no_data(caller: Caller) -> None:
    for fault in ("failed", "failed-flat", "error-event"):
        chat = (await caller.records(f"/fault {fault}:4028 x"))[0][1]
        state = await caller.retrieve(chat)
        assert (state["status"], state["last_error"]["code"]) == ("failed", 4028)
        ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}
        assert "data" not in (await caller.ask("GET", "/v3/chat/message/list", params=ids))[1]


async def test_a_chat_that_is_not_saved_cannot_be_asked_for(caller: Caller) -> None:
    records = await caller.records("/fault pieces:1 x", auto_save_history=False)
    assert records[-1][0] == "done"
    chat = records[0][1]
    ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}
    assert (await caller.ask("GET", "/v3/chat/retrieve", params=ids))[1]["code"] == 4001
    outputs = {"stream": True, "tool_outputs": [{"tool_call_id": "1", "output": "x"}]}
    _, answer = await caller.ask("POST", "/v3/chat/submit_tool_outputs", params=ids, json=outputs)
    assert answer["code"] == 5000


async def test_a_running_chat_survives_the_death_of_its_simulator_with_the_same_text_and_ids(
    start: Start, tmp_path: Path
) -> None:
    """The first one is left as a dead process leaves it: never closed before the second one answers."""
    clock = Clock(1_800_000_000.0)
    first = await start(first_ms=300, rate=40, data_dir=tmp_path, clock=clock)
    chat = await first.start("/fault pieces:80 tool 你好", meta_data={"k": "v"})
    clock.now += 60
    said, state = await first.messages(chat), await first.retrieve(chat)
    clock.now -= 59

    # Another pace must not change what was begun.
    second = await start(first_ms=0, rate=1000, data_dir=tmp_path, clock=clock)
    assert (await second.retrieve(chat))["status"] == "in_progress"
    async with second.post("y", conversation_id=chat["conversation_id"]) as response:
        assert (await response.json())["code"] == 4016
    clock.now += 59
    assert await second.retrieve(chat) == state
    assert await second.messages(chat) == said
    assert state["meta_data"] == {"k": "v"}


async def test_a_cancel_and_tool_outputs_survive_too(start: Start, tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    first = await start(first_ms=300, rate=40, data_dir=tmp_path, clock=clock)
    cancelled, waiting = await first.start("x"), await first.start("/fault action x")
    await first.cancel(cancelled)
    clock.now += 30
    calls = (await first.retrieve(waiting))["required_action"]["submit_tool_outputs"]["tool_calls"]
    outputs = [{"tool_call_id": call["id"], "output": "done"} for call in calls]
    ids = {"conversation_id": waiting["conversation_id"], "chat_id": waiting["id"]}
    await first.ask("POST", "/v3/chat/submit_tool_outputs", params=ids, json={"tool_outputs": outputs})

    second = await start(data_dir=tmp_path, clock=clock)
    assert (await second.retrieve(cancelled))["status"] == "canceled"
    assert (await second.retrieve(waiting))["status"] == "in_progress"
    clock.now += 30
    assert (await second.retrieve(waiting))["status"] == "completed"
    assert "- done\n- done" in next(m for m in await second.messages(waiting) if m["type"] == "answer")["content"]


async def test_a_torn_or_senseless_line_costs_only_itself(start: Start, tmp_path: Path) -> None:
    first = await start(data_dir=tmp_path)
    one, two = await first.start("/fault pieces:1 one"), await first.start("/fault pieces:1 two")
    file = tmp_path / "simulator.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([b"\xff\x00senseless", *lines])[:-20])
    second = await start(data_dir=tmp_path)
    assert (await second.retrieve(one))["status"] == "completed"
    ids = {"conversation_id": two["conversation_id"], "chat_id": two["id"]}
    assert (await second.ask("GET", "/v3/chat/retrieve", params=ids))[1]["code"] == 4001
    three = await second.start("/fault pieces:1 three")
    third = await start(data_dir=tmp_path)
    assert (await third.retrieve(three))["status"] == "completed"


async def test_chats_are_forgotten_after_an_hour_also_on_disk(start: Start, tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    caller = await start(data_dir=tmp_path, clock=clock)
    for number in range(1500):
        await caller.start(f"/fault pieces:1 {number}")
    file = tmp_path / "simulator.jsonl"
    assert file.read_bytes().count(b"\n") == 1500
    clock.now += KEPT_SECONDS + 1
    last = await caller.start("/fault pieces:1 last")
    assert file.read_bytes().count(b"\n") <= 2
    again = await start(data_dir=tmp_path, clock=clock)
    assert (await again.retrieve(last))["status"] == "completed"


async def test_a_disk_that_cannot_be_written_does_not_stop_the_chats(start: Start, tmp_path: Path) -> None:
    (tmp_path / "simulator.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        await start(data_dir=tmp_path)
    (tmp_path / "simulator.jsonl").rmdir()
    caller = await start(data_dir=tmp_path)
    (tmp_path / "simulator.jsonl").unlink(missing_ok=True)
    (tmp_path / "simulator.jsonl").mkdir()
    chat = await caller.start("/fault pieces:1 x")
    assert (await caller.retrieve(chat))["status"] == "completed"


async def test_the_simulator_counts_posts_and_started_chats(caller: Caller) -> None:
    message = "/fault code:4013 times:2 pieces:1 hello"
    for expected in ("application/json", "application/json", "text/event-stream"):
        async with caller.post(message) as response:
            assert response.content_type == expected
            await response.read()
    simulator = caller.simulator
    assert simulator.posts_of(message) == 3
    assert simulator.chats_started == 1
    assert simulator.requests["chat"] == 3
    assert simulator.faults_fired[Fault.CODE] == 2
    assert [operation for _, operation in simulator.calls] == ["chat"] * 3


async def test_streams_are_those_that_are_open_and_a_client_that_leaves_closes_its_own(start: Start) -> None:
    caller = await start(rate=10)
    async with caller.post("/fault stall-after:1 x") as response:
        await response.content.readline()
        assert caller.simulator.streams == 1
        response.close()
    async with asyncio.timeout(5):
        while caller.simulator.streams:
            await caller.ask("GET", "/v3/nothing")


async def test_a_port_that_is_taken_is_refused_and_nothing_is_left(start: Start) -> None:
    caller = await start()
    with pytest.raises(OSError):
        await start(port=int(caller.simulator.url.rpartition(":")[2]))


async def test_close_cuts_the_streams_and_may_be_called_again(start: Start) -> None:
    caller = await start()
    async with caller.post("/fault stall-after:1 x") as response:
        await response.content.readline()
        async with asyncio.timeout(5):
            await caller.simulator.close()
            await caller.simulator.close()
            with pytest.raises(Exception, match=r"not completed|reset|disconnected|closed"):
                await response.read()
