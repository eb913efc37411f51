"""Files on their way to Coze: over the route, attached to a message, refused, and given up with their client."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from gateway.simulator import Simulator, start_simulator
from tests.processes import GatewayProcess
from tests.transports.conftest import Serve, Served
from tests.waiting import until

PICTURE = bytes(range(256)) * 1000


@pytest.fixture
async def coze() -> AsyncIterator[Simulator]:
    simulator = await start_simulator(first_ms=0, rate=0)
    yield simulator
    await simulator.close()


@pytest.fixture
async def served(serve: Serve, coze: Simulator) -> Served:
    return await serve(coze_api_token="pat", coze_api_base=coze.url)


def form(content: Any = PICTURE, name: str = "a.png", field: str = "file") -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    data.add_field(field, content, filename=name, content_type="image/png")
    return data


async def upload(served: Served, data: Any = None, **query: str) -> tuple[int, Any]:
    async with served.session.post(f"{served.url}/api/coze/files", params=query, data=data or form()) as response:
        return response.status, await response.json(content_type=None)


async def test_a_file_is_passed_on_and_attached_to_a_message(served: Served, coze: Simulator) -> None:
    status, file = await upload(served, userId="u", shopId="s")
    assert (status, file.keys()) == (200, {"fileId", "fileName", "bytes", "createdAt"})
    assert (file["fileName"], file["bytes"]) == ("a.png", len(PICTURE))
    assert coze.bytes_received == len(PICTURE)
    events = await served.ask("看图", attachments=[{"type": "image", "fileId": file["fileId"]}])
    assert events[-1]["event"] == "completed"
    async with served.session.get(f"{served.url}/metrics") as response:
        metrics = await response.text()
    assert 'gateway_upstream_requests_total{operation="upload",outcome="ok"} 1.0' in metrics


@pytest.mark.parametrize("name", ["你好 世界.png", "ملف.pdf", "a;b;c.png", "naïve 🌍.txt", "x" * 200 + ".png"])
async def test_names_of_any_script_come_back_as_they_were(served: Served, name: str) -> None:
    assert (await upload(served, form(name=name)))[1]["fileName"] == name


async def test_a_body_of_unknown_length_is_passed_on(served: Served, coze: Simulator) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000
            await asyncio.sleep(0)

    status, file = await upload(served, form(pieces()))
    assert (status, file["bytes"], coze.bytes_received) == (200, 500_000, 500_000)


@pytest.mark.parametrize(
    ("name", "status", "code", "upstream"),
    [
        ("a.exe", 502, "upstream_rejected", 4303),
        ("fault code:4304 -- a.png", 502, "upstream_rejected", 4304),
        ("fault code:4009 -- a.png", 429, "upstream_rate_limited", 4009),
        ("fault status:503 -- a.png", 502, "upstream_unavailable", 5000),
        ("fault status:401 -- a.png", 502, "upstream_unauthorized", 4100),
        ("fault html -- a.png", 502, "upstream_failed", None),
        ("fault refuse -- a.png", 502, "upstream_unavailable", None),
    ],
)
async def test_what_coze_refuses_is_a_problem_with_its_code(
    served: Served, name: str, status: int, code: str, upstream: int | None
) -> None:
    answered, problem = await upload(served, form(name=name))
    assert (answered, problem["code"], problem.get("upstream", {}).get("code")) == (status, code, upstream)
    assert (await upload(served))[0] == 200


async def test_a_file_beyond_the_bound_never_reaches_coze_where_its_length_is_known(
    serve: Serve, coze: Simulator
) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=coze.url, max_upload_bytes=100_000)
    status, problem = await upload(served, form(b"x" * 100_001))
    assert (status, problem["code"]) == (413, "too_large")
    assert "100000" in problem["detail"]
    assert coze.requests["upload"] == 0
    assert (await upload(served, form(b"x" * 100_000)))[0] == 200

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000

    with contextlib.suppress(ConnectionError):
        assert (await upload(served, form(endless())))[0] == 413
    assert coze.bytes_received <= 200_000


async def test_mistakes_are_named_in_the_user_s_language(served: Served, coze: Simulator) -> None:
    async with served.session.post(
        f"{served.url}/api/coze/files",
        params={"userId": "u" * 129, "shopId": "s" * 129},
        data=form(),
        headers={"Accept-Language": "zh"},
    ) as response:
        problem = await response.json(content_type=None)
    assert (response.status, {error["field"] for error in problem["errors"]}) == (422, {"userId", "shopId"})
    assert "请求" in problem["detail"]
    assert (await upload(served, form(field="picture")))[0] == 422
    status, _, problem = await served.post("/api/coze/files", {"file": "x"})
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    assert coze.requests["upload"] == 0


async def test_uploads_have_a_rate_of_their_own(serve: Serve, coze: Simulator) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=coze.url, turns_per_minute=2)
    assert [(await upload(served, userId="u"))[0] for _ in range(3)] == [200, 200, 429]
    assert (await upload(served, form(field="wrong"), userId="v"))[0] == 422
    assert [(await upload(served, userId="v"))[0] for _ in range(2)] == [200, 200]
    assert [(await served.ask(f"{n}"))[-1]["event"] for n in range(2)] == ["completed"] * 2


async def test_a_token_s_user_and_shops_hold_for_files(serve: Serve, coze: Simulator, tmp_path: Path) -> None:
    secret = "a secret for tests that is long enough for HS256"
    (tmp_path / "secret").write_text(secret)
    served = await serve(
        coze_api_token="pat", coze_api_base=coze.url, auth="jwt", jwt_secret_file=str(tmp_path / "secret")
    )
    claims = {"sub": "ann", "shop": ["s", "t"], "exp": 4_000_000_000}
    bearer = {"Authorization": f"Bearer {jwt.encode(claims, secret, algorithm='HS256')}"}

    async def status(headers: dict[str, str], **query: str) -> int:
        async with served.session.post(
            f"{served.url}/api/coze/files", params=query, data=form(), headers=headers
        ) as response:
            return response.status

    assert await status({}) == 401
    assert await status(bearer, shopId="s") == 200
    assert await status(bearer, shopId="s", userId="ann") == 200
    assert await status(bearer, shopId="s", userId="bob") == 422
    assert await status(bearer, shopId="other") == 404
    assert await status(bearer) == 422
    assert await status(bearer | {"Origin": "https://elsewhere.example"}, shopId="s") == 403
    assert coze.requests["upload"] == 2


async def test_coze_is_told_nothing_more_when_the_client_leaves(served: Served, coze: Simulator) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        await asyncio.Event().wait()

    leaving = asyncio.create_task(upload(served, form(half())))
    await until(lambda: coze.bytes_received >= 900_000)
    assert served.services.ledger.count("upstream") == 1
    leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    await until(lambda: served.services.ledger.count("upstream") == 0)
    assert served.services.connections.open == 0
    assert (await upload(served))[0] == 200


async def test_a_client_waits_for_a_coze_that_reads_nothing(serve: Serve, coze: Simulator) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=coze.url, upstream_idle_timeout=1)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b"x" * 65536

    with contextlib.suppress(ConnectionError):
        status, problem = await upload(served, form(endless(), name="fault no-head -- a.png"))
        assert (status, problem["code"]) == (502, "upstream_unavailable")
    assert sent < 32 * 2**20, "what the kernel's buffers hold, and no more"


async def test_an_upload_has_an_end_however_steadily_it_comes(serve: Serve, coze: Simulator) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=coze.url, turn_timeout=1)
    over = asyncio.Event()

    async def steady() -> AsyncIterator[bytes]:
        while not over.is_set():
            yield b"x" * 100
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.05)

    try:
        async with asyncio.timeout(20):
            status, problem = await upload(served, form(steady()), userId="u")
    finally:
        over.set()
    assert (status, problem["code"]) == (504, "upstream_timeout")


async def test_a_gateway_that_drains_takes_no_file(served: Served) -> None:
    served.services.turns.start_nothing_more()
    status, problem = await upload(served)
    assert (status, problem["code"]) == (503, "draining")


async def test_a_stop_waits_for_a_file_that_is_on_its_way(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], coze: Simulator
) -> None:
    gateway = await start_gateway(COZE_API_TOKEN="pat", COZE_API_BASE=coze.url)
    stopping = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        await stopping.wait()
        yield b"x" * 200_000

    async with aiohttp.ClientSession() as session:

        async def send(data: Any) -> int:
            async with session.post(f"{gateway.url}/api/coze/files", data=data) as response:
                return response.status

        async def refused() -> bool:
            return await send(form()) == 503

        sending = asyncio.create_task(send(form(slowly())))
        await until(lambda: coze.bytes_received > 0)
        gateway.send_signal(signal.SIGTERM)
        await gateway.logged("gateway.draining")
        await until(refused)
        stopping.set()
        assert await sending == 200
    assert await gateway.ended() == 0


async def test_the_gateway_never_fetches_what_a_message_names(served: Served) -> None:
    """Only Coze may: from the gateway's network an address may lead to what no client may reach."""
    visits = 0

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    listener = await asyncio.start_server(visited, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/a.png"
    async with listener:
        given = [{"type": kind, "url": address} for kind in ("image", "file", "audio")]
        events = await served.ask(f"look at {address}", attachments=given)
        assert events[-1]["event"] == "completed"
        await served.ended(events[-1]["turnId"])
        assert (await upload(served, form(address.encode(), name=address)))[0] == 200
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        await reader.read()
        writer.close()
    assert visits == 1, "the test's own, which shows that visits are seen"
