"""Shops whose notifications wait for one node, while another one stops, dies, or is taken for dead."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.simulator import Simulator
from tests.databases import PostgresServer
from tests.faults.coze import patience, simulated
from tests.nodes.cluster import Cluster, cluster
from tests.transports.readers import LISTENING, Event
from tests.waiting import until

A, B, C = range(3)

QUICK = "/fault plain pieces:1 rate:0 -- quick"


@pytest.fixture
async def coze() -> AsyncIterator[Simulator]:
    async with simulated() as coze:
        yield coze


class Staff:
    """A shop's staff, who listen at a node from the beginning."""

    def __init__(self, nodes: Cluster, node: int) -> None:
        self.heard: list[Event] = []
        self._listening = asyncio.create_task(self._listen(nodes, node))

    async def _listen(self, nodes: Cluster, node: int) -> None:
        events = LISTENING["sse"](nodes.door(node, "shops/s"), "0")
        async with contextlib.aclosing(events):
            async for event in events:
                self.heard.append(event)

    def knows(self, turn: str) -> bool:
        return "turn.completed" in self.of(turn)

    def of(self, turn: str) -> list[str]:
        return [event["type"] for event in self.heard if event["turnId"] == turn]

    async def leave(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)


@pytest.mark.parametrize("way", ["stops", "killed", "stays"])
async def test_what_waits_for_a_silent_node_is_told_once_although_its_own_node_goes(
    postgres: PostgresServer, coze: Simulator, way: str
) -> None:
    async with cluster(postgres, coze.url, nodes=3) as nodes:
        staff = Staff(nodes, C)
        before, _ = await nodes.begin(B, QUICK, shopId="s")  # from now on B writes the shop's log
        await until(lambda: staff.knows(before), within=patience(5))
        nodes.nodes[B].send_signal(signal.SIGSTOP)
        turns = [(await nodes.begin(A, QUICK, shopId="s"))[0] for _ in range(3)]
        for turn in turns:
            await nodes.stands(A, turn, "completed")
        await asyncio.sleep(3)  # longer than a node keeps what is told of an end
        match way:
            case "stops":
                assert await nodes.nodes[A].terminate(within=patience(8)) == 0
            case "killed":
                await nodes.nodes[A].kill()
        await until(lambda: all(map(staff.knows, turns)), within=patience(12))
        nodes.nodes[B].send_signal(signal.SIGCONT)
        after, _ = await nodes.begin(B, QUICK, shopId="s")
        await until(lambda: staff.knows(after), within=patience(8))
        for turn in (before, *turns, after):
            assert staff.of(turn) == ["turn.started", "turn.completed"]
        assert max(Counter(event["id"] for event in staff.heard).values()) == 1
        await staff.leave()
