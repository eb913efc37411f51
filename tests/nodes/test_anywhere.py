"""Anything at any node: a turn that one node runs is read, continued, cancelled and answered at every other one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio

from gateway.simulator import Simulator, whole_text
from tests.databases import PostgresServer
from tests.faults.coze import patience, simulated
from tests.nodes.cluster import Cluster, cluster
from tests.transports.book import Book, Reader
from tests.transports.readers import LISTENING, TRANSPORTS, Event, Read, first
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LISTEN = sorted(LISTENING.keys() - {"ndjson"})
NODES = 3
A, B, C = range(NODES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def coze() -> AsyncIterator[Simulator]:
    async with simulated(first_ms=10, rate=100) as coze:
        yield coze


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(module_postgres: PostgresServer, coze: Simulator) -> AsyncIterator[Cluster]:
    async with cluster(module_postgres, coze.url, nodes=NODES) as nodes:
        yield nodes


@pytest.mark.parametrize(
    "message",
    [
        "/fault plain pieces:60 rate:60 -- one line of text 测试一下 ñandú",
        "/fault reasoning tool pieces:40 rate:60 -- tell me all",
        "/fault rewrite pieces:40 rate:60 -- change your mind",
        "/fault drop-after:20 pieces:60 rate:90 -- break",
        "/fault failed pieces:30 rate:60 -- fail half-way",
    ],
)
async def test_the_same_turn_is_the_same_at_every_node_over_every_transport(nodes: Cluster, message: str) -> None:
    turn, _ = await nodes.begin(A, message)
    book = Book()
    reading = [nodes.read(node, turn, transport, book=book) for node in (A, B, C) for transport in LISTEN]
    readers = await asyncio.gather(*reading)
    again = [nodes.read(node, turn, transport, book=book) for node in (B, C) for transport in LISTEN]
    late = await asyncio.gather(*again)
    assert len({(reader.text, reader.reasoning, *reader.wholes) for reader in (*readers, *late)}) == 1
    for node in (A, B, C):
        state = await nodes.state(node, turn)
        assert (state["content"], state["position"]) == (readers[0].text, readers[0].position)


async def test_a_reader_goes_from_node_to_node_at_its_position(nodes: Cluster) -> None:
    turn, _ = await nodes.begin(A, "/fault plain pieces:80 rate:20 -- wander")
    book = Book()
    steady = asyncio.create_task(nodes.read(A, turn, book=book))
    reader = Reader(book)
    went = 0
    while reader.last is None:
        await nodes.go_on(reader, (B, A, C, B)[went % 4], turn, LISTEN[went % len(LISTEN)], pieces=5)
        went += 1
    assert went > 5
    assert reader.text == (await steady).text
    for position, (text, reasoning) in list(book.texts.items())[:-1:7]:
        late = Reader(book)
        late.position, late.text, late.reasoning = position, text, reasoning
        late.wholes = [p for p in reader.wholes if _number(p) <= _number(position)]
        await nodes.go_on(late, C, turn)
        assert late.last is not None


async def test_a_conversation_is_followed_at_another_node_over_turns_of_several_nodes(nodes: Cluster) -> None:
    turn, conversation = await nodes.begin(A, "/fault plain pieces:5 rate:0 -- first")
    await nodes.stands(A, turn, "completed")

    async def follow(node: int, read: Read) -> list[Event]:
        found: list[Event] = []
        async with contextlib.aclosing(read(nodes.door(node, f"conversations/{conversation}"), "0")) as events:
            async for event in events:
                found.append(event)
                if sum(one["event"] == "completed" for one in found) == 5:
                    return found
        return found

    following = [asyncio.create_task(follow(node, LISTENING[name])) for node in (A, B, C) for name in LISTEN]
    turns = [turn]
    for node in (B, C, A, C):
        turn, _ = await nodes.begin(node, "/fault plain pieces:20 rate:90 -- again", conversationId=conversation)
        turns.append(turn)
        await nodes.last(node, turn)
    everybody = await asyncio.wait_for(asyncio.gather(*following), patience(5))
    for found in everybody:
        assert [event["turnId"] for event in found if event["event"] == "completed"] == turns
        assert len({event["id"] for event in found}) == len(found)
    assert len({found[-1]["id"] for found in everybody}) == 1


@pytest.mark.parametrize("transport", LISTEN)
async def test_a_turn_is_cancelled_at_a_node_that_does_not_run_it(
    nodes: Cluster, coze: Simulator, transport: str
) -> None:
    turn, _ = await nodes.begin(A, "/fault plain pieces:5000 rate:60 -- too long")
    cancelled = coze.requests["cancel"]
    reading = [asyncio.create_task(nodes.read(node, turn, transport)) for node in (A, B)]
    await first(TRANSPORTS["sse"], nodes.door(B, f"turns/{turn}"), None, 5)
    assert (await nodes.post(C, f"turns/{turn}/cancel"))[0] == 202
    assert (await nodes.post(B, f"turns/{turn}/cancel"))[0] == 200
    last = [reader.last for reader in await asyncio.gather(*reading)]
    assert last[0] == last[1]
    assert last[0] is not None
    assert last[0]["event"] == "cancelled"
    await until(lambda: coze.requests["cancel"] == cancelled + 1)


async def test_tool_outputs_are_given_at_a_node_that_does_not_run_the_turn(nodes: Cluster) -> None:
    turn, _ = await nodes.begin(A, "/fault action first:900 pieces:10 -- act")
    reading = [asyncio.create_task(nodes.read(node, turn)) for node in (A, B)]
    state = await nodes.stands(C, turn, "action_required")
    calls = [call["id"] for call in state["toolCalls"]]
    path = f"turns/{turn}/tool-outputs"
    status, problem = await nodes.post(C, path, {"toolOutputs": [{"toolCallId": "x", "output": "1"}]})
    assert (status, problem["code"]) == (422, "invalid_request")
    outputs = {"toolOutputs": [{"toolCallId": call, "output": f"out of {call}"} for call in calls]}
    assert (await nodes.post(C, path, outputs))[0] == 202
    for node in (A, B, C):
        assert (await nodes.state(node, turn))["status"] != "action_required", "before its next event, too"
    for reader in await asyncio.gather(*reading):
        assert reader.names.count("action_required") == 1
        assert reader.names[-1] == "completed"


async def test_a_key_that_is_sent_to_all_nodes_at_once_starts_one_turn(nodes: Cluster, coze: Simulator) -> None:
    message = "/fault plain pieces:20 rate:60 -- once only"
    for number in range(3):
        before = coze.posts_of(message)
        sent = await asyncio.gather(*(nodes.ask(node, message, key=f"once-{number}") for node in (A, B, C) * 2))
        assert {status for status, _ in sent} <= {200, 202}  # 200: it is over already
        (turn,) = {answer["turnId"] for _, answer in sent}
        readers = await asyncio.gather(*(nodes.read(node, turn) for node in (A, B, C)))
        assert {reader.text for reader in readers} == {whole_text(message)}
        assert coze.posts_of(message) == before + 1
        _, again = await nodes.ask(C, message, key=f"once-{number}")
        assert again["turnId"] == turn
        assert (await nodes.ask(B, message + "!", key=f"once-{number}"))[0] == 422


def _number(position: str) -> int:
    return int(position.rpartition("-")[2])


async def test_a_turn_that_the_store_does_not_know_yet_is_waited_for(nodes: Cluster) -> None:
    """As when the database refused its row at the start, its node died, and the one that goes on with it has not told
    the store."""
    message = "/fault plain pieces:180 rate:60 -- not told yet"
    turn, _ = await nodes.begin(A, message)
    await asyncio.sleep(1)  # until then its node's store may write the row once more
    async with await psycopg.AsyncConnection.connect(nodes.database, autocommit=True) as connection:
        rename = "UPDATE turns SET id = %s WHERE id = %s"
        await connection.execute(rename, ("hidden", turn))
        reading = asyncio.create_task(nodes.read(B, turn))
        await asyncio.wait([reading], timeout=1)
        assert not reading.done()
        await connection.execute(rename, (turn, "hidden"))
    assert (await reading).text == whole_text(message)
    status, problem = await nodes.post(B, "turns/turn_00000000-0000-4000-8000-000000000000/cancel")
    assert (status, problem["code"]) == (404, "not_found")
