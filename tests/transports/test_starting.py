"""Starting a turn: the same key, a busy conversation, listeners that leave, an answer that may wait."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from tests.transports.conftest import Serve, Served
from tests.transports.readers import LISTENING, everything, first, sse
from tests.waiting import until

SLOW = "/fault plain pieces:4000 rate:50 -- slow"


def turns(events: list[dict[str, Any]]) -> set[str]:
    return {event["turnId"] for event in events if "turnId" in event}


async def asked_for(served: Served) -> int:
    """How many chats Coze was asked to start."""
    async with served.session.get(f"{served.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    prefix = 'gateway_upstream_requests_total{operation="chat"'
    return sum(round(float(line.rpartition(" ")[2])) for line in lines if line.startswith(prefix))


async def test_a_turn_begins_with_started_and_ends_with_its_stream(served: Served) -> None:
    async with served.stream("/fault plain pieces:10 -- 你好") as (response, events):
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        found = [event async for event in events]
        assert found[0] == {
            "event": "started",
            "conversationId": response.headers["X-Conversation-Id"],
            "turnId": response.headers["X-Turn-Id"],
            "input": "/fault plain pieces:10 -- 你好",
            "id": found[0]["id"],
        }
    assert [e["event"] for e in found[-1:]] == ["completed"]
    assert "".join(e["content"] for e in found if e["event"] == "message") == found[-1]["content"]


async def test_started_comes_before_coze_has_answered(served: Served) -> None:
    async with asyncio.timeout(1), served.stream("/fault slow-head:1500 -- wait for it") as (response, events):
        assert (await anext(events))["event"] == "started"
    await served.post(f"/api/coze/turns/{response.headers['X-Turn-Id']}/cancel")


async def test_the_report_s_two_lines_are_logged_without_the_message(
    served: Served, logs: list[dict[str, Any]]
) -> None:
    events = await served.ask("/fault plain pieces:10 rate:0 -- 你好，秘密")
    await served.ended(events[0]["turnId"])
    await served.balanced()
    start = next(line for line in logs if line["event"] == "Starting SSE chat stream")
    assert (start["botId"], start["userId"], start["conversationId"]) == ("b", "u", events[0]["conversationId"])
    assert start["messageLength"] == len("/fault plain pieces:10 rate:0 -- 你好，秘密")
    end = next(line for line in logs if line["event"] == "SSE stream ended")
    assert (end["conversationId"], end["fullResponseLength"]) == (start["conversationId"], len(events[-1]["content"]))
    assert "秘密" not in json.dumps(logs, ensure_ascii=False, default=str)


# -- Idempotency-Key ---------------------------------------------------------------------------------------------


async def test_the_same_key_gives_the_same_turn_from_its_beginning_or_from_a_position(served: Served) -> None:
    headers = {"Idempotency-Key": "once"}
    async with served.stream("/fault plain pieces:20 rate:100 -- once", headers) as (_, events):
        begun = [await anext(events) for _ in range(3)]
    async with served.stream("/fault plain pieces:20 rate:100 -- once", headers) as (_, events):
        again = [event async for event in events]
    assert again[0] == begun[0]
    headers["Last-Event-ID"] = begun[-1]["id"]
    async with served.stream("/fault plain pieces:20 rate:100 -- once", headers) as (_, events):
        rest = [event async for event in events]
    text = "".join(e["content"] for e in begun + rest if e["event"] == "message")
    assert text == again[-1]["content"] == rest[-1]["content"]
    status, _, answer = await served.post(
        "/api/coze/chat", {"message": "/fault plain pieces:20 rate:100 -- once", "botId": "b", "userId": "u"}, **headers
    )
    assert (status, answer["turnId"], answer["content"]) == (200, begun[0]["turnId"], text)
    assert await asked_for(served) == 1


async def test_the_same_key_at_the_same_moment_starts_one_turn(served: Served) -> None:
    conversation = (await served.ask("/fault plain pieces:2 rate:0 -- before"))[0]["conversationId"]
    body = {
        "userId": "u",
        "botId": "b",
        "message": "/fault plain pieces:20 -- together",
        "conversationId": conversation,
    }

    async def ask(number: int) -> str:
        if number % 3 == 0:
            status, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": "k"})
            assert status == 200, answer
            return str(answer["turnId"])
        if number % 3 == 1:
            async with served.stream(body["message"], {"Idempotency-Key": "k"}, conversationId=conversation) as (r, _):
                return str(r.headers["X-Turn-Id"])
        async with served.session.ws_connect(f"{served.url}/api/coze/ws") as socket:
            await socket.send_json({"type": "chat", "idempotencyKey": "k", **body})
            return str((await socket.receive_json())["turnId"])

    assert len(set(await asyncio.gather(*(ask(number) for number in range(30))))) == 1
    assert await asked_for(served) == 2


async def test_a_client_that_hangs_up_and_asks_again_with_its_key_at_once_starts_one_turn(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = (await served.ask("/fault plain pieces:2 rate:0 -- before"))[0]["conversationId"]
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:9 -- hasty", "conversationId": conversation}
    real = served.services.store.conversation
    asked = asyncio.Event()

    async def slow(conversation_id: Any) -> Any:
        asked.set()
        await asyncio.sleep(0.2)  # a database that takes its time
        return await real(conversation_id)

    monkeypatch.setattr(served.services.store, "conversation", slow)
    first_try = asyncio.create_task(served.post("/api/coze/chat", body, **{"Idempotency-Key": "h"}))
    await asyncio.wait_for(asked.wait(), 5)
    first_try.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first_try
    status, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": "h"})
    assert (status, answer["status"]) == (200, "completed"), answer
    assert await asked_for(served) == 2


async def test_the_same_key_with_another_body_is_refused_and_bodies_compare_as_json(served: Served) -> None:
    url = f"{served.url}/api/coze/chat"
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    one = '{"userId":"u","botId":"b","message":"/fault plain pieces:3 rate:0 \\u002d- x"}'
    same = '{ "message" : "/fault plain pieces:3 rate:0 -- x",\n"botId":"b", "userId":"u"}'
    other = '{"userId":"u","botId":"b","message":"/fault plain pieces:3 rate:0 -- y"}'
    theirs = '{"userId":"v","botId":"b","message":"/fault plain pieces:3 rate:0 -- y"}'
    answers = []
    for body in (one, same, other, theirs):
        async with served.session.post(url, data=body, headers=headers) as response:
            answers.append((response.status, await response.json()))
    assert [status for status, _ in answers] == [200, 200, 422, 200]
    assert answers[0][1]["turnId"] == answers[1][1]["turnId"] != answers[3][1]["turnId"]
    assert answers[2][1]["code"] == "invalid_request"
    for key in ("", "x" * 256, "a b", "ä"):
        async with served.session.post(url, data=one, headers=headers | {"Idempotency-Key": key}) as response:
            assert response.status == 422, key


async def test_a_refused_request_binds_no_key(served: Served) -> None:
    running = await served.start(SLOW)
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:3 rate:0 -- x", "conversationId": conversation}
    status, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": "k"})
    assert (status, answer["code"]) == (409, "conversation_busy")
    await served.post(f"/api/coze/{running.topic}/cancel")
    await served.ended(running.topic[6:])
    status, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": "k"})
    assert (status, answer["status"]) == (200, "completed")


# -- onBusy ------------------------------------------------------------------------------------------------------


async def test_a_busy_conversation_refuses_queues_or_is_interrupted(served: Served) -> None:
    running = await served.start(SLOW)
    state = await served.state(running.topic[6:])
    conversation = state["conversationId"]
    for fields in ({}, {"onBusy": "reject"}):
        body = {"userId": "u", "botId": "b", "message": "m", "conversationId": conversation, **fields}
        for path in ("/api/coze/chat", "/api/coze/chat/stream"):
            status, _, answer = await served.post(path, body)
            assert (status, answer["code"]) == (409, "conversation_busy")
    async with asyncio.timeout(5):
        events = await served.ask(
            "/fault plain pieces:3 rate:0 -- now", conversationId=conversation, onBusy="interrupt"
        )
    stopped = await everything(sse, running)
    assert stopped[-1]["event"] == "cancelled"
    assert events[0] == {"event": "notice", "code": "queued"} or events[0]["event"] == "started"
    assert events[-1]["event"] == "completed"


async def test_queued_turns_say_so_without_an_id_write_nothing_and_start_in_order(served: Served) -> None:
    running = await served.start("/fault plain pieces:60 rate:100 -- first")
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    queued = [
        await served.start(f"/fault plain pieces:3 rate:0 -- {n}", conversationId=conversation, onBusy="queue")
        for n in range(3)
    ]
    assert [(await served.state(door.topic[6:]))["status"] for door in queued] == ["queued"] * 3
    reads = [LISTENING["sse"], LISTENING["websocket"], LISTENING["shared"]]
    heard = await asyncio.gather(*(everything(read, door) for read, door in zip(reads, queued, strict=True)))
    for events, door in zip(heard, queued, strict=True):
        assert events[0] == {"event": "notice", "code": "queued"}
        assert events[1]["event"] == "started"
        assert turns(events) == {door.topic[6:]}
        assert events[-1]["event"] == "completed"
    path = f"/api/coze/conversations/{conversation}/poll?after="
    followed = (await served.get(f"{path}0"))[2]["events"]
    while len([e for e in followed if e["event"] == "completed"]) < 4:
        followed += (await served.get(f"{path}{followed[-1]['id']}"))[2]["events"]
    starts = [event["turnId"] for event in followed if event["event"] == "started"]
    assert starts == [running.topic[6:], *(door.topic[6:] for door in queued)]
    assert not [event for event in followed if event["event"] == "notice"]


async def test_a_queued_turn_polled_is_told_so_once_and_then_waited_for(served: Served) -> None:
    running = await served.start("/fault plain pieces:50 rate:100 -- first")
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    queued = await served.start("/fault plain pieces:3 rate:0 -- q", conversationId=conversation, onBusy="queue")
    _, _, answer = await served.get(f"/api/coze/{queued.topic}/poll?wait=10")
    assert answer["events"] == [{"event": "notice", "code": "queued"}]
    rounds, events = 0, []
    while not answer["ended"]:
        _, _, answer = await served.get(f"/api/coze/{queued.topic}/poll?wait=10&after={answer['next']}")
        events += answer["events"]
        rounds += 1
    assert [event["event"] for event in events][:2] == ["started", "message"]
    assert "".join(e["content"] for e in events if e["event"] == "message") == events[-1]["content"]
    assert rounds < 20


async def test_a_queued_turn_can_be_cancelled_and_never_runs(served: Served) -> None:
    running = await served.start(SLOW)
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    body = {"conversationId": conversation, "onBusy": "queue"}
    one = await served.start("/fault plain pieces:3 rate:0 -- one", **body)
    two = await served.start("/fault plain pieces:3 rate:0 -- two", **body)
    reading = [asyncio.create_task(everything(read, one)) for read in LISTENING.values() if read.__name__ != "ndjson"]
    await until(lambda: served.services.ledger.count("subscription") >= len(reading))
    waiting = (await served.get(f"/api/coze/{one.topic}/poll?wait=1"))[2]["next"]
    status, _, answer = await served.post(f"/api/coze/{one.topic}/cancel")
    assert (status, answer["status"]) == (202, "cancelled")
    late = (await served.get(f"/api/coze/{one.topic}/poll?wait=1&after={waiting}"))[2]
    assert ([event["event"] for event in late["events"]], late["ended"]) == (["cancelled"], True)
    status, _, answer = await served.post(f"/api/coze/{one.topic}/cancel")
    assert (status, answer["status"]) == (200, "cancelled")
    for events in await asyncio.wait_for(asyncio.gather(*reading), 2):
        assert events[0] == {"event": "notice", "code": "queued"}
        assert [event["event"] for event in events if "id" in event][-1] == "cancelled"
        assert events[-1]["turnId"] == one.topic[6:]
    assert (await everything(sse, one))[-1] == events[-1]
    assert (await everything(sse, one, events[-1]["id"])) == []
    elsewhere = (await everything(sse, await served.start("/fault plain pieces:1 rate:0 -- elsewhere")))[-1]["id"]
    assert [event["event"] for event in await everything(sse, one, elsewhere)] == ["reset", "cancelled"]
    await served.post(f"/api/coze/{running.topic}/cancel")
    assert (await everything(sse, two))[-1]["event"] == "completed"
    assert (await served.state(one.topic[6:]))["status"] == "cancelled"
    assert await asked_for(served) == 3


async def test_the_queue_goes_on_at_once_when_the_running_turn_is_cancelled_before_coze_answers(
    served: Served,
) -> None:
    running = await served.start("/fault slow-head:2500 -- silent")
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    queued = await served.start("/fault plain pieces:3 rate:0 -- q", conversationId=conversation, onBusy="queue")
    await served.post(f"/api/coze/{running.topic}/cancel")
    assert [event["event"] for event in await first(sse, queued, None, within=1.5)] == ["started"]
    assert (await everything(sse, queued))[-1]["event"] == "completed"  # sent once Coze has named the conversation


async def test_garbage_asked_of_a_queued_turn_tells_nothing_of_the_running_one(served: Served) -> None:
    running = await served.start("/fault plain pieces:4000 rate:50 -- running")
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    await first(sse, running, None, 5)
    queued = await served.start("/fault plain pieces:3 rate:0 -- q", conversationId=conversation, onBusy="queue")
    (reset, *_) = await first(sse, queued, "garbage")
    assert (reset["event"], reset["turnId"], reset["content"], reset["status"]) == (
        "reset",
        queued.topic[6:],
        "",
        "queued",
    )
    await served.post(f"/api/coze/{running.topic}/cancel")
    events = await everything(sse, queued, reset["id"])
    assert (events[0]["event"], events[-1]["event"]) == ("started", "completed")


# -- onDisconnect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream", "sse", "websocket", "shared", "longpoll"])
async def test_a_turn_whose_last_listener_is_gone_is_cancelled_after_the_abandon_time(serve: Serve, way: str) -> None:
    served = await serve(abandon_seconds=0.3)
    if way == "stream":
        async with served.stream(SLOW, onDisconnect="cancel") as (response, events):
            await anext(events)
        turn = response.headers["X-Turn-Id"]
    else:
        door = await served.start(SLOW, onDisconnect="cancel")
        await first(LISTENING[way], door, None, 2)
        turn = door.topic[6:]
    assert (await served.state(turn))["status"] == "running"
    assert (await served.ended(turn, within=2))["status"] == "cancelled"


async def test_a_turn_that_nobody_ever_listens_to_is_cancelled_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.turns.runner.GRACE", 0.5)
    served = await serve(abandon_seconds=0.3)
    door = await served.start(SLOW, onDisconnect="cancel")
    assert (await served.ended(door.topic[6:], within=3))["status"] == "cancelled"


async def test_a_turn_that_is_listened_to_again_in_time_goes_on(serve: Serve) -> None:
    served = await serve(abandon_seconds=0.5)
    door = await served.start("/fault plain pieces:150 rate:100 -- on and on", onDisconnect="cancel")
    position = None
    for name in ("sse", "longpoll", "websocket", "shared") * 3:
        events = await first(LISTENING[name], door, position, 2)
        position = events[-1]["id"]
        await asyncio.sleep(0.1)  # shorter than a turn without listeners is left alone
    state = await served.state(door.topic[6:])
    rest = await everything(sse, served.door(f"turns/{state['turnId']}"), position)  # nothing, if the end was seen
    assert (rest or events)[-1]["event"] == "completed"


async def test_a_listener_of_the_conversation_keeps_its_turn(serve: Serve) -> None:
    served = await serve(abandon_seconds=0.2)
    door = await served.start("/fault plain pieces:80 rate:100 -- watched", onDisconnect="cancel")
    conversation = served.door(f"conversations/{(await served.state(door.topic[6:]))['conversationId']}")
    watching = asyncio.create_task(first(sse, conversation, "0", 1000, within=1.5))
    await first(sse, door, None, 2)
    assert (await served.ended(door.topic[6:]))["status"] == "completed"
    with contextlib.suppress(TimeoutError):
        await watching


async def test_by_default_a_turn_goes_on_without_anybody(serve: Serve) -> None:
    served = await serve(abandon_seconds=0)
    async with served.stream("/fault plain pieces:30 rate:100 -- alone") as (response, events):
        await anext(events)
    assert (await served.ended(response.headers["X-Turn-Id"]))["status"] == "completed"


# -- the older way, Prefer, tools --------------------------------------------------------------------------------


async def test_the_older_way_answers_once_with_everything(served: Served) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault reasoning pieces:10 rate:0 -- all"}
    status, headers, answer = await served.post("/api/coze/chat", body)
    assert status == 200
    assert answer["status"] == "completed"
    assert answer.keys() >= {"conversationId", "turnId", "content", "reasoning", "suggestions", "usage"}
    assert answer["reasoning"]
    assert answer["suggestions"]
    assert (headers["X-Turn-Id"], headers["X-Conversation-Id"]) == (answer["turnId"], answer["conversationId"])


async def test_prefer_wait_answers_in_time_with_where_to_look(served: Served) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:200 rate:100 -- later"}
    began = asyncio.get_running_loop().time()
    status, headers, answer = await served.post("/api/coze/chat", body, Prefer="wait=1")
    assert 0.9 < asyncio.get_running_loop().time() - began < 1.5
    assert (status, headers["Location"]) == (202, f"/api/coze/turns/{answer['turnId']}")
    assert answer["status"] == "running"
    assert answer["content"]
    rest = await everything(sse, served.door(f"turns/{answer['turnId']}"), answer["position"])
    assert answer["content"] + "".join(e["content"] for e in rest if e["event"] == "message") == rest[-1]["content"]
    status, _, answer = await served.post(
        "/api/coze/chat", body | {"message": "/fault plain rate:0 -- x"}, Prefer="wait=9"
    )
    assert (status, answer["status"]) == (200, "completed")


async def test_a_cancelled_and_a_failed_turn_answer_the_older_way_too(served: Served) -> None:
    body = {"userId": "u", "botId": "b", "message": SLOW}
    waiting = asyncio.create_task(served.post("/api/coze/chat", body, **{"Idempotency-Key": "k"}))
    await until(lambda: served.services.turns._runner.turns)
    _, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": "k", "Prefer": "wait=0"})

    async def said() -> Any:
        return (await served.state(answer["turnId"]))["content"]

    await until(said)
    await served.post(f"/api/coze/turns/{answer['turnId']}/cancel")
    status, _, answer = await waiting
    assert (status, answer["status"]) == (200, "cancelled")
    assert answer["content"]
    status, _, answer = await served.post("/api/coze/chat", body | {"message": "/fault failed rate:0 -- no"})
    assert (status, answer["code"]) == (502, "upstream_unavailable")


async def test_tool_outputs_answer_an_action_and_the_stream_goes_on(served: Served) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault action pieces:10 -- act"}
    for _ in range(5):
        status, _, answer = await served.post("/api/coze/chat", body)
        assert (status, answer["status"]) == (200, "action_required"), answer
        assert len(answer["toolCalls"]) == 2
    door = served.door(f"turns/{answer['turnId']}")
    reading = [asyncio.create_task(everything(read, door)) for read in LISTENING.values() if read.__name__ != "ndjson"]
    calls = [call["id"] for call in answer["toolCalls"]]
    path = f"/api/coze/{door.topic}/tool-outputs"
    for wrong in ([], [{"toolCallId": "x", "output": "1"}], [{"toolCallId": calls[0], "output": "1"}]):
        status, _, problem = await served.post(path, {"toolOutputs": wrong})
        assert (status, problem["code"]) == (422, "invalid_request")
    outputs = [{"toolCallId": call, "output": f"out of {call}"} for call in calls]
    again = await asyncio.gather(*(served.post(path, {"toolOutputs": given}) for given in (outputs, outputs[::-1])))
    assert [status for status, _, _ in again] == [202, 202]
    state = await served.state(answer["turnId"])
    assert (state["status"] == "action_required", "toolCalls" in state) == (False, False), "before its next event, too"
    for events in await asyncio.wait_for(asyncio.gather(*reading), 5):
        names = [event["event"] for event in events]
        assert names.count("action_required") == 1
        assert names[-1] == "completed"
        assert names.index("action_required") < len(names) - 1
    status, _, problem = await served.post(path, {"toolOutputs": outputs})
    assert status == 422


# -- cancel ------------------------------------------------------------------------------------------------------


async def test_a_stop_in_one_tab_stops_all_within_half_a_second(served: Served) -> None:
    door = await served.start(SLOW)
    reading = [asyncio.create_task(everything(read, door)) for read in LISTENING.values() if read.__name__ != "ndjson"]
    await first(sse, door, None, 5)
    began = asyncio.get_running_loop().time()
    status, _, answer = await served.post(f"/api/coze/{door.topic}/cancel")
    assert (status, answer["status"]) == (202, "cancelled")
    heard = await asyncio.gather(*reading)
    assert asyncio.get_running_loop().time() - began < 0.5
    assert len({json.dumps(events[-1]) for events in heard}) == 1
    assert heard[0][-1]["event"] == "cancelled"
    assert heard[0][-1]["content"] == "".join(e["content"] for e in heard[0] if e["event"] == "message")
    status, _, answer = await served.post(f"/api/coze/{door.topic}/cancel")
    assert (status, answer["status"]) == (200, "cancelled")
    await until(lambda: not served.services.ledger.count("upstream"), within=1)


async def test_a_turn_that_is_over_stays_as_it_was_when_cancelled(served: Served) -> None:
    events = await served.ask("/fault plain pieces:3 rate:0 -- over")
    status, _, answer = await served.post(f"/api/coze/turns/{events[0]['turnId']}/cancel")
    assert (status, answer["status"], answer["content"]) == (200, "completed", events[-1]["content"])


# -- messages ----------------------------------------------------------------------------------------------------


async def test_a_conversations_messages_are_paged_newest_last(served: Served) -> None:
    conversation = (await served.ask("/fault echo rate:0 answer 0"))[0]["conversationId"]
    for number in range(1, 4):
        await served.ask(f"/fault echo rate:0 answer {number}", conversationId=conversation)
    path = f"/api/coze/conversations/{conversation}/messages"
    await served.balanced()
    _, _, page = await served.get(path)
    everything_said = page["messages"]
    assert page["hasMore"] is False
    assert [m["role"] for m in everything_said] == ["user", "assistant"] * 4
    assert [m["content"] for m in everything_said if m["role"] == "assistant"] == [f"answer {n}" for n in range(4)]
    assert all(m.keys() == {"id", "turnId", "role", "content", "status", "createdAt"} for m in everything_said)
    paged: list[Any] = []
    before = ""
    while True:
        _, _, page = await served.get(f"{path}?limit=3{before}")
        paged = page["messages"] + paged
        before = f"&before={paged[0]['id']}"
        if not page["hasMore"]:
            break
    assert paged == everything_said
    assert (await served.get(f"{path}?limit=x"))[0] == 422
    assert len((await served.get(f"{path}?limit=0"))[2]["messages"]) == 1


async def test_streaming_switched_off_takes_the_streams_away_and_leaves_the_rest(serve: Serve) -> None:
    served = await serve(use_sse_streaming="off")
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:3 rate:0 -- x"}
    status, _, answer = await served.post("/api/coze/chat/stream", body)
    assert (status, answer["code"]) == (404, "streaming_disabled")
    status, _, answer = await served.post("/api/coze/chat", body)
    assert (status, answer["status"]) == (200, "completed")
    for path in (f"turns/{answer['turnId']}/events", f"turns/{answer['turnId']}/ws", "ws"):
        status, _, problem = await served.get(f"/api/coze/{path}")
        assert (status, problem["code"]) == (404, "streaming_disabled")
    _, _, polled = await served.get(f"/api/coze/turns/{answer['turnId']}/poll")
    assert polled["events"][-1]["event"] == "completed"
    _, _, config = await served.get("/api/coze/config")
    assert (config["streaming"], config["transports"]) == (False, ["longpoll"])
    assert config["needsToken"] is False
