"""A Coze that plays workflows' runs, and the records that come of them through the door."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.doors.conftest import TOKEN
from tests.doors.hosting import hosted
from tests.edge.whole import key
from tests.transports.conftest import Serve, Served

SAMPLES = Path(__file__).parents[1] / "coze"
BODY: dict[str, Any] = {"workflow_id": "7561", "parameters": {"city": "杭州"}, "of_a_later_version": {"a": [1]}}
EVENT = "7569380013475250218/2769808280134765896"
ANSWER = {"workflow_id": "7561", "event_id": EVENT, "resume_data": "杭州", "interrupt_type": 2}

Record = tuple[str, Any]


def told(text: str) -> list[Record]:
    """The records of a stream in a workflow's exact form, whose ids count from 0: names and data."""
    found = []
    for number, record in enumerate(text.strip("\n").split("\n\n") if text else []):
        identity, event, data = record.strip("\n").split("\n")
        assert identity == f"id: {number}"
        found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def joined(records: list[Record]) -> list[Record]:
    """The same without pings and numbers within nodes, with consecutive pieces of one node as one."""
    found: list[Record] = []
    for name, data in records:
        data = {field: value for field, value in data.items() if field != "node_seq_id"}
        before = found[-1][1] if found and name == found[-1][0] == "Message" else {}
        if before and not before.get("node_is_finish") and _speaker(before) == _speaker(data):
            found[-1] = (name, data | {"content": before["content"] + data["content"]})
        elif name != "PING":
            found.append((name, data))
    return found


def _speaker(data: Any) -> dict[str, Any]:
    return {field: value for field, value in data.items() if field not in ("content", "node_is_finish")}


class Studio:
    """A Coze that plays recorded runs, and remembers what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.plays = [(SAMPLES / "workflow.sse").read_text()]
        self.bodies: list[Any] = []
        self.cut = 0
        """After how many bytes the stream breaks; 0: never."""
        self.gate = asyncio.Event()
        """While it is not set, an answer that has begun says nothing."""
        self.gate.set()
        self.asked_again = asyncio.Event()

    async def play(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Tt-Logid": "2026run"})
        await response.prepare(request)
        data = self.plays.pop(0).encode() if len(self.plays) > 1 else self.plays[0].encode()
        if len(self.bodies) > 1:
            self.asked_again.set()
        await self.gate.wait()
        await response.write(data[: self.cut] if self.cut else data)
        if self.cut:
            assert request.transport is not None
            request.transport.close()
        return response


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    studio = Studio()
    app = web.Application()
    for path in ("/v1/workflow/stream_run", "/v1/workflow/stream_resume"):
        app.router.add_post(path, studio.play)
    async with hosted(app) as studio.url:
        yield studio


@pytest.fixture
async def served(studio: Studio, serve: Serve) -> Served:
    return await serve(coze_api_token="pat", coze_api_base=studio.url)


async def post(served: Served, path: str, body: Any, token: str = TOKEN, **heads: str) -> tuple[Any, str]:
    url = f"{served.url}/v1/workflow/{path}"
    async with served.session.post(url, json=body, headers=key(token) | heads) as response:
        return response.headers, await response.text()
