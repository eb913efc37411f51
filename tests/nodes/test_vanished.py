"""Turns that readers at another node wait for, and of which the database has nothing any more."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from gateway.ids import LogKey
from gateway.nodes import vanished
from gateway.reading.subscription import Subscription
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.faults.coze import simulated
from tests.nodes.cluster import Cluster, cluster
from tests.nodes.test_following import KEY, OTHER, TURN, Node, names

_LOST = (
    "CREATE TABLE lost AS SELECT * FROM log_stretches",
    "CREATE TABLE lost_heads AS SELECT * FROM log_heads",
    "DELETE FROM log_stretches",
    "DELETE FROM log_heads",
)
_AGAIN = (
    "INSERT INTO log_stretches OVERRIDING SYSTEM VALUE SELECT * FROM lost",
    "INSERT INTO log_heads SELECT * FROM lost_heads",
)


@pytest.fixture
async def nodes(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[tuple[Node, Node]]:
    """Two: one that writes, and one with readers."""
    url = await postgres.make()
    writes, reads = Node(url, ledger), Node(url, ledger)
    for node in (writes, reads):
        await node.log.open()
    yield writes, reads
    for node in (reads, writes):
        await node.close()


async def say(node: Node, *statements: str) -> None:
    for statement in statements:
        await node.database.ask(statement)


async def read(node: Node, *, turn: str | None = TURN) -> Subscription:
    """A reader who has been given what there is."""
    reader = await node.reader(turn=turn)
    await names(reader)
    return reader


async def test_a_turn_that_is_lost_as_a_whole_ends_for_its_readers(nodes: tuple[Node, Node]) -> None:
    writes, reads = nodes
    await writes.begin("one", "two")
    reader, everything = await read(reads), await read(reads, turn=None)
    await say(reads, *_LOST)
    await writes.die()
    await reads.following.look()
    for one in (reader, everything):
        assert one.over
        assert await names(one) == []
        one.close()


async def test_readers_of_a_deleted_conversation_are_sent_away_although_their_node_did_not_hear_of_it(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for dead meanwhile. The node that ran the last turn there may live on."""
    monkeypatch.setattr(vanished, "PATIENCE", 0.2)
    writes, reads = nodes
    await writes.end(await writes.begin("one"), "one")
    everything = await read(reads, turn=None)
    await say(reads, "DELETE FROM log_stretches", "DELETE FROM log_heads")
    await reads.following.look()
    assert not everything.over  # a failover may have lost it, and its node may write it again
    await asyncio.sleep(0.3)  # the patience
    await reads.following.look()
    assert everything.over
    assert await names(everything) == []
    everything.close()


async def test_a_turn_whose_node_lives_is_waited_for_until_that_node_writes_it_again(
    nodes: tuple[Node, Node],
) -> None:
    writes, reads = nodes
    writer = await writes.begin("one", "two")
    reader = await read(reads)
    await say(reads, *_LOST)
    for _ in range(2):
        await reads.following.look()
    assert not reader.over
    await say(reads, *_AGAIN)
    await writes.say(writer, "three")
    await reads.following.look()
    assert await names(reader) == ["message"]
    assert not reader.over
    reader.close()


async def test_only_the_lost_turn_of_a_conversation_is_taken_back(nodes: tuple[Node, Node]) -> None:
    writes, reads = nodes
    await writes.end(await writes.begin("zero", turn="turn_0"), "zero")
    before = await reads.reader(turn="turn_0")
    await writes.begin("one")
    await reads.following.look()
    reader = await read(reads)
    await say(reads, "DELETE FROM log_stretches WHERE turn = 'turn_1'")
    await writes.die()
    await reads.following.look()
    assert reader.over
    assert await names(before) == ["started", "message", "completed"]
    assert before.tail.head == 3
    for one in (reader, before):
        one.close()


async def test_a_turn_that_waits_to_be_adopted_when_it_is_lost_ends_for_its_readers(nodes: tuple[Node, Node]) -> None:
    writes, reads = nodes
    await writes.begin("one")
    await writes.die()
    reader = await read(reads)
    await say(reads, *_LOST)
    await reads.following.look()
    assert reader.over
    reader.close()


async def test_readers_of_a_turn_that_is_being_erased_are_left_to_the_node_that_erases_it(
    nodes: tuple[Node, Node],
) -> None:
    writes, reads = nodes
    await writes.begin("one")
    reader = await read(reads)
    await say(
        reads,
        "DELETE FROM log_stretches",
        "UPDATE log_heads SET epochs = '', head = 0, node = 5",
        "DELETE FROM log_nodes",
    )
    await reads.following.look()
    assert not reader.over
    reader.close()


async def test_readers_of_a_turn_that_retention_took_meanwhile_are_told_to_come_back(nodes: tuple[Node, Node]) -> None:
    writes, reads = nodes
    writer = await writes.begin("one")
    other = await writes.begin("something", key=OTHER, turn="turn_2")
    reader, everything = await read(reads), await read(reads, turn=None)
    await writes.end(writer, "one")
    await say(reads, "DELETE FROM log_stretches WHERE turn = 'turn_1'", "DELETE FROM log_batches")
    await writes.say(other, "more")
    await reads.following.look()
    assert reader.behind
    assert not await reader.next_batch(wait=0)
    assert not reader.over
    assert await names(everything) == ["reset"]
    assert everything.after == 3
    late = await reads.hub.subscribe(LogKey(KEY), asked="0")
    assert await names(late[0]) == []
    for one in (reader, everything, late[0]):
        one.close()


async def _left(found: Cluster, node: int, turn: str, heard: asyncio.Event) -> str:
    """How a reader's event stream ends that is not told of the turn's end."""
    async with found.session.get(f"{found.url(node)}/api/coze/turns/{turn}/events") as response:
        assert response.status == 200
        last = b""
        async for line in response.content:
            assert b'"completed"' not in line, line
            if line.startswith(b"data:"):
                heard.set()
            last = line if line.strip() else last
        return last.decode().strip()


async def test_readers_of_turns_that_ran_or_waited_at_a_node_that_is_gone_with_them_are_told(
    postgres: PostgresServer,
) -> None:
    dies, stays = 0, 1
    async with simulated(rate=20) as coze, cluster(postgres, coze.url, nodes=1) as found:
        await found.start(GATEWAY_NODE_NAME="stays")
        running, conversation = await found.begin(dies, "/fault plain pieces:2000 -- lost")
        queued, _ = await found.begin(dies, "never begun", conversationId=conversation, onBusy="queue")
        await found.speaks(stays, running)
        heard = [asyncio.Event(), asyncio.Event()]
        reading = [
            asyncio.create_task(_left(found, stays, turn, event))
            for turn, event in zip((running, queued), heard, strict=True)
        ]
        async with asyncio.timeout(10):
            for event in heard:
                await event.wait()
        await found.nodes[dies].kill()
        with psycopg.connect(found.database) as db:  # as a standby has it that was promoted too early
            for rows in ("log_stretches", "log_heads", "log_batches", "log_nodes WHERE name <> 'stays'"):
                db.execute(f"DELETE FROM {rows}".encode())
            db.execute("DELETE FROM turns")
            db.execute("DELETE FROM conversations")
        async with asyncio.timeout(10):
            assert await asyncio.gather(*reading) == [": not_found", ": not_found"]
        for turn in (running, queued):
            assert (await found.post(stays, f"turns/{turn}/cancel"))[0] == 404
        assert "Traceback" not in "\n".join(found.nodes[stays].text)
