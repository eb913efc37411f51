"""A failover to a streaming standby: with a synchronous one nothing is lost, without it the last moments are."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psycopg
import pytest

from gateway.simulator import whole_text
from tests.databases import PostgresServer, postgres_server
from tests.faults.coze import gateway, patience, simulated
from tests.faults.proxy import Proxy, proxied
from tests.faults.reading import Reader, client, topic
from tests.processes import GatewayProcess
from tests.waiting import until

LONG = "/fault plain pieces:200 rate:40 -- while the database fails over"
SHORT = "/fault plain pieces:4 rate:0 -- "
PATIENT = {"GATEWAY_UPSTREAM_IDLE_TIMEOUT": "30"}  # the database is what is tried here, not Coze


class Pair:
    """A primary with its standby. `url` leads to the primary, by a proxy that stands for an address that moves."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer, proxy: Proxy, path: str) -> None:
        self.primary = primary
        self.standby = standby
        self._proxy = proxy
        name = path.partition("?")[0].rpartition("/")[2]
        self.url = f"postgresql://gateway@{proxy.url.removeprefix('http://')}/{name}"
        both = ",".join(quote(server.socket.rpartition("/")[0], safe="") for server in (primary, standby))
        self.hosts = f"postgresql://gateway@/{name}?host={both}&target_session_attrs=read-write"
        self._name = name

    async def make_synchronous(self) -> None:
        await self._say(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        await until(lambda: self._finds(self.primary, "pg_stat_replication WHERE sync_state = 'sync'"), within=10)

    async def fall_behind(self) -> None:
        """The standby hears of nothing more."""
        ((now,),) = await self._say(self.primary, "SELECT pg_current_wal_insert_lsn()")
        has_all = f"pg_stat_replication WHERE flush_lsn >= '{now}'"
        await until(lambda: self._finds(self.primary, has_all), within=10)
        await self._say(self.standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        await until(self._is_deaf, within=10)

    async def fail_over(self, *, lagging: bool = False) -> float:
        """The primary is gone for good, and the standby takes its place; when it did. One that was lagging has old
        beats of all nodes, and those that reach it first come back before the others."""
        await asyncio.to_thread(self.primary.crash)
        await self._say(self.standby, "SELECT pg_promote()")
        if lagging:
            await self._say(self.standby, "UPDATE log_nodes SET beat = beat - interval '10 s'")
            await until(lambda: self._finds(self.standby, "log_nodes WHERE beat > now() - interval '1 s'"), within=10)
        self._proxy.target(self.standby.socket)
        self._proxy.cut_all()
        return time.monotonic()

    async def _is_deaf(self) -> bool:
        return not await self._finds(self.standby, "pg_stat_wal_receiver")

    async def _finds(self, server: PostgresServer, rows: str) -> bool:
        return bool(await self._say(server, f"SELECT 1 FROM {rows}"))

    async def _say(self, server: PostgresServer, *statements: str) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(server.url(self._name), autocommit=True) as connection:
            for statement in statements:
                cursor = await connection.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def pair(postgres: PostgresServer, folder: Path) -> AsyncIterator[Pair]:
    """Two servers of the test's own."""
    with postgres_server(postgres.programs) as primary:
        path = await primary.make()
        standby = await asyncio.to_thread(primary.standby, Path(primary.socket).parent / "standby")
        try:
            async with proxied(primary.socket) as proxy:
                yield Pair(primary, standby, proxy, path)
        finally:
            await asyncio.to_thread(standby.stop)


class Listeners:
    """Readers of one turn at several nodes, who stay connected."""

    def __init__(self, session: aiohttp.ClientSession, asked: Reader) -> None:
        self._session = session
        self._asked = asked
        self.readers: list[Reader] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, node: GatewayProcess, transport: str) -> Reader:
        reader = Reader(self._asked.book)
        reader.turn_id = self._asked.turn_id
        self.readers.append(reader)
        if transport == "longpoll":  # each of its requests is a new one, which may be told to come back
            work = reader.finish(self._session, lambda: node.url, transports=(transport,))
        else:
            work = reader.listen(self._session, node.url, transport)
        self._tasks.append(asyncio.create_task(work))
        await reader.until(lambda r: r.text)
        return reader

    async def all(self) -> None:
        await asyncio.gather(*self._tasks)


async def counted(session: aiohttp.ClientSession, node: GatewayProcess, metric: str) -> float:
    async with session.get(f"{node.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{metric}_total"))


async def started(stack: AsyncExitStack, folder: Path, coze: str, url: str) -> GatewayProcess:
    settings = PATIENT | {"GATEWAY_DATABASE_URL": url}
    return await stack.enter_async_context(gateway(folder, coze, **settings))


async def state(session: aiohttp.ClientSession, node: GatewayProcess, turn: str) -> Any:
    async with session.get(f"{node.url}/api/coze/turns/{turn}") as response:
        return await response.json() if response.status == 200 else response.status


@pytest.mark.parametrize("standby", ["synchronous", "asynchronous"])
async def test_a_failover_is_a_pause_where_the_nodes_live(
    tmp_path: Path, postgres: PostgresServer, standby: str
) -> None:
    """What the standby lacks they write again: no reader is told to start over, and nothing that was said is unsaid."""
    async with AsyncExitStack() as stack:
        coze = await stack.enter_async_context(simulated())
        servers = await stack.enter_async_context(pair(postgres, tmp_path))
        session = await stack.enter_async_context(client())
        a, b = await asyncio.gather(
            started(stack, tmp_path / "a", coze.url, servers.url),
            started(stack, tmp_path / "b", coze.url, servers.hosts),
        )
        deleted, short, keyed, asked = Reader(), Reader(), Reader(), Reader()
        await deleted.ask(session, b.url, f"{SHORT}to be deleted")
        asking = asyncio.create_task(asked.ask(session, a.url, LONG))
        await asked.until(lambda r: r.text)
        listeners = Listeners(session, asked)
        for node, transport in ((a, "websocket"), (b, "sse"), (b, "websocket"), (b, "longpoll")):
            await listeners.join(node, transport)
        if standby == "synchronous":
            await servers.make_synchronous()
        else:
            await servers.fall_behind()
        began = asked.text
        await short.ask(session, a.url, f"{SHORT}short")
        await keyed.ask(session, b.url, f"{SHORT}keyed", key="key-1")
        async with session.delete(f"{a.url}/api/coze/conversations/{deleted.conversation_id}") as response:
            assert response.status == 204
        await asked.until(lambda r: len(r.text) > len(began) + 30)
        failed_over = await servers.fail_over(lagging=standby == "asynchronous")
        async with asyncio.timeout(patience(15)):
            await asyncio.gather(asking, listeners.all())
        for reader in (asked, *listeners.readers):
            assert reader.last["event"] == "completed"
            assert reader.resets == 0
            assert reader.last["recovered"] is False
        assert asked.text == whole_text(LONG)
        assert next((at for at in asked.times if at > failed_over), failed_over) - failed_over < patience(5)
        again = Reader()
        await again.ask(session, a.url, f"{SHORT}keyed", key="key-1")
        assert (again.turn_id, again.text) == (keyed.turn_id, keyed.text)
        assert {message: coze.posts_of(message) for message in (LONG, f"{SHORT}short", f"{SHORT}keyed")} == {
            LONG: 1,
            f"{SHORT}short": 1,
            f"{SHORT}keyed": 1,
        }
        for node in (a, b):
            for reader in (short, keyed, asked):
                found = await state(session, node, reader.turn_id)
                assert (found["status"], found["content"]) == ("completed", reader.text)
            assert await state(session, node, deleted.turn_id) == 404
            await until(lambda node=node: _ready(session, node.url), within=patience(5))  # type: ignore[misc]
            assert await counted(session, node, "gateway_node_rejoins") == 0
            assert await counted(session, node, "gateway_logs_taken_back") == 0
            assert "Traceback" not in "\n".join(node.text)
        lost = [await counted(session, node, "gateway_log_batches_written_again") for node in (a, b)]
        assert all(lost) if standby == "asynchronous" else not any(lost)


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/readyz") as response:
        return bool(response.status == 200)


async def test_what_nobody_can_write_again_is_taken_back(tmp_path: Path, postgres: PostgresServer) -> None:
    """The node that wrote it is gone with the primary. Readers who were ahead are told; the text is whole all the
    same, and nobody is given another text at a position that he knows."""
    async with AsyncExitStack() as stack:
        coze = await stack.enter_async_context(simulated())
        servers = await stack.enter_async_context(pair(postgres, tmp_path))
        session = await stack.enter_async_context(client())
        a, b = await asyncio.gather(
            started(stack, tmp_path / "a", coze.url, servers.url),
            started(stack, tmp_path / "b", coze.url, servers.hosts),
        )
        known, asked = Reader(), Reader()
        await known.ask(session, a.url, f"{SHORT}before")
        overhearing = asyncio.create_task(_overhear(session, b, known.conversation_id, stack))
        asking = asyncio.create_task(asked.ask(session, a.url, LONG))
        await asked.until(lambda r: r.text)
        listeners = Listeners(session, asked)
        for transport in ("sse", "websocket", "longpoll"):
            await listeners.join(b, transport)
        heard = await overhearing
        await servers.fall_behind()
        began = asked.text
        lost = Reader()
        await lost.ask(session, a.url, f"{SHORT}lost", conversationId=known.conversation_id)
        await until(lambda: _has(heard, "completed"), within=10)
        behind = listeners.readers[0]
        await behind.until(lambda r: len(r.text) > len(began) + 30)
        late = Reader(asked.book)
        late.turn_id, late.position, late.text = behind.turn_id, behind.position, behind.text
        await a.kill()
        failed_over = await servers.fail_over()
        asking.cancel()
        async with asyncio.timeout(patience(25)):
            await listeners.all()
        for reader in listeners.readers:
            assert reader.last["event"] == "completed"
            assert reader.text == whole_text(LONG)
            assert [event["reason"] for event in reader.named("reset")] == ["ahead"]
        await late.listen(session, b.url, "sse")
        assert [event["reason"] for event in late.named("reset")] == ["ahead"]
        assert late.text == whole_text(LONG)
        assert coze.posts_of(LONG) == 1
        # The other turn is lost as a whole. Who has seen it is told once the conversation goes on.
        assert await state(session, b, lost.turn_id) == 404
        await Reader().ask(session, b.url, f"{SHORT}after", conversationId=known.conversation_id)
        await until(lambda: _has(heard, "completed", times=3), within=10)
        assert [event["event"] for event in heard if event["event"] in ("started", "reset", "completed")] == [
            "started",
            "completed",
            "reset",  # of the turn before, which has ended
            "completed",
            "started",
            "completed",
        ]
        assert heard[-1]["content"] == whole_text(f"{SHORT}after")
        assert await counted(session, b, "gateway_logs_taken_back") == 2
        assert time.monotonic() - failed_over < patience(25)
        assert "Traceback" not in "\n".join(b.text)


async def _has(events: list[Any], name: str, *, times: int = 1) -> bool:
    return len([event for event in events if event["event"] == name]) >= times


async def _overhear(
    session: aiohttp.ClientSession, node: GatewayProcess, conversation: str, stack: AsyncExitStack
) -> list[Any]:
    """What somebody hears who listens to a conversation from now on."""
    heard: list[Any] = []

    async def listen() -> None:
        async for event in topic(session, node.url, f"conversations/{conversation}", "sse", after=None):
            heard.append(event)

    task = asyncio.create_task(listen())
    stack.callback(task.cancel)
    await until(lambda: _listens(session, node), within=10)
    return heard


async def _listens(session: aiohttp.ClientSession, node: GatewayProcess) -> bool:
    async with session.get(f"{node.url}/debug/ledger") as response:
        return bool((await response.json()).get("subscription", {}).get("open"))
