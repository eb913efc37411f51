"""PostgreSQL in trouble: nothing is shown meanwhile, and everything arrives after it; no reader sees an error."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psycopg
import pytest

from gateway.ids import new_turn_id
from gateway.simulator import Simulator, whole_text
from tests.databases import PostgresServer
from tests.faults.coze import gateway, patience, simulated
from tests.faults.proxy import proxied
from tests.faults.reading import Reader, Refused, client
from tests.processes import GatewayProcess
from tests.waiting import until

LONG = "/fault plain pieces:240 rate:40 -- while the database is away"
PATIENT = {"GATEWAY_UPSTREAM_IDLE_TIMEOUT": "30"}  # the database is what is tried here, not Coze

Nodes = tuple[GatewayProcess, GatewayProcess]


@asynccontextmanager
async def two_nodes(folder: Path, coze: Simulator, url: str) -> AsyncIterator[Nodes]:
    settings = PATIENT | {"GATEWAY_DATABASE_URL": url}
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(gateway(folder / "a", coze.url, **settings))
        b = await stack.enter_async_context(gateway(folder / "b", coze.url, **settings))
        yield a, b


class Trouble:
    """A trouble of the server that lasts so many seconds."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self._url = url

    async def refused(self, seconds: float) -> None:
        await asyncio.to_thread(self._server.stop)
        try:
            await asyncio.sleep(seconds)  # for so long it is away
        finally:
            await asyncio.to_thread(self._server.start)

    async def paused(self, seconds: float) -> None:
        self._server.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)  # for so long it is paused
        finally:
            self._server.send(signal.SIGCONT)

    async def killed(self, seconds: float) -> None:
        """Kills the server's connections, again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self._say("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            await asyncio.sleep(0.3)  # between two blows

    async def read_only(self, seconds: float) -> None:
        """Makes it read-only, like a server with a full disk."""
        await self._say("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(seconds)  # for so long it takes nothing
        finally:
            await self._say(
                "SET default_transaction_read_only = off",
                "ALTER SYSTEM RESET default_transaction_read_only",
                "SELECT pg_reload_conf()",
            )

    async def _say(self, *statements: str) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            for statement in statements:
                await connection.execute(statement.encode())


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/readyz") as response:
        return response.status == 200


@pytest.mark.parametrize(
    ("trouble", "seconds"), [("refused", 6), ("refused", 0), ("paused", 8), ("killed", 2), ("read_only", 5)]
)
async def test_trouble_of_some_seconds_is_a_pause_and_no_error(
    tmp_path: Path, postgres: PostgresServer, trouble: str, seconds: float
) -> None:
    url = await postgres.make()
    async with simulated() as coze, two_nodes(tmp_path, coze, url) as (a, b), client() as session:
        asked = Reader()
        asking = asyncio.create_task(asked.ask(session, a.url, LONG))
        await asked.until(lambda r: r.text)
        known = Reader()
        await known.ask(session, b.url, "/fault plain rate:0 pieces:4 -- before")
        listeners = [Reader(asked.book) for _ in range(4)]
        listening = []
        for listener, node, transport in zip(
            listeners, (a, b, b, b), ("sse", "websocket", "sse", "longpoll"), strict=True
        ):
            listener.turn_id = asked.turn_id
            if transport == "longpoll":  # each of its requests is a new one, which may be told to come back
                work = listener.finish(session, lambda node=node: node.url, transports=(transport,))  # type: ignore[misc]
            else:
                work = listener.listen(session, node.url, transport)
            listening.append(asyncio.create_task(work))
            await listener.until(lambda r: r.text)

        befalling = asyncio.create_task(getattr(Trouble(postgres, url), trouble)(seconds))
        await asyncio.sleep(min(1.0, seconds / 2))  # in the middle of it
        new, next_one, keyed = Reader(), Reader(), Reader()
        message = "/fault plain pieces:20 rate:0 -- meanwhile"
        same = {"conversationId": known.conversation_id}
        starts = [
            asyncio.create_task(new.ask(session, b.url, f"{message} new")),
            asyncio.create_task(next_one.ask(session, b.url, f"{message} next", **same)),
            asyncio.create_task(keyed.ask(session, a.url, f"{message} keyed", key="key-1")),
        ]
        await befalling
        ended = time.monotonic()
        async with asyncio.timeout(patience(15)):
            await asyncio.gather(asking, *listening, *starts)
        pause = max(later - at for at, later in pairwise(asked.times))
        assert pause > (seconds - 2 if trouble != "killed" else 0)
        assert next((at for at in asked.times if at > ended), ended) - ended < patience(5)
        for reader in (asked, *listeners, new, next_one, keyed):
            assert reader.last["event"] == "completed"
            assert reader.resets == 0
        assert asked.text == whole_text(LONG)
        assert asked.last["recovered"] is False
        assert not asked.named("notice")
        assert {message: coze.posts_of(message) for message in (LONG, f"{message} keyed")} == {
            LONG: 1,
            f"{message} keyed": 1,
        }
        for node in (a, b):
            await until(lambda node=node: _ready(session, node.url), within=patience(5))  # type: ignore[misc]
            assert "Traceback" not in "\n".join(node.text)


async def test_more_seconds_than_a_node_waits_and_the_turns_go_on_afterwards(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    url = await postgres.make()
    async with simulated() as coze, two_nodes(tmp_path, coze, url) as (a, b), client() as session:
        asked = Reader()
        asking = asyncio.create_task(asked.ask(session, a.url, LONG))
        await asked.until(lambda r: r.text)
        other = Reader(asked.book)
        other.turn_id = asked.turn_id
        listening = asyncio.create_task(other.listen(session, b.url, "websocket"))
        await other.until(lambda r: r.text)
        befalling = asyncio.create_task(Trouble(postgres, url).refused(13))
        await asyncio.sleep(0.5)  # in the middle of it
        began = time.monotonic()
        with pytest.raises(Refused) as refused:
            await Reader().ask(session, b.url, "/fault plain -- not for so long")
        assert (refused.value.status, refused.value.code) == (503, "storage_unavailable")
        assert 9 < time.monotonic() - began < 12
        assert not await _ready(session, a.url)
        await befalling
        async with asyncio.timeout(patience(15)):
            await asyncio.gather(asking, listening)
        for reader in (asked, other):
            assert reader.last["event"] == "completed"
            assert reader.text == whole_text(LONG)
            assert reader.resets == 0
        assert asked.last["recovered"] is True
        assert coze.posts_of(LONG) == 1
        for node in (a, b):
            await until(lambda node=node: _ready(session, node.url), within=patience(5))  # type: ignore[misc]
        async with session.get(f"{a.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        assert "gateway_node_rejoins_total 1.0" in lines
        assert not [line for line in lines if line.startswith("gateway_log_commit_seconds_count 0")]


async def test_a_conversation_whose_turn_ends_while_postgresql_is_silent_has_one_turn_at_a_time(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """The end can't be written, and the next question comes to another node before the first one has joined again."""
    url = await postgres.make()
    short = "/fault plain pieces:60 rate:40 -- question {}"
    async with simulated() as coze, two_nodes(tmp_path, coze, url) as (a, b), client() as session:

        async def ask(node: GatewayProcess, message: str, **fields: str) -> tuple[str, str]:
            body = {"userId": "u", "botId": "b", "message": message, **fields}
            chat = session.post(f"{node.url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"})
            async with asyncio.timeout(patience(12)), chat as response:
                answer = await response.json()
                assert response.status in (200, 202), answer
                return answer["turnId"], answer["conversationId"]

        asked = {short.format(n): await ask(a, short.format(n)) for n in range(6)}
        await asyncio.sleep(0.5)  # until the log has Coze's ids: without one, a turn can't be recovered
        befalling = asyncio.create_task(Trouble(postgres, url).paused(13))
        await asyncio.sleep(11)  # by now node a has given up
        more = {short.format(n + 6): conversation for n, (_, conversation) in enumerate(asked.values())}
        queued = await asyncio.gather(*(ask(b, m, conversationId=c, onBusy="queue") for m, c in more.items()))
        asked |= dict(zip(more, queued, strict=True))
        await befalling
        for message, (turn, _) in asked.items():
            for node in (a, b):
                reader = Reader()
                reader.turn_id = turn
                async with asyncio.timeout(patience(15)):
                    await reader.listen(session, node.url, "websocket")
                assert (reader.last["event"], reader.text) == ("completed", whole_text(message)), reader.last
            assert coze.posts_of(message) == 1
        for node in (a, b):
            assert not [line for line in node.lines if line["event"] in ("log.taken_back", "gateway.fault")]


async def test_many_new_messages_are_all_refused_in_time_while_postgresql_does_not_answer(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    url = await postgres.make()
    async with simulated() as coze, two_nodes(tmp_path, coze, url) as (a, _), client() as session:
        known = [Reader() for _ in range(6)]
        for reader in known:
            await reader.ask(session, a.url, "/fault plain rate:0 pieces:4 -- before")

        async def refused(number: int) -> float:
            began = time.monotonic()
            more = {"conversationId": known[number].conversation_id} if number < len(known) else {}
            with pytest.raises(Refused) as refused:
                await Reader().ask(session, a.url, f"/fault plain -- number {number}", **more)
            assert (refused.value.status, refused.value.code) == (503, "storage_unavailable")
            return time.monotonic() - began

        befalling = asyncio.create_task(Trouble(postgres, url).paused(20))
        await asyncio.sleep(0.1)  # in the middle of it
        waited = await asyncio.gather(*map(refused, range(12)))
        assert min(waited) > 9
        assert max(waited) < 12
        await befalling
        assert "Traceback" not in "\n".join(a.text)


async def test_a_node_that_stops_while_postgresql_does_not_answer_ends_well(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    url = await postgres.make()
    async with simulated() as coze, proxied(postgres.socket) as line, client() as session:
        reached = f"postgresql://gateway@{urlsplit(line.url).netloc}{urlsplit(url).path}"
        settings = PATIENT | {"GATEWAY_DATABASE_URL": reached, "GATEWAY_DRAIN_SECONDS": "0.2"}
        async with gateway(tmp_path / "a", coze.url, **settings) as node:
            asked = Reader()
            asking = asyncio.create_task(asked.ask(session, node.url, LONG))
            await asked.until(lambda r: r.text)
            line.freeze()
            probing = asyncio.create_task(session.get(f"{node.url}/readyz"))
            reading = asyncio.create_task(session.get(f"{node.url}/api/coze/turns/{new_turn_id()}"))
            await asyncio.sleep(0.5)  # until both wait for the database
            assert await node.terminate(within=patience(20)) == 0
            for task in (asking, probing, reading):
                task.cancel()
            await asyncio.wait([asking, probing, reading])
            assert "Traceback" not in "\n".join(node.text)
