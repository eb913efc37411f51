"""All turns of a conversation go to one conversation of Coze's, whatever happens between them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.mortal import mortal
from tests.faults.reading import Reader, client
from tests.transports.conftest import Serve, Served, serving
from tests.transports.coze import Coze, told_coze
from tests.transports.readers import Door
from tests.waiting import until


@pytest.fixture
async def coze() -> AsyncIterator[Coze]:
    async with told_coze() as coze:
        yield coze


@pytest.fixture
async def served(serve: Serve, coze: Coze) -> Served:
    return await serve(coze_api_base=coze.url, coze_api_token="a-token-for-tests")


async def begin(served: Served, message: str, **fields: Any) -> tuple[Door, str]:
    """A turn that was started, and its conversation."""
    door = await served.start(message, **fields)
    return door, (await served.state(door.topic[6:]))["conversationId"]


async def stop(served: Served, door: Door) -> None:
    status, _, _ = await served.post(f"/api/coze/{door.topic}/cancel")
    assert status == 202


async def ended(served: Served, *doors: Door) -> list[str]:
    return [(await served.ended(door.topic[6:]))["status"] for door in doors]


async def test_messages_queued_in_a_new_conversation_go_where_the_first_one_went(served: Served, coze: Coze) -> None:
    one, conversation = await begin(served, "slow one")
    first = await coze.came(1)
    rest = [(await begin(served, f"{n}", conversationId=conversation, onBusy="queue"))[0] for n in range(3)]
    first.finish.set()
    assert await ended(served, one, *rest) == ["completed"] * 4
    assert coze.asked == ["", first.name, first.name, first.name]


@pytest.mark.parametrize("silent", [True, False])
async def test_an_interrupting_message_goes_where_the_interrupted_one_went(
    served: Served, coze: Coze, silent: bool
) -> None:
    one, conversation = await begin(served, "silent one" if silent else "slow one")
    first = await coze.came(1)
    two, _ = await begin(served, "two", conversationId=conversation, onBusy="interrupt")
    assert await ended(served, one) == ["cancelled"]
    if silent:
        assert (await served.state(two.topic[6:]))["status"] == "running"
        await coze_is_quiet(coze, 1)
        first.tell.set()
    assert await ended(served, two) == ["completed"]
    three, _ = await begin(served, "three", conversationId=conversation)
    assert await ended(served, three) == ["completed"]
    assert coze.asked == ["", first.name, first.name]
    assert first.id in coze.cancelled


async def coze_is_quiet(coze: Coze, count: int) -> None:
    """Nothing more comes than what came."""
    with contextlib.suppress(TimeoutError):
        await coze.came(count + 1, within=0.3)
    assert len(coze.chats) == count


async def test_a_message_after_a_stop_waits_until_the_stopped_one_has_told_the_name(served: Served, coze: Coze) -> None:
    one, conversation = await begin(served, "silent one")
    first = await coze.came(1)
    await stop(served, one)
    two, _ = await begin(served, "two", conversationId=conversation)
    three, _ = await begin(served, "three", conversationId=conversation, onBusy="queue")
    await stop(served, two)  # while it waits: it never gets to Coze
    await coze_is_quiet(coze, 1)
    first.tell.set()
    assert await ended(served, one, two, three) == ["cancelled", "cancelled", "completed"]
    assert coze.asked == ["", first.name]


async def test_a_message_waits_no_longer_than_the_stopped_one_listens(
    served: Served, coze: Coze, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.turns.live.LEARN", 0.3)
    one, conversation = await begin(served, "silent one")
    await coze.came(1)
    await stop(served, one)
    two, _ = await begin(served, "two", conversationId=conversation)
    assert await ended(served, two) == ["completed"]
    three, _ = await begin(served, "three", conversationId=conversation)
    assert await ended(served, three) == ["completed"]
    assert coze.asked == ["", "", coze.chats[1].name]


async def test_a_name_is_kept_as_soon_as_coze_has_said_it(
    serve: Serve, coze: Coze, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.turns.telling._STEP", 1000)  # not with what is kept of running turns
    served = await serve(coze_api_base=coze.url, coze_api_token="a-token-for-tests")
    one, conversation = await begin(served, "silent slow one")
    first = await coze.came(1)
    store = served.services.store
    row = await store.conversation(conversation)
    assert row is not None
    assert row.coze_conversation_id == ""
    first.tell.set()

    async def named() -> bool:
        row = await store.conversation(conversation)
        assert row is not None
        return bool(row.coze_conversation_id)

    await until(named, within=2)
    row = await store.conversation(conversation)
    assert row is not None
    assert row.coze_conversation_id == first.name
    assert (await served.state(one.topic[6:]))["status"] == "running"
    await stop(served, one)


@pytest.mark.parametrize("in_stream", [False, True])
async def test_a_conversation_that_coze_has_no_longer_goes_on_in_a_new_one(
    served: Served, coze: Coze, in_stream: bool
) -> None:
    one, conversation = await begin(served, "one")
    await ended(served, one)
    coze.gone, coze.refuses_in_stream = {coze.chats[0].name}, in_stream
    two, _ = await begin(served, "two", conversationId=conversation)
    assert await ended(served, two) == ["completed"]
    three, _ = await begin(served, "three", conversationId=conversation)
    assert await ended(served, three) == ["completed"]
    assert coze.refused == [coze.chats[0].name]
    assert coze.asked == ["", "", coze.chats[1].name]


async def test_a_message_is_refused_once_when_coze_knows_no_conversation_at_all(served: Served, coze: Coze) -> None:
    one, conversation = await begin(served, "one")
    await ended(served, one)
    coze.gone = {coze.chats[0].name, ""}
    two, _ = await begin(served, "two", conversationId=conversation)
    assert await ended(served, two) == ["failed"]
    assert coze.refused == [coze.chats[0].name, ""]


# -- restarts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_what_was_queued_goes_to_the_same_conversation_after_a_restart(
    tmp_path: Path, coze: Coze, how: str
) -> None:
    async with (
        mortal(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="0.1", GATEWAY_UPSTREAM_CONNECT_TIMEOUT="10") as gateway,
        client() as session,
    ):
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, gateway.url, "slow one"))
        await reader.until(lambda r: r.events)
        first = await coze.came(1)
        turns = [await _start(session, gateway.url, f"{n}", reader.conversation_id) for n in range(3)]
        for life in range(2):
            if how == "killed":
                await gateway.kill()
            else:
                assert await gateway.process.terminate() == 0
            if life == 1:
                first.status = "completed"
            await gateway.start()
        await asyncio.gather(asking, return_exceptions=True)
        for turn in [reader.turn_id, *turns]:
            assert await _ended(session, gateway.url, turn) == "completed"
        assert coze.asked == ["", *[first.name] * 3]


async def test_a_name_that_a_locked_database_missed_is_taken_from_the_log(
    tmp_path: Path, coze: Coze, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends with the name in its log alone: the next one's messages go there all the same."""
    settings = {"coze_api_base": coze.url, "coze_api_token": "a-token-for-tests"}

    async def locked(*_: Any) -> None:
        raise OSError("locked")

    async with serving(tmp_path, **settings) as served:
        one, conversation = await begin(served, "silent one")
        first = await coze.came(1)
        await served.services.store.settled()
        monkeypatch.setattr(served.services.store._writer, "_commit", locked)
        monkeypatch.setattr("gateway.store.writer.CLOSE_SECONDS", 0.1)
        first.tell.set()
        assert await ended(served, one) == ["completed"]
    async with serving(tmp_path, **settings) as served:
        two, _ = await begin(served, "two", conversationId=conversation)
        assert await ended(served, two) == ["completed"]
    assert coze.asked == ["", first.name]


async def _start(session: Any, url: str, message: str, conversation: str) -> str:
    body = {"userId": "u1", "botId": "b1", "message": message, "conversationId": conversation, "onBusy": "queue"}
    async with session.post(f"{url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"}) as response:
        assert response.status == 202
        return str((await response.json())["turnId"])


async def _ended(session: Any, url: str, turn: str) -> str:
    async def end() -> str:
        async with session.get(f"{url}/api/coze/turns/{turn}") as response:
            status: str = (await response.json())["status"]
        return status if status not in ("queued", "running") else ""

    return await until(end, within=20)
