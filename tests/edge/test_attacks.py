"""Bytes that no honest client sends, over a real socket."""

import asyncio
import contextlib
import gzip
import io
import json
import logging
import socket
import time
import zlib
from http.client import parse_headers
from pathlib import Path

import pytest

from adapters.binding import bind
from adapters.edge import server
from gateway.events import ActionNeeded, Failed, Message, Started, Text, ToolUse, body
from tests.edge.conftest import Serve, talk
from tests.edge.whole import whole

GET = b"GET /named HTTP/1.1\r\nHost: localhost\r\n"
PROBES = {
    "a length and chunks": GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": GET + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /named HTTP/1.1\r\n\r\n",
    "a folded header": GET + b"X-A: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET /named HTTP/1.1\nHost: localhost\n\n",
    "a carriage return in a value": GET + b"X-A: b\rc\r\n\r\n",
    "NUL in a value": GET + b"X-A: b\0c\r\n\r\n",
    "a blank before the colon": GET + b"X-A : b\r\n\r\n",
    "a signed length": GET + b"Content-Length: +5\r\n\r\nhello",
    "a length in other digits": GET + "Content-Length: ５\r\n\r\nhello".encode(),
    "an unknown coding": GET + b"Transfer-Encoding: xchunked\r\n\r\n",
    "a compressed coding": GET + b"Transfer-Encoding: gzip\r\n\r\n",
    "a line feed in a chunk's extension": GET + b"Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\nhi\r\n0\r\n\r\n",
    "a header of 200 kB": GET + b"X-A: " + b"b" * 200_000 + b"\r\n\r\n",
    "ten thousand headers": GET + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "a target of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /chat HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0, kept alive": GET.replace(b"1.1", b"1.0")
    + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "compressed and chunked": GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    "a trace in the target": b"GET /<script>alert(1)</script>\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("sent", PROBES.values(), ids=PROBES.keys())
async def test_what_is_not_http_is_refused_quietly(serve: Serve, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    client = await serve()
    with caplog.at_level(logging.INFO):
        answer = await talk(client, sent)
        assert (await client.get("/named")).status == 200  # and the next one is served
    assert answer == b"" or answer.split(b" ")[1] == b"400"
    assert b"aiohttp" not in answer
    assert b"Traceback" not in answer
    assert not caplog.records  # nobody fills the log with a trace of what they sent


BROKEN = {
    "a header": GET + b"Authorization : Bearer s3cr3t\r\n\r\n",
    "a target": b"GET /?access_token=s3cr3t\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method": b"s3cr3t GET\r\n\r\n",
    "a long header": GET + b"X: " + b"s3cr3t" * 2000 + b"\r\n\r\n",
    "a version": b"GET /s3cr3t HTTP/s3cr3t\r\n\r\n",
    "a chunk": b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\ns3cr3t\r\n",
    "a coding": GET + b"Transfer-Encoding: gzip, chunked\r\nX: s3cr3t\r\n\r\n0\r\n\r\n",
    "what follows a good request": GET + b"\r\nGET /s3cr3t\x01 HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN.keys())
async def test_what_breaks_http_gets_a_400_and_nothing_of_it_comes_back(serve: Serve, sent: bytes) -> None:
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(sent)
    async with asyncio.timeout(5):
        answers = await reader.read()  # and the connection ends
    writer.close()
    assert b"s3cr3t" not in answers
    head, _, body = answers[answers.rindex(b"HTTP/1.") :].partition(b"\r\n\r\n")
    headers = parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    assert head.split(b" ")[1] == b"400"
    if sent == BROKEN["a coding"]:  # that one was read
        problem = json.loads(body)
        assert (problem["code"], problem["status"]) == ("invalid_request", 400)
        assert problem["requestId"] == headers["X-Request-Id"]
        assert headers["Content-Type"] == "application/problem+json"
    else:
        assert body == b""
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


async def test_what_follows_doubtful_chunks_is_never_a_request(serve: Serve) -> None:
    """A proxy that finds another end of the body than we do would pass on a request that nobody sent."""
    client = await serve()
    for head in (
        b"HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1\r\nTransfer-Encoding: gzip,chunked",
        b"HTTP/1.1\r\nTransfer-Encoding: x, Chunked",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /named " + head + b"\r\nHost: localhost\r\n\r\n0\r\n\r\n")
        writer.write(GET + b"Connection: close\r\n\r\n")
        async with asyncio.timeout(5):
            answers = await reader.read()
        writer.close()
        assert answers.count(b"HTTP/1.") == answers.count(b" 400 Bad Request") == 1
    plain = b"GET /named HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"
    assert b" 200 " in (await talk(client, plain)).splitlines()[0]


async def test_one_read_brings_little_whatever_was_sent() -> None:
    """Of a body in chunks of one byte the parser reads some 15 kB a millisecond, while everyone else waits."""
    (listener,) = await bind(["127.0.0.1"], 0, 60)
    with listener, socket.socket() as client:
        listener.listen()
        client.connect(listener.getsockname())
        client.setblocking(False)
        served, _ = listener.accept()
        with served:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(b"1\r\n \r\n" * 10_000)
            assert 0 < len(served.recv(4 << 20)) <= 64 * 1024


READERS_BREAKS = "\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("character", READERS_BREAKS, ids=ascii)
def test_no_character_makes_a_line_of_its_own_for_any_reader_of_an_event(character: str) -> None:
    text = f"a{character}data: {{}}{character}b"
    for event in (
        Text("message", text),
        Text("message", f"{text}é"),
        Message(text, content_type=text),
        Started(text, text, text),
        ToolUse("call", text, text),
        ActionNeeded([{text: text}]),
        Failed(text, "internal", True, text, text, text, upstream={"logId": text}),
    ):
        line = body(event).decode()
        assert len(line.splitlines()) == 1
        assert json.loads(f"{{{line}}}")


async def test_a_bomb_is_not_unpacked_while_it_is_refused(serve: Serve) -> None:
    """A refused body is read to its end, for the next request on that connection."""
    bomb = gzip.compress(b" " * 200_000_000, 1)
    began = time.process_time()
    unpacker = zlib.decompressobj(31)
    rest = bomb
    while unpacker.decompress(rest, 65536):
        rest = unpacker.unconsumed_tail
    unpacking = time.process_time() - began
    head = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    began = time.process_time()
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb)
    writer.write(GET + b"Connection: close\r\n\r\n")
    async with asyncio.timeout(20):
        answers = await reader.read()
    writer.close()
    assert b" 415 " in answers
    assert b" 200 " in answers
    used = time.process_time() - began
    assert used < unpacking / 2


@pytest.mark.parametrize("path", ["/chat", "/named", "/nowhere"])
async def test_a_body_that_nobody_reads_does_not_hold_its_connection(
    serve: Serve, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dripping after the answer: aiohttp reads on for a while, which must end."""
    assert server.LINGER_SECONDS <= 3
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.3)
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n" % path.encode())

    async def drip() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)  # the client drips

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(3):
            assert (await reader.read()).startswith(b"HTTP/1.1 4")
    except ConnectionResetError:
        pass  # closed on what was still dripping
    finally:
        dripping.cancel()
        writer.close()


async def test_pipelined_requests_are_answered_one_after_the_other(serve: Serve) -> None:
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write((GET + b"\r\n") * 500 + b"GET /named HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 501
    writer.close()


async def test_a_websocket_message_over_the_bound_closes_the_socket(serve: Serve) -> None:
    async with (await serve()).ws_connect("/ws", compress=15) as socket:
        await socket.send_str("x" * 1_000_000)  # under a kilobyte on the wire
        message = await socket.receive()
        assert message.data == 1009


@pytest.mark.parametrize(
    "expect",
    [
        b"200-ok",
        b"100-continue, s3cr3t",
        b"100-continue\r\nExpect: s3cr3t",
        b"<script>s3cr3t</script>",
        b"s3cr3t\xc4",
    ],
)
@pytest.mark.parametrize("path", [b"/named", b"/nowhere", b"/chat"])
async def test_what_nobody_can_expect_is_refused_and_nothing_of_it_comes_back(
    serve: Serve, expect: bytes, path: bytes
) -> None:
    client = await serve()
    answer = await talk(client, b"GET %s HTTP/1.1\r\nHost: localhost\r\nExpect: %s\r\n\r\n" % (path, expect))
    assert answer.split(b" ")[1] == b"400"
    assert b"application/problem+json" in answer
    assert b'"code":"invalid_request"' in answer
    assert b"X-Request-Id: " in answer
    assert b"s3cr3t" not in answer


async def test_an_expectation_is_judged_after_the_host_and_the_origin(serve: Serve) -> None:
    client = await serve()
    answer = await talk(client, b"GET /named HTTP/1.1\r\nHost: evil.example\r\nExpect: x\r\n\r\n")
    assert answer.split(b" ")[1] == b"421"
    foreign = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n"
    assert (await talk(client, foreign + b"Expect: x\r\n\r\n")).split(b" ")[1] == b"403"


async def test_whoever_waits_to_be_told_to_continue_is_told(serve: Serve) -> None:
    head = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    answer = await talk(await serve(), head + b"Connection: close\r\nExpect: 100-Continue\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 422 ")


HANDSHAKE = {
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("wrong", [*HANDSHAKE, b"Sec-WebSocket-Protocol", b"Expect"])
@pytest.mark.parametrize("value", [b"s3cr3t", b"dG\xc4l", b"\xe4\xbd\xa0", b"\xff"])
async def test_a_handshake_with_strange_bytes_is_400_and_they_do_not_come_back(
    tmp_path: Path, wrong: bytes, value: bytes
) -> None:
    """A protocol that is plain text is no mistake: none is chosen. `Expect` is judged before the handshake."""
    async with whole(tmp_path) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [b"%s: %s" % header for header in (HANDSHAKE | {wrong: value}).items()]
        writer.write(b"\r\n".join([b"GET /api/coze/ws HTTP/1.1", b"Host: localhost", *lines, b"", b""]))
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        plain = value.isascii()
        expected = b"101" if plain and wrong == b"Sec-WebSocket-Protocol" else b"400"
        assert head.split(b" ")[1] == expected
        if expected != b"101":
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            assert value not in head + await reader.readexactly(int(length.split(b":")[1]))
        writer.close()
