"""Who is next: interrupting turns and queued ones, while the disk is slow, after restarts, cancelled in any order."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.log.journal import BEGIN, END, JournalError
from tests.cancellation.test_faults import count
from tests.faults.mortal import mortal
from tests.faults.reading import client
from tests.transports.conftest import Serve, Served, serving
from tests.transports.coze import Coze, told_coze
from tests.transports.readers import LAST, Door, everything, sse
from tests.transports.test_context import begin, ended
from tests.waiting import until


@pytest.fixture
async def coze() -> AsyncIterator[Coze]:
    async with told_coze() as coze:
        yield coze


@pytest.fixture
async def served(serve: Serve, coze: Coze) -> Served:
    return await serve(coze_api_base=coze.url, coze_api_token="a-token-for-tests")


class SlowDisk:
    """Holds back commits until it is told to go on, or to refuse them."""

    def __init__(self, served: Served) -> None:
        self._log = served.services.log
        self._journal = self._log._journal
        self._commit = self._journal.commit
        self._may = asyncio.Event()
        self._refuses = False
        self._journal.commit = self.commit  # type: ignore[method-assign]

    async def commit(self, number: int, batch: list[Any]) -> None:
        await self._may.wait()
        self._journal.commit = self._commit  # type: ignore[method-assign]
        if self._refuses:
            raise JournalError("the disk is full")
        await self._commit(number, batch)

    async def holds(self, kind: int) -> None:
        """Waits until a record of this kind waits for the disk."""
        committer = self._log.committer
        await until(lambda: kind in [record[1] for record in committer.in_flight + committer.pending], within=5)

    def go_on(self) -> None:
        self._may.set()

    def refuse(self) -> None:
        """What is held back now is lost; later commits succeed."""
        self._refuses = True
        self._may.set()


def another_task(served: Served) -> Callable[[], bool]:
    """Whether the runner's tasks are no longer as many as now."""
    tasks = served.services.turns._runner._tasks
    now = len(tasks)
    return lambda: len(tasks) != now


async def ask(served: Served, message: str, **fields: Any) -> Door:
    """A turn that was started, and may be over already."""
    sent = {"userId": "u", "botId": "b", "message": message, **fields}
    status, _, answer = await served.post("/api/coze/chat", sent, Prefer="wait=0")
    assert status in (200, 202), answer
    return served.door(f"turns/{answer['turnId']}")


async def lasts(*doors: Door) -> list[str]:
    """How each turn ended; each has one end."""
    heard = await asyncio.gather(*(everything(sse, door) for door in doors))
    for events in heard:
        assert sum(event["event"] in LAST for event in events) == 1
    return [events[-1]["event"] for events in heard]


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_of_interrupting_messages_during_a_slow_commit_the_last_one_wins(
    served: Served, coze: Coze, count: int
) -> None:
    one, conversation = await begin(served, "slow one")
    await coze.came(1)
    behind, _ = await begin(served, "behind", conversationId=conversation, onBusy="queue")
    disk = SlowDisk(served)
    fields = {"conversationId": conversation, "onBusy": "interrupt"}
    starting = []
    for number in range(count):
        more = another_task(served)
        starting.append(asyncio.create_task(ask(served, f"slow, interrupts {number}", **fields)))
        await until(more, within=5)
    disk.go_on()
    doors = await asyncio.gather(*starting)
    last = f"slow, interrupts {count - 1}"
    found = await until(lambda: [chat for chat in coze.chats if chat.message == last], within=5)
    found[0].finish.set()
    assert await lasts(one, *doors, behind) == ["cancelled"] * count + ["completed"] * 2
    assert [chat.message for chat in coze.chats[-2:]] == [last, "behind"]
    await served.balanced()
    stored = [await served.services.store.turn(door.topic[6:]) for door in doors]
    assert [row.status for row in stored if row is not None] == ["cancelled"] * (count - 1) + ["completed"]


async def test_a_message_that_interrupts_before_the_first_one_is_durable_ends_it_all_the_same(
    served: Served, coze: Coze
) -> None:
    before, conversation = await begin(served, "before")
    await ended(served, before)
    disk = SlowDisk(served)
    starting = []
    for message, on_busy in (("slow one", "reject"), ("two", "interrupt")):
        more = another_task(served)
        asking = ask(served, message, conversationId=conversation, onBusy=on_busy)
        starting.append(asyncio.create_task(asking))
        await until(more, within=5)
    disk.go_on()
    assert await lasts(*await asyncio.gather(*starting)) == ["cancelled", "completed"]
    assert coze.chats[-1].message == "two"


async def test_a_queued_turn_whose_cancellation_is_lost_ends_all_the_same_and_is_never_asked(
    tmp_path: Path, coze: Coze
) -> None:
    settings = {"coze_api_base": coze.url, "coze_api_token": "a-token-for-tests"}
    async with serving(tmp_path, **settings) as served:
        one, conversation = await begin(served, "slow one")
        first = await coze.came(1)
        queued, _ = await begin(served, "queued", conversationId=conversation, onBusy="queue")
        turn = queued.topic[6:]
        listening = asyncio.create_task(lasts(queued))
        disk = SlowDisk(served)
        stopping = asyncio.create_task(served.post(f"/api/coze/turns/{turn}/cancel"))
        await disk.holds(END)
        disk.refuse()
        await stopping
        assert await listening == ["error"]
        assert (await served.ended(turn))["status"] == "failed"
        await until(lambda: served.services.log.trouble is None, within=5)
        first.finish.set()
        assert await lasts(one, queued) == ["completed", "error"]
        await served.balanced()
    async with serving(tmp_path, **settings) as served:
        assert await lasts(served.door(one.topic), served.door(queued.topic)) == ["completed", "error"]
        assert [chat.message for chat in coze.chats] == ["slow one"]


@pytest.mark.parametrize("lost", [True, False])
async def test_a_turn_leaves_the_queue_only_once_the_log_has_it(served: Served, coze: Coze, lost: bool) -> None:
    one, conversation = await begin(served, "slow one")
    await coze.came(1)
    disk = SlowDisk(served)
    asked = {"userId": "u", "botId": "b", "message": "queued", "conversationId": conversation, "onBusy": "queue"}
    asking = asyncio.create_task(served.post("/api/coze/chat", asked, Prefer="wait=0"))
    await disk.holds(BEGIN)
    stopping = asyncio.create_task(served.post(f"/api/coze/{one.topic}/cancel"))
    await disk.holds(END)
    if lost:
        disk.refuse()
    else:
        disk.go_on()
    status, _, answer = await asking
    await stopping
    assert status == (503 if lost else 202), answer
    queued = [] if lost else [served.door(f"turns/{answer['turnId']}")]
    assert await lasts(one, *queued) == (["error"] if lost else ["cancelled", "completed"])
    await served.balanced()
    assert [chat.message for chat in coze.chats] == ["slow one", "queued"][: 1 if lost else 2]
    assert not served.services.turns._runner.turns
    assert count(served.services, "turn") == 0


async def test_a_turn_that_interrupted_while_a_drain_began_is_next_after_the_restart(
    tmp_path: Path, coze: Coze
) -> None:
    settings = {"coze_api_base": coze.url, "coze_api_token": "a-token-for-tests"}
    async with serving(tmp_path, **settings) as served:
        _, conversation = await begin(served, "slow one")
        await coze.came(1)
        for number in range(3):
            await begin(served, f"queued {number}", conversationId=conversation, onBusy="queue")
        disk = SlowDisk(served)
        interrupting = asyncio.create_task(ask(served, "interrupts", conversationId=conversation, onBusy="interrupt"))
        await until(lambda: len(served.services.turns._runner.turns) >= 5, within=5)
        served.services.turns._runner.draining = True
        disk.go_on()
        await interrupting
    async with serving(tmp_path, **settings) as served:
        await coze.came(5)
        assert [chat.message for chat in coze.chats[1:]] == ["interrupts", *(f"queued {n}" for n in range(3))]
        assert set(coze.asked) == {"", coze.chats[0].name}
        await served.balanced()


async def test_a_queue_goes_on_in_its_order_after_a_kill(tmp_path: Path, coze: Coze) -> None:
    async with mortal(tmp_path, coze.url, GATEWAY_UPSTREAM_CONNECT_TIMEOUT="10") as gateway, client() as session:

        async def start(message: str, **fields: str) -> Any:
            body = {"userId": "u", "botId": "b", "message": message} | fields
            async with session.post(f"{gateway.url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"}) as answer:
                assert answer.status == 202
                return await answer.json()

        one = await start("silent one")
        await coze.came(1)
        known = {"conversationId": one["conversationId"]}
        for number in range(3):
            await start(f"queued {number}", onBusy="queue", **known)
        await start("interrupts", onBusy="interrupt", **known)  # waits for the name
        await start("last", onBusy="queue", **known)
        await gateway.kill()
        await gateway.start()
        await coze.came(6)
        assert [chat.message for chat in coze.chats[1:]] == ["interrupts", *(f"queued {n}" for n in range(3)), "last"]
        assert coze.asked[2:] == [coze.chats[1].name] * 4


@pytest.mark.parametrize("seed", range(4))
async def test_a_long_queue_stopped_in_any_order_through_restarts_keeps_its_order_and_its_promises(
    tmp_path: Path, coze: Coze, seed: int
) -> None:
    """Fifty queued turns, some stopped, some asked for again with their keys, some that nobody listens to."""
    chance = random.Random(seed)
    settings = {"coze_api_base": coze.url, "coze_api_token": "a-token-for-tests", "abandon_seconds": 60}
    turns: dict[int, str] = {}
    stopped: set[int] = set()

    async def enqueue(served: Served, number: int) -> None:
        leave = "cancel" if number % 7 == 0 else "continue"
        fields = {"conversationId": conversation, "onBusy": "queue", "onDisconnect": leave}
        door = await served.start(f"queued {number}", key=f"key-{number}", **fields)
        assert turns.setdefault(number, door.topic[6:]) == door.topic[6:]

    async def stop(served: Served, number: int) -> None:
        await served.post(f"/api/coze/turns/{turns[number]}/cancel")
        stopped.add(number)

    async with serving(tmp_path, **settings) as served:
        one, conversation = await begin(served, "slow one")
        first = await coze.came(1)
        for number in range(25):
            await enqueue(served, number)
        for number in chance.sample(range(25), 8):
            await stop(served, number)
    async with serving(tmp_path, **settings) as served:
        for number in range(25, 50):
            await enqueue(served, number)
        again = chance.sample([number for number in turns if number not in stopped], 10)
        await asyncio.gather(*(enqueue(served, number) for number in again))
        left = [number for number in turns if number not in stopped]
        await asyncio.gather(*(stop(served, number) for number in chance.sample(left, 8)))
    async with serving(tmp_path, **settings) as served:
        first.status = "completed"
        for number, turn in turns.items():
            wanted = "cancelled" if number in stopped else "completed"
            assert (await served.ended(turn, within=30))["status"] == wanted, number
        await lasts(served.door(one.topic), *(served.door(f"turns/{turn}") for turn in turns.values()))
        await served.balanced()
        assert not served.services.turns._runner.queues
        assert [chat.message for chat in coze.chats[1:]] == [f"queued {n}" for n in range(50) if n not in stopped]
        assert set(coze.asked[1:]) == {first.name}
