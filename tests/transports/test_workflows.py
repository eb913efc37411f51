"""Workflows and chatflows as turns: over every transport, resumed, answered, cancelled, and owned like any other."""

import asyncio
import json
from typing import Any

import pytest
from structlog.typing import EventDict

from gateway.simulator import whole_run, whole_text
from tests.transports.conftest import Serve, Served
from tests.transports.readers import LISTENING, Event, everything, sse_events
from tests.upstream.servers import STREAM_HEAD, Peer, chunk, json_answer, sample, streaming
from tests.upstream.servers import serving as coze
from tests.waiting import until

RUN = "/api/coze/workflows/7522804697494045679/run"


def body(message: str, **fields: Any) -> dict[str, Any]:
    return {"userId": "u", "parameters": {"n": 2**53 + 1, "input": message}, **fields}


async def run(served: Served, message: str, *, after: int = 10**9, **fields: Any) -> list[Event]:
    """The events of a run that answers as a stream; the first `after` of them."""
    events: list[Event] = []
    async with asyncio.timeout(15), served.session.post(served.url + RUN, json=body(message, **fields)) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        async for event in sse_events(response):
            events.append(event)
            if len(events) >= after:
                break
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event["content"] for event in events if event["event"] == "message")


def nodes_of(events: list[Event]) -> list[tuple[str, str, bool]]:
    return [(e["title"], e["nodeId"], e["finished"]) for e in events if e["event"] == "node"]


async def test_a_run_is_a_turn_whose_text_is_what_its_nodes_say(served: Served, logs: list[EventDict]) -> None:
    message = "/fault plain pieces:20 -- 你好"
    events = await run(served, message)
    assert [events[0]["event"], events[-1]["event"]] == ["started", "completed"]
    assert json.loads(events[0]["input"]) == {"n": 2**53 + 1, "input": message}
    assert text_of(events) == events[-1]["content"] == whole_run(message)
    assert nodes_of(events) == [("输出", "158711", False), ("输出", "158711", True), ("End", "900001", True)]
    assert [events[1]["event"], events[2]["event"]] == ["node", "message"]
    assert events[-1]["usage"]["token_count"] > 0
    state = await served.state(events[0]["turnId"])
    assert (state["status"], state["content"]) == ("completed", whole_run(message))
    _, _, kept = await served.get(f"/api/coze/conversations/{events[0]['conversationId']}/messages")
    assert [m["content"] for m in kept["messages"]] == [events[0]["input"], whole_run(message)]
    [line] = [line for line in logs if line["event"] == "Starting SSE chat stream"]
    assert line["workflowId"] == "7522804697494045679"


async def test_a_run_is_heard_over_every_transport_at_the_same_positions(serve: Serve, plugin: object) -> None:
    served = await serve()
    events = await run(served, "/fault plain pieces:30 -- hi")
    door = served.door(f"turns/{events[0]['turnId']}")
    for way in LISTENING.values():
        heard = await everything(way, door, None)
        assert text_of(heard) == events[-1]["content"]
        assert nodes_of(heard) == nodes_of(events)
        assert heard[-1] == events[-1]
        node = next(event for event in events if event["event"] == "node" and event["finished"])
        rest = await everything(way, door, node["id"])
        assert rest == heard[-len(rest) :]
        assert nodes_of(rest) == [("End", "900001", True)]


async def test_a_run_answers_once_to_those_who_prefer_that(serve: Serve) -> None:
    served = await serve(use_sse_streaming=False)
    status, _, refused = await served.post(RUN, body("hi"))
    assert (status, refused["code"]) == (404, "streaming_disabled")
    message = "/fault plain pieces:5 -- hi"
    status, headers, answer = await served.post(RUN, body(message), Prefer="wait=10")
    assert (status, answer["status"], answer["content"]) == (200, "completed", whole_run(message))
    assert headers["X-Turn-Id"] == answer["turnId"]
    status, headers, answer = await served.post(RUN, body("/fault plain rate:50 -- slowly"), Prefer="wait=0")
    assert (status, headers["Location"]) == (202, f"/api/coze/turns/{answer['turnId']}")
    status, _, failed = await served.post(RUN, body("/fault failed-first:4000 -- hi"), Prefer="wait=10")
    assert (status, failed["code"], failed["upstream"]["code"]) == (502, "upstream_rejected", 4000)


async def test_a_key_starts_one_run(served: Served) -> None:
    key = {"Idempotency-Key": "k", "Prefer": "wait=0"}
    _, _, first = await served.post(RUN, body("/fault plain pieces:5 -- one"), **key)
    _, _, again = await served.post(RUN, body("/fault plain pieces:5 -- one"), **key)
    assert again["turnId"] == first["turnId"]
    status, _, refused = await served.post(RUN, body("two"), **key)
    assert (status, refused["errors"][0]["field"]) == (422, "Idempotency-Key")
    status, _, _ = await served.post(RUN.replace("679/", "680/"), body("/fault plain pieces:5 -- one"), **key)
    assert status == 422  # another workflow
    chat = {"userId": "u", "botId": "b", "message": "/fault plain pieces:5 -- one"}
    status, _, _ = await served.post("/api/coze/chat", chat, **key)
    assert status == 422


async def test_a_run_posted_again_with_its_position_goes_on(served: Served) -> None:
    message = "/fault plain pieces:40 rate:100 -- again"
    first = await run(served, message, after=12)
    async with asyncio.timeout(15):
        async with served.session.post(
            served.url + RUN, json=body(message), headers={"Last-Event-ID": first[-1]["id"]}
        ) as response:
            assert response.headers["X-Turn-Id"] == first[0]["turnId"]
            rest = [event async for event in sse_events(response)]
    assert text_of(first + rest) == whole_run(message)


async def test_runs_and_chats_of_one_conversation_take_turns(served: Served) -> None:
    first = await served.ask("/fault plain pieces:3 -- a chat")
    conversation = {"conversationId": first[0]["conversationId"]}
    door = await served.start("/fault plain rate:50 pieces:50 -- another", **conversation)
    status, _, busy = await served.post(RUN, body("x", **conversation))
    assert (status, busy["code"]) == (409, "conversation_busy")
    events = await run(served, "/fault plain pieces:3 -- a run", onBusy="interrupt", **conversation)
    assert [e["event"] for e in events if e["event"] in ("started", "completed")] == ["started", "completed"]
    assert (await served.ended(door.topic.removeprefix("turns/")))["status"] == "cancelled"
    last = await served.ask("/fault plain pieces:3 -- a chat again", **conversation)
    assert last[-1]["event"] == "completed"


@pytest.mark.parametrize("code", [4002, 5000])
async def test_a_failure_of_a_run_is_its_own_and_is_not_tried_again(served: Served, code: int) -> None:
    first = await served.ask("/fault plain pieces:3 -- a chat")
    conversation = {"conversationId": first[0]["conversationId"]}
    events = await run(served, f"/fault failed-first:{code} -- no", **conversation)
    assert [event["event"] for event in events] == ["started", "error"]
    assert events[-1]["upstream"]["code"] == code
    events = await run(served, f"/fault pieces:10 failed:{code} -- half", **conversation)
    assert events[-1]["event"] == "error"
    assert whole_run("/fault pieces:10 -- half").startswith(events[-1]["content"])
    assert events[-1]["content"] != ""
    events = await run(served, "/fault code:4002 -- refused", **conversation)
    assert [event["event"] for event in events] == ["started", "error"]


async def test_a_run_that_coze_has_no_room_for_is_tried_again(served: Served) -> None:
    events = await run(served, "/fault code:4009 times:1 plain pieces:3 -- later")
    assert [event["event"] for event in events][:2] == ["started", "notice"]
    assert events[-1]["event"] == "completed"


@pytest.mark.parametrize("fault", ["drop-after:5", "eof-after:5", "no-done", "reset-after:5", "cut-record-after:5"])
async def test_a_run_that_breaks_fails_with_what_it_said(served: Served, fault: str) -> None:
    message = f"/fault plain {fault} pieces:20 -- broken"
    events = await run(served, message)
    last = events[-1]
    assert (last["event"], last["code"], last["retryable"]) == ("error", "upstream_failed", True)
    assert text_of(events) == last["content"]
    assert whole_run(message).startswith(last["content"])
    assert len(last["content"]) > 0
    assert "may still be running" in last["error"]


async def test_before_its_first_record_a_broken_run_is_uncertain(served: Served) -> None:
    events = await run(served, "/fault eof-before-created -- ?")
    assert (events[-1]["event"], events[-1]["code"]) == ("error", "upstream_uncertain")


@pytest.mark.parametrize(
    "faults", ["studio", "id-gaps", "crlf", "bytes", "comments", "hostile", "surrogate", "multi", "unknown-events"]
)
async def test_a_run_in_any_form_says_the_same(served: Served, faults: str) -> None:
    message = f"/fault plain pieces:30 {faults} -- 你好"
    events = await run(served, message)
    assert events[-1]["event"] == "completed"
    assert text_of(events) == events[-1]["content"] == whole_run(message)


async def test_an_interrupt_is_answered_as_tool_outputs_are(served: Served) -> None:
    message = "/fault action plain rate:1000 -- 天气"
    async with asyncio.timeout(15), served.session.post(served.url + RUN, json=body(message)) as response:
        events = sse_events(response)
        heard: list[Event] = []
        async for event in events:
            heard.append(event)
            if event["event"] == "action_required":
                break
        [call] = heard[-1]["toolCalls"]
        assert (call["type"], call["interruptType"], call["function"]["name"]) == ("interrupt", 2, "问答")
        state = await served.state(heard[0]["turnId"])
        assert (state["status"], state["toolCalls"]) == ("action_required", [call])
        outputs = f"/api/coze/turns/{heard[0]['turnId']}/tool-outputs"
        status, _, wrong = await served.post(outputs, {"toolOutputs": [{"toolCallId": "7/7", "output": "x"}]})
        assert (status, wrong["errors"][0]["field"]) == (422, "toolOutputs")
        status, _, _ = await served.post(outputs, {"toolOutputs": [{"toolCallId": call["id"], "output": "上海"}]})
        assert status == 202
        heard += [event async for event in events]
    question = whole_run(message)
    answer = whole_run(message, answer="上海")
    assert "上海" in answer
    assert text_of(heard) == heard[-1]["content"] == question + answer
    assert [event["event"] for event in heard].count("action_required") == 1


async def test_an_interrupt_that_waits_answers_who_waits_for_a_run(served: Served) -> None:
    status, _, waits = await served.post(RUN, body("/fault action plain -- 天气"), Prefer="wait=10")
    assert (status, waits["status"], len(waits["toolCalls"])) == (200, "action_required", 1)
    status, _, ended = await served.post(f"/api/coze/turns/{waits['turnId']}/cancel")
    assert (status, ended["status"]) == (202, "cancelled")


async def test_a_cancelled_run_ends_at_once_and_closes_cozes_stream(served: Served) -> None:
    first = await run(served, "/fault plain rate:50 pieces:1000 -- long", after=8)
    turn_id = first[0]["turnId"]
    status, _, answer = await served.post(f"/api/coze/turns/{turn_id}/cancel")
    assert (status, answer["status"]) == (202, "cancelled")
    await until(lambda: not served.held().get("upstream") and not served.held().get("turn"), within=3)
    state = await served.ended(turn_id)
    assert whole_run("/fault plain pieces:1000 -- long").startswith(state["content"])


async def test_a_run_is_started_over_the_shared_socket(served: Served) -> None:
    message = "/fault plain pieces:10 -- 你好"
    heard: list[Event] = []
    async with asyncio.timeout(15), served.session.ws_connect(f"{served.url}/api/coze/ws") as socket:
        for wrong in ({}, {"workflowId": 5}, {"workflowId": "75", "message": "x"}):
            await socket.send_json({"type": "run", "requestId": 1, "userId": "u", **wrong})
            problem = await socket.receive_json()
            assert (problem["type"], problem["code"], problem["requestId"]) == ("problem", "invalid_request", 1)
        asked = {"type": "run", "requestId": 2, "workflowId": "75", "idempotencyKey": "k", **body(message)}
        await socket.send_json(asked)
        ack = await socket.receive_json()
        assert (ack["type"], ack["topic"]) == ("ack", f"turns/{ack['turnId']}")
        while not heard or heard[-1]["event"] != "completed":
            heard += (await socket.receive_json())["events"]
        await socket.send_json(asked)
        assert (await socket.receive_json())["turnId"] == ack["turnId"]
    assert text_of(heard) == whole_run(message)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"parameters": []}, "parameters"),
        ({"parameters": {"a": 2**70}}, "parameters"),
        ({"message": "hi"}, "message"),
        ({"userId": ""}, "userId"),
        ({"userId": None}, "userId"),
        ({"botId": "b", "appId": "a"}, "appId"),
        ({"botId": "b" * 65}, "botId"),
        ({"onBusy": "wait"}, "onBusy"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else value,
)
async def test_a_wrong_field_of_a_run_is_named(served: Served, change: dict[str, Any], field: str) -> None:
    status, _, problem = await served.post(RUN, body("x") | change)
    assert (status, problem["code"]) == (422, "invalid_request")
    assert {error["field"] for error in problem["errors"]} == {field}


async def test_a_workflow_has_an_id_like_cozes(served: Served) -> None:
    status, _, problem = await served.post(f"/api/coze/workflows/{'7' * 65}/run", body("x"))
    assert (status, problem["errors"][0]["field"]) == (422, "workflowId")
    status, _, _ = await served.post(f"/api/coze/workflows/{'7' * 64}/run", {"userId": "u"}, Prefer="wait=10")
    assert status == 200


async def test_a_run_of_somebody_elses_conversation_is_not_found(served: Served) -> None:
    first = await served.ask("/fault plain pieces:3 -- mine")
    conversation = {"conversationId": first[0]["conversationId"]}
    status, _, problem = await served.post(RUN, body("x", **conversation) | {"userId": "other"})
    assert (status, problem["code"]) == (404, "not_found")


# -- chatflows


async def test_a_chatflow_answers_like_a_bot(served: Served) -> None:
    message = "/fault plain pieces:20 -- 你好"
    fields = {"botId": "b", "workflowId": "75", "parameters": {"city": "上海"}}
    events = await served.ask(message, **fields)
    assert events[-1]["content"] == text_of(events) == whole_text(message)
    again = await served.ask("/fault plain pieces:3 -- more", conversationId=events[0]["conversationId"], **fields)
    assert again[-1]["event"] == "completed"


@pytest.mark.parametrize("fault", ["drop-after:5", "eof-after:5", "no-done", "stall-after:5"])
async def test_a_chatflow_whose_stream_breaks_is_finished_from_cozes_record(serve: Serve, fault: str) -> None:
    served = await serve(upstream_idle_timeout=1)
    message = f"/fault plain {fault} pieces:20 -- broken"
    events = await served.ask(message, workflowId="75")
    assert text_of(events) == events[-1]["content"] == whole_text(message)
    assert events[-1]["event"] == "completed"
    assert events[-1]["recovered"] is (fault != "no-done")


async def test_a_chatflow_that_fails_at_once_is_not_asked_again(served: Served) -> None:
    events = await served.ask("/fault failed-first -- no", workflowId="75")
    assert [event["event"] for event in events] == ["started", "error"]
    assert (events[-1]["code"], events[-1]["upstream"]["code"]) == ("upstream_rejected", 720702204)


async def test_a_chatflow_waits_for_tools(served: Served) -> None:
    body = {"userId": "u", "workflowId": "75", "message": "/fault action pieces:3 -- tools"}
    status, _, waits = await served.post("/api/coze/chat", body, Prefer="wait=10")
    assert (status, waits["status"]) == (200, "action_required")
    outputs = [{"toolCallId": call["id"], "output": "ok"} for call in waits["toolCalls"]]
    status, _, _ = await served.post(f"/api/coze/turns/{waits['turnId']}/tool-outputs", {"toolOutputs": outputs})
    assert status == 202
    assert (await served.ended(waits["turnId"]))["status"] == "completed"


async def test_a_chatflow_of_which_coze_has_no_record_fails_as_an_answer_not_as_a_message(serve: Serve) -> None:
    async def play(peer: Peer) -> None:
        assert peer.request is not None
        if peer.request.target == "/v1/workflows/chat":
            await peer.send(STREAM_HEAD + chunk(sample("chatflow.sse")[:1500]))
            peer.writer.close()
        else:
            await peer.send(json_answer(b'{"code":4001,"msg":"no such chat"}'))

    async with coze(play) as server:
        served = await serve(coze_api_base=server.url, coze_api_token="x")
        events = await served.ask("hi", workflowId="75")
    assert text_of(events) == events[-1]["content"] != ""
    assert (events[-1]["event"], events[-1]["code"], events[-1]["upstream"]["code"]) == (
        "error",
        "upstream_failed",
        4001,
    )
    assert [request.target for request in server.requests].count("/v1/workflows/chat") == 1


async def test_a_text_that_could_not_be_read_is_told_in_the_log(serve: Serve, logs: list[EventDict]) -> None:
    text = sample("workflow.sse").replace(b'"node_seq_id":"3"', b'"node_seq_id":3"')
    async with coze(streaming(text)) as server:
        served = await serve(coze_api_base=server.url, coze_api_token="x")
        events = await run(served, "hi")
    assert (events[-1]["event"], events[-1]["code"]) == ("error", "upstream_failed")
    [line] = [line for line in logs if line["event"] == "SSE stream ended"]
    assert line["reason"] == "the workflow failed, or a text of it could not be read"
    assert line["skippedRecords"] == {"malformed": 1}
