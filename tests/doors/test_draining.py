"""A door that is being closed: what was begun is named, so that no client begins it again."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.errors import Code, UpstreamError
from gateway.upstream.coze import CozeUpstream
from tests.doors.clients import records
from tests.doors.conftest import TOKEN, Door
from tests.edge.whole import key


def body(message: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": message, "content_type": "text"}]
    return {"bot_id": "75", "user_id": "u", "stream": True, "additional_messages": said} | more


def assert_cut(status: int, headers: Any, said: Any) -> None:
    assert (status, said["code"]) == (500, 5000)
    assert headers["X-Gateway-Turn"].startswith("turn_")
    assert "Retry-After" not in headers


class Silence:
    """Calls of Coze's that get no answer until the end of the test."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.over = asyncio.Event()

    async def silent(self, *_: Any) -> None:
        self.asked.set()
        await self.over.wait()
        raise UpstreamError(Code.UPSTREAM_REJECTED, "the test is over")


@pytest.fixture
def silence() -> Iterator[Silence]:
    silence = Silence()
    yield silence
    silence.over.set()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat_that_has_begun_when_the_gateway_stops_is_named_in_the_answer(
    door: Door, silence: Silence, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = door.served.services
    monkeypatch.setattr(CozeUpstream, "chat", silence.silent)
    asking = asyncio.create_task(door.served.post("/v3/chat", body("x", stream=stream), **key(TOKEN)))
    await asyncio.wait_for(silence.asked.wait(), 10)
    services.turns.start_nothing_more()
    services.hub.drain(also_running=True)
    assert_cut(*await asyncio.wait_for(asking, 10))
    assert len(services.turns._runner.turns) == 1
    status, headers, said = await door.served.post("/v3/chat", body("x"), **key(TOKEN))
    assert (status, said["code"], "X-Gateway-Turn" in headers) == (503, 4009, False)  # this one has started nothing
    assert headers["Retry-After"]


async def test_a_chat_that_is_cancelled_before_coze_began_it_is_no_chat_that_runs(
    door: Door, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CozeUpstream, "chat", silence.silent)
    asking = asyncio.create_task(door.served.post("/v3/chat", body("x", stream=False), **key(TOKEN)))
    await asyncio.wait_for(silence.asked.wait(), 10)
    turns = door.served.services.turns
    (turn,) = turns._runner.turns
    assert await turns.cancel(turn, owns=lambda user, shop: True)
    status, headers, said = await asyncio.wait_for(asking, 10)
    assert (status, said["code"], "data" in said) == (200, 5000, False)
    assert headers["X-Gateway-Turn"] == turn


async def test_tool_outputs_that_were_taken_when_the_gateway_stops_are_not_asked_for_again(
    door: Door, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door.served.session.post(
        f"{door.url}/v3/chat", json=body("/fault action x"), headers=key(TOKEN)
    ) as first:
        name, waits = records(await first.text())[-2]
    assert name == "conversation.chat.requires_action"
    monkeypatch.setattr(CozeUpstream, "submit_tool_outputs", silence.silent)
    calls = waits["required_action"]["submit_tool_outputs"]["tool_calls"]
    outputs = {"stream": True, "tool_outputs": [{"tool_call_id": call["id"], "output": "ok"} for call in calls]}
    path = f"/v3/chat/submit_tool_outputs?conversation_id={waits['conversation_id']}&chat_id={waits['id']}"
    asking = asyncio.create_task(door.served.post(path, outputs, **key(TOKEN)))
    await asyncio.wait_for(silence.asked.wait(), 10)
    door.served.services.hub.drain(also_running=True)
    assert_cut(*await asyncio.wait_for(asking, 10))
