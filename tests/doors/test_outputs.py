"""Tool outputs that are sent again: the answer goes on after the call that they answer, whatever came later."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.doors.clients import records
from tests.doors.conftest import TOKEN
from tests.doors.hosting import hosted
from tests.edge.whole import key
from tests.transports.conftest import Serve, Served

IDS = {"id": "76", "conversation_id": "75"}
CHAT: dict[str, Any] = IDS | {"bot_id": "74", "last_error": {"code": 0, "msg": ""}}
BODY = {
    "bot_id": "74",
    "user_id": "u",
    "stream": True,
    "additional_messages": [{"role": "user", "content": "x", "content_type": "text"}],
}


def record(name: str, data: Any) -> str:
    return f"event:{name}\ndata:{json.dumps(data)}\n\n"


def asks_for(call: str) -> str:
    """The end of a stream that waits for the output of one tool."""
    calls = [{"id": call, "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    needed = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
    chat = CHAT | {"status": "requires_action", "required_action": needed}
    return record("conversation.chat.requires_action", chat) + record("done", "[DONE]")


def says(text: str) -> str:
    message = {"id": f"of {text}", "chat_id": "76", "conversation_id": "75", "bot_id": "74", "role": "assistant"}
    return record("conversation.message.delta", message | {"type": "answer", "content": text, "content_type": "text"})


STREAMS = {
    "": record("conversation.chat.created", CHAT | {"status": "created"}) + asks_for("A"),
    "A": record("conversation.chat.in_progress", CHAT | {"status": "in_progress"}) + says("one") + asks_for("B"),
    "B": says("two") + record("conversation.chat.completed", CHAT | {"status": "completed"}) + record("done", "[DONE]"),
}


class TwoTools:
    """A Coze that asks for the output of one tool, and then of another."""

    def __init__(self) -> None:
        self.url = ""
        self.given: list[str] = []

    async def play(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        call = body["tool_outputs"][0]["tool_call_id"] if "tool_outputs" in body else ""
        self.given += [call] if call else []
        return web.Response(text=STREAMS[call], content_type="text/event-stream")


@pytest.fixture
async def coze() -> AsyncIterator[TwoTools]:
    coze = TwoTools()
    app = web.Application()
    app.router.add_post("/v3/chat", coze.play)
    app.router.add_post("/v3/chat/submit_tool_outputs", coze.play)
    async with hosted(app) as coze.url:
        yield coze


@pytest.fixture
async def served(coze: TwoTools, serve: Serve) -> Served:
    return await serve(coze_api_token="pat", coze_api_base=coze.url)


async def ask(served: Served, call: str = "", turn: str = "", after: int = 0) -> tuple[Any, str]:
    """The head and the body of the chat's answer, or of the answer that follows the output of a tool."""
    path = f"/v3/chat/submit_tool_outputs?conversation_id={IDS['conversation_id']}&chat_id={IDS['id']}"
    output = {"stream": True, "tool_outputs": [{"tool_call_id": call, "output": "ok"}]}
    sent = key(TOKEN) | ({"X-Gateway-Turn": turn, "X-Gateway-After": str(after)} if turn else {})
    url, body = (served.url + path, output) if call else (f"{served.url}/v3/chat", BODY)
    async with served.session.post(url, json=body, headers=sent) as response:
        return response.headers, await response.text()


def text_of(answer: str) -> str:
    return "".join(data["content"] for name, data in records(answer) if name == "conversation.message.delta")


def names(answer: str) -> list[str]:
    return [name for name, _ in records(answer)]


async def test_outputs_that_are_sent_again_go_on_after_the_call_that_they_answer(
    served: Served, coze: TwoTools
) -> None:
    head, _ = await ask(served)
    turn = head["X-Gateway-Turn"]
    _, first = await ask(served, "A")
    assert text_of(first) == "one"
    for after in range(4):
        _, again = await ask(served, "A", turn, after)
        assert (text_of(again), names(again)[-2:]) == ("one"[after:], names(first)[-2:])
    _, second = await ask(served, "B")
    assert text_of(second) == "two"
    for call, whole in (("A", first), ("B", second)):
        _, again = await ask(served, call, turn, 1)
        assert (text_of(again), names(again)[-2:]) == (text_of(whole)[1:], names(whole)[-2:])
    assert coze.given == ["A", "B"]


async def test_outputs_whose_first_request_never_arrived_are_handed_over(served: Served, coze: TwoTools) -> None:
    head, _ = await ask(served)
    _, first = await ask(served, "A", head["X-Gateway-Turn"])
    assert (text_of(first), coze.given) == ("one", ["A"])
    _, refused = await ask(served, "C", head["X-Gateway-Turn"])
    assert json.loads(refused)["code"] == 4000
