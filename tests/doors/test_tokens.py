"""Whose token goes to Coze, and who finds what it started."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from structlog.typing import EventDict

from adapters.edge.callers import Caller
from adapters.facades.coze.asking import order_of
from gateway.simulator import whole_text
from tests.doors.clients import QUESTION, records
from tests.doors.conftest import TOKEN, Door, Open
from tests.edge.whole import key, person, with_tokens
from tests.faults.coze import gateway, simulated

BODY: dict[str, Any] = {
    "bot_id": "75",
    "user_id": "u",
    "stream": True,
    "additional_messages": [{"role": "user", "content": "/fault plain 你好", "content_type": "text"}],
}


def heard(door: Door) -> list[str]:
    """The tokens that come to Coze from now on."""
    seen: list[str] = []
    takes = door.simulator.tokens.takes

    def listening(token: str) -> bool:
        seen.append(token)
        return takes(token)

    door.simulator.tokens.takes = listening  # type: ignore[method-assign]
    return seen


Answer = tuple[aiohttp.ClientResponse, str]


async def ask(door: Door, token: str, body: dict[str, Any] = BODY, headers: Mapping[str, str] | None = None) -> Answer:
    sent = {**key(token), **(headers or {})}
    async with door.served.session.post(f"{door.url}/v3/chat", json=body, headers=sent) as response:
        return response, await response.text()


def holding(folder: Path, text: bytes) -> list[str]:
    """The files in which a text is."""
    return [path.name for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


async def test_the_caller_s_token_goes_to_coze_and_nowhere_else(
    door: Door, logs: list[EventDict], tmp_path: Path
) -> None:
    seen = heard(door)
    secret = "pat_0123456789abcdefghijklmnopqrstuvwxyz"
    response, text = await ask(door, secret)
    assert response.status == 200
    assert text.endswith('event:done\ndata:"[DONE]"\n\n')
    await door.served.balanced()
    assert set(seen) == {secret}
    await door.served.services.store.settled()
    await door.served.services.log.committed()
    assert await asyncio.to_thread(holding, tmp_path, secret.encode()) == []
    assert await asyncio.to_thread(holding, tmp_path, "你好".encode()) != []
    assert secret not in repr(logs)


async def test_what_a_token_started_is_found_with_it_alone(door: Door) -> None:
    response, text = await ask(door, TOKEN)
    turn = response.headers["X-Gateway-Turn"]
    again, same = await ask(door, TOKEN, headers={"X-Gateway-Turn": turn})
    assert again.headers["Content-Type"] == "text/event-stream"
    assert same.count("conversation.chat.completed") == text.count("conversation.chat.completed") == 1
    _, refused = await ask(door, "pat_another", headers={"X-Gateway-Turn": turn})
    assert '"code":4001' in refused
    for path in (f"turns/{turn}", f"turns/{turn}/events", f"turns/{turn}/poll"):
        status, _, _ = await door.served.get(f"/api/coze/{path}")
        assert status == 404, path
    (row,) = [await door.served.services.store.turn(turn)]
    assert row is not None
    status, _, _ = await door.served.get(f"/api/coze/conversations/{row.conversation_id}/messages")
    assert status == 404
    native = {"userId": row.user_id, "botId": "75", "message": "x", "conversationId": row.conversation_id}
    status, _, _ = await door.served.post("/api/coze/chat", native)
    assert status == 422  # no caller can name such an owner
    assert door.simulator.chats_started == 1


async def test_with_a_renewed_token_coze_is_asked_of_a_chat_that_the_old_one_started(door: Door) -> None:
    response, _ = await ask(door, TOKEN)
    turn = await door.served.services.store.turn(response.headers["X-Gateway-Turn"])
    assert turn is not None
    path = f"/v3/chat/retrieve?conversation_id={turn.coze_conversation_id}&chat_id={turn.coze_chat_id}"
    for token, asked in ((TOKEN, 0), ("pat_renewed", 1)):
        _, _, said = await door.served.get(path, **key(token))
        assert (said["code"], said["data"]["status"]) == (0, "completed")
        assert door.simulator.requests["retrieve"] == asked


async def test_a_chat_of_another_user_of_the_same_token_is_not_gone_on_with(door: Door) -> None:
    _, first = await ask(door, TOKEN)
    name = first.split('"conversation_id":"')[1].split('"')[0]
    for who in "ab":
        asked = BODY | {"user_id": who, "stream": False}
        _, _, said = await door.served.post(f"/v3/chat?conversation_id={name}", asked, **key(TOKEN))
        assert said["code"] == 0
        ids = {"conversation_id": name, "chat_id": said["data"]["id"]}
        await door.served.post("/v3/chat/cancel", ids, **key(TOKEN))
    await door.served.services.store.settled()
    rows = await door.served.services.store.coze.conversations_named(name)
    assert len({row.user_id for row in rows}) == 3


async def test_without_a_token_nothing_is_asked(door: Door) -> None:
    for path in ("/v3/chat", "/v1/workflows/chat", "/v1/conversation/create", "/v3/chat/cancel"):
        status, headers, said = await door.served.post(path, BODY)
        assert (status, said["code"]) == (401, 4100)
        assert headers["WWW-Authenticate"]
    assert not door.simulator.requests


async def test_a_token_that_is_too_long_to_be_one_is_not_remembered(door: Door) -> None:
    for length, status in ((2048, 200), (2049, 401)):
        answered, _, _ = await door.served.post("/v3/chat/cancel", {}, **key("x" * length))
        assert answered == status


async def test_made_up_tokens_take_nothing_from_a_chat_that_runs(door: Door) -> None:
    asking = BODY | {
        "additional_messages": [{"role": "user", "content": "/fault drop-after:9 x", "content_type": "text"}]
    }
    sent = {**key(TOKEN)}
    async with door.served.session.post(f"{door.url}/v3/chat", json=asking, headers=sent) as response:
        for number in range(10_001):
            door.served.services.caller_tokens.learn(f"made-up-{number}")
        text = await response.text()
    assert "conversation.chat.completed" in text
    await door.served.balanced()


async def test_with_auth_a_key_of_ours_is_asked_for_and_ours_goes_to_coze(opened: Open, tmp_path: Path) -> None:
    door = await opened(**with_tokens(tmp_path))
    seen = heard(door)
    response, text = await ask(door, "key-all")
    assert "conversation.chat.completed" in text
    response, text = await ask(door, "pat_caller")
    assert (response.status, '"code":4100' in text) == (401, True)
    mine = person("ann")["Authorization"].removeprefix("Bearer ")
    response, text = await ask(door, mine, BODY | {"user_id": "ann"})
    turn = response.headers["X-Gateway-Turn"]
    response, text = await ask(door, mine, BODY | {"user_id": "bob"})
    assert '"code":4000' in text
    bobs = person("bob")["Authorization"].removeprefix("Bearer ")
    _, text = await ask(door, bobs, BODY | {"user_id": "bob"}, {"X-Gateway-Turn": turn})
    assert '"code":4001' in text
    status, _, _ = await door.served.get(f"/api/coze/turns/{turn}", **person("ann"))
    assert status == 200  # the native routes show it to its owner
    assert set(seen) == {"pat_gateway"}


async def test_with_our_credentials_nobody_writes_into_a_conversation_in_which_they_have_no_turn(
    opened: Open, tmp_path: Path
) -> None:
    door = await opened(**with_tokens(tmp_path))
    post = door.served.post
    whole = BODY | {"stream": False, "user_id": "ann"}
    flow = {"additional_messages": BODY["additional_messages"], "workflow_id": "77", "bot_id": "75"}
    owners = ((person("ann"), person("bob"), "bob"), (key("key-b"), key("key-a"), "ann"))
    for mine, theirs, name in owners:
        _, _, said = await post("/v3/chat", whole, **mine)
        conversation = said["data"]["conversation_id"]
        await post("/v3/chat/cancel", {"conversation_id": conversation, "chat_id": said["data"]["id"]}, **mine)
        await door.served.balanced()
        started = door.simulator.chats_started
        asked = whole | {"user_id": name}
        status, _, said = await post(f"/v3/chat?conversation_id={conversation}", asked, **theirs)
        assert (status, said["code"]) == (200, 4200)
        status, _, said = await post("/v1/workflows/chat", flow | {"conversation_id": conversation}, **theirs)
        assert (status, said["code"]) == (200, 4200)
        assert door.simulator.chats_started == started
        _, _, said = await post("/v3/chat", asked | {"conversation_id": conversation}, **theirs)
        assert said["data"]["conversation_id"] != conversation
        _, _, said = await post(f"/v3/chat?conversation_id={conversation}", whole, **mine)
        assert said["data"]["conversation_id"] == conversation


async def test_the_query_alone_names_the_conversation_of_a_chat() -> None:
    request = make_mocked_request("POST", "/v3/chat")
    order = order_of({**BODY, "conversation_id": "75"}, request, Caller())
    assert order.coze is not None
    assert "conversation_id" not in order.coze.body


async def test_only_a_backend_may_have_requests_passed_on_with_our_credentials(opened: Open, tmp_path: Path) -> None:
    door = await opened(**with_tokens(tmp_path))
    for token, code in ((key("key-all"), 0), (key("key-a"), 4200), (person("ann"), 4200)):
        _, _, said = await door.served.post("/v1/conversation/create", {}, **token)
        assert said["code"] == code


@pytest.mark.parametrize("after", [0, 7])
async def test_after_a_crash_a_chat_waits_for_its_caller_s_token(tmp_path: Path, after: int) -> None:
    """And continues at the character after which its reader was cut off."""
    message = f"/fault plain {QUESTION}"
    body = BODY | {"additional_messages": [{"role": "user", "content": message, "content_type": "text"}]}
    async with simulated(rate=30) as coze, aiohttp.ClientSession(headers=key(TOKEN)) as session:
        async with gateway(tmp_path, coze.url) as first:
            async with session.post(f"{first.url}/v3/chat", json=body) as response:
                turn = response.headers["X-Gateway-Turn"]
                head = b""
                while head.count(b"message.delta") < 5:
                    head += await response.content.readany()
            await first.kill()
        async with gateway(tmp_path, coze.url) as second:
            await asyncio.sleep(1)  # longer than the gateway takes to ask Coze, if it could
            assert coze.requests["retrieve"] == 0
            resume = {"X-Gateway-Turn": turn, "X-Gateway-After": str(after)}
            async with session.post(f"{second.url}/v3/chat", json=body, headers=resume) as response:
                text = await response.text()
    deltas = [data["content"] for name, data in records(text) if name == "conversation.message.delta"]
    assert "".join(deltas) == whole_text(message)[after:]
    assert ("conversation.chat.created" in text) is (after == 0)
    assert text.endswith('event:done\ndata:"[DONE]"\n\n')
    assert coze.chats_started == 1


async def test_what_came_through_another_door_is_not_told_in_coze_s_form(opened: Open, tmp_path: Path) -> None:
    """A turn of the native routes has none of Coze's words, and a run is no chat."""
    door = await opened(**with_tokens(tmp_path))
    post, ann = door.served.post, person("ann")
    _, headers, _ = await post("/api/coze/chat", {"userId": "ann", "botId": "75", "message": "x"}, **ann)
    native = headers["X-Turn-Id"]
    run = {"workflow_id": "77", "parameters": {"input": "/fault action x"}}
    async with door.served.session.post(f"{door.url}/v1/workflow/stream_run", json=run, headers=ann) as response:
        of_run = response.headers["X-Gateway-Turn"]
        event_id = (await response.text()).split('"event_id":"')[1].split('"')[0]
    flow = {"additional_messages": BODY["additional_messages"], "workflow_id": "77", "bot_id": "75"}
    answer = {"workflow_id": "77", "event_id": event_id, "resume_data": "x"}
    routes = {"/v3/chat": BODY | {"user_id": "ann"}, "/v1/workflows/chat": flow}
    runs = {"/v1/workflow/stream_run": run, "/v1/workflow/stream_resume": answer}
    asked = [(path, body, of_run) for path, body in routes.items()]
    for path, body, turn in (*asked, *((path, body, native) for path, body in (routes | runs).items())):
        _, _, said = await post(path, body, **ann, **{"X-Gateway-Turn": turn})
        assert said["code"] == 4001, (path, turn)
    row = await door.served.services.store.turn(native)
    assert row is not None
    _, _, said = await door.served.get(
        f"/v3/chat/retrieve?conversation_id={row.coze_conversation_id}&chat_id={row.coze_chat_id}", **key("key-all")
    )
    assert (said["data"]["id"], door.simulator.requests["retrieve"]) == (row.coze_chat_id, 1)  # Coze itself was asked
    await post(f"/api/coze/turns/{of_run}/cancel", {}, **ann)


async def test_the_door_does_not_answer_a_question_of_a_native_run(opened: Open, tmp_path: Path) -> None:
    door = await opened(**with_tokens(tmp_path))
    post, ann = door.served.post, person("ann")
    run = {"userId": "ann", "parameters": {"input": "/fault action x"}}
    _, headers, said = await post("/api/coze/workflows/77/run", run, **ann, Prefer="wait=20")
    [call] = said["toolCalls"]
    answer = {"workflow_id": "77", "event_id": call["id"], "resume_data": "x"}
    _, _, said = await post("/v1/workflow/stream_resume", answer, **ann)
    assert said["code"] == 4314
    outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": "x"}]}
    status, _, _ = await post(f"/api/coze/turns/{headers['X-Turn-Id']}/tool-outputs", outputs, **ann)
    assert status == 202
    await door.served.balanced()
