"""The load client against a real gateway, and against servers that lie, refuse and vanish."""

import asyncio
import datetime
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from tests.load import transports
from tests.load.client import Load, run_load
from tests.load.plan import Plan
from tests.load.report import problems, result, shown
from tests.processes import GatewayProcess


def printed(load: Load) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown(result(load, when=datetime.datetime.now(datetime.UTC))))
    return console.export_text()


PIECES = [f"{100 + n / 10:.6f} " for n in range(10)]
Lie = Callable[[list[str]], list[str]]


def record(number: int, **event: str) -> bytes:
    return f"id: e-{number}\ndata: {json.dumps(event | {'id': f'e-{number}'})}\n\n".encode()


def answer(pieces: list[str]) -> list[bytes]:
    body = [record(PIECES.index(piece) + 1, event="message", content=piece) for piece in pieces]
    return [record(0, event="started"), *body, record(99, event="completed", content="".join(PIECES))]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """`await serve(post, get)`: the URL of a server with these handlers for starting and for listening."""
    servers = []

    async def start(post: web.RequestHandler, get: object = None) -> str:
        app = web.Application()
        app.router.add_post("/api/coze/chat/stream", post)  # type: ignore[arg-type]
        for way in ("events", "ws"):
            app.router.add_get(f"/api/coze/turns/{{id}}/{way}", get or post)  # type: ignore[arg-type]
        server = TestServer(app)
        servers.append(server)
        await server.start_server()
        return str(server.make_url(""))

    yield start
    for server in servers:
        await server.close()


def streams(records: Callable[[web.Request], list[bytes]]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Turn-Id": "turn_1", "Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in records(request):
            await response.write(part)
        return response

    return handler


@pytest.mark.parametrize("transport", ["sse", "websocket", "longpoll"])
async def test_a_gateway_under_storms_loses_nothing_over_any_transport(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], transport: str
) -> None:
    gateway = await start_gateway()
    plan = Plan(transport=transport, simulated=True, turns=4, listeners=3, storms=2, pieces=60, pace=50, seconds=60)
    load = await run_load(plan, gateway.url)
    assert problems(load) == []
    assert load.tally.outcomes["completed"] == 4
    assert load.tally.pieces == load.tally.delay.count == 4 * 3 * 60
    assert load.tally.delay.negative == 0
    assert load.tally.turn.count == 12
    assert load.tally.started.count == load.tally.first_content.count == 4
    # Turns start a tenth of a second apart and last 1.5 s: the storms, at 0.53 and 1.07 s, find some.
    assert [storm.back.count for storm in load.tally.storms] == [storm.cut for storm in load.tally.storms]
    assert sum(storm.cut for storm in load.tally.storms) > 0


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (lambda pieces: pieces[:4] + pieces[5:], "lost"),
        (lambda pieces: pieces[:4] + pieces[3:], "doubled"),
        (lambda pieces: [pieces[1], pieces[0], *pieces[2:]], "disordered"),
    ],
    ids=["lost", "doubled", "disordered"],
)
async def test_a_server_that_damages_an_answer_is_found_out(
    serve: Callable[..., Awaitable[str]], lie: Lie, kind: str
) -> None:
    url = await serve(streams(lambda request: answer(lie(PIECES))), streams(lambda request: answer(PIECES)))
    load = await run_load(Plan(simulated=True, turns=1, listeners=2, pieces=10, seconds=10), url)
    assert load.tally.wrong[kind] == 1
    assert load.tally.wrong["unequal"] == 1


async def test_a_client_that_comes_back_asks_for_the_missing_events(serve: Callable[..., Awaitable[str]]) -> None:
    asked = []

    def rest(request: web.Request) -> list[bytes]:
        asked.append(request.headers["Last-Event-ID"])
        return answer(PIECES)[6:]

    # The stream ends before its turn does, as it may when it says when to come back.
    url = await serve(streams(lambda request: [*answer(PIECES)[:6], b": overloaded\nretry: 10\n\n"]), streams(rest))
    load = await run_load(Plan(simulated=True, turns=1, listeners=1, pieces=10, seconds=10), url)
    assert asked == ["e-5"]
    assert problems(load) == []
    assert load.tally.reconnects == 1
    assert load.tally.refusals == {"overloaded": 1}


async def test_refusals_are_counted_by_their_code_and_are_a_problem(serve: Callable[..., Awaitable[str]]) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"code": "rate_limited"}, status=429, headers={"Retry-After": "1"})

    load = await run_load(Plan(turns=3, rate=1000, seconds=10), await serve(refuse))
    assert load.tally.refusals == {"rate_limited": 3}
    assert problems(load) == ["turns not_started: 3"]


async def test_a_gateway_that_is_not_there_ends_the_run(free_port: Callable[[], int]) -> None:
    load = await run_load(Plan(turns=2, rate=1000, seconds=10), f"http://127.0.0.1:{free_port()}")
    assert problems(load) == ["turns not_started: 2"]
    assert load.elapsed < 5


async def test_a_load_run_ends_on_time_although_streams_hang(serve: Callable[..., Awaitable[str]]) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = await streams(lambda request: answer(PIECES)[:3])(request)
        await asyncio.Event().wait()
        return response

    load = await run_load(Plan(turns=2, listeners=2, rate=1000, seconds=1, grace=0.5), await serve(hang))
    assert 1.5 <= load.elapsed < 3
    assert load.tally.outcomes["unended"] == 2
    assert load.tally.unfinished == 4
    assert problems(load) == []
    assert "2 turns still ran 0.5 s after the time was over" in printed(load)


async def test_turns_that_run_when_the_time_is_over_may_end_and_no_more_are_started(
    serve: Callable[..., Awaitable[str]],
) -> None:
    over = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return await streams(lambda request: answer(PIECES))(request)

    load = Load(Plan(simulated=True, turns=50, listeners=1, pieces=10, rate=20, seconds=1, grace=20), await serve(slow))
    running = asyncio.create_task(load.run())
    while not load.ending:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    over.set()
    await running
    assert problems(load) == []
    outcomes = load.tally.outcomes
    assert outcomes["completed"] + outcomes["left_out"] == 50
    assert 10 <= outcomes["completed"] <= 21
    assert "turns were left out: the time was over" in printed(load)


async def test_a_stream_that_ends_without_its_last_event_is_still_wrong(serve: Callable[..., Awaitable[str]]) -> None:
    async def nothing(request: web.Request) -> web.Response:
        return web.Response(status=204)

    url = await serve(streams(lambda request: answer(PIECES)[:6]), nothing)
    load = await run_load(Plan(turns=1, listeners=1, seconds=5, grace=1), url)
    assert "unended: 1" in problems(load)


async def test_a_client_that_is_the_limit_says_so(serve: Callable[..., Awaitable[str]]) -> None:
    url = await serve(streams(lambda request: answer(PIECES)))

    def burn(load: Load) -> None:
        end = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < end:
            pass

    load = await run_load(Plan(turns=10, listeners=1, rate=5, seconds=20), url, watch=burn, every=0.01)
    assert load.effort.late.largest > 0.1
    assert "the client's own loop was" in " ".join(load.effort.limits())


async def test_a_cut_websocket_says_no_word(serve: Callable[..., Awaitable[str]]) -> None:
    gone: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def listen(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('{"event":"started","id":"e-0"}')
        try:
            gone.set_result(await socket.receive())
        except asyncio.CancelledError:  # so the test's server says that the connection is lost
            gone.set_result("lost")
            raise
        return socket

    url = await serve(listen)
    async with aiohttp.ClientSession() as session:
        batches = transports.websocket(transports.Door(session, url.rstrip("/")), "1", None)
        assert [len(await anext(batches)), len(await anext(batches))] == [0, 1]
        await batches.aclose()
        assert await asyncio.wait_for(gone, 5) == "lost"
