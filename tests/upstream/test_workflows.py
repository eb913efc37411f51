"""Workflows and chatflows over HTTP: what is sent, and what Coze's own client makes of the same bytes."""

import asyncio
import json
import warnings
from typing import Any

import pytest

from gateway.errors import Code, UpstreamError
from gateway.upstream.protocol import (
    ActionRequired,
    ChatCompleted,
    ChatFailed,
    ChatRequest,
    Delta,
    Done,
    Item,
    Opened,
    StreamEnd,
)
from gateway.upstream.runs import Node, Resumption, RunBegun, RunRequest
from tests.upstream.conftest import Connect, Outcomes
from tests.upstream.servers import json_answer, sample, serving, streaming
from tests.upstream.test_first_word import Heard, cut

with warnings.catch_warnings(record=True):
    import cozepy  # a module of authlib that it imports warns

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nX-Tt-Logid: L\r\n\r\n"
CHATFLOW = ChatRequest("", "u", "m", workflow_id="75")
RUN = RunRequest("75")
RESUME = Resumption("75", "7/2", 2, "上海")


async def test_a_run_is_asked_for_as_coze_wants_it(connect: Connect) -> None:
    done = streaming(sample("workflow.sse"))
    async with serving(done) as server, connect(server.url) as coze:
        for request in (RUN, RunRequest("75", {"n": 2**53 + 1}, bot_id="b"), RunRequest("75", {}, app_id="a")):
            stream = await coze.run_workflow(request, Heard())
            assert await stream.ended() is StreamEnd.FINISHED
            stream.close()
        assert [request.target for request in server.requests] == ["/v1/workflow/stream_run"] * 3
        assert [json.loads(request.body) for request in server.requests] == [
            {"workflow_id": "75"},
            {"workflow_id": "75", "parameters": {"n": 2**53 + 1}, "bot_id": "b"},
            {"workflow_id": "75", "app_id": "a"},
        ]


async def test_an_interrupt_is_answered_as_coze_wants_it(connect: Connect, outcomes: Outcomes) -> None:
    async with serving(streaming(sample("workflow.sse"))) as server, connect(server.url) as coze:
        stream = await coze.resume_workflow(RESUME, Heard())
        await stream.ended()
        stream.close()
        assert server.requests[0].target == "/v1/workflow/stream_resume"
        assert json.loads(server.requests[0].body) == {
            "workflow_id": "75",
            "event_id": "7/2",
            "interrupt_type": 2,
            "resume_data": "上海",
        }
    assert outcomes == [("resume_workflow", "ok")]


@pytest.mark.parametrize("size", [1, 3, 40, 10_000])
@pytest.mark.parametrize("name", ["workflow.sse", "workflow-interrupt.sse", "workflow-error.sse"])
async def test_cozes_own_client_reads_the_same_of_a_workflow(connect: Connect, name: str, size: int) -> None:
    async with serving(cut(HEAD + sample(name), size)) as server, connect(server.url) as coze:
        stream = await coze.run_workflow(RUN, items := Heard())
        await stream.ended()
        stream.close()
        theirs = await asyncio.to_thread(official_run, server.url)
    assert items[0] == Opened("L")
    assert told([item for item in items if not isinstance(item, ChatCompleted)]) == theirs
    over = [Done()] if name == "workflow.sse" else []  # their client tells nobody of `Done`
    assert [item for item in items if isinstance(item, Done)] == over


@pytest.mark.parametrize("size", [1, 3, 40, 10_000])
async def test_cozes_own_client_reads_the_same_of_a_chatflow(connect: Connect, size: int) -> None:
    async with serving(cut(HEAD + sample("chatflow.sse"), size)) as server, connect(server.url) as coze:
        stream = await coze.chat(CHATFLOW, items := Heard())
        await stream.ended()
        stream.close()
        theirs = await asyncio.to_thread(official_chatflow, server.url)
    assert told(items) == theirs


@pytest.mark.parametrize("size", [1, 3, 40, 10_000])
async def test_a_chatflows_flat_failure_is_read_where_cozes_own_client_gives_up(connect: Connect, size: int) -> None:
    async with serving(cut(HEAD + sample("chatflow-failed.sse"), size)) as server, connect(server.url) as coze:
        stream = await coze.chat(CHATFLOW, items := Heard())
        assert await stream.ended() is StreamEnd.EOF
        stream.close()
        assert items == [Opened("L"), ChatFailed(720702204, "conversation name does not exist", True)]
        with pytest.raises(ValueError, match="2 validation errors for Chat"):
            await asyncio.to_thread(official_chatflow, server.url)


def told(items: list[Item]) -> list[Any]:
    """Texts by the nodes that say them, the interrupt, the failure, the end."""
    found: list[Any] = []
    for item in items:
        match item:
            case Node(title, node_id, _):
                found.append((title, node_id))
            case Delta(_, text):
                found.append(text)
            case ActionRequired([call]):
                found.append((call["id"], call["interruptType"], call["function"]["name"]))
            case ChatFailed(code):
                found.append(code)
            case ChatCompleted(usage):
                found.append(usage)
            case _:
                pass
    return found


def official_run(url: str) -> list[Any]:
    found: list[Any] = []
    speaks = None
    with cozepy.SyncHTTPClient() as http:
        client: Any = cozepy.Coze(cozepy.TokenAuth("pat_x"), url, http)
        for event in client.workflows.runs.stream(workflow_id="75"):
            match event.event:
                case cozepy.WorkflowEventType.MESSAGE:
                    said = event.message
                    ids = RAW[said.node_title]
                    if speaks != said.node_title or said.node_is_finish:
                        found.append((said.node_title, ids))
                    speaks = None if said.node_is_finish else said.node_title
                    found.append(said.content)
                case cozepy.WorkflowEventType.INTERRUPT:
                    asked = event.interrupt.interrupt_data
                    found.append((asked.event_id, asked.type, event.interrupt.node_title))
                case cozepy.WorkflowEventType.ERROR:
                    found.append(event.error.error_code)
    return found


RAW = {"输出": "158711", "End": "900001", "问答": "121334"}
"""The nodes' ids, which their client leaves out."""


def official_chatflow(url: str) -> list[Any]:
    found: list[Any] = []
    with cozepy.SyncHTTPClient() as http:
        client: Any = cozepy.Coze(cozepy.TokenAuth("pat_x"), url, http)
        for event in client.workflows.chat.stream(workflow_id="75", additional_messages=[]):
            match event.event.value.removeprefix("conversation."):
                case "message.delta":
                    found.append(event.message.content)
                case "chat.completed":
                    found.append(event.chat.usage.model_dump())
    return found


async def test_a_first_record_that_says_coze_has_no_room_is_a_refusal_and_any_other_is_none(connect: Connect) -> None:
    """A workflow may fail before it has said anything, when its first nodes have done their work already."""

    def error(code: int) -> bytes:
        return HEAD + b'id: 0\nevent: Error\ndata: {"error_code":%d,"error_message":"m"}\n\n' % code

    for code, expected in ((4009, Code.UPSTREAM_RATE_LIMITED), (4100, Code.UPSTREAM_UNAUTHORIZED)):
        async with serving(cut(error(code), 1000)) as server, connect(server.url) as coze:
            with pytest.raises(UpstreamError) as caught:
                await coze.run_workflow(RUN, Heard())
            assert (caught.value.code, caught.value.taken) == (expected, "no")
    for code in (4000, 5000, 720702222):
        async with serving(cut(error(code), 1000)) as server, connect(server.url) as coze:
            stream = await coze.run_workflow(RUN, items := Heard())
            await stream.ended()
            stream.close()
            assert items[1:] == [ChatFailed(code, "m", True)]
    ping = HEAD + b"event: PING\ndata: {}\n\n" + error(4009).removeprefix(HEAD)
    async with serving(cut(ping, 1000)) as server, connect(server.url) as coze:
        stream = await coze.run_workflow(RUN, items := Heard())
        await stream.ended()
        stream.close()
        assert items[1:] == [RunBegun(), ChatFailed(4009, "m", False)]


async def test_a_refusal_in_json_is_one(connect: Connect, outcomes: Outcomes) -> None:
    body = b'{"code":4100,"msg":"authentication is invalid","detail":{"logid":"L"}}'
    async with serving(json_answer(body, "401 Unauthorized")) as server, connect(server.url) as coze:
        for call in (coze.run_workflow(RUN, Heard()), coze.resume_workflow(RESUME, Heard())):
            with pytest.raises(UpstreamError) as caught:
                await call
            assert (caught.value.code, caught.value.coze_code) == (Code.UPSTREAM_UNAUTHORIZED, 4100)
    assert outcomes == [("run_workflow", "upstream_unauthorized"), ("resume_workflow", "upstream_unauthorized")]


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_stream_that_breaks_is_told_from_one_that_ends(connect: Connect, size: int) -> None:
    text = sample("workflow.sse")
    for most in (60, 300, 900):
        body = HEAD.replace(b"Connection: close", b"Content-Length: 5000") + text[:most]
        async with serving(cut(body, size)) as server, connect(server.url) as coze:
            stream = await coze.run_workflow(RUN, Heard())
            assert await stream.ended() is StreamEnd.BROKEN
            stream.close()
