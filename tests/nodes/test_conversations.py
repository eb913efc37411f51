"""One conversation at several nodes: it has one turn at a time, wherever its messages come, and one name at Coze."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.databases import PostgresServer
from tests.nodes.cluster import Cluster, cluster
from tests.transports.coze import Coze, told_coze
from tests.transports.readers import TRANSPORTS, everything

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

NODES = 3
A, B, C = range(NODES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def coze() -> AsyncIterator[Coze]:
    async with told_coze() as coze:
        yield coze


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(module_postgres: PostgresServer, coze: Coze) -> AsyncIterator[Cluster]:
    async with cluster(module_postgres, coze.url, nodes=NODES, GATEWAY_UPSTREAM_IDLE_TIMEOUT="30") as nodes:
        yield nodes


async def test_all_turns_of_a_conversation_are_one_conversation_at_coze(nodes: Cluster, coze: Coze) -> None:
    came = len(coze.chats)
    turn, conversation = await nodes.begin(A, "the first")
    await nodes.last(A, turn)
    for node in (B, C, A, B):
        turn, _ = await nodes.begin(node, "one more", conversationId=conversation)
        assert (await nodes.last(node, turn))["event"] == "completed"
    first, *more = coze.chats[came:]
    assert first.asked == ""
    assert [chat.asked for chat in more] == [first.name] * 4


async def test_a_busy_conversation_is_busy_at_every_node(nodes: Cluster, coze: Coze) -> None:
    came = len(coze.chats)
    turn, conversation = await nodes.begin(A, "slow one")
    chat = await coze.came(came + 1)
    for node in (A, B, C):
        status, problem = await nodes.ask(node, "me too", conversationId=conversation)
        assert (status, problem["code"]) == (409, "conversation_busy")
    chat.finish.set()
    assert (await nodes.last(B, turn))["event"] == "completed"
    turn, _ = await nodes.begin(B, "now", conversationId=conversation)
    assert (await nodes.last(C, turn))["event"] == "completed"
    assert len(coze.chats) == came + 2


async def test_turns_that_other_nodes_queue_run_one_after_the_other(nodes: Cluster, coze: Coze) -> None:
    came = len(coze.chats)
    _, conversation = await nodes.begin(A, "slow one")
    chat = await coze.came(came + 1)
    queued: list[str] = []
    for node in (B, C, B, A):
        status, answer = await nodes.ask(node, f"then {len(queued)}", conversationId=conversation, onBusy="queue")
        assert (status, answer["status"]) == (202, "queued")
        queued.append(answer["turnId"])
    # Somebody waits for each, at a node that does not run it.
    waiting = [asyncio.create_task(nodes.read(node, turn)) for node, turn in zip((C, B, B, C), queued, strict=True)]
    for node in (A, B, C):
        assert [(await nodes.state(node, one))["status"] for one in queued] == ["queued"] * 4
    chat.finish.set()
    readers = await asyncio.gather(*waiting)
    assert [reader.text for reader in readers] == [f"to then {number}" for number in range(4)]
    assert [chat.message for chat in coze.chats[came:]] == ["slow one", "then 0", "then 1", "then 2", "then 3"]
    assert {chat.asked for chat in coze.chats[came + 1 :]} == {chat.name}


async def test_a_turn_that_another_node_sends_interrupts_the_running_one(nodes: Cluster, coze: Coze) -> None:
    came = len(coze.chats)
    turn, conversation = await nodes.begin(A, "slow one")
    await coze.came(came + 1)
    behind, _ = await nodes.begin(C, "behind", conversationId=conversation, onBusy="queue")
    reading = [asyncio.create_task(nodes.read(node, turn)) for node in (A, B, C)]
    newer, _ = await nodes.begin(B, "instead", conversationId=conversation, onBusy="interrupt")
    for reader in await asyncio.gather(*reading):
        assert reader.last is not None
        assert reader.last["event"] == "cancelled"
    assert (await nodes.last(C, newer))["content"] == "to instead"
    assert (await nodes.last(B, behind))["content"] == "to behind"
    assert [chat.message for chat in coze.chats[came:]] == ["slow one", "instead", "behind"]


@pytest.mark.parametrize("transport", ["sse", "websocket", "longpoll", "shared"])
async def test_a_queued_turn_that_is_cancelled_ends_for_those_who_wait_for_it_elsewhere(
    nodes: Cluster, coze: Coze, transport: str
) -> None:
    came = len(coze.chats)
    _, conversation = await nodes.begin(A, "slow one")
    chat = await coze.came(came + 1)
    queued, _ = await nodes.begin(B, "never", conversationId=conversation, onBusy="queue")
    doors = [nodes.door(node, f"turns/{queued}") for node in (A, B, C)]
    waiting = [asyncio.create_task(everything(TRANSPORTS[transport], door)) for door in doors]
    await asyncio.sleep(0.3)  # all of them wait, with nothing to tell that they do
    assert (await nodes.post(C, f"turns/{queued}/cancel"))[0] == 202
    for events in await asyncio.gather(*waiting):
        assert events[-1]["event"] == "cancelled", events
        assert sum(event["event"] == "cancelled" for event in events) == 1
    assert (await nodes.state(B, queued))["status"] == "cancelled"
    chat.finish.set()
    after, _ = await nodes.begin(C, "after", conversationId=conversation, onBusy="queue")
    assert (await nodes.last(B, after))["content"] == "to after"
    assert [chat.message for chat in coze.chats[came:]] == ["slow one", "after"]
