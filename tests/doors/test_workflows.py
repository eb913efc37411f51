"""Workflows through the door: a run is a turn, in the form that Coze's workflows have."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.simulator.workflow import whole_run
from tests.doors.clients import cozepy
from tests.doors.conftest import TOKEN, Door, Open
from tests.doors.studio import ANSWER, BODY, SAMPLES, Studio, joined, post, served, studio, told
from tests.edge.whole import key
from tests.transports.conftest import Served

__all__ = ["served", "studio"]


async def test_a_run_comes_as_coze_sent_it(served: Served, studio: Studio) -> None:
    headers, text = await post(served, "stream_run", BODY)
    assert studio.bodies == [BODY]
    assert headers["X-Tt-Logid"] == "2026run"
    assert headers["Content-Type"] == "text/event-stream"
    whole = told(studio.plays[0])
    assert joined(told(text)) == joined(whole)
    assert next(name for name, _ in told(text)) == "PING"
    assert told(text)[-1] == whole[-1]
    numbers = [data["node_seq_id"] for name, data in told(text) if name == "Message"]
    assert numbers == [*map(str, range(len(numbers) - 1)), "0"]  # two nodes, of which the second says one thing


async def test_the_self_hosted_studio_s_spelling_becomes_coze_s(served: Served, studio: Studio) -> None:
    small = studio.plays[0]
    for name in ("Message", "Done"):
        small = small.replace(f"event: {name}", f"event: {name.lower()}")
    studio.plays = [small]
    _, text = await post(served, "stream_run", BODY)
    assert {name for name, _ in told(text)} == {"PING", "Message", "Done"}


async def test_a_failure_is_told_in_coze_s_words(served: Served, studio: Studio) -> None:
    studio.plays = [(SAMPLES / "workflow-error.sse").read_text()]
    headers, text = await post(served, "stream_run", BODY)
    assert told(text) == told(studio.plays[0])
    assert headers["X-Gateway-Turn"]


async def test_a_run_that_is_cut_fails_after_what_was_told(served: Served, studio: Studio) -> None:
    studio.cut = len(studio.plays[0].encode()) // 2
    _, text = await post(served, "stream_run", BODY)
    *before, (name, error) = told(text)
    assert name == "Error"
    assert error["error_code"] == 5000
    assert "still be running" in error["error_message"]
    assert len(before) > 1
    assert len(studio.bodies) == 1


async def test_an_interrupt_is_answered_and_the_run_goes_on_in_the_answer_s_stream(
    served: Served, studio: Studio
) -> None:
    studio.plays = [(SAMPLES / "workflow-interrupt.sse").read_text(), studio.plays[0]]
    first, second = studio.plays
    headers, text = await post(served, "stream_run", BODY)
    assert told(text) == told(first)
    again, rest = await post(served, "stream_resume", ANSWER)
    assert studio.bodies[1] == ANSWER
    assert again["X-Gateway-Turn"] == headers["X-Gateway-Turn"]
    assert joined(told(rest)) == joined(told(second))
    # The same answer once more, because its stream was lost: the rest again, and nothing is sent to Coze.
    _, repeated = await post(served, "stream_resume", ANSWER, **{"X-Gateway-Turn": headers["X-Gateway-Turn"]})
    assert joined(told(repeated)) == joined(told(rest))
    assert len(studio.bodies) == 2


async def test_a_second_answer_while_the_first_is_at_work_is_refused_and_never_sent(
    served: Served, studio: Studio
) -> None:
    studio.plays = [(SAMPLES / "workflow-interrupt.sse").read_text(), studio.plays[0]]
    await post(served, "stream_run", BODY)
    studio.gate.clear()
    answering = asyncio.create_task(post(served, "stream_resume", ANSWER))
    await asyncio.wait_for(studio.asked_again.wait(), 10)
    _, refused = await post(served, "stream_resume", ANSWER | {"resume_data": "上海"})
    assert json.loads(refused)["code"] == 4315
    studio.gate.set()
    _, text = await answering
    assert told(text)[-1][0] == "Done"
    assert [body.get("resume_data") for body in studio.bodies] == [None, "杭州"]


async def test_an_interrupt_that_the_gateway_does_not_know_is_coze_s_to_answer(served: Served, studio: Studio) -> None:
    _, text = await post(served, "stream_resume", ANSWER)
    assert text == studio.plays[0]
    assert studio.bodies == [ANSWER]


async def test_nobody_else_answers_an_interrupt(served: Served, studio: Studio) -> None:
    studio.plays = [(SAMPLES / "workflow-interrupt.sse").read_text(), studio.plays[0]]
    headers, _ = await post(served, "stream_run", BODY)
    turn = {"X-Gateway-Turn": headers["X-Gateway-Turn"]}
    _, text = await post(served, "stream_resume", ANSWER, "pat_of_somebody_else", **turn)
    assert json.loads(text)["code"] == 4001
    _, text = await post(served, "stream_resume", ANSWER, "pat_of_somebody_else")
    assert len(studio.bodies) == 2, "Coze decides about what that token may do"
    assert studio.bodies[1] == ANSWER


async def test_parameters_come_to_coze_as_they_are_however_long_their_numbers(served: Served, studio: Studio) -> None:
    body = {"workflow_id": "7561", "parameters": {"order": 12345678901234567890123, "deep": [[[[[[[["x"]]]]]]]]}}
    headers, _ = await post(served, "stream_run", body)
    assert studio.bodies == [body]
    turn = await served.services.store.turn(headers["X-Gateway-Turn"])
    assert turn is not None
    told_first = await served.services.store.messages(turn.conversation_id, before=None, limit=9)
    assert json.loads(told_first[0][0].content) == body["parameters"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"workflow_id": "7561", "parameters": []}, "parameters"),
        ({"parameters": {}}, "workflow_id"),
        ({"workflow_id": "7561", "bot_id": 7}, "bot_id"),
    ],
)
async def test_what_is_wrong_with_a_run_is_named(served: Served, studio: Studio, body: Any, named: str) -> None:
    _, text = await post(served, "stream_run", body)
    assert json.loads(text)["code"] == 4000
    assert named in json.loads(text)["msg"]
    assert studio.bodies == []


@pytest.mark.parametrize("missing", ["workflow_id", "event_id", "resume_data"])
async def test_what_is_wrong_with_an_answer_is_named(served: Served, studio: Studio, missing: str) -> None:
    _, text = await post(served, "stream_resume", {name: ANSWER[name] for name in ANSWER if name != missing})
    assert json.loads(text)["code"] == 4000
    assert missing in json.loads(text)["msg"]
    assert studio.bodies == []


# -- against the simulator --------------------------------------------------------------------------------------------


async def test_a_dropped_client_gets_the_rest(opened: Open) -> None:
    door = await opened(rate=60)
    message = "/fault plain pieces:60 x"
    body = {"workflow_id": "7561", "parameters": {"input": message}}
    url = f"{door.url}/v1/workflow/stream_run"
    text = ""
    async with door.served.session.post(url, json=body, headers=key(TOKEN)) as response:
        turn = response.headers["X-Gateway-Turn"]
        async for line in response.content:
            if line.startswith(b"data: ") and b'"content_type"' in line:
                text += json.loads(line.removeprefix(b"data: "))["content"]
            if len(text) > 40:
                break
    heads = {"X-Gateway-Turn": turn, "X-Gateway-After": str(len(text))}
    _, rest = await post(door.served, "stream_run", body, **heads)
    text += "".join(data["content"] for name, data in told(rest) if name == "Message")
    assert text == whole_run(message)
    assert told(rest)[-1][0] == "Done"
    assert door.simulator.requests["run_workflow"] == 1


@pytest.fixture
def coze(door: Door) -> Iterator[cozepy.Coze]:
    with cozepy.SyncHTTPClient() as http:
        yield cozepy.Coze(cozepy.TokenAuth(TOKEN), door.url, http)


def text_of(events: list[cozepy.WorkflowEvent]) -> str:
    return "".join(event.message.content for event in events if event.message is not None)


async def test_cozepy_runs_a_workflow_and_answers_its_interrupt(door: Door, coze: cozepy.Coze) -> None:
    question = "/fault action x"

    def run() -> tuple[list[cozepy.WorkflowEvent], list[cozepy.WorkflowEvent]]:
        first = list(coze.workflows.runs.stream(workflow_id="7561", parameters={"input": question}))
        asked = first[-1].interrupt
        assert asked is not None
        rest = coze.workflows.runs.resume(
            workflow_id="7561",
            event_id=asked.interrupt_data.event_id,
            resume_data="杭州",
            interrupt_type=asked.interrupt_data.type,
        )
        return first, list(rest)

    first, rest = await asyncio.to_thread(run)
    assert first[-1].event == cozepy.WorkflowEventType.INTERRUPT
    assert text_of(first) == whole_run(question)
    assert text_of(rest) == whole_run(question, answer="杭州")
    assert door.simulator.requests["run_workflow"] == 1
    assert door.simulator.requests["resume_workflow"] == 1


async def test_cozepy_continues_a_run_by_a_hook_that_adds_the_headers(opened: Open) -> None:
    door = await opened(rate=60)
    message = "/fault plain pieces:60 x"
    headers: dict[str, str] = {}

    def note(response: httpx.Response) -> None:
        headers["X-Gateway-Turn"] = response.headers["X-Gateway-Turn"]

    def run() -> str:
        text = ""
        hooks: dict[str, Any] = {
            "request": [lambda request: request.headers.update(headers)],
            "response": [note],
        }
        with cozepy.SyncHTTPClient(event_hooks=hooks) as http:
            coze = cozepy.Coze(cozepy.TokenAuth(TOKEN), door.url, http)
            for longest in (40, 90, 10**6):
                headers.update({"X-Gateway-After": str(len(text))} if text else {})
                for event in coze.workflows.runs.stream(workflow_id="7561", parameters={"input": message}):
                    text += event.message.content if event.message is not None else ""
                    if len(text) > longest:
                        break
        return text

    assert await asyncio.to_thread(run) == whole_run(message)
    assert door.simulator.requests["run_workflow"] == 1


async def test_cozepy_s_asynchronous_client_does_the_same(door: Door) -> None:
    async with cozepy.AsyncHTTPClient() as http:
        coze = cozepy.AsyncCoze(cozepy.AsyncTokenAuth(TOKEN), door.url, http)
        question = "/fault action x"
        first = [e async for e in coze.workflows.runs.stream(workflow_id="7561", parameters={"input": question})]
        asked = first[-1].interrupt
        assert asked is not None
        data = asked.interrupt_data
        resumed = coze.workflows.runs.resume(
            workflow_id="7561", event_id=data.event_id, resume_data="杭州", interrupt_type=data.type
        )
        rest = [event async for event in resumed]
    assert text_of(first) == whole_run(question)
    assert text_of(rest) == whole_run(question, answer="杭州")
