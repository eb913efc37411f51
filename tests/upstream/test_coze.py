"""The client's requests, and its calls that are answered with JSON."""

import json
import time
from typing import Any

import pytest

from gateway.errors import Code, TooMuch, UpstreamError
from gateway.upstream.protocol import Answer, ChatFailed, ChatRef, ChatRequest, ChatState, Item, Suggestion, Tool
from tests.upstream.conftest import Connect, Outcomes
from tests.upstream.servers import Peer, Request, answer, chunk, json_answer, sample, serving, streaming

REF = ChatRef("7569330550164291619", "7569312240118845480")
DONE = streaming(b"event:done\ndata:\n\n")


async def sent(connect: Connect, request: ChatRequest, base: str = "") -> Request:
    async with serving(DONE) as server, connect(server.url + base) as coze:
        stream = await coze.chat(request, lambda items: None)
        await stream.ended()
        stream.close()
        return server.requests[0]


async def test_a_message_is_sent_as_coze_wants_it(connect: Connect) -> None:
    request = await sent(connect, ChatRequest("bot", "user", "帮我\u2028\ud800"))
    assert (request.method, request.target) == ("POST", "/v3/chat")
    assert request.headers["authorization"] == "Bearer pat_secret"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "text/event-stream"
    assert "cookie" not in request.headers
    assert json.loads(request.body) == {
        "bot_id": "bot",
        "user_id": "user",
        "stream": True,
        "auto_save_history": True,
        "additional_messages": [
            {"role": "user", "type": "question", "content": "帮我\u2028\ufffd", "content_type": "text"}
        ],
    }


async def test_a_conversation_and_variables_go_along(connect: Connect) -> None:
    request = await sent(
        connect,
        ChatRequest("b", "u", "m", coze_conversation_id="8&x=1 #", custom_variables={"a": "b"}, meta_data={"c": "d"}),
        "/base/",
    )
    assert request.target == "/base/v3/chat?conversation_id=8%26x%3D1+%23"
    body = json.loads(request.body)
    assert (body["custom_variables"], body["meta_data"]) == ({"a": "b"}, {"c": "d"})
    assert "parameters" not in body
    request = await sent(connect, ChatRequest("b", "u", "m", parameters={"city": ["a"]}))
    assert json.loads(request.body)["parameters"] == {"city": ["a"]}


async def test_attachments_make_an_object_string(connect: Connect) -> None:
    attachments = (
        {"type": "image", "url": "https://x/y.png"},
        {"type": "file", "fileId": "75"},
        {"type": "audio", "fileId": "76"},
    )
    request = await sent(connect, ChatRequest("b", "u", "看图", attachments=attachments))
    [message] = json.loads(request.body)["additional_messages"]
    assert message["content_type"] == "object_string"
    assert json.loads(message["content"]) == [
        {"type": "text", "text": "看图"},
        {"type": "image", "file_url": "https://x/y.png"},
        {"type": "file", "file_id": "75"},
        {"type": "audio", "file_id": "76"},
    ]


async def test_a_message_to_a_chatflow_goes_to_its_own_address(connect: Connect) -> None:
    request = await sent(
        connect, ChatRequest("", "u", "m", workflow_id="75", parameters={"city": "上海", "n": 2**53 + 1})
    )
    assert (request.method, request.target) == ("POST", "/v1/workflows/chat")
    question = {"role": "user", "type": "question", "content": "m", "content_type": "text"}
    assert json.loads(request.body) == {
        "workflow_id": "75",
        "additional_messages": [question],
        "parameters": {"city": "上海", "n": 2**53 + 1},
    }
    request = await sent(connect, ChatRequest("bot", "u", "m", coze_conversation_id="8", workflow_id="75"))
    body = json.loads(request.body)
    assert (body["bot_id"], body["conversation_id"], body["parameters"]) == ("bot", "8", {})
    request = await sent(connect, ChatRequest("", "u", "m", workflow_id="75", app_id="app"))
    assert json.loads(request.body)["app_id"] == "app"


async def test_earlier_messages_stand_before_the_message(connect: Connect) -> None:
    context = ({"role": "user", "content": "问"}, {"role": "assistant", "content": "答"})
    request = await sent(connect, ChatRequest("b", "u", "m", context=context))
    assert json.loads(request.body)["additional_messages"] == [
        {"role": "user", "type": "question", "content": "问", "content_type": "text"},
        {"role": "assistant", "type": "answer", "content": "答", "content_type": "text"},
        {"role": "user", "type": "question", "content": "m", "content_type": "text"},
    ]
    request = await sent(connect, ChatRequest("", "u", "m", workflow_id="w", context=context))
    assert [said["content"] for said in json.loads(request.body)["additional_messages"]] == ["问", "答", "m"]


async def test_what_a_request_may_carry_is_sent_in_cozes_words_and_what_is_absent_is_not(connect: Connect) -> None:
    shortcut = {"commandId": "7", "parameters": {"a": "[]"}}
    request = await sent(
        connect, ChatRequest("b", "u", "m", shortcut_command=shortcut, enable_card=False, auto_save_history=False)
    )
    body = json.loads(request.body)
    assert body["shortcut_command"] == {"command_id": "7", "parameters": {"a": "[]"}}
    assert (body["enable_card"], body["auto_save_history"]) == (False, False)
    request = await sent(connect, ChatRequest("b", "u", "m", shortcut_command={"commandId": "7"}, enable_card=True))
    body = json.loads(request.body)
    assert (body["shortcut_command"], body["enable_card"]) == ({"command_id": "7", "parameters": {}}, True)


# -- retrieve


async def retrieved(connect: Connect, body: bytes) -> ChatState:
    async with serving(json_answer(body)) as server, connect(server.url) as coze:
        state = await coze.retrieve(REF)
        assert server.requests[0].method == "GET"
        assert server.requests[0].target == (
            f"/v3/chat/retrieve?conversation_id={REF.conversation_id}&chat_id={REF.chat_id}"
        )
        return state


def chat(**fields: Any) -> bytes:
    return json.dumps({"code": 0, "data": {"id": REF.chat_id} | fields, "msg": ""}).encode()


async def test_a_chats_state_is_retrieved(connect: Connect, outcomes: Outcomes) -> None:
    usage = {"input_count": 525, "output_count": 87, "token_count": 612}
    assert await retrieved(connect, sample("retrieve.json")) == ChatState("completed", usage)
    failed = await retrieved(connect, sample("retrieve-failed.json"))
    assert (failed.status, failed.failure) == (
        "failed",
        ChatFailed(4028, "Your free quota has been used up.", exists=True),
    )
    assert (await retrieved(connect, sample("chat-created.json"))).status == "in_progress"
    assert outcomes == [("retrieve", "ok")] * 3


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("created", "created"),
        ("cancelled", "canceled"),
        ("canceled", "canceled"),
        ("required_action", "requires_action"),
    ],
)
async def test_each_spelling_of_a_status_is_understood(connect: Connect, said: str, meant: str) -> None:
    assert await retrieved(connect, chat(status=said)) == ChatState(meant)  # type: ignore[arg-type]


async def test_a_failure_without_particulars_is_still_one(connect: Connect) -> None:
    assert await retrieved(connect, chat(status="failed")) == ChatState(
        "failed", failure=ChatFailed(None, "", exists=True)
    )


async def test_calls_are_given_only_where_an_action_is_required(connect: Connect) -> None:
    action = {"submit_tool_outputs": {"tool_calls": [{"id": "x"}]}}
    assert (await retrieved(connect, chat(status="completed", required_action=action))).tool_calls == ()
    assert (await retrieved(connect, chat(status="requires_action", required_action=action))).tool_calls == (
        {"id": "x"},
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"code":0}',
        b'{"code":0,"data":[]}',
        chat(),
        chat(status="new"),
        chat(status=7),
        b'{"code":0,"data":{"status":"completed"',
    ],
)
async def test_an_unreadable_state_is_a_failure(connect: Connect, body: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        await retrieved(connect, body)
    assert (caught.value.code, caught.value.retryable) == (Code.UPSTREAM_FAILED, True)


# -- messages


async def listed(connect: Connect, body: bytes) -> list[Item]:
    async with serving(json_answer(body)) as server, connect(server.url) as coze:
        items = await coze.messages(REF)
        assert server.requests[0].target == (
            f"/v3/chat/message/list?conversation_id={REF.conversation_id}&chat_id={REF.chat_id}"
        )
        return items


async def test_messages_come_in_cozes_order(connect: Connect) -> None:
    items = await listed(connect, sample("message-list.json"))
    assert [type(item) for item in items] == [Tool, Tool, Answer, Suggestion, Suggestion]
    assert items[2] == Answer("7569330575082487844", "杭州今天多云转晴 ⛅，13~21℃，早晚加件外套。", "text")


async def test_messages_that_cannot_be_used_are_left_out(connect: Connect) -> None:
    good = {"id": "1", "type": "answer", "content": "a\ud800", "content_type": "text", "chat_id": REF.chat_id}
    data = [1, None, {}, good | {"content": 7.5}, good | {"chat_id": "666"}, good | {"type": "new"}, good]
    assert await listed(connect, json.dumps({"code": 0, "data": data}).encode()) == [Answer("1", "a\ufffd", "text")]


@pytest.mark.parametrize("body", [b'{"code":0}', b'{"code":0,"data":null}', b'{"code":0,"data":[]}'])
async def test_there_may_be_no_messages(connect: Connect, body: bytes) -> None:
    assert await listed(connect, body) == []


@pytest.mark.parametrize(
    "data",
    [
        "[" + ",".join(["{}"] * 10_001) + "]",
        "[" + ",".join(["{}"] * 2_500_000) + "]",
        "[" + ",".join(["1"] * 4_000_000) + "]",
        '["' + "x" * 9_000_000 + '"]',
    ],
    ids=["one more", "millions", "numbers", "bytes"],
)
async def test_a_list_that_is_too_long_is_too_much(connect: Connect, data: str) -> None:
    with pytest.raises(TooMuch):
        await listed(connect, f'{{"code":0,"data":{data}}}'.encode())


async def test_a_state_that_is_too_large_is_too_much(connect: Connect) -> None:
    with pytest.raises(TooMuch):
        await retrieved(connect, b'{"code":0,"data":{"status":"completed","usage":[%b1]}}' % (b"1," * 600_000))


async def test_ten_thousand_large_messages_are_read_in_a_moment(connect: Connect) -> None:
    one = {"id": "1", "type": "answer", "content": "x" * 600, "content_type": "text", "chat_id": REF.chat_id}
    body = json.dumps({"code": 0, "data": [one] * 10_000}).encode()
    assert len(body) > 7_000_000
    began = time.process_time()
    assert len(await listed(connect, body)) == 10_000
    assert time.process_time() - began < 1


async def test_a_list_that_is_none_is_a_failure(connect: Connect) -> None:
    with pytest.raises(UpstreamError) as caught:
        await listed(connect, b'{"code":0,"data":{"x":1}}')
    assert caught.value.code is Code.UPSTREAM_FAILED


# -- cancel


@pytest.mark.parametrize("body", [b'{"code":0,"data":{}}', b'{"code":4104,"msg":"over"}'])
async def test_a_chat_that_is_over_counts_as_cancelled(connect: Connect, body: bytes) -> None:
    for status in ("200 OK", "400 Bad Request") if b"4104" in body else ("200 OK",):
        async with serving(json_answer(body, status)) as server, connect(server.url) as coze:
            await coze.cancel(REF)
            assert (server.requests[0].method, server.requests[0].target) == ("POST", "/v3/chat/cancel")
            assert json.loads(server.requests[0].body) == {
                "conversation_id": REF.conversation_id,
                "chat_id": REF.chat_id,
            }


async def test_a_cancel_that_is_refused_says_so(connect: Connect) -> None:
    async with serving(json_answer(b'{"code":4001,"msg":"no"}')) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.cancel(REF)
        assert caught.value.coze_code == 4001


# -- faults of the calls that may be repeated


async def hang_up(peer: Peer) -> None:
    peer.writer.close()


async def cut(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{")
    peer.writer.close()


async def silent(peer: Peer) -> None:
    await peer.closed()


async def stalled(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{")
    await peer.closed()


@pytest.mark.parametrize("play", [hang_up, cut, silent, stalled, answer("504 Gateway Timeout"), answer("500 Oops")])
@pytest.mark.parametrize("call", ["retrieve", "messages", "cancel"])
async def test_no_failure_of_a_question_is_uncertain(connect: Connect, play: Any, call: str) -> None:
    async with serving(play) as server, connect(server.url, idle_timeout=0.3) as coze:
        began = time.monotonic()
        with pytest.raises(UpstreamError) as caught:
            await getattr(coze, call)(REF)
        assert (caught.value.code, caught.value.taken, caught.value.retryable) == (
            Code.UPSTREAM_UNAVAILABLE,
            "no",
            True,
        )
        assert time.monotonic() - began < 2


async def test_an_answer_that_is_too_large_is_not_kept(connect: Connect) -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(chunk(b"x" * 1_000_000))
            sent += 1_000_000

    async with serving(endless) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.messages(REF)
        assert caught.value.code is Code.UPSTREAM_FAILED
        assert sent < 40_000_000


async def test_questions_share_a_connection(connect: Connect) -> None:
    async with serving(json_answer(sample("retrieve.json"))) as server, connect(server.url) as coze:
        for _ in range(3):
            await coze.retrieve(REF)
        assert server.connections == 1


async def test_answers_are_logged_masked_on_demand(connect: Connect) -> None:
    lines: list[str] = []
    body = chat(status="completed", bot_id="mail a@b.com")
    async with serving(json_answer(body)) as server, connect(server.url, log_bytes=lines.append) as coze:
        await coze.retrieve(REF)
    assert "".join(lines) == body.decode().replace("a@b.com", "***")
