"""A bot that asks the user something: the turn ends with the question, and the reply is an ordinary message."""

import asyncio

import pytest

from gateway.simulator import start_simulator, whole_text
from gateway.simulator.answers import prose_for
from tests.transports.conftest import Serve, Served
from tests.transports.readers import LISTENING, everything
from tests.waiting import until

FAULTS = ["question", "question-card", "question-in-call", "question-bare"]
QUESTION = prose_for("?").question.text


def text_of(fault: str, message: str) -> str:
    return {"question-card": "", "question-in-call": QUESTION}.get(fault, whole_text(message))


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_question_ends_the_turn_and_the_next_message_is_the_reply(serve: Serve, fault: str) -> None:
    coze = await start_simulator(first_ms=10, rate=200)
    try:
        served = await serve(coze_api_base=coze.url, coze_api_token="t")
        message = f"/fault {fault} -- the weather?"
        async with asyncio.timeout(5):  # and not GATEWAY_TURN_TIMEOUT
            events = await served.ask(message)
        last = events[-1]
        assert (last["event"], last["awaitingReply"], last["recovered"]) == ("completed", True, False)
        assert last["content"] == text_of(fault, message)
        assert [event["event"] for event in events if event["event"] in ("action_required", "tool", "notice")] == []
        cards = [event for event in events if event.get("contentType") == "card"]
        assert bool(cards) is (fault == "question-card")
        if cards:
            assert QUESTION in cards[0]["content"]

        reply = await served.ask("/fault plain pieces:4 -- Hangzhou", conversationId=last["conversationId"])
        assert (reply[-1]["event"], "awaitingReply" in reply[-1]) == ("completed", False)
        assert (coze.chats_started, coze.requests["chat"]) == (2, 2)
        assert (coze.requests["cancel"], coze.requests["submit_tool_outputs"]) == (0, 0)
        named = [await served.services.store.turn(turn["turnId"]) for turn in (last, reply[-1])]
        assert len({row.coze_conversation_id for row in named if row is not None}) == 1
    finally:
        await coze.close()


async def test_a_turn_that_asked_says_so_in_its_state_and_over_every_transport(served: Served) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault question -- the weather?"}
    status, _, answer = await served.post("/api/coze/chat", body)
    assert (status, answer["status"], answer["awaitingReply"]) == (200, "completed", True)
    assert answer["content"] == whole_text(body["message"])
    assert (await served.state(answer["turnId"]))["awaitingReply"] is True
    for read in LISTENING.values():
        if read.__name__ == "ndjson":
            continue
        events = await everything(read, served.door(f"turns/{answer['turnId']}"))
        assert events[-1]["awaitingReply"] is True
    status, _, problem = await served.post(
        f"/api/coze/turns/{answer['turnId']}/tool-outputs", {"toolOutputs": [{"toolCallId": "x", "output": "Hangzhou"}]}
    )
    assert (status, problem["code"]) == (422, "invalid_request")
    _, _, answer = await served.post("/api/coze/chat", body | {"message": "/fault plain pieces:3 -- hello"})
    assert "awaitingReply" not in answer


async def test_tools_come_first_and_then_the_question_in_the_same_turn(served: Served) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault action question -- the weather here?"}
    status, _, answer = await served.post("/api/coze/chat", body)
    assert (status, answer["status"]) == (200, "action_required")
    assert [call["type"] for call in answer["toolCalls"]] == ["function", "function"]
    door = served.door(f"turns/{answer['turnId']}")
    outputs = [{"toolCallId": call["id"], "output": "Hangzhou"} for call in answer["toolCalls"]]
    status, _, _ = await served.post(f"/api/coze/{door.topic}/tool-outputs", {"toolOutputs": outputs})
    assert status == 202
    state = await served.ended(answer["turnId"], within=5)
    assert (state["status"], state["awaitingReply"]) == ("completed", True)
    assert QUESTION in state["content"]


async def test_the_reply_may_wait_in_the_queue_before_the_question_is_asked(served: Served) -> None:
    asked = await served.start("/fault question -- the weather?")
    state = await served.state(asked.topic.removeprefix("turns/"))
    reply = await served.start(
        "/fault plain pieces:3 -- Hangzhou", conversationId=state["conversationId"], onBusy="queue"
    )
    assert (await served.ended(asked.topic.removeprefix("turns/"), within=5))["awaitingReply"] is True
    assert (await served.ended(reply.topic.removeprefix("turns/"), within=5))["status"] == "completed"
    await until(lambda: not served.services.turns._runner.turns)
