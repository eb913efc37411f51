"""The traps that Coze's SDKs set: what they fail on never comes, and what they leave open is answered."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from gateway.simulator import whole_text
from tests.doors.clients import QUESTION, asked, cozepy, records, text_of
from tests.doors.conftest import TOKEN, Door, Open
from tests.doors.hosting import hosted
from tests.edge.whole import key
from tests.faults.proxy import Fault, Trap, proxied
from tests.processes import ROOT

RECORD = re.compile(r"event:[a-z_.]+\ndata:[^\n]+\n\n\n*")
Event = cozepy.ChatEventType


def body(message: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": message, "content_type": "text"}]
    return {"bot_id": "75", "user_id": "u", "stream": True, "additional_messages": said} | more


@pytest.mark.parametrize("faults", ["plain", "reasoning", "tool", "multi", "audio", "hostile", "error-event", "studio"])
async def test_the_framing_is_coze_s_to_the_byte(door: Door, faults: str) -> None:
    message = f"/fault {faults} {QUESTION}"
    async with door.served.session.post(f"{door.url}/v3/chat", json=body(message), headers=key(TOKEN)) as response:
        raw = (await response.read()).decode()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert (b"X-Tt-Logid", response.headers["X-Tt-Logid"].encode()) in response.raw_headers
        assert response.headers["Transfer-Encoding"] == "chunked"
    assert "".join(RECORD.findall(raw)) == raw
    assert len(raw.splitlines()) == raw.count("\n")  # readers that split at U+2028 and the like see the same lines
    assert records(raw)[-1] == ("done", "[DONE]")


async def test_a_heartbeat_is_an_empty_line_between_two_records(opened: Open) -> None:
    door = await opened(first_ms=1000, heartbeat_interval=0.2)
    async with door.served.session.post(f"{door.url}/v3/chat", json=body("你好"), headers=key(TOKEN)) as response:
        raw = await response.text()
    assert "\n\n\n" in raw
    assert "".join(RECORD.findall(raw)) == raw
    async with cozepy.AsyncHTTPClient() as http:
        coze = cozepy.AsyncCoze(cozepy.AsyncTokenAuth(TOKEN), door.url, http)
        events = [event async for event in coze.chat.stream(**asked("你好"))]
    assert text_of(events) == whole_text("你好")


async def test_the_asynchronous_client_streams_polls_and_is_refused(door: Door) -> None:
    async with cozepy.AsyncHTTPClient() as http:
        coze = cozepy.AsyncCoze(cozepy.AsyncTokenAuth(TOKEN), door.url, http)
        message = f"/fault drop-after:9 plain {QUESTION}"
        events = [event async for event in coze.chat.stream(**asked(message))]
        assert text_of(events) == whole_text(message)
        chat = await coze.chat.create(**asked(QUESTION))
        assert chat.status == cozepy.ChatStatus.IN_PROGRESS
        made = await coze.conversations.create(meta_data={"k": "v"})
        assert (await coze.conversations.retrieve(conversation_id=made.id)).meta_data == {"k": "v"}
        with pytest.raises(cozepy.CozeAPIError) as raised:
            _ = [event async for event in coze.chat.stream(**asked("/fault code:4015 x"))]
        assert raised.value.code == 4015
        with pytest.raises(cozepy.CozeAPIError) as raised:
            await coze.chat.retrieve(conversation_id="75", chat_id="76")
        assert raised.value.code == 4001


async def test_a_chat_that_is_not_kept_cannot_be_polled(door: Door) -> None:
    unkept = body("x", stream=False, auto_save_history=False)
    _, _, said = await door.served.post("/v3/chat", unkept, **key(TOKEN))
    assert said["code"] == 4007


async def test_a_question_of_the_bot_ends_the_stream_and_its_reply_goes_to_the_same_conversation(door: Door) -> None:
    async with cozepy.AsyncHTTPClient() as http:
        coze = cozepy.AsyncCoze(cozepy.AsyncTokenAuth(TOKEN), door.url, http)
        *_, waits = [event async for event in coze.chat.stream(**asked("/fault question 订票"))]
        assert waits.event == Event.CONVERSATION_CHAT_REQUIRES_ACTION
        assert waits.chat is not None
        ids = {"conversation_id": waits.chat.conversation_id, "chat_id": waits.chat.id}
        assert (await coze.chat.retrieve(**ids)).status == cozepy.ChatStatus.REQUIRES_ACTION
        name = waits.chat.conversation_id
        *_, last = [event async for event in coze.chat.stream(**asked("好的"), conversation_id=name)]
        assert last.event == Event.CONVERSATION_CHAT_COMPLETED
        assert last.chat is not None
        assert last.chat.conversation_id == name


async def test_a_page_may_read_the_log_id_and_name_its_turn(opened: Open) -> None:
    origin = "https://shop.example"
    door = await opened(allowed_origins=(origin,))
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with door.served.session.options(f"{door.url}/v3/chat", headers=asks) as response:
        assert response.status == 204
        assert "X-Gateway-Turn" in response.headers["Access-Control-Allow-Headers"]
    sent = {**key(TOKEN), "Origin": origin}
    async with door.served.session.post(f"{door.url}/v3/chat", json=body("你好"), headers=sent) as response:
        exposed = response.headers["Access-Control-Expose-Headers"]
        await response.read()
    assert {"X-Tt-Logid", "X-Gateway-Turn"} <= set(exposed.split(", "))


@pytest.mark.parametrize("fault", ["close", "reset"])
async def test_the_lines_in_the_docs_go_on_however_often_the_connection_breaks(door: Door, fault: Fault) -> None:
    page = (ROOT / "docs" / "coze-door.md").read_text(encoding="utf-8")
    (lines,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def stream" in code]
    names: dict[str, Any] = {}
    exec(lines, names)
    assert names["httpx"] is httpx
    message = f"/fault multi {QUESTION}"
    async with proxied(door.url) as proxy:
        places = [b"event:conversation.message.delta", "你好".encode(), b"event:conversation.message.completed"]
        traps = [Trap(place, fault) for place in places]
        proxy.weather.trap = lambda request: next((trap for trap in traps if trap.times), None)
        auth = cozepy.TokenAuth(TOKEN)
        events = await asyncio.to_thread(lambda: list(names["stream"](auth, proxy.url, **asked(message))))
        assert proxy.fired[fault] == len(places)
    straight = "".join(whole_text(message).split("\n\n"))
    assert "".join(text_of(events).split("\n\n")) == straight
    assert events[-1].event == Event.CONVERSATION_CHAT_COMPLETED
    assert door.simulator.chats_started == 1


@pytest.mark.parametrize("answers", [2, 100])
async def test_the_lines_in_the_docs_go_on_after_a_stream_that_was_given_up_but_not_for_ever(answers: int) -> None:
    page = (ROOT / "docs" / "coze-door.md").read_text(encoding="utf-8")
    (lines,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def stream" in code]
    names: dict[str, Any] = {}
    exec(lines, names)
    places: list[str | None] = []

    async def play(request: web.Request) -> web.Response:
        places.append(request.headers.get("X-Gateway-After"))
        said = {"id": "1", "type": "answer", "content_type": "text", "role": "assistant"}
        pieces = [said | {"content": text} for text in (("ab",) if len(places) == 1 else ("cd",) * (answers == 2))]
        text = "".join(f"event:conversation.message.delta\ndata:{json.dumps(piece)}\n\n" for piece in pieces)
        failed = "event:error\ndata:{}\n\n" if len(places) < answers else 'event:done\ndata:"[DONE]"\n\n'
        return web.Response(text=text + failed, content_type="text/event-stream", headers={"X-Gateway-Turn": "turn_1"})

    app = web.Application()
    app.router.add_post("/v3/chat", play)
    async with hosted(app) as url:
        auth = cozepy.TokenAuth(TOKEN)
        reading = asyncio.to_thread(lambda: list(names["stream"](auth, url, **asked("x"))))
        if answers == 2:
            assert text_of(await reading) == "abcd"
        else:
            with pytest.raises(Exception, match="error event"):
                await reading
    assert places == [None, "2"]


async def test_an_impossible_place_is_refused_and_starts_nothing(door: Door) -> None:
    async with door.served.session.post(f"{door.url}/v3/chat", json=body("你好"), headers=key(TOKEN)) as response:
        turn = response.headers["X-Gateway-Turn"]
        await response.read()
    for named, after, code in ((turn, "9999999", 4000), (turn, "-1", 4000), (turn + "0", "1", 4001), ("x", "1", 4001)):
        sent = {**key(TOKEN), "X-Gateway-Turn": named, "X-Gateway-After": after}
        _, _, said = await door.served.post("/v3/chat", body("你好"), **sent)
        assert said["code"] == code
    assert door.simulator.chats_started == 1


async def test_text_is_continued_at_any_character(door: Door) -> None:
    message = f"/fault multi {QUESTION}"
    async with aiohttp.ClientSession(headers=key(TOKEN)) as session:
        async with session.post(f"{door.url}/v3/chat", json=body(message)) as response:
            turn, whole = response.headers["X-Gateway-Turn"], records(await response.text())
        text = "".join(data["content"] for name, data in whole if name == "conversation.message.delta")
        for after in (1, 2, len(text) // 3, len(text) // 2, len(text) - 1, len(text)):
            sent = {"X-Gateway-Turn": turn, "X-Gateway-After": str(after)}
            async with session.post(f"{door.url}/v3/chat", json=body(message), headers=sent) as response:
                rest = records(await response.text())
            pieces = [data["content"] for name, data in rest if name == "conversation.message.delta"]
            assert "".join(pieces) == text[after:]
            assert rest[-2:] == whole[-2:]


async def test_a_reader_at_whom_our_own_code_fails_is_told_so_in_a_whole_answer(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise AssertionError("a fault of our own")

    monkeypatch.setattr("adapters.facades.coze.framing.Framer.frames", broken)
    sent = key(TOKEN)
    async with door.served.session.post(f"{door.url}/v3/chat", json=body("你好"), headers=sent) as response:
        assert response.status == 200
        [(name, said)] = records(await response.text())
    assert (name, said["code"]) == ("error", 5000)
    await door.served.balanced()


async def test_a_failure_of_our_own_code_is_told_in_coze_s_form(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise AssertionError("a fault of our own")

    monkeypatch.setattr("adapters.facades.coze.chats.order_of", broken)
    status, headers, said = await door.served.post("/v3/chat", body("你好"), **key(TOKEN))
    assert (status, said["code"]) == (500, 5000)
    assert headers["X-Tt-Logid"] == said["detail"]["logid"]
