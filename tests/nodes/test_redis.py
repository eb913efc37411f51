"""News over Redis: pieces come sooner, and whatever befalls Redis costs delay only."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.log.segments import MESSAGE
from gateway.simulator import Simulator, whole_text
from tests.conftest import Require
from tests.databases import PostgresServer
from tests.faults.coze import patience, simulated
from tests.nodes import test_anywhere
from tests.nodes.cluster import Cluster, cluster
from tests.redis_servers import RedisServer, Watched, redis_server, watched_redis
from tests.transports.book import Book, Reader
from tests.transports.readers import LISTENING, Event
from tests.upstream.certificates import key_and_certificate
from tests.waiting import until

LISTEN = sorted(LISTENING.keys() - {"ndjson"})
A, B, C = range(3)
ENDLESS = "/fault plain pieces:4000 rate:40 -- 测试 while Redis is in trouble"
WAYS = re.compile(r'^gateway_node_batches_total\{way="(\w+)"\} (\S+)$', re.MULTILINE)

Befall = Callable[[], Awaitable[None]]


@pytest.fixture
def redis(require: Require) -> Iterator[RedisServer]:
    with redis_server(require("redis-server")) as server:
        yield server


@pytest.fixture
async def coze() -> AsyncIterator[Simulator]:
    async with simulated(first_ms=10) as coze:
        yield coze


class Timed(Reader):
    """Notes when each position came."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.times: dict[str, float] = {}

    def take(self, event: Event) -> None:
        super().take(event)
        if "id" in event:
            self.times[event["id"]] = time.monotonic()


async def metrics(nodes: Cluster, node: int) -> str:
    async with nodes.session.get(f"{nodes.url(node)}/metrics") as response:
        return await response.text()


async def batches(nodes: Cluster, node: int) -> dict[str, float]:
    """How many of other nodes' batches a node has read, by the way they came."""
    return {way: float(count) for way, count in WAYS.findall(await metrics(nodes, node))}


async def goes_over_redis(nodes: Cluster, *, within: float = 5.0) -> None:
    """Waits until B hears a running turn's batches over Redis, several in a row."""
    before = await batches(nodes, B)

    async def look() -> bool:
        now = await batches(nodes, B)
        for node in (A, B):
            if 'gateway_node_news_way{way="redis"} 1.0' not in await metrics(nodes, node):
                return False
        return now.get("redis", 0) > before.get("redis", 0) + 10

    await until(look, within=patience(within))


async def remarks(nodes: Cluster, node: int) -> Any:
    async with nodes.session.get(f"{nodes.url(node)}/readyz") as response:
        assert response.status == 200
        return (await response.json()).get("remarks")


async def read_through(nodes: Cluster, befall: Befall, *, hears_before: bool = True) -> float:
    """A turn at A that is read at B over each transport, before, while and after something befalls Redis.

    Returns the longest time by which a position came later to B than to A.
    """
    turn, _ = await nodes.begin(A, ENDLESS)
    book = Book()
    readers = [Timed(book) for _ in range(len(LISTEN) + 1)]
    places = [(A, "sse"), *((B, transport) for transport in LISTEN)]
    reading = [
        asyncio.create_task(nodes.go_on(reader, node, turn, transport, within=100))
        for reader, (node, transport) in zip(readers, places, strict=True)
    ]
    await until(lambda: all(reader.text for reader in readers), within=patience(5))
    if hears_before:
        await goes_over_redis(nodes)
    await befall()
    await goes_over_redis(nodes)
    assert (await nodes.post(B, f"turns/{turn}/cancel"))[0] == 202
    await asyncio.gather(*reading)
    text = readers[0].text
    assert whole_text(ENDLESS).startswith(text)
    assert {reader.text for reader in readers} == {text}
    for reader in readers:
        assert reader.names[-1] == "cancelled"
        assert reader.position == readers[0].position
    for node in nodes.nodes:
        assert "Traceback" not in "\n".join(node.text)
    steady = readers[0].times
    return max(at - steady[one] for other in readers[1:] for one, at in other.times.items() if one in steady)


async def _lasts(seconds: float) -> None:
    await asyncio.sleep(seconds)  # for so long Redis is in trouble


class Trouble:
    """What befalls a server."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def refused(self) -> None:
        self._server.stop()
        await _lasts(4)
        await asyncio.to_thread(self._server.start)

    async def restarted(self) -> None:
        self._server.stop()
        await asyncio.to_thread(self._server.start)

    async def paused(self) -> None:
        self._server.send(signal.SIGSTOP)
        await _lasts(7)
        self._server.send(signal.SIGCONT)

    async def flushed(self) -> None:
        assert self._server.say("FLUSHALL") == "+OK"

    async def out_of_memory(self) -> None:
        assert self._server.say("CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "noeviction") == "+OK"
        assert self._server.say("SET", "a", "b").startswith("-OOM")

    async def killed(self) -> None:
        """Its connections, again and again."""
        killed = dict.fromkeys(("normal", "pubsub"), 0)
        for _ in range(5):
            for kind in killed:
                killed[kind] += int(self._server.say("CLIENT", "KILL", "TYPE", kind)[1:])
            await asyncio.sleep(0.5)  # between two blows
        assert min(killed.values()) > 3


@pytest.mark.parametrize("trouble", ["refused", "restarted", "paused", "flushed", "out_of_memory", "killed"])
async def test_whatever_befalls_redis_costs_delay_only(
    postgres: PostgresServer, coze: Simulator, redis: RedisServer, trouble: str
) -> None:
    async with cluster(postgres, coze.url, nodes=2, GATEWAY_BUS_URL=redis.url) as nodes:
        delay = await read_through(nodes, getattr(Trouble(redis), trouble))
        assert delay < patience(1.5)  # a look at PostgreSQL each second finds what nobody has told of


async def test_the_start_needs_no_redis_and_readiness_says_that_it_is_away(
    postgres: PostgresServer, coze: Simulator, redis: RedisServer
) -> None:
    redis.stop()
    async with cluster(postgres, coze.url, nodes=2, GATEWAY_BUS_URL=redis.url) as nodes:
        for node in nodes.nodes:
            line = await node.logged("nodes.news")
            assert (line["way"], line["level"]) == ("postgresql", "warning")
        said = "Redis can't be reached (ConnectionError): other nodes are heard over PostgreSQL"
        assert await remarks(nodes, A) == [said]
        assert 'gateway_node_news_way{way="postgresql"} 1.0' in await metrics(nodes, B)

        async def come() -> None:
            await asyncio.to_thread(redis.start)

        assert await read_through(nodes, come, hears_before=False) < patience(1.5)
        assert await remarks(nodes, A) is None
        for node in nodes.nodes:
            assert [line["way"] for line in node.lines if line["event"] == "nodes.news"] == ["postgresql", "redis"]


async def test_a_password_and_tls_are_used_and_a_wrong_password_is_said_but_not_shown(
    postgres: PostgresServer, coze: Simulator, require: Require, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    pem = tmp_path / "redis.pem"
    pem.write_bytes(b"".join(key_and_certificate()))
    tls = {"tls-port": str(free_port()), "tls-cert-file": str(pem), "tls-key-file": str(pem), "tls-auth-clients": "no"}
    with redis_server(require("redis-server"), requirepass="s3cr3t", **tls):
        place = f"127.0.0.1:{tls['tls-port']}/0?ssl_ca_certs={pem}"
        settings = {"GATEWAY_BUS_URL": f"rediss://:s3cr3t@{place}"}
        async with cluster(postgres, coze.url, nodes=2, **settings) as nodes:
            assert (await nodes.nodes[A].logged("nodes.news"))["way"] == "redis"
        settings = {"GATEWAY_BUS_URL": f"rediss://:s3cr3t-not@{place}"}
        async with cluster(postgres, coze.url, nodes=1, **settings) as nodes:
            line = await nodes.nodes[A].logged("nodes.news")
            assert line["reason"] == "Redis refuses the user or the password"
            assert "s3cr3t" not in "\n".join(nodes.nodes[A].text)


async def test_a_node_that_stops_leaves_redis_at_once(
    postgres: PostgresServer, coze: Simulator, redis: RedisServer
) -> None:
    async with cluster(postgres, coze.url, nodes=1, GATEWAY_BUS_URL=redis.url) as nodes:
        await nodes.nodes[A].logged("nodes.news")
        assert await nodes.nodes[A].terminate(within=patience(5)) == 0


async def test_a_failover_by_sentinels_costs_delay_only(
    postgres: PostgresServer, coze: Simulator, require: Require
) -> None:
    with watched_redis(require("redis-server")) as watched:
        await until(lambda: _watched(watched), within=patience(10))
        async with cluster(postgres, coze.url, nodes=2, GATEWAY_BUS_URL=watched.url) as nodes:

            async def fail_over() -> None:
                watched.master.stop()
                await until(lambda: watched.replica.answers("SET", "a", "b") == "+OK", within=patience(10))

            assert await read_through(nodes, fail_over) < patience(1.5)


def _watched(watched: Watched) -> bool:
    """Whether each Sentinel knows the others and the replica, without which it fails nothing over."""
    return all(
        one.answers("SENTINEL", "CKQUORUM", "news").startswith("+OK 3 usable") for one in watched.sentinels
    ) and all(one.answers("SENTINEL", "REPLICAS", "news").startswith("*1") for one in watched.sentinels)


async def test_a_redis_that_repeats_mixes_up_and_makes_up_messages_changes_no_text(
    postgres: PostgresServer, coze: Simulator, redis: RedisServer
) -> None:
    async with cluster(postgres, coze.url, nodes=2, GATEWAY_BUS_URL=redis.url) as nodes:
        told = 0

        async def meddle() -> None:
            nonlocal told
            async with Redis(port=redis.port, protocol=2) as client, client.pubsub() as channels:
                await channels.psubscribe("coze-gateway:*")
                old: list[bytes] = []
                ours: set[bytes] = set()
                while told < 60:
                    message = await channels.get_message(timeout=5)
                    assert message is not None
                    sent = message["data"]
                    if message["type"] != "pmessage" or sent in ours:
                        continue
                    told += 1
                    old = [*old[-20:], sent]
                    for one in (*_forged(sent), sent[:16] + sent[17:], b"", old[0], old[len(old) // 2], sent):
                        ours.add(one)
                        await client.publish(message["channel"], one)

        await read_through(nodes, meddle)
        (refused,) = re.findall(r"^gateway_node_news_refused_total (\S+)$", await metrics(nodes, B), re.MULTILINE)
        assert float(refused) > 60


def _forged(sent: bytes) -> list[bytes]:
    """What would be taken for the node's next batches, but for the mark."""
    node, number, waited, *body = msgspec.msgpack.decode(sent[16:])
    records = msgspec.msgpack.decode(body[0]) if body and body[0] else []
    pieces = [(one, at) for one, kind, at, _ in records if kind == MESSAGE]
    found = []
    for later in range(1, 13):
        forged = [(one, MESSAGE, at + later * len(pieces), "forged") for one, at in pieces]
        batch = msgspec.msgpack.encode(forged)
        found.append(sent[:16] + msgspec.msgpack.encode([node, number + later, waited, batch]))
    return found


@pytest.fixture
async def three_nodes(postgres: PostgresServer, coze: Simulator, redis: RedisServer) -> AsyncIterator[Cluster]:
    async with cluster(postgres, coze.url, nodes=3, GATEWAY_BUS_URL=redis.url) as nodes:
        yield nodes


async def test_anything_works_at_any_node_over_redis_too(three_nodes: Cluster) -> None:
    for message in ("/fault rewrite pieces:40 rate:60 -- change", "/fault reasoning tool pieces:40 rate:60 -- all"):
        await test_anywhere.test_the_same_turn_is_the_same_at_every_node_over_every_transport(three_nodes, message)
    await test_anywhere.test_a_conversation_is_followed_at_another_node_over_turns_of_several_nodes(three_nodes)
    for node in (B, C):
        assert (await batches(three_nodes, node))["redis"] > 0
