"""Take-over: nodes die, are paused or cut off; the others finish their turns, each once and whole."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from psycopg.conninfo import conninfo_to_dict

from gateway.log.licence import LEASE
from gateway.simulator import Simulator, whole_text
from tests.databases import PostgresServer
from tests.faults.coze import patience, simulated
from tests.faults.proxy import Proxy, proxied
from tests.nodes.cluster import Cluster, cluster
from tests.nodes.turns import LISTEN, STREAMS, Told
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

TAKEN_WITHIN = 8.0
PAUSE = 15.0  # seconds: longer than a node's lease


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def coze() -> AsyncIterator[Simulator]:
    async with simulated(first_ms=10, rate=60) as coze:
        yield coze


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(module_postgres: PostgresServer, coze: Simulator) -> AsyncIterator[Cluster]:
    async with cluster(module_postgres, coze.url, nodes=3, GATEWAY_UPSTREAM_IDLE_TIMEOUT="30") as nodes:
        yield nodes


def _buried(nodes: Cluster) -> int:
    """How many nodes were taken for dead."""
    return sum(line["nodes"] for node in nodes.nodes for line in node.lines if line["event"] == "nodes.buried")


def _allowed(seconds: float) -> float:
    """A dead node's lease runs out by the clock, however busy this machine is; the rest may take longer there."""
    return LEASE + patience((seconds - LEASE) / 3)


async def test_two_of_three_nodes_are_killed_and_the_third_one_finishes_their_turns(
    nodes: Cluster, coze: Simulator
) -> None:
    here, one, other = 0, 1, 2
    slow = await Told.begin(nodes, one, "/fault slow-head:30000 plain -- not accepted yet")
    waits = await Told.begin(nodes, other, "/fault action pieces:10 -- act")
    short = [await Told.begin(nodes, node, f"/fault plain pieces:300 -- short {node}") for node in (one, other)]
    long = [await Told.begin(nodes, node, f"/fault plain pieces:600 -- long {node}") for node in (one, other)]
    queued = await Told.begin(
        nodes, here, "/fault plain pieces:5 -- next", conversationId=long[0].conversation, onBusy="queue"
    )
    running = [*short, *long]
    for told in running:
        told.read(here, *LISTEN)
    for told in (slow, waits, queued):
        told.read(here, "sse", "websocket")
    for told, node in zip(running, (one, other, one, other), strict=True):
        await told.hang_up(node)  # the dead node alone has given these positions
        await told.heard()
    await nodes.stands(here, waits.turn, "action_required")
    await until(lambda: coze.posts_of(slow.message))
    new = await Told.begin(nodes, one, "/fault plain pieces:30 -- just accepted")
    await asyncio.gather(nodes.nodes[one].kill(), nodes.nodes[other].kill())
    died = time.monotonic()
    for told in running:
        assert (await told.ends(here))["content"] == whole_text(told.message)
    assert (await queued.ends(here))["content"] == whole_text(queued.message)
    assert (await slow.ends(here, "error"))["code"] == "upstream_uncertain"
    new.read(here, "sse")
    last = await new.ends(here, "completed", "error")
    assert last["content"] == (whole_text(new.message) if last["event"] == "completed" else "")
    assert last.get("code") in (None, "upstream_uncertain")
    waited = [reader.waited(died, "notice", "error") for told in (slow, *long) for reader in told.readers]
    assert max(waited) < _allowed(TAKEN_WITHIN)

    calls = (await nodes.state(here, waits.turn))["toolCalls"]
    outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": "done"} for call in calls]}
    assert (await nodes.post(here, f"turns/{waits.turn}/tool-outputs", outputs))[0] == 202
    await waits.ends(here)
    for told in (*running, queued, slow, waits):
        assert coze.posts_of(told.message) == 1
    assert coze.posts_of(new.message) <= 1
    for told in (*running, slow, waits, new):
        after = await Told.begin(
            nodes, here, f"/fault plain pieces:5 -- after {told.turn}", conversationId=told.conversation
        )
        after.read(here, "sse")
        await after.ends(here)


async def test_all_nodes_are_killed_and_started_again(nodes: Cluster, coze: Simulator) -> None:
    await nodes.start()
    owners = (0, len(nodes.nodes) - 1)
    running = [await Told.begin(nodes, node, f"/fault plain pieces:240 -- all {node}") for node in owners]
    waits = await Told.begin(nodes, owners[0], "/fault action pieces:10 -- act again")
    queued = await Told.begin(
        nodes, owners[0], "/fault plain pieces:5 -- q", conversationId=running[1].conversation, onBusy="queue"
    )
    for told in running:
        for node in owners:
            await told.hang_up(node)
    await waits.hang_up(owners[1], pieces=2)
    await nodes.stands(owners[1], waits.turn, "action_required")
    await asyncio.gather(*(nodes.nodes[node].kill() for node in owners))
    first, second = len(nodes.nodes), len(nodes.nodes) + 1
    await nodes.start()
    for told in (*running, queued):
        told.read(first, "sse", "websocket")
    await nodes.start()
    for told in (*running, queued):
        told.read(second, *LISTEN)
    for told in (*running, queued):
        assert (await told.ends(second))["content"] == whole_text(told.message)
        assert coze.posts_of(told.message) == 1
    calls = (await nodes.state(second, waits.turn))["toolCalls"]
    outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": "done"} for call in calls]}
    assert (await nodes.post(second, f"turns/{waits.turn}/tool-outputs", outputs))[0] == 202
    await waits.ends(first)
    assert coze.posts_of(waits.message) == 1


class Cut:
    """A node whose way to the database leads through a proxy."""

    def __init__(self, nodes: Cluster, proxy: Proxy) -> None:
        self._nodes = nodes
        self.proxy = proxy
        self.number = -1

    async def start(self) -> None:
        port, name = urlsplit(self.proxy.url).port, conninfo_to_dict(self._nodes.database)["dbname"]
        node = await self._nodes.start(GATEWAY_DATABASE_URL=f"postgresql://gateway@127.0.0.1:{port}/{name}")
        self.number = self._nodes.nodes.index(node)

    def send(self, number: signal.Signals) -> None:
        self._nodes.nodes[self.number].send_signal(number)


async def _after(nodes: Cluster, told: Told, number: int, here: int) -> None:
    """The conversation goes on at a node that is a new one."""
    message = f"/fault plain pieces:20 -- after {number}"
    after = await Told.begin(nodes, number, message, conversationId=told.conversation, onBusy="queue")
    after.read(here, "sse")
    after.read(number, "websocket")
    await after.ends(number)


async def test_nodes_that_were_paused_or_cut_off_add_nothing_and_their_readers_go_on(
    nodes: Cluster, module_postgres: PostgresServer, coze: Simulator
) -> None:
    here = len(nodes.nodes) - 1
    async with AsyncExitStack() as stack:
        cut = [Cut(nodes, await stack.enter_async_context(proxied(module_postgres.socket))) for _ in range(3)]
        idle = await nodes.start()
        await asyncio.gather(*(one.start() for one in cut))
        paused, frozen, refused = cut
        everybody = [one.number for one in cut]
        before = await Told.begin(nodes, nodes.nodes.index(idle), "/fault plain pieces:5 -- before")
        before.read(here, "sse")
        await before.ends(nodes.nodes.index(idle))
        long = [await Told.begin(nodes, n, f"/fault plain pieces:1300 -- longer than the pause {n}") for n in everybody]
        short = [await Told.begin(nodes, n, f"/fault plain pieces:300 -- over before the pause {n}") for n in everybody]
        for told, number in zip((*long, *short), everybody * 2, strict=True):
            told.read(number, *STREAMS)
            told.read(here, "sse", "websocket")
        for told in (*long, *short):
            await told.heard()
        for told, number in zip(long, everybody, strict=True):
            await told.hang_up(number)
        at = long[0].readers[0]
        dead = _buried(nodes)
        paused.proxy.freeze()
        rest = whole_text(long[0].message)[len(at.text) :][:600].encode()
        pieces = [rest[i : i + 3] for i in range(len(rest) - 2)]
        await until(lambda: any(piece in data for piece in pieces for data in paused.proxy.held))  # a commit in flight
        idle.send_signal(signal.SIGSTOP)
        paused.send(signal.SIGSTOP)
        frozen.proxy.freeze()
        refused.proxy.refuse()
        refused.proxy.cut_all()
        began = time.monotonic()
        try:
            await until(lambda: _buried(nodes) >= dead + 4, within=12)
            paused.proxy.thaw()  # the commit comes to the database only now
            await asyncio.sleep(began + PAUSE - time.monotonic())  # for so long they are away
        finally:
            paused.send(signal.SIGCONT)
            idle.send_signal(signal.SIGCONT)
        frozen.proxy.thaw()
        await refused.proxy.listen()
        woken = time.monotonic()
        for told in (*long, *short):
            assert (await told.ends(here))["content"] == whole_text(told.message)
            assert coze.posts_of(told.message) == 1
        elsewhere = [reader.waited(began, "notice") for told in long for reader in told.readers[len(STREAMS) :]]
        again = [reader.waited(woken) for told in long for reader in told.readers[: len(STREAMS)]]
        assert max(elsewhere) < _allowed(TAKEN_WITHIN)
        assert max(again) < patience(2.0)  # its next look
        for number in (*everybody, nodes.nodes.index(idle)):
            await nodes.nodes[number].logged("nodes.rejoined")
            async with nodes.session.get(f"{nodes.url(number)}/metrics") as response:
                assert "gateway_node_rejoins_total 1.0" in (await response.text()).splitlines()
        await asyncio.gather(
            *(
                _after(nodes, told, number, here)
                for told in (before, *long)
                for number in (*everybody, nodes.nodes.index(idle))
            )
        )
        for node in nodes.nodes:
            assert "Traceback" not in "\n".join(node.text)
