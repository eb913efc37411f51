"""What is said when Coze cannot be reached, refuses, or is not Coze: against servers that really misbehave."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.errors import Code, UpstreamError
from gateway.telemetry.ledger import Ledger
from gateway.upstream.protocol import ChatRef, ChatRequest, Item
from tests.upstream.certificates import self_signed
from tests.upstream.conftest import Connect, Outcomes
from tests.upstream.servers import STREAM_HEAD, Peer, answer, chunk, json_answer, sample, serving

REQUEST = ChatRequest(bot_id="b", user_id="u", message="hello")
REF = ChatRef("7", "8")
JSON = "Content-Type: application/json"


def no_items(items: list[Item]) -> None:
    raise AssertionError(f"items of a refused chat: {items}")


async def refusal(connect: Connect, url: str, **options: float) -> UpstreamError:
    async with connect(url, **options) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.chat(REQUEST, no_items)
        return caught.value


# -- not reached


async def test_a_refused_connection_means_not_taken(connect: Connect, free_port: Callable[[], int]) -> None:
    error = await refusal(connect, f"http://127.0.0.1:{free_port()}")
    assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)


async def test_an_unknown_name_means_not_taken(connect: Connect) -> None:
    error = await refusal(connect, "http://no-such-host.invalid")
    assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)


@pytest.fixture
async def full_port() -> AsyncIterator[int]:
    """A port whose queue is full, so that a connection is neither taken nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        await asyncio.sleep(0.1)  # until the kernel has queued them, of which it tells nobody
        yield listener.getsockname()[1]
        for client in waiting:
            client.close()


async def test_a_connect_that_hangs_ends_with_its_time_out(connect: Connect, full_port: int) -> None:
    began = time.monotonic()
    error = await refusal(connect, f"http://127.0.0.1:{full_port}", connect_timeout=0.3, idle_timeout=30)
    assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)
    assert 0.2 < time.monotonic() - began < 1.3


async def test_a_certificate_that_is_not_trusted_is_not_ignored_nor_tried_again(connect: Connect) -> None:
    async with serving(json_answer(b"{}"), tls=self_signed()[0]) as server:
        error = await refusal(connect, server.url)
        assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", False)
        assert server.requests == []


async def test_a_server_that_speaks_no_tls_means_not_taken(connect: Connect) -> None:
    async with serving(json_answer(b"{}")) as server:
        error = await refusal(connect, server.url.replace("http:", "https:"), connect_timeout=1.0)
        assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)


async def test_a_handshake_that_hangs_ends_with_the_connect_time_out(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        error = await refusal(connect, url, connect_timeout=0.3, idle_timeout=30)
    assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)


# -- lost after sending


async def reset(peer: Peer) -> None:
    peer.reset()


async def hang_up(peer: Peer) -> None:
    peer.writer.close()


async def half_a_head(peer: Peer) -> None:
    await peer.send(STREAM_HEAD[:40])
    peer.writer.close()


async def half_a_head_and_reset(peer: Peer) -> None:
    await peer.send(STREAM_HEAD[:40])
    peer.reset()


@pytest.mark.parametrize("play", [reset, hang_up, half_a_head, half_a_head_and_reset])
async def test_a_connection_lost_after_sending_is_uncertain_and_never_sent_again(
    connect: Connect, play: object
) -> None:
    async with serving(play) as server:  # type: ignore[arg-type]
        error = await refusal(connect, server.url)
        assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNCERTAIN, "unknown", True)
        assert len(server.requests) == 1


async def test_no_answer_at_all_is_uncertain_after_the_idle_time_out(connect: Connect) -> None:
    async def silent(peer: Peer) -> None:
        await peer.closed()

    async with serving(silent) as server:
        began = time.monotonic()
        error = await refusal(connect, server.url, connect_timeout=5, idle_timeout=0.3)
        assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_UNCERTAIN, "unknown", True)
        assert 0.25 < time.monotonic() - began < 1.5
        assert len(server.requests) == 1


async def test_a_pooled_connection_that_dies_is_uncertain_and_not_repeated_by_the_library(connect: Connect) -> None:
    done = STREAM_HEAD + chunk(b"event:done\ndata:\n\n") + b"0\r\n\r\n"
    async with serving(done, hang_up) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, lambda items: None)
        await stream.ended()
        stream.close()
        with pytest.raises(UpstreamError) as caught:
            await coze.chat(REQUEST, no_items)
        assert caught.value.code is Code.UPSTREAM_UNCERTAIN
        assert (server.connections, len(server.requests)) == (1, 2)


# -- refused


@pytest.mark.parametrize(
    ("status", "code", "taken", "retryable"),
    [
        ("400 Bad Request", Code.UPSTREAM_REJECTED, "no", False),
        ("401 Unauthorized", Code.UPSTREAM_UNAUTHORIZED, "no", False),
        ("403 Forbidden", Code.UPSTREAM_REJECTED, "no", False),
        ("404 Not Found", Code.UPSTREAM_REJECTED, "no", False),
        ("429 Too Many Requests", Code.UPSTREAM_RATE_LIMITED, "no", True),
        ("500 Internal Server Error", Code.UPSTREAM_UNAVAILABLE, "no", True),
        ("502 Bad Gateway", Code.UPSTREAM_UNAVAILABLE, "no", True),
        ("503 Service Unavailable", Code.UPSTREAM_UNAVAILABLE, "no", True),
        ("504 Gateway Timeout", Code.UPSTREAM_UNCERTAIN, "unknown", True),
        ("200 OK", Code.UPSTREAM_FAILED, "yes", True),
        ("204 No Content", Code.UPSTREAM_FAILED, "yes", True),
        ("301 Moved Permanently", Code.UPSTREAM_FAILED, "yes", True),
        ("302 Found", Code.UPSTREAM_FAILED, "yes", True),
        ("307 Temporary Redirect", Code.UPSTREAM_FAILED, "yes", True),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html><body>oops</body></html>", b'{"code":', b"\xff\xfe"])
async def test_a_status_without_a_code_of_cozes_says_what_it_says(
    connect: Connect, outcomes: Outcomes, status: str, code: Code, taken: str, retryable: bool, body: bytes
) -> None:
    body = b"" if status.startswith("204") else body
    async with serving(answer(status, body, "Content-Type: text/html")) as server:
        error = await refusal(connect, server.url)
        assert (error.code, error.taken, error.retryable) == (code, taken, retryable)
        assert len(server.requests) == 1
        assert outcomes == [("chat", code.value)]


@pytest.mark.parametrize(
    ("coze_code", "code", "retryable"),
    [
        (4009, Code.UPSTREAM_RATE_LIMITED, True),
        (4013, Code.UPSTREAM_RATE_LIMITED, True),
        (4020, Code.UPSTREAM_RATE_LIMITED, True),
        (4016, Code.CONVERSATION_BUSY, True),
        (5000, Code.UPSTREAM_UNAVAILABLE, True),
        (4100, Code.UPSTREAM_UNAUTHORIZED, False),
        (4101, Code.UPSTREAM_UNAUTHORIZED, False),
        (700012006, Code.UPSTREAM_UNAUTHORIZED, False),
        (4000, Code.UPSTREAM_REJECTED, False),
        (4200, Code.UPSTREAM_REJECTED, False),
        (702242001, Code.UPSTREAM_REJECTED, False),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_a_json_refusal_goes_by_its_code(
    connect: Connect, status: str, coze_code: int, code: Code, retryable: bool
) -> None:
    body = b'{"code":%d,"msg":"no","detail":{"logid":"2025XYZ"}}' % coze_code
    async with serving(json_answer(body, status)) as server:
        error = await refusal(connect, server.url)
        assert (error.code, error.taken, error.retryable) == (code, "no", retryable)
        assert (error.coze_code, error.log_id) == (coze_code, "2025XYZ")
        assert len(server.requests) == 1


@pytest.mark.parametrize(("asked", "wait"), [("2", 2.0), ("9999", 9999.0), ("-1", None), ("soon", None)])
async def test_retry_after_is_handed_on(connect: Connect, asked: str, wait: float | None) -> None:
    async with serving(answer("429 Too Many Requests", b"", f"Retry-After: {asked}")) as server:
        error = await refusal(connect, server.url)
        assert (error.code, error.retry_after) == (Code.UPSTREAM_RATE_LIMITED, wait)


async def test_a_redirect_is_not_followed_and_the_token_stays_here(connect: Connect) -> None:
    async with serving(json_answer(b"{}")) as target:
        for status in ("301 M", "302 F", "303 S", "307 T", "308 P"):
            async with serving(answer(status, b"", f"Location: {target.url}/steal")) as server:
                error = await refusal(connect, server.url)
                assert (error.code, error.taken) == (Code.UPSTREAM_FAILED, "yes")
        assert target.connections == 0


@pytest.mark.parametrize(
    "data",
    [
        b"nothing like HTTP\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(5000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        b"\x16\x03\x01\x02\x00",
    ],
    ids=["garbage", "status", "long header", "many headers", "both lengths", "TLS"],
)
async def test_what_is_no_http_is_a_failure_at_once(connect: Connect, data: bytes) -> None:
    async with serving(data) as server:
        began = time.monotonic()
        error = await refusal(connect, server.url)
        assert (error.code, error.taken, error.retryable) == (Code.UPSTREAM_FAILED, "yes", True)
        assert time.monotonic() - began < 1.0
        assert len(server.requests) == 1


async def test_an_answer_that_never_ends_is_given_up_within_a_second(connect: Connect) -> None:
    gone = asyncio.Event()

    async def drip(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(chunk(b"<html>"))
        await peer.closed()
        gone.set()

    async with serving(drip) as server:
        began = time.monotonic()
        error = await refusal(connect, server.url)
        assert error.code is Code.UPSTREAM_FAILED
        assert time.monotonic() - began < 1.2
        async with asyncio.timeout(1):
            await gone.wait()


async def test_of_a_large_refusal_only_the_beginning_is_read(connect: Connect) -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(chunk(b"x" * 65_536))
            sent += 65_536

    async with serving(endless) as server:
        began = time.monotonic()
        error = await refusal(connect, server.url)
        assert error.code is Code.UPSTREAM_UNAVAILABLE
        assert time.monotonic() - began < 0.8
        assert sent < 32 * 1024 * 1024


async def test_identity_is_no_encoding(connect: Connect) -> None:
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: identity\r\n\r\n")
    async with serving(head + chunk(sample("chat-plain.sse")) + b"0\r\n\r\n") as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, lambda items: None)
        assert await stream.ended() == "finished"
        stream.close()


# -- the token


class Renewing:
    """Tokens that can be renewed, at most `renewals` times."""

    def __init__(self, renewals: int) -> None:
        self.renewals = renewals
        self.number = 1

    async def token(self, user_id: str) -> str:
        return f"czs_token{self.number}"

    def invalidate(self, token: str) -> bool:
        assert token == f"czs_token{self.number}"
        if self.renewals == 0:
            return False
        self.renewals -= 1
        self.number += 1
        return True

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "no", [answer("401 Unauthorized"), json_answer(sample("error-auth.json"))], ids=["401", "4101"]
)
async def test_a_refused_token_is_renewed_once_where_it_can_be(connect: Connect, outcomes: Outcomes, no: bytes) -> None:
    good = STREAM_HEAD + chunk(b"event:done\ndata:\n\n") + b"0\r\n\r\n"
    async with serving(no, good) as server, connect(server.url, token=Renewing(5)) as coze:
        stream = await coze.chat(REQUEST, lambda items: None)
        stream.close()
        tokens = [request.headers["authorization"] for request in server.requests]
        assert tokens == ["Bearer czs_token1", "Bearer czs_token2"]
        assert outcomes == [("chat", "ok")]
    async with serving(no) as server, connect(server.url, token=Renewing(5)) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.chat(REQUEST, no_items)
        assert caught.value.code is Code.UPSTREAM_UNAUTHORIZED
        assert len(server.requests) == 2
        with pytest.raises(UpstreamError):
            await coze.retrieve(REF)
        assert len(server.requests) == 4


async def test_a_fixed_token_is_not_tried_twice(connect: Connect) -> None:
    async with serving(answer("401 Unauthorized")) as server:
        error = await refusal(connect, server.url)
        assert error.code is Code.UPSTREAM_UNAUTHORIZED
        assert len(server.requests) == 1


async def test_no_error_holds_the_token(connect: Connect, free_port: Callable[[], int]) -> None:
    async with serving(answer("401 pat_secret", b"pat_secret")) as server:
        for url in (server.url, f"http://127.0.0.1:{free_port()}"):
            error = await refusal(connect, url)
            assert "pat_secret" not in f"{error!r} {error} {error.detail} {error.__cause__}"


# -- given up


async def test_a_call_that_is_cancelled_leaves_nothing_open(
    connect: Connect, ledger: Ledger, outcomes: Outcomes
) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def silent(peer: Peer) -> None:
        arrived.set()
        await peer.closed()
        gone.set()

    async with serving(silent) as server, connect(server.url) as coze:
        task = asyncio.create_task(coze.chat(REQUEST, no_items))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(1):
            await gone.wait()
        assert ledger.count("upstream") == 0
        assert outcomes == []
