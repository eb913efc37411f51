"""`deploy/nodes/` as processes: gateways with the settings that Compose gives them, nginx, PostgreSQL."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.simulator import whole_text
from tests.balancers import NGINX, balancer
from tests.composing import DEPLOY, NODES, ONE, environment, gateways, services
from tests.conftest import Require
from tests.databases import PostgresServer
from tests.faults.coze import SWIFT, simulated
from tests.faults.reading import client
from tests.processes import ROOT, GatewayProcess
from tests.redis_servers import redis_server
from tests.transports.book import Book, Reader
from tests.transports.readers import Door, everything, sse

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ALERTS = DEPLOY / "alerts.yml"
EACH = pytest.mark.parametrize("file", [ONE, NODES], ids=["one", "nodes"])


class Composed:
    """What Compose would start, without its containers."""

    def __init__(self, url: str, gateways: dict[str, GatewayProcess], session: aiohttp.ClientSession) -> None:
        self.url = url
        self.gateways = gateways
        self.session = session

    async def metric(self, gateway: str, name: str) -> float:
        admin = (await self.gateways[gateway].logged("gateway.admin_ready"))["url"]
        async with self.session.get(f"{admin.rstrip('/')}/metrics") as answer:
            text = await answer.text()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.fixture
async def up(
    postgres: PostgresServer, require: Require, free_port: Callable[[], int], tmp_path: Path
) -> AsyncIterator[Composed]:
    async with AsyncExitStack() as stack:
        _, *arguments = services(NODES)["coze"]["command"]
        assert arguments == ["--host", "0.0.0.0", "--port", "3000"]
        coze = await GatewayProcess.start("simulate", "--host", "127.0.0.1", "--port", "0", "--pace", "60")
        stack.push_async_callback(coze.kill)
        redis = stack.enter_context(redis_server(require("redis-server"), maxmemory="64mb"))
        assert services(NODES)["redis"]["command"][-2:] == ["--maxmemory", "64mb"]
        elsewhere = {  # other addresses, and nothing else, than in the containers
            "GATEWAY_DATABASE_URL": await postgres.make_empty(),
            "GATEWAY_BUS_URL": redis.url,
            "COZE_API_BASE": await coze.ready(),
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": "0",
            "GATEWAY_ADMIN_HOST": "127.0.0.1",
            "GATEWAY_ADMIN_PORT": "0",
        }
        started = {}
        for name, service in gateways(NODES).items():
            settings = environment(service)
            assert elsewhere.keys() <= settings.keys()
            data = {"GATEWAY_DATA_DIR": str(tmp_path / name)}
            started[name] = await GatewayProcess.start("serve", environment=settings | elsewhere | data)
            stack.push_async_callback(started[name].kill)
        urls = await asyncio.gather(*(gateway.ready(within=60) for gateway in started.values()))  # one of them migrates
        before = await stack.enter_async_context(balancer(require("nginx"), NGINX, urls, free_port()))
        session = await stack.enter_async_context(client())
        yield Composed(before.url, started, session)


async def test_what_compose_starts_answers_goes_on_when_a_node_stops_and_counts_its_nodes(up: Composed) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:150 -- on and on"}
    turns = []
    for _ in range(4):
        async with up.session.post(f"{up.url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"}) as answer:
            assert answer.status == 202
            turns.append((await answer.json())["turnId"])
    begun = [asyncio.Event() for _ in turns]

    async def read(turn: str, begins: asyncio.Event) -> Reader:
        reader = Reader(Book())
        async with asyncio.timeout(60):
            while reader.last is None:
                async with aclosing(sse(Door(up.session, up.url, f"turns/{turn}"), reader.position)) as events:
                    async for event in events:
                        reader.take(event)
                        if reader.text:
                            begins.set()
        return reader

    reading = [asyncio.create_task(read(turn, begins)) for turn, begins in zip(turns, begun, strict=True)]
    await asyncio.gather(*(begins.wait() for begins in begun))
    assert await up.metric("gateway-1", "gateway_nodes") == 2
    assert [(await node.logged("nodes.news"))["way"] for node in up.gateways.values()] == ["redis", "redis"]
    assert await up.gateways["gateway-1"].terminate() == 0
    for reader in await asyncio.gather(*reading):
        assert reader.last is not None
        assert reader.last["event"] == "completed"
        assert reader.last["content"] == reader.text
    async with up.session.post(
        f"{up.url}/api/coze/chat", json={**body, "message": "/fault plain pieces:3 -- x"}
    ) as answer:
        assert (await answer.json())["status"] == "completed"


async def test_the_documented_dump_is_taken_while_answers_run_and_restores_them(
    postgres: PostgresServer, require: Require, tmp_path: Path
) -> None:
    url = await postgres.make()
    programs = require("postgres").rpartition("/")[0]
    settings = {"GATEWAY_DATABASE_URL": url, "BACKUP": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    back_up, restore = re.findall(r"```sh\n(pg_(?:dump|restore) [^`]*)```", OPERATIONS)

    async def shell(commands: str) -> None:
        process = await asyncio.create_subprocess_exec("sh", "-euc", commands, env=os.environ | settings)
        assert await process.wait() == 0

    async with simulated(first_ms=10, rate=60) as coze, AsyncExitStack() as stack:
        session = await stack.enter_async_context(client())

        async def node(folder: str) -> GatewayProcess:
            own = SWIFT | {"COZE_API_BASE": coze.url, "GATEWAY_DATABASE_URL": url}
            own |= {"GATEWAY_DATA_DIR": str(tmp_path / folder), "GATEWAY_PORT": "0"}
            started = await GatewayProcess.start("serve", environment=own)
            stack.push_async_callback(started.kill)
            await started.ready(within=60)
            return started

        first = await node("first")

        async def answer(message: str) -> Any:
            body = {"userId": "u", "botId": "b", "message": message}
            async with session.post(f"{first.url}/api/coze/chat", json=body, headers={"Prefer": "wait=10"}) as got:
                return await got.json()

        before = await answer("/fault plain pieces:3 rate:0 -- before")
        body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:150 -- running"}
        async with session.post(f"{first.url}/api/coze/chat/stream", json=body) as got:
            running = got.headers["X-Turn-Id"]
            await got.content.readuntil(b'"event":"message"')
            await shell(back_up)
        after = await answer("/fault plain pieces:3 rate:0 -- after")
        await first.kill()
        await shell(restore)

        second = await node("second")
        async with session.get(f"{second.url}/api/coze/turns/{before['turnId']}") as got:
            assert (await got.json())["content"] == before["content"]
        async with session.get(f"{second.url}/api/coze/turns/{after['turnId']}") as got:
            assert got.status == 404
        events = await everything(sse, Door(session, second.url, f"turns/{running}"), within=30)
        assert events[-1]["event"] == "completed"
        assert events[-1]["content"] == whole_text(body["message"])
        assert coze.chats_started == 3, "a question was asked twice"


def test_the_docs_explain_each_alert_on_nodes() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    of_nodes = {
        rule["alert"] for rule in rules if re.search(r"gateway_(nodes?|logs?)\b|gateway_(node|log)s?_", rule["expr"])
    }
    assert len(of_nodes) >= 4
    assert of_nodes <= set(re.findall(r"^\| `(\w+)` \|", OPERATIONS, re.MULTILINE))


@EACH
async def test_promtool_accepts_the_configuration_and_the_alerts(file: Path, require: Require, tmp_path: Path) -> None:
    for volume in services(file)["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            shutil.copy(file.parent / source, tmp_path / Path(target).name)
    promtool = await asyncio.create_subprocess_exec(
        require("promtool"), "check", "config", str(tmp_path / "prometheus.yml"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await promtool.communicate()
    assert promtool.returncode == 0, said.decode()
    assert b"rules found" in said, said.decode()
