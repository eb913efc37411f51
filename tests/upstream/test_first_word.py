"""What Coze says first, in every form in which it can say it: a refusal is one refusal, whatever its form or label."""

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest

from gateway.errors import Code, UpstreamError
from gateway.upstream.opening import LIMIT, opened
from gateway.upstream.protocol import (
    ChatFailed,
    ChatRef,
    ChatRequest,
    Created,
    Delta,
    Done,
    Item,
    Opened,
    Skipped,
    StreamEnd,
)
from tests.upstream.conftest import Connect, Outcomes
from tests.upstream.servers import LAST_CHUNK, STREAM_HEAD, Peer, Play, chunk, sample, serving
from tests.upstream.test_refused import Renewing

REQUEST = ChatRequest(bot_id="b", user_id="u", message="hello")
CREATED = b'event:conversation.chat.created\ndata:{"id":"7","conversation_id":"8","status":"created"}\n\n'
STREAM, JSON = "text/event-stream", "application/json"


def head(label: str, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {label}", "X-Tt-Logid: 20260101000000AA", "Connection: close"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n"


def said(code: int | str) -> bytes:
    return json.dumps({"code": code, "msg": "x"}).encode()


def error_event(code: int | str) -> bytes:
    return b"event:error\ndata:" + said(code)


FORMS = {
    "JSON": lambda code: head(JSON) + said(code),
    "JSON labelled as a stream": lambda code: head(STREAM) + said(code),
    "JSON without a label of use": lambda code: head("text/plain") + said(code),
    "JSON behind a BOM and blanks": lambda code: head(STREAM) + b"\xef\xbb\xbf\r\n " + said(code) + b"\n\n",
    "JSON over several lines": lambda code: (
        head(STREAM) + json.dumps({"code": code, "msg": "x\ndata:"}, indent=2).encode() + b"\n\n"
    ),
    "the event": lambda code: head(STREAM) + error_event(code) + b"\n\n",
    "the event with its code as a string": lambda code: head(STREAM) + error_event(str(code)) + b"\n\n",
    "the event without its blank line": lambda code: head(STREAM) + error_event(code) + b"\n",
    "the event without any line's end": lambda code: head(STREAM) + error_event(code),
    "the event with CRLF and spaces": lambda code: head(STREAM) + b"event: error\r\ndata: " + said(code) + b"\r\n\r\n",
    "the event with CRLF, cut": lambda code: head(STREAM) + b"event: error\r\ndata: " + said(code) + b"\r\n",
    "the data first": lambda code: head(STREAM) + b"data:" + said(code) + b"\nevent:error",
    "the event behind a comment": lambda code: head(STREAM) + b": hi\n\n" + error_event(code) + b"\n\n",
    "the event behind an unknown one": lambda code: (
        head(STREAM) + b"event:ping\ndata:{}\n\n" + error_event(code) + b"\n\n"
    ),
    "the event labelled as JSON": lambda code: head(JSON) + error_event(code) + b"\n\n",
    "the event with status 400": lambda code: head(STREAM, "400 Bad Request") + error_event(code) + b"\n\n",
    "no event line": lambda code: head(STREAM) + b"data: " + said(code) + b"\n\n",
    "no event line, no blank line": lambda code: head(STREAM) + b"data:" + said(code),
    "the old form": lambda code: head(STREAM) + b'data:{"event":"error","error_information":' + said(code) + b"}\n\n",
}
CODES = {
    4009: (Code.UPSTREAM_RATE_LIMITED, True),
    4013: (Code.UPSTREAM_RATE_LIMITED, True),
    4016: (Code.CONVERSATION_BUSY, True),
    4020: (Code.UPSTREAM_RATE_LIMITED, True),
    5000: (Code.UPSTREAM_UNAVAILABLE, True),
    4101: (Code.UPSTREAM_UNAUTHORIZED, False),
    4000: (Code.UPSTREAM_REJECTED, False),
    702242001: (Code.UPSTREAM_REJECTED, False),
}


def cut(data: bytes, size: int) -> Play:
    """Sends `data` in pieces that the client reads apart, then closes well."""

    async def play(peer: Peer) -> None:
        for i in range(0, len(data), size):
            await peer.send(data[i : i + size])
            await asyncio.sleep(0)
        peer.writer.close()

    return play


class Heard(list[Item]):
    def __call__(self, items: list[Item]) -> None:
        self.extend(items)


async def refusal(connect: Connect, play: Play | bytes, heard: Heard | None = None) -> UpstreamError:
    heard = Heard() if heard is None else heard
    async with serving(play) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.chat(REQUEST, heard)
        assert len(server.requests) == 1
        return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 60, 10_000])
async def test_a_refusal_means_the_same_in_every_form(
    connect: Connect, outcomes: Outcomes, form: str, size: int
) -> None:
    for coze_code, (code, retryable) in CODES.items():
        heard = Heard()
        error = await refusal(connect, cut(FORMS[form](coze_code), size), heard)
        assert (error.code, error.retryable, error.taken) == (code, retryable, "no")
        assert (error.coze_code, error.log_id) == (coze_code, "20260101000000AA")
        assert {type(item) for item in heard} <= {Opened, Skipped}, "nothing of it is an answer"
    assert outcomes == [("chat", code.value) for code, _ in CODES.values()]


@pytest.mark.parametrize("form", [form for form in FORMS if "status" not in form])
async def test_a_token_refused_in_any_form_is_renewed_once(connect: Connect, form: str) -> None:
    good = head(STREAM) + CREATED
    async with (
        serving(cut(FORMS[form](4101), 9999), cut(good, 9999)) as server,
        connect(server.url, token=Renewing(5)) as coze,
    ):
        (await coze.chat(REQUEST, heard := Heard())).close()
        assert [request.headers["authorization"] for request in server.requests] == [
            "Bearer czs_token1",
            "Bearer czs_token2",
        ]
        assert Created("7", "8") in heard


async def test_a_refusal_asks_for_its_wait_in_any_form(connect: Connect) -> None:
    for label, body in ((STREAM, error_event(4009) + b"\n\n"), (STREAM, said(4009)), (JSON, said(4009))):
        error = await refusal(connect, cut(head(label, "200 OK", "Retry-After: 7") + body, 9999))
        assert error.retry_after == 7


async def test_the_body_names_the_request_where_the_head_does_not(connect: Connect) -> None:
    bare = head(STREAM).replace(b"X-Tt-Logid: 20260101000000AA\r\n", b"")
    body = b'{"code":4000,"msg":"x","detail":{"logid":"FROM_BODY"}}'
    for data in (body, b"event:error\ndata:" + body + b"\n\n", b"data:" + body + b"\n\n"):
        assert (await refusal(connect, cut(bare + data, 9999))).log_id == "FROM_BODY"


async def test_an_error_without_a_code_is_no_refusal_to_be_tried_again(connect: Connect) -> None:
    for data in (
        b"event:error\ndata:{}\n\n",
        b"event:error\ndata:oops\n\n",
        b'{"code":0,"msg":""}',
        b"{}",
        b'{"code":',
    ):
        error = await refusal(connect, cut(head(STREAM) + data, 9999))
        assert (error.code, error.retryable, error.taken) == (Code.UPSTREAM_FAILED, True, "yes"), data


# -- a chat that failed


def failed(code: int, *, flat: bool = False) -> bytes:
    chat = {"code": code, "msg": "x"} if flat else {"id": "7", "status": "failed", "last_error": {"code": code}}
    return b"event:conversation.chat.failed\ndata:" + json.dumps(chat).encode()


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("blank", [b"\n\n", b"\n", b""])
async def test_a_chat_that_coze_had_no_room_for_was_refused(connect: Connect, flat: bool, blank: bytes) -> None:
    for code in (4009, 4013, 4016, 4020):
        error = await refusal(connect, cut(head(STREAM) + failed(code, flat=flat) + blank, 9999))
        assert (error.code, error.taken, error.coze_code) == (CODES[code][0], "no", code)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("blank", [b"\n\n", b"\n", b""])
async def test_a_chat_that_failed_otherwise_existed(connect: Connect, flat: bool, blank: bytes) -> None:
    for code in (5000, 4000, 4028, 4101, 720702204, 0):
        data = head(STREAM) + failed(code, flat=flat) + blank
        async with serving(cut(data, 9999)) as server, connect(server.url) as coze:
            stream = await coze.chat(REQUEST, heard := Heard())
            await stream.ended()
            stream.close()
            [failure] = [item for item in heard if isinstance(item, ChatFailed)]
            assert (failure.coze_code, failure.exists) == (code or None, True)


async def test_after_created_no_failure_is_a_refusal(connect: Connect) -> None:
    for failure in (failed(4016), error_event(4016), b"data:" + said(4016)):
        async with (
            serving(cut(head(STREAM) + CREATED + failure + b"\n\n", 9999)) as server,
            connect(server.url) as coze,
        ):
            stream = await coze.chat(REQUEST, heard := Heard())
            await stream.ended()
            stream.close()
            assert [type(item) for item in heard] == [Opened, Created, ChatFailed]


async def test_tool_outputs_are_refused_but_their_chat_exists(connect: Connect) -> None:
    ref = ChatRef("7", "8")
    async with (
        serving(
            cut(head(STREAM) + error_event(4013) + b"\n\n", 9999), cut(head(STREAM) + failed(4013), 9999)
        ) as server,
        connect(server.url) as coze,
    ):
        with pytest.raises(UpstreamError) as caught:
            await coze.submit_tool_outputs(ref, [("a", "b")], Heard())
        assert (caught.value.coze_code, caught.value.taken) == (4013, "no")
        stream = await coze.submit_tool_outputs(ref, [("a", "b")], heard := Heard())
        await stream.ended()
        stream.close()
        assert ChatFailed(4013, "", exists=True) in heard


# -- streams under another label


@pytest.mark.parametrize("label", [JSON, "application/json; charset=utf-8", "text/plain", ""])
@pytest.mark.parametrize("size", [1, 100, 100_000])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"\n\n", b": hi\n\n", b'{"stray":"line"}\n'])
async def test_a_stream_is_one_whatever_its_label(connect: Connect, label: str, size: int, begin: bytes) -> None:
    text = begin + sample("chat-failed.sse")
    async with serving(cut(head(label) + text, size)) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, heard := Heard())
        await stream.ended()
        stream.close()
        assert heard[0] == Opened("20260101000000AA")
        assert isinstance(heard[1], Created)
        assert isinstance(heard[-1], ChatFailed | Done)


async def test_a_stream_under_another_label_may_take_its_time(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(head(JSON))
        await asyncio.sleep(1.0)  # longer than an answer that is no stream may take
        await peer.send(CREATED)
        await peer.closed()

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, heard := Heard())
        assert heard == [Opened("20260101000000AA"), Created("7", "8")]
        stream.close()


async def test_json_that_never_ends_is_given_up_within_a_second(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(head(STREAM) + b'{"code":4016,"msg":"')
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.send(b"x")
                await asyncio.sleep(0.01)  # Coze drips

    async with asyncio.timeout(1.5):
        assert (await refusal(connect, play)).code is Code.UPSTREAM_FAILED


async def test_a_json_refusal_counts_although_its_body_is_held_open(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(head(STREAM) + said(4016))
        await peer.closed()

    async with asyncio.timeout(1.5):
        assert (await refusal(connect, play)).code is Code.CONVERSATION_BUSY


def beginnings() -> Iterator[tuple[bytes, bool, str | None]]:
    for labelled in (True, False):
        yield b"", labelled, None
        yield b"\xef\xbb", labelled, None
        yield b"\xef\xbb\xbf", labelled, None
        yield b" \r\n\t", labelled, None
        yield b" " * (LIMIT + 1), labelled, "stream" if labelled else "answer"
        yield b"event:", labelled, "stream"
        yield b"\xef\xbb\xbf\n:", labelled, "stream"
        yield b'{"data:"', labelled, "answer"
        yield b'{"a":\n"data:"}', labelled, "answer"
        yield b'{"a":1}\rdata:', labelled, "stream"
        yield b"<html>", labelled, "stream" if labelled else "answer"
        yield b"eve", labelled, "stream" if labelled else None


@pytest.mark.parametrize(("text", "labelled", "what"), list(beginnings()))
def test_the_first_bytes_tell_a_stream_from_an_answer(text: bytes, labelled: bool, what: str | None) -> None:
    assert opened(text, labelled=labelled) == what


# -- the last record, and the end


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        b"event:conversation.chat.failed",
        b"event: error",
        b"event:error\n",
        b"event:error\r\n",
        b"\r\nevent:error",
        b"event:error\ndata:{",
        b": x\r\nevent:error\r\nda",
    ],
)
async def test_a_failure_of_which_only_the_name_has_come_is_no_uncertain_end(
    connect: Connect, text: bytes, whole: bool
) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(STREAM_HEAD + chunk(text) + (LAST_CHUNK if whole else b""))
        peer.writer.close()

    async with serving(play) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, Heard())
        assert await stream.ended() is StreamEnd.FAILING
        stream.close()


RECORDS = {
    "a piece": (b'event:conversation.message.delta\ndata:{"id":"9","type":"answer","content":"hi"}', Delta("9", "hi")),
    "done": (b'event:done\ndata:"[DONE]"', Done()),
    "done, bare": (b"event:done\ndata:", Done()),
    "a failure": (failed(4028), ChatFailed(4028, "", exists=True)),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("framed", ["chunked", "length", "close"])
async def test_a_whole_last_record_counts_at_a_clean_end(
    connect: Connect, name: str, newline: bytes, framed: str
) -> None:
    record, item = RECORDS[name]
    for end in (b"", b"\n"):
        text = (CREATED + record + end).replace(b"\n", newline)
        bare = head(STREAM).replace(b"Connection: close\r\n", b"")
        data = {
            "close": head(STREAM) + text,
            "length": head(STREAM, "200 OK", f"Content-Length: {len(text)}") + text,
            "chunked": bare[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(text) + LAST_CHUNK,
        }[framed]
        async with serving(cut(data, 50)) as server, connect(server.url) as coze:
            stream = await coze.chat(REQUEST, heard := Heard())
            assert await stream.ended() == ("finished" if item == Done() else "eof")
            stream.close()
            assert heard[2:] == [item]


@pytest.mark.parametrize("name", RECORDS)
async def test_a_last_record_without_its_blank_line_does_not_count_if_the_body_is_cut(
    connect: Connect, name: str
) -> None:
    record, _ = RECORDS[name]
    text = CREATED + record + b"\n"
    data = head(STREAM, "200 OK", f"Content-Length: {len(text) + 1}") + text
    async with serving(cut(data, 50)) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, heard := Heard())
        assert await stream.ended() == ("failing" if name == "a failure" else "broken")
        stream.close()
        assert heard[2:] == []


async def test_a_cut_last_record_counts_nowhere(connect: Connect) -> None:
    record, _ = RECORDS["a failure"]
    for at in range(len(b"event:conversation.chat.failed\n"), len(record)):
        async with serving(cut(head(STREAM) + CREATED + record[:at], 9999)) as server, connect(server.url) as coze:
            stream = await coze.chat(REQUEST, heard := Heard())
            assert await stream.ended() == "failing", record[:at]
            stream.close()
            assert heard[2:] == []
