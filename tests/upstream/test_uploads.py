"""Uploads to Coze: a form goes out as fast as it is taken, once, and whoever breaks it off is told apart."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.errors import Code, GatewayError, UpstreamError
from gateway.upstream.uploads import Form, StoredFile
from tests.upstream.conftest import Connect, Outcomes
from tests.upstream.servers import Peer, answer, json_answer, serving

STORED = b'{"code":0,"msg":"","data":{"id":"7361","bytes":152236,"file_name":"1120.jpeg","created_at":1715847583}}'
FILE = StoredFile("7361", "1120.jpeg", 152236, 1715847583)
PIECES = [b"--b\r\n", b"x" * 70_000, b"\r\n--b--\r\n"]


async def some(*pieces: bytes | Exception) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece


async def endless(sent: list[int]) -> AsyncIterator[bytes]:
    while True:
        sent.append(65536)
        yield b"x" * 65536


def form(*pieces: bytes | Exception, length: int | None = None) -> Form:
    return Form("b", length, some(*pieces or PIECES))


async def chunks(peer: Peer) -> bytes:
    """The body of a request that came in chunks."""
    body = b""
    while size := int(await peer.reader.readline(), 16):
        body += await peer.reader.readexactly(size)
        await peer.reader.readexactly(2)
    await peer.reader.readexactly(2)
    return body


async def test_a_form_is_sent_with_its_length(connect: Connect, outcomes: Outcomes) -> None:
    async with serving(json_answer(STORED)) as server, connect(server.url + "/base") as coze:
        assert await coze.upload(form(length=sum(map(len, PIECES)))) == FILE
        [request] = server.requests
    assert (request.method, request.target) == ("POST", "/base/v1/files/upload")
    assert request.headers["authorization"] == "Bearer pat_secret"
    assert request.headers["content-type"] == "multipart/form-data; boundary=b"
    assert request.headers["content-length"] == str(sum(map(len, PIECES)))
    assert "transfer-encoding" not in request.headers
    assert request.body == b"".join(PIECES)
    assert outcomes == [("upload", "ok")]


async def test_a_form_whose_length_nobody_knows_is_sent_in_chunks(connect: Connect) -> None:
    bodies = []

    async def play(peer: Peer) -> None:
        bodies.append(await chunks(peer))
        await peer.send(json_answer(STORED))

    async with serving(play) as server, connect(server.url) as coze:
        assert await coze.upload(form()) == FILE
        assert server.requests[0].headers["transfer-encoding"] == "chunked"
    assert bodies == [b"".join(PIECES)]


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b'{"id":7361}', StoredFile("7361", "", 0, 0)),
        (b'{"id":"7361","bytes":"12","created_at":"34","file_name":null}', StoredFile("7361", "", 12, 34)),
        (b'{"id":"7361","bytes":-1,"created_at":1e99,"file_name":"\xe4\xbd\xa0"}', StoredFile("7361", "你", 0, 0)),
    ],
)
async def test_coze_may_say_less_or_say_it_otherwise(connect: Connect, data: bytes, stored: StoredFile) -> None:
    async with serving(json_answer(b'{"code":0,"data":%b}' % data)) as server, connect(server.url) as coze:
        assert await coze.upload(form(length=sum(map(len, PIECES)))) == stored


@pytest.mark.parametrize("data", [b"null", b"{}", b'{"id":""}', b'{"id":[]}', b"7", b'[{"id":"1"}]'])
async def test_an_answer_without_an_id_is_a_failure(connect: Connect, outcomes: Outcomes, data: bytes) -> None:
    async with serving(json_answer(b'{"code":0,"data":%b}' % data)) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.upload(form(length=sum(map(len, PIECES))))
    assert caught.value.code is Code.UPSTREAM_FAILED


@pytest.mark.parametrize("code", [4300, 4301, 4302, 4303, 4304])
async def test_cozes_refusals_of_files_are_refusals(connect: Connect, outcomes: Outcomes, code: int) -> None:
    body = b'{"code":%d,"msg":"no","detail":{"logid":"L"}}' % code
    async with serving(json_answer(body)) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.upload(form(length=sum(map(len, PIECES))))
    error = caught.value
    assert (error.code, error.retryable, error.coze_code, error.log_id) == (Code.UPSTREAM_REJECTED, False, code, "L")
    assert outcomes == [("upload", "upstream_rejected")]


async def test_an_answer_that_comes_before_the_form_is_read_counts(connect: Connect) -> None:
    sent: list[int] = []

    async def play(peer: Peer) -> None:
        await peer.send(answer("413 Too Large", b'{"code":4302,"msg":"large"}', "Content-Type: application/json"))
        await peer.closed()

    async with serving(play) as server, connect(server.url) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.upload(Form("b", None, endless(sent)))
    assert caught.value.coze_code == 4302


class Renewing:
    """A token that is another one after each refusal."""

    def __init__(self) -> None:
        self.count = 0

    async def token(self, user_id: str) -> str:
        return f"token-{self.count}"

    def invalidate(self, token: str) -> bool:
        self.count += 1
        return True

    async def close(self) -> None: ...


async def test_a_refused_token_is_renewed_for_the_next_upload_since_no_form_can_be_sent_twice(connect: Connect) -> None:
    refusal, length = json_answer(b'{"code":700012006,"msg":"no"}', "401 Unauthorized"), sum(map(len, PIECES))
    async with (
        serving(refusal, json_answer(STORED)) as server,
        connect(server.url, token=Renewing()) as coze,
    ):
        with pytest.raises(UpstreamError) as caught:
            await coze.upload(form(length=length))
        assert caught.value.code is Code.UPSTREAM_UNAUTHORIZED
        assert await coze.upload(form(length=length)) == FILE
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer token-0", "Bearer token-1"]


@pytest.mark.parametrize("failure", [GatewayError(Code.TOO_LARGE), ConnectionResetError("gone"), ValueError("odd")])
async def test_a_form_that_breaks_off_is_not_cozes_failure(
    connect: Connect, outcomes: Outcomes, failure: Exception
) -> None:
    closed = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.closed()
        closed.set()

    async with serving(play) as server, connect(server.url) as coze:
        with pytest.raises(type(failure)) as caught:
            await coze.upload(form(b"x" * 100_000, failure))
        assert caught.value is failure
        async with asyncio.timeout(5):
            await closed.wait()
    assert outcomes == []


async def test_a_cancelled_upload_closes_cozes_connection(connect: Connect, outcomes: Outcomes) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def play(peer: Peer) -> None:
        begun.set()
        await peer.closed()
        closed.set()

    async with serving(play) as server, connect(server.url) as coze:
        sent: list[int] = []
        upload = asyncio.create_task(coze.upload(Form("b", None, endless(sent))))
        async with asyncio.timeout(5):
            await begun.wait()
            upload.cancel()
            await closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert outcomes == []


async def test_a_coze_that_takes_nothing_makes_the_form_wait_and_is_given_up(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    sent: list[int] = []
    async with serving(play) as server, connect(server.url, idle_timeout=0.5) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.upload(Form("b", None, endless(sent)))
    assert (caught.value.code, caught.value.retryable, caught.value.taken) == (Code.UPSTREAM_UNAVAILABLE, True, "no")
    assert sum(sent) < 16 * 2**20, "what the kernel's buffers hold, and no more"


async def test_a_coze_that_never_answers_is_given_up(connect: Connect) -> None:
    async def play(peer: Peer) -> None:
        await asyncio.Event().wait()

    async with serving(play) as server, connect(server.url, idle_timeout=0.3) as coze:
        with pytest.raises(UpstreamError) as caught:
            await coze.upload(form(length=sum(map(len, PIECES))))
    assert caught.value.code is Code.UPSTREAM_UNAVAILABLE


async def test_time_that_the_client_needs_is_not_cozes(connect: Connect) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for piece in PIECES:
            await asyncio.sleep(0.4)  # longer than Coze may take
            yield piece

    async with serving(json_answer(STORED)) as server, connect(server.url, idle_timeout=0.3) as coze:
        assert await coze.upload(Form("b", sum(map(len, PIECES)), slow())) == FILE
