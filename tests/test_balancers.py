"""The balancers of `deploy/`, started for real: what passes live, and what is sent to a second node."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.balancers import HAPROXY, NGINX, ONE, Balancer, balancer
from tests.conftest import Require
from tests.databases import PostgresServer
from tests.faults.coze import simulated
from tests.nodes.cluster import cluster
from tests.processes import GatewayProcess
from tests.waiting import until

Start = Callable[..., Awaitable[GatewayProcess]]
QUESTION = {"userId": "test-user", "message": "你好", "botId": "7566252531572473891"}
BOTH = pytest.mark.parametrize("template", [NGINX, HAPROXY], ids=["nginx", "haproxy"])
STREAM, CHAT = "/api/coze/chat/stream", "/api/coze/chat"
TURN = "/api/coze/turns/turn_1"
KEY = {"Idempotency-Key": "a-key"}


@pytest.fixture
def balanced(
    require: Require, free_port: Callable[[], int]
) -> Callable[..., contextlib.AbstractAsyncContextManager[Balancer]]:
    def start(template: Path, *nodes: str) -> contextlib.AbstractAsyncContextManager[Balancer]:
        return balancer(require("haproxy" if template == HAPROXY else "nginx"), template, nodes, free_port())

    return start


Balanced = Callable[..., contextlib.AbstractAsyncContextManager[Balancer]]


async def streams_over_each_transport(before: Balancer) -> None:
    url = before.url
    clock = asyncio.get_running_loop().time
    arrivals: list[float] = []
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}{STREAM}", json=QUESTION) as answer:
            assert answer.status == 200
            turn = answer.headers["X-Turn-Id"]

            async def by_sse() -> str:
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        arrivals.append(clock())
                        if event["event"] == "completed":
                            return str(event["content"])
                raise AssertionError("no last event")

            async def by_websocket() -> str:
                async with session.ws_connect(f"{url}/api/coze/turns/{turn}/ws?access_token=hidden") as socket:
                    events = [json.loads(message.data) async for message in socket]
                return "".join(event["content"] for event in events if event["event"] == "message")

            async def by_longpoll() -> tuple[str, int]:
                text, after, answers = "", "", 0
                while True:
                    query = {"wait": "5"} | ({"after": after} if after else {})
                    async with session.get(f"{url}/api/coze/turns/{turn}/poll", params=query) as got:
                        page = await got.json()
                    answers += bool(page["events"])
                    text += "".join(event["content"] for event in page["events"] if event["event"] == "message")
                    after = page["next"]
                    if page["ended"]:
                        return text, answers

            whole, socket_text, (polled, answers) = await asyncio.gather(by_sse(), by_websocket(), by_longpoll())
        for path in ("/metrics", "/debug/ledger"):
            async with session.get(url + path) as got:
                assert got.status == 404
    assert whole == socket_text == polled
    assert answers > 3
    assert arrivals[-1] - arrivals[0] > 0.5, "they came in one lump"
    await until(lambda: "/ws" in before.logged)  # once the balancer, too, knows that the socket is closed
    assert "hidden" not in before.logged


async def test_through_nginx_pieces_come_one_by_one_over_each_transport(
    balanced: Balanced, start_gateway: Start
) -> None:
    gateway = await start_gateway(GATEWAY_SIMULATOR_FIRST_MS="50", GATEWAY_SIMULATOR_RATE="150")
    async with balanced(ONE, gateway.url) as before:
        await streams_over_each_transport(before)


@BOTH
async def test_two_nodes_stream_through_it_and_one_that_dies_is_passed_by(
    balanced: Balanced, template: Path, postgres: PostgresServer
) -> None:
    async with (
        simulated(first_ms=50, rate=150) as coze,
        cluster(postgres, coze.url, nodes=2) as nodes,
        balanced(template, nodes.url(0), nodes.url(1)) as before,
        aiohttp.ClientSession() as session,
    ):
        await streams_over_each_transport(before)
        await nodes.nodes[0].kill()
        for _ in range(6):
            async with session.post(f"{before.url}{CHAT}", json=QUESTION, headers={"Prefer": "wait=0"}) as answer:
                assert answer.status == 202, await answer.text()


@dataclass
class Script:
    """What stand-ins for nodes do: the one that is asked first does `first`, every other one does `others`."""

    first: str
    others: str = "answers"
    unready: frozenset[str] = frozenset()
    """The nodes whose `/readyz` answers 503."""
    heard: list[tuple[str, str]] = field(default_factory=list)
    """Which node was asked, and the request's body."""
    checked: Counter[str] = field(default_factory=Counter)
    """How often each node's `/readyz` was asked."""


@contextlib.asynccontextmanager
async def standing_in(script: Script, name: str) -> AsyncIterator[str]:
    """Something in a node's place that does all the time what a node does only for a moment. Its URL."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            script.checked[name] += 1
            return web.Response(status=503 if name in script.unready else 200)
        script.heard.append((name, await request.text()))
        step = script.first if name == script.heard[0][0] else script.others
        if step == "breaks":
            assert request.transport is not None
            request.transport.abort()
        headers = {"X-Turn-Id": "turn_1"} if step == "took it, then refuses" else {}
        return web.Response(status=200 if step == "answers" else 503, text=step, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@BOTH
@pytest.mark.parametrize(
    ("method", "path", "key", "first", "others", "status"),
    [
        ("GET", TURN, {}, "refuses", "answers", 200),
        ("GET", TURN, {}, "breaks", "answers", 200),
        ("GET", TURN, {}, "refuses", "refuses", 503),
        ("POST", STREAM, KEY, "refuses", "answers", 200),
        ("POST", STREAM, KEY, "refuses", "refuses", 503),
        ("POST", CHAT, KEY, "took it, then refuses", "answers", 200),
    ],
)
async def test_what_a_node_refuses_or_may_be_repeated_is_sent_to_another_one(
    balanced: Balanced,
    template: Path,
    method: str,
    path: str,
    key: dict[str, str],
    first: str,
    others: str,
    status: int,
) -> None:
    heard = await asked(balanced, template, Script(first, others), method, path, key, status)
    assert len({name for name, _ in heard}) == 2
    assert len({body for _, body in heard}) == 1


@BOTH
@pytest.mark.parametrize("path", [STREAM, CHAT])
@pytest.mark.parametrize(("first", "status"), [("breaks", 502), ("took it, then refuses", 503)])
async def test_a_question_without_a_key_is_not_repeated_once_a_node_may_have_taken_it(
    balanced: Balanced, template: Path, path: str, first: str, status: int
) -> None:
    assert len(await asked(balanced, template, Script(first), "POST", path, {}, status)) == 1


async def test_nginx_sends_a_question_without_a_key_on_if_a_node_refuses_it(balanced: Balanced) -> None:
    for path in (STREAM, CHAT):
        heard = await asked(balanced, NGINX, Script("refuses"), "POST", path, {}, 200)
        assert len({name for name, _ in heard}) == 2
        assert len(await asked(balanced, NGINX, Script("refuses", "refuses"), "POST", path, {}, 503)) == 8
        assert len(await asked(balanced, NGINX, Script("refuses", "took it, then refuses"), "POST", path, {}, 503)) == 2


@pytest.mark.parametrize(("unready", "heard"), [("a", {"b"}), ("ab", {"a", "b"})], ids=["one", "all"])
async def test_haproxy_asks_no_node_that_is_not_ready_unless_none_is(
    balanced: Balanced, unready: str, heard: set[str]
) -> None:
    script = Script("answers", unready=frozenset(unready))
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(standing_in(script, name)) for name in ("a", "b")]
        before = await stack.enter_async_context(balanced(HAPROXY, *urls))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await until(lambda: all(script.checked[name] > 1 for name in "ab"))  # it has counted the first answer by then
        for _ in range(8):
            async with session.post(before.url + STREAM, json=QUESTION) as answer:
                assert answer.status == 200
    assert {name for name, _ in script.heard} == heard


async def asked(
    balanced: Balanced, template: Path, script: Script, method: str, path: str, headers: dict[str, str], status: int
) -> list[tuple[str, str]]:
    """Sends one request through a balancer before two such stand-ins; what they heard."""
    body = json.dumps(QUESTION | {"message": "长" * 5000}) if method == "POST" else ""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(standing_in(script, name)) for name in ("a", "b")]
        before = await stack.enter_async_context(balanced(template, *urls))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with session.request(method, before.url + path, data=body or None, headers=headers) as answer:
            assert answer.status == status
            if status == 200:
                assert await answer.text() == "answers"
            if script.first == "took it, then refuses" and status == 503:
                assert answer.headers["X-Turn-Id"] == "turn_1"
            if script.others == "refuses":
                assert await answer.text() == "refuses"  # the node's own answer, not the balancer's
    assert {sent for _, sent in script.heard} == {body}
    return script.heard
