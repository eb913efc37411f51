"""The event loop is never held up: even the most expensive request that is allowed costs little.

What is measured is the processor time of the longest single step of the loop, so that a busy machine changes nothing.
"""

import asyncio
import gc
import json
import time
from pathlib import Path

import pytest

from tests.edge.whole import Whole, whole

MOST = 0.1
BODY = 262_144  # GATEWAY_MAX_BODY_BYTES
GOOD = b'"userId":"u","botId":"b","message":"hi"'
TURN = b"/api/coze/turns/turn_00000000-0000-4000-8000-000000000000"


class Longest:
    """The longest step of the loop since it was last asked for, in seconds of processor time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def take(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Longest:
    found = Longest()
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        found.seconds = max(found.seconds, time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    gc.collect()
    gc.freeze()  # as in production: what the process has at its start is not looked at again
    return found


def filled(unit: bytes, head: bytes, tail: bytes) -> bytes:
    """A body of the largest size that is allowed, of many equal parts."""
    count = (BODY - len(head) - len(tail)) // (len(unit) + 1)
    return head + b",".join([unit] * count) + tail


def numbered(form: bytes, count: int, head: bytes = b"{", tail: bytes = b"}") -> bytes:
    return head + b",".join([form % number for number in range(count)]) + tail


BODIES = {
    "unknown fields": numbered(b'"%dmessageu":0', 14_000),
    "unknown long fields": numbered(b'"%04dconversationIdconversationIdconversationIdconversationId":0', 3_600),
    "one long unknown field": b'{"' + b"a" * (BODY - 10) + b'":0}',
    "a deep list": b"[" * 131_000 + b"]" * 131_000,
    "a deep object": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "a message as deep as can be read": b'{"message":' + b"[" * 900 + b"]" * 900 + b"}",
    "halves of surrogate pairs": b"{" + GOOD[:-1] + b"\\ud800" * 43_000 + b'"}',
    "halves, and no end": b"{" + GOOD[:-1] + b"\\ud800" * 43_000 + b'"',
    "NULs": b"{" + GOOD[:-1] + b"\\u0000" * 43_000 + b'"}',
    "NULs and halves, and no end": b"{" + GOOD[:-1] + b"\\u0000\\ud800" * 21_000 + b'"',
    "escapes without end": b"{" + GOOD[:-1] + b"\\" * (BODY - 50),
    "escaped letters, and no end": b"{" + GOOD[:-1] + b"\\u4f60" * 43_000,
    "a long number": b'{"message":' + b"9" * (BODY - 20) + b"}",
    "a long fraction": b'{"message":0.' + b"9" * (BODY - 20) + b"}",
    "a wide list": filled(b"0", b'{"message":[', b"]}"),
    "many objects": filled(b"{}", b'{"attachments":[', b"]}"),
    "many attachments": filled(b'{"type":"image","url":"http://a"}', b"{" + GOOD + b',"attachments":[', b"]}"),
    "many variables": numbered(b'"%d":"v"', 20_000, b"{" + GOOD + b',"customVariables":{', b"}}"),
    "many wrong variables": numbered(b'"%d":1', 20_000, b"{" + GOOD + b',"customVariables":{', b"}}"),
    "much metaData": numbered(b'"%d":"v"', 20_000, b"{" + GOOD + b',"metaData":{', b"}}"),
    "a long conversation id": b"{" + GOOD + b',"conversationId":"conv_' + b"0" * (BODY - 100) + b'"}',
    "the same fields again and again": filled(GOOD, b"{", b"}"),
    "many outputs": filled(b'{"toolCallId":"a","output":"b"}', b'{"toolOutputs":[', b"]}"),
    "bytes that are no text": b"\xff" * BODY,
    "blanks": b" " * BODY,
}


def post(path: bytes, body: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, len(body)) + body


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET %s HTTP/1.1" % path, b"Host: localhost", *headers, b"", b""])


CHUNKS = b"POST /api/coze/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
REQUESTS = {
    "a body of single bytes": CHUNKS + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 60_000 + b"0\r\n\r\n",
    "three thousand requests at once": get(b"/healthz") * 3_000,
    "slashes": get(b"/" * 8_000),
    "folders": get(b"/api/coze/turns/" + b"a/" * 3_990),
    "escapes in a path": get(b"/api/coze/turns/" + b"%e4" * 2_600 + b"/poll"),
    "a long query": get(TURN + b"/poll?" + b"after=1&" * 1_000),
    "a query of nothing": get(TURN + b"/poll?" + b"&" * 8_000),
    "a cookie of many": get(TURN, *[b"Cookie: " + b"a=b; " * 1_600] * 100),
    "a cookie of quotes": get(TURN, b"Cookie: " + b'a="' * 2_600),
    "a cookie of escapes": get(TURN, b'Cookie: gateway_token="' + b"\\101" * 1_990 + b'"'),
    "languages": get(TURN, *[b"Accept-Language: " + b"zh;q=0.1," * 880] * 100),
    "preferences": get(TURN, *[b"Prefer: " + b"wait = " * 1_100] * 100),
    "origins": get(TURN, *[b"Origin: " + b"http://a" * 1_000] * 100),
    "a host of many parts": b"GET / HTTP/1.1\r\nHost: " + b"a." * 4_000 + b"\r\n\r\n",
    "a target's host": b"GET http://[" + b":" * 8_000 + b"]/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "tags": get(b"/sse-stream-test.html", b"If-None-Match: " + b'"a" ' * 2_000),
    "open tags": get(b"/sse-stream-test.html", b"If-None-Match: " + b'"' * 8_000),
    "types": get(b"/metrics", b"Accept: " + b"application/openmetrics-text;q=0.1," * 220),
    "a token": get(TURN, b"Authorization: Bearer " + b"eyJ" * 2_600),
}


async def answered(gateway: Whole, sent: bytes) -> bytes:
    """The answer's status line. What is sent is sent at once, and the connection closed after the first answer."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(30):
            return await reader.readline()
    finally:
        writer.transport.abort()


async def test_no_body_holds_the_loop(tmp_path: Path, longest: Longest) -> None:
    held = {}
    async with whole(tmp_path, max_connections_per_user=1_000) as gateway:
        for name, body in BODIES.items():
            assert len(body) <= BODY, name
            for path in (b"/api/coze/chat/stream", TURN + b"/tool-outputs"):
                longest.take()
                assert (await answered(gateway, post(path, body))).startswith(b"HTTP/1.1 "), name
                if (seconds := longest.take()) > MOST:
                    held[name] = seconds
    assert not held


async def test_no_head_holds_the_loop(tmp_path: Path, longest: Longest) -> None:
    held = {}
    async with whole(tmp_path) as gateway:
        for name, sent in REQUESTS.items():
            longest.take()
            assert (await answered(gateway, sent)).startswith(b"HTTP/1.1 "), name
            if (seconds := longest.take()) > MOST:
                held[name] = seconds
    assert not held


async def test_no_command_on_the_shared_socket_holds_the_loop(tmp_path: Path, longest: Longest) -> None:
    held = {}
    async with (
        whole(tmp_path, max_connections_per_user=1_000) as gateway,
        gateway.session.ws_connect(f"{gateway.url}/api/coze/ws", max_msg_size=0) as socket,
    ):
        for name, body in BODIES.items():
            for kind in ("chat", "subscribe", "unsubscribe", "cancel"):
                command = body.replace(b"{", b'{"type":"%s",' % kind.encode(), 1).decode("utf-8", "ignore")
                longest.take()
                await socket.send_str(command)
                await socket.send_str('{"type":"ping","requestId":7}')  # the answer to it comes when all before is done
                async for message in socket:
                    said = json.loads(message.data)
                    if said.get("type") == "pong" and said.get("requestId") == 7:
                        break
                if (seconds := longest.take()) > MOST:
                    held[f"{kind}: {name}"] = seconds
        await socket.send_str('{"requestId":8,"type":' + "[" * 900 + "]" * 900 + "}")
        async for message in socket:
            said = json.loads(message.data)  # between them come events of the turns that were started
            if said.get("requestId") == 8:
                assert said["code"] == "invalid_request"
                break
    assert not held


async def test_a_known_name_is_suggested_for_the_first_unknown_ones_only(tmp_path: Path) -> None:
    async with whole(tmp_path) as gateway:
        body = {"userId": "u", "botId": "b", "message": "hi"} | {f"mesage{number}": "" for number in range(50)}
        async with gateway.session.post(f"{gateway.url}/api/coze/chat", json=body) as answer:
            errors = (await answer.json())["errors"]
    assert len(errors) == 20
    assert [bool("did you mean message?" in error["message"]) for error in errors] == [True] * 3 + [False] * 17
