"""A drain: a node that is told to stop hands its turns over at once, and their readers notice nothing."""

import asyncio
import time

import pytest

from gateway.simulator import whole_text
from tests.databases import PostgresServer
from tests.faults.coze import patience, simulated
from tests.nodes.clients import Client
from tests.nodes.cluster import cluster
from tests.nodes.turns import LISTEN, Told
from tests.transports.book import Reader
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

WAYS = ("sse", "websocket", "longpoll")


async def test_a_node_that_stops_hands_its_turns_over_at_once(postgres: PostgresServer) -> None:
    stops, stays = 0, 1
    async with (
        simulated(first_ms=10, rate=40) as coze,
        cluster(postgres, coze.url, nodes=2, GATEWAY_DRAIN_SECONDS="60", GATEWAY_RETRY_MS="300") as nodes,
    ):
        running = [await Told.begin(nodes, stops, f"/fault plain pieces:400 -- number {n}") for n in range(2)]
        waits = await Told.begin(nodes, stops, "/fault action pieces:10 -- act")
        queued = await Told.begin(
            nodes, stays, "/fault plain pieces:5 -- q", conversationId=running[0].conversation, onBusy="queue"
        )
        for told in (*running, waits, queued):
            told.read(stays, *LISTEN)
        await asyncio.gather(*(told.hang_up(stops) for told in running), *(told.heard() for told in running))
        await nodes.stands(stays, waits.turn, "action_required")
        there = [Client(nodes.session, nodes.url(stops), Reader(running[0].book), running[0].turn) for _ in WAYS]
        listening = [asyncio.create_task(one.listen(way)) for one, way in zip(there, WAYS, strict=True)]
        await until(lambda: all(one.reader.position for one in there))
        for one in there:
            one.url = nodes.url(stays)  # from now on a balancer would lead it there
        began = time.monotonic()
        assert await nodes.nodes[stops].terminate() == 0
        ended = time.monotonic()
        assert ended - began < patience(1.0)
        for told in running:
            assert (await told.ends(stays))["content"] == whole_text(told.message)
        await asyncio.gather(*listening)
        assert [one.troubles for one in there] == [[]] * len(WAYS)
        assert [one.told for one in there] == [1, 1, 0]  # a poll is only answered early
        assert (await queued.ends(stays))["content"] == whole_text(queued.message)
        calls = (await nodes.state(stays, waits.turn))["toolCalls"]
        outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": "done"} for call in calls]}
        assert (await nodes.post(stays, f"turns/{waits.turn}/tool-outputs", outputs))[0] == 202
        await waits.ends(stays)
        for told in (*running, waits, queued):
            assert coze.posts_of(told.message) == 1
        gaps = [reader.waited(began, "notice") for told in running for reader in told.readers]
        assert max(gaps) < ended - began + patience(0.1)


async def test_whoever_prefers_to_wait_no_longer_finds_the_answer_at_another_node(postgres: PostgresServer) -> None:
    stops, stays = 0, 1
    message = "/fault plain pieces:200 -- handed over"
    async with simulated(rate=40) as coze, cluster(postgres, coze.url, nodes=2, GATEWAY_DRAIN_SECONDS="60") as nodes:
        body = {"userId": "u", "botId": "b", "message": message}
        asking = asyncio.create_task(nodes.post(stops, "chat", body, Prefer="wait=60"))
        await until(lambda: coze.posts_of(message))
        assert await nodes.nodes[stops].terminate() == 0
        status, answer = await asking
        assert (status, answer["status"]) == (202, "running")
        assert (await nodes.last(stays, answer["turnId"]))["content"] == whole_text(message)
        assert coze.posts_of(message) == 1


async def test_nodes_that_stop_together_wait_for_their_own_turns(postgres: PostgresServer) -> None:
    """Nobody stays who could go on with them, and what Coze keeps no record of could not be finished later."""
    message = "/fault plain pieces:120 -- all leave"
    async with simulated(rate=40) as coze, cluster(postgres, coze.url, nodes=2, GATEWAY_DRAIN_SECONDS="20") as nodes:
        running = [await Told.begin(nodes, node, f"{message} {node}") for node in (0, 1)]
        for node, told in enumerate(running):
            told.read(node, "sse")
        await asyncio.gather(*(told.heard() for told in running))
        assert await asyncio.gather(*(node.terminate() for node in nodes.nodes)) == [0, 0]
        for told in running:
            last = await told.stayed()
            assert last is not None
            assert last["content"] == whole_text(told.message)
            assert coze.posts_of(told.message) == 1
