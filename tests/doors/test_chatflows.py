"""Chatflows through the door: a turn like any other, in the form that Coze's chatflows have."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.doors.clients import cozepy
from tests.doors.conftest import TOKEN
from tests.doors.hosting import hosted
from tests.edge.whole import key
from tests.transports.conftest import Serve, Served

SAMPLES = Path(__file__).parents[1] / "coze"
BODY: dict[str, Any] = {
    "workflow_id": "7561",
    "parameters": {"city": "杭州"},
    "additional_messages": [{"role": "user", "content": "你好", "content_type": "text"}],
    "of_a_later_version": {"a": [1]},
}


class Flow:
    """A Coze that plays one recorded chatflow, and remembers what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.sample = "chatflow.sse"
        self.bodies: list[Any] = []
        self.cut = 0
        """After how many bytes the stream breaks; 0: never."""

    @property
    def text(self) -> bytes:
        return (SAMPLES / self.sample).read_bytes()

    async def play(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Tt-Logid": "2026flow"})
        await response.prepare(request)
        await response.write(self.text[: self.cut] if self.cut else self.text)
        if self.cut:
            assert request.transport is not None
            request.transport.close()
        return response

    async def retrieve(self, request: web.Request) -> web.Response:
        said = told(self.text.decode())
        return web.json_response({"code": 0, "data": dict(said)["conversation.chat.completed"]})

    async def messages(self, request: web.Request) -> web.Response:
        whole = [data for name, data in told(self.text.decode()) if name == "conversation.message.completed"]
        return web.json_response({"code": 0, "data": whole})


def told(text: str) -> list[tuple[str, Any]]:
    """The records of a stream: names and data."""
    lines = [line for line in text.split("\n") if line and not line.startswith("id:")]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [(name.partition(":")[2].strip(), json.loads(data.partition(":")[2])) for name, data in pairs]


def joined(records: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The same, with consecutive pieces of one message as one."""
    found: list[tuple[str, Any]] = []
    for name, data in records:
        if name != "conversation.message.delta":
            found.append((name, data))
        elif found and found[-1][0] == name and found[-1][1]["id"] == data["id"]:
            found[-1][1]["content"] += data["content"]
        else:
            found.append((name, {"id": data["id"], "content": data["content"]}))
    return found


def pieces(records: list[tuple[str, Any]]) -> str:
    return "".join(data["content"] for name, data in records if name == "conversation.message.delta")


@pytest.fixture
async def flow() -> AsyncIterator[Flow]:
    flow = Flow()
    app = web.Application()
    app.router.add_post("/v1/workflows/chat", flow.play)
    app.router.add_get("/v3/chat/retrieve", flow.retrieve)
    app.router.add_get("/v3/chat/message/list", flow.messages)
    async with hosted(app) as flow.url:
        yield flow


@pytest.fixture
async def served(flow: Flow, serve: Serve) -> Served:
    return await serve(coze_api_token="pat", coze_api_base=flow.url)


async def run(served: Served) -> tuple[Any, str]:
    async with served.session.post(f"{served.url}/v1/workflows/chat", json=BODY, headers=key(TOKEN)) as response:
        return response.headers, await response.text()


async def test_a_chatflow_comes_as_coze_sent_it(served: Served, flow: Flow) -> None:
    headers, text = await run(served)
    assert flow.bodies == [BODY]
    assert headers["X-Tt-Logid"] == "2026flow"
    assert all(line.startswith(("event: ", "data: ")) for line in text.split("\n") if line)
    assert joined(told(text)) == joined(told(flow.text.decode()))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
async def test_a_chatflow_that_is_cut_arrives_whole(served: Served, flow: Flow, share: float) -> None:
    flow.cut = int(len(flow.text) * share)
    _, text = await run(served)
    mine, whole = told(text), told(flow.text.decode())
    assert pieces(mine) == pieces(whole)
    assert dict(mine)["conversation.chat.completed"] == dict(whole)["conversation.chat.completed"]
    assert told(text)[-1][0] == "done"
    assert len(flow.bodies) == 1


async def test_a_chatflow_s_flat_failure_is_passed_on(served: Served, flow: Flow) -> None:
    flow.sample = "chatflow-failed.sse"
    _, text = await run(served)
    assert told(text)[0] == told(flow.text.decode())[0]
    assert told(text)[-1][0] == "done"


async def test_cozepy_reads_a_chatflow(served: Served) -> None:
    def read() -> list[cozepy.ChatEvent]:
        with cozepy.SyncHTTPClient() as http:
            coze = cozepy.Coze(cozepy.TokenAuth(TOKEN), served.url, http)
            question = cozepy.Message.build_user_question_text("你好")
            return list(coze.workflows.chat.stream(workflow_id="7561", additional_messages=[question]))

    events = await asyncio.to_thread(read)
    assert events[-1].event == cozepy.ChatEventType.CONVERSATION_CHAT_COMPLETED
