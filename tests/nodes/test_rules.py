"""The rules that hold over all nodes: who may start how much, when an abandoned turn ends, what is erased and told."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from gateway.errors import Code, GatewayError
from gateway.events import Notification
from gateway.ids import LogKey, shop_log
from gateway.log.journal import END, STATE, Fenced, Record
from gateway.log.stretch import Stretch
from gateway.nodes.database import Database
from gateway.nodes.rate import SharedRate
from gateway.simulator import whole_text
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.scrape import render
from gateway.turns.asking import NotifyAsked
from gateway.turns.orders import read_note
from tests.databases import PostgresServer
from tests.faults.coze import simulated
from tests.processes import GatewayProcess
from tests.transports.conftest import Served, serving
from tests.transports.readers import Door, Event, everything, first, sse
from tests.waiting import until

LONG = "/fault plain pieces:4000 -- on and on"
QUICK = "/fault plain pieces:2 rate:0 -- quick"

Nodes = Callable[..., Awaitable[list[Served]]]


def late(node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets another node be the first to adopt what is left."""
    journal: Any = node.services.log._journal
    adopt = journal.adopt

    async def later() -> list[Stretch]:
        await asyncio.sleep(1)  # meanwhile the other one looks
        found: list[Stretch] = await adopt()
        return found

    monkeypatch.setattr(journal, "adopt", later)


def told(node: Served) -> str:
    """Its metrics."""
    return render(node.services.metrics)[0].decode()


def knows_others(node: Served) -> bool:
    others: Any = node.services.turns._means.others
    return not others._rings.alone


@pytest.fixture
async def nodes(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Nodes]:
    """`await nodes(2, …)`: gateways that share a database, each of which knows that it is not alone."""
    async with AsyncExitStack() as stack:

        async def start(count: int, **settings: Any) -> list[Served]:
            url = await postgres.make()
            started = [
                await stack.enter_async_context(serving(tmp_path / str(number), database_url=url, **settings))
                for number in range(count)
            ]
            for node in started:
                await until(partial(knows_others, node))
            return started

        yield start


async def test_a_node_that_leaves_knows_of_another_one_that_has_just_joined(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """It hands its turns over, instead of waiting for their ends."""
    url = await postgres.make()
    async with serving(tmp_path / "leaves", database_url=url) as leaves:
        others = leaves.services.turns._means.others
        assert not await others.leave()
        async with serving(tmp_path / "joins", database_url=url) as joins:
            assert await others.leave()
            assert not await joins.services.turns._means.others.leave()  # nobody stays who could go on
            assert not await others.leave()
        assert not await others.leave()


async def test_turns_per_minute_are_counted_over_all_nodes(nodes: Nodes) -> None:
    one, two = await nodes(2, turns_per_minute=3)
    sent = {"userId": "u", "botId": "b", "message": QUICK}

    async def start(node: Served, user: str = "u") -> tuple[int, Any, Any]:
        return await node.post("/api/coze/chat", {**sent, "userId": user}, Prefer="wait=0")

    answers = await asyncio.gather(*(start(node) for node in (one, two, one, two, one, two)))
    assert sorted(status for status, _, _ in answers if status not in (200, 202)) == [429, 429, 429]  # 200: it is over
    refused = [(headers, problem) for status, headers, problem in answers if status == 429]
    assert all(problem["code"] == "rate_limited" for _, problem in refused)
    assert all(1 <= int(headers["Retry-After"]) <= 60 for headers, _ in refused)
    assert (await start(two, "another"))[0] in (200, 202)


async def test_the_window_of_the_rate_slides_and_quiet_accounts_are_forgotten(
    postgres: PostgresServer, ledger: Ledger
) -> None:
    url = await postgres.make()
    database = Database(url, ledger)
    rate = SharedRate(database, 2)

    async def older(seconds: int) -> None:
        move = "UPDATE log_rates SET starts = ARRAY(SELECT s - %s * interval '1s' FROM unnest(starts) s)"
        await database.ask(f"{move}, newest = newest - %s * interval '1s'", seconds, seconds)

    await rate.take("ann")
    await older(40)
    await rate.take("ann")
    with pytest.raises(GatewayError) as refused:
        await rate.take("ann")
    assert refused.value.code is Code.RATE_LIMITED
    assert 15 < (refused.value.retry_after or 0) <= 20  # the first one leaves the window
    await older(21)
    await rate.take("ann")
    with pytest.raises(GatewayError):
        await rate.take("ann")
    await older(61)
    await rate.take("bob")
    assert await database.ask("SELECT account, cardinality(starts) FROM log_rates") == [("bob", 1)]
    await database.close()


async def test_an_account_may_have_a_limit_of_its_own_which_may_change_and_any_name(
    postgres: PostgresServer, ledger: Ledger
) -> None:
    database = Database(await postgres.make(), ledger)
    rate = SharedRate(database, 1)
    for name in ("ann", "key\0ann", "key\0ann\0shop"):  # an API key's user, and one of a shop
        for _ in range(3):
            await rate.take(name, 3)
            await database.ask("UPDATE log_rates SET starts = ARRAY(SELECT s - interval '10s' FROM unnest(starts) s)")
        for most, left in ((3, 30), (2, 40), (1, 50)):  # until one, two, or all three have left the window
            with pytest.raises(GatewayError) as refused:
                await rate.take(name, most)
            assert left - 5 < (refused.value.retry_after or 0) <= left
    assert len(await database.ask("SELECT account FROM log_rates")) == 3
    await database.close()


async def read_on(reading: AsyncIterator[object], seconds: float) -> None:
    """Reads what comes within so many seconds. How many events that is depends on how busy the machine is."""
    loop = asyncio.get_running_loop()
    until_then = loop.time() + seconds
    while loop.time() < until_then:
        await anext(reading)


async def test_a_listener_at_another_node_keeps_a_turn_that_is_cancelled_when_nobody_listens(nodes: Nodes) -> None:
    owner, other = await nodes(2, abandon_seconds=1)
    loop = asyncio.get_running_loop()
    async with owner.stream(LONG, onDisconnect="cancel") as (response, events):
        door = other.door(f"turns/{response.headers['X-Turn-Id']}")
        reading = sse(door, None)
        await anext(reading)
        await anext(events)
    await read_on(reading, 2.5)  # after the last listener of the owner has left
    assert (await owner.state(door.topic[6:]))["status"] == "running"
    await reading.aclose()
    left = loop.time()
    assert (await owner.ended(door.topic[6:], within=5))["status"] == "cancelled"
    assert 0.8 < loop.time() - left < 3


async def test_whoever_changes_between_nodes_has_the_whole_time_to_arrive(nodes: Nodes) -> None:
    """The owner was never asked whether somebody listens while that one did."""
    owner, other = await nodes(2, abandon_seconds=2)
    async with owner.stream(LONG, onDisconnect="cancel") as (response, _):
        turn = response.headers["X-Turn-Id"]
        reading = sse(other.door(f"turns/{turn}"), None)
        await anext(reading)  # in time, however busy the machine is
    left = asyncio.get_running_loop().time()
    async with contextlib.aclosing(reading):
        await read_on(reading, 1.5)  # two seconds after the owner's listener left, nobody listens
    assert (await owner.ended(turn, within=6))["status"] == "cancelled"
    assert asyncio.get_running_loop().time() - left > 3.2


async def _over(reading: AsyncGenerator[Event, None]) -> None:
    """A reader that goes on until it is sent away."""
    async for _ in reading:
        pass


@pytest.mark.parametrize("asked", ["owner", "other"])
async def test_a_conversation_is_erased_at_any_node_and_nothing_of_it_comes_back(
    nodes: Nodes, postgres: PostgresServer, asked: str
) -> None:
    owner, other = await nodes(2)
    before = await owner.ask("/fault plain pieces:3 rate:0 -- before")
    conversation = before[0]["conversationId"]
    turn = (await owner.start(LONG, conversationId=conversation)).topic
    queued = (await other.start(QUICK, conversationId=conversation, onBusy="queue")).topic
    doors = [node.door(topic) for node in (owner, other) for topic in (turn, queued, f"conversations/{conversation}")]
    readers = [asyncio.create_task(_over(sse(door, None))) for door in doors]
    await until(lambda: all(node.services.ledger.count("subscription") >= 3 for node in (owner, other)))
    at = owner if asked == "owner" else other
    async with at.session.delete(f"{at.url}/api/coze/conversations/{conversation}") as response:
        assert response.status == 204
    async with asyncio.timeout(5):
        await asyncio.gather(*readers)
    for node in (owner, other):
        for topic in (turn, queued, f"conversations/{conversation}/messages"):
            assert (await node.get(f"/api/coze/{topic}"))[0] == 404
        status, _, _ = await node.post("/api/coze/chat", {**node_body(QUICK), "conversationId": conversation})
        assert status == 404
    async with await connected(owner) as database:
        for table in ("conversations", "turns", "messages", "log_stretches"):
            assert not await rows(database, table), table
        # A moment later, when the claim is released. The newest batch of a node stays, without its records.
        for table in ("log_heads", r"log_batches WHERE body <> '\x90'"):
            await until(partial(nothing, database, table))


async def test_batches_with_records_of_a_deleted_conversation_are_gone_before_the_answer(nodes: Nodes) -> None:
    """Although they hold records of other turns, too, which go on at every node."""
    owner, other = await nodes(2)
    going_on = [(await node.start(LONG)).topic.removeprefix("turns/") for node in (owner, other)]
    turn = (await owner.start("/fault echo rate:2 -- zebra umbrella")).topic
    conversation = (await owner.state(turn.removeprefix("turns/")))["conversationId"]
    reading = asyncio.create_task(everything(sse, other.door(turn)))
    await until(lambda: other.services.ledger.count("subscription"))
    async with await connected(owner) as database:
        found = (
            f"log_batches WHERE encode(body, 'escape') LIKE '%{conversation}%' OR encode(body, 'escape') LIKE '%zebra%'"
        )
        assert await rows(database, found)
        async with other.session.delete(f"{other.url}/api/coze/conversations/{conversation}") as response:
            assert response.status == 204
        assert not await rows(database, found)
    assert (await reading)[-1]["event"] == "cancelled"
    for turn in going_on:
        assert (await other.state(turn))["status"] == "running"


async def test_readers_at_other_nodes_get_the_end_of_a_turn_that_is_erased(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if their node hears of the erasure before it hears of the end."""
    owner, other = await nodes(2)
    turn = (await owner.start(LONG)).topic
    conversation = (await owner.state(turn.removeprefix("turns/")))["conversationId"]
    reading = asyncio.create_task(everything(sse, other.door(turn)))
    await until(lambda: other.services.ledger.count("subscription"))
    monkeypatch.setattr(other.services.log.shelf._follower, "lacks", lambda *_: False)  # it looks once a second
    async with owner.session.delete(f"{owner.url}/api/coze/conversations/{conversation}") as response:
        assert response.status == 204
    assert (await reading)[-1]["event"] == "cancelled"


async def test_a_shop_is_told_by_several_nodes_once_and_in_one_order(nodes: Nodes) -> None:
    one, two = await nodes(2)
    doors = [node.door("shops/s") for node in (one, two)]
    listening = [asyncio.create_task(first(sse, door, None, 24, within=20)) for door in doors]
    await until(lambda: all(node.services.ledger.count("subscription") for node in (one, two)))
    await asyncio.gather(*(node.ask(QUICK, shopId="s") for node in (one, two) for _ in range(6)))
    heard, same = await asyncio.gather(*listening)
    assert heard == same
    said = [(event["turnId"], event["type"]) for event in heard]
    assert len(set(said)) == 24
    places = [int(event["id"].rpartition("-")[2]) for event in heard]
    assert places == list(range(1, 25))
    for turn in {turn for turn, _ in said}:
        assert [kind for ours, kind in said if ours == turn] == ["turn.started", "turn.completed"]


async def test_a_question_that_comes_late_notifies_nobody_a_second_time(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node has given it up, because the database was silent, and has asked again."""
    node, _ = await nodes(2)
    notifications, others = node.services.turns._notifications, node.services.turns._means.others
    claim, silent = others.claim, asyncio.Event()

    async def slow(key: LogKey) -> int | None:
        monkeypatch.setattr(others, "claim", claim)
        await silent.wait()
        return await claim(key)

    monkeypatch.setattr(others, "claim", slow)
    done = Notification("turn.completed", "conv_1", "turn_1", "u", "")
    listening = asyncio.create_task(first(sse, node.door("shops/s"), None, 2, within=10))
    await until(lambda: node.services.ledger.count("subscription"))
    given_up = asyncio.create_task(notifications.tell(NotifyAsked("s", done)))
    await asyncio.sleep(0)  # so that it comes first
    assert await notifications.tell(NotifyAsked("s", done, again=True))
    silent.set()
    assert await given_up
    assert await notifications.tell(NotifyAsked("s", structs.replace(done, turn_id="turn_2")))
    assert [event["turnId"] for event in await listening] == ["turn_1", "turn_2"]


async def test_what_another_node_has_not_saved_yet_is_erased_too(nodes: Nodes) -> None:
    """Its node released the conversation when the turn had ended, and saves it a moment later."""
    ran, erased = await nodes(2)
    keep = ran.services.log.keeper
    keep.until_told = True
    done = await ran.ask("/fault plain pieces:3 rate:0 -- words")
    conversation = done[0]["conversationId"]
    async with erased.session.delete(f"{erased.url}/api/coze/conversations/{conversation}") as response:
        assert response.status == 204
    await keep.fold()
    assert not ran.services.log.shelf.unsaved
    another = await ran.ask(QUICK)  # it was not taken for a node that is no more
    assert another[-1]["event"] == "completed"
    assert ran.services.log.trouble is None


async def test_a_release_that_comes_late_makes_no_room_for_a_second_turn(nodes: Nodes) -> None:
    """A paused database may do it long after its node has given it up, when another turn runs there."""
    owner, other = await nodes(2)
    turn = (await owner.start("/fault plain pieces:40 rate:20 -- two seconds")).topic
    conversation = (await owner.state(turn.removeprefix("turns/")))["conversationId"]
    order = {**node_body(QUICK), "conversationId": conversation}
    async with await connected(owner) as database:
        for _ in range(2):
            await database.execute("UPDATE log_heads SET node = NULL")
            status, _, problem = await other.post("/api/coze/chat", order)
            assert (status, problem["code"]) == (409, "conversation_busy")
    status, _, answer = await other.post("/api/coze/chat", {**order, "onBusy": "queue"})
    assert (status, answer["status"]) == (200, "completed")
    assert (await owner.ended(turn.removeprefix("turns/"), within=5))["status"] == "completed"


@dataclass
class Late:
    """A turn that PostgreSQL has given to a node, which does not know it before `goes_on`."""

    node: Served
    turn: str
    conversation: str
    goes_on: asyncio.Event


async def taken_over_late(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Late:
    dies, adopts = await nodes(2)
    turn = (await dies.start("/fault plain pieces:60 rate:20 -- three seconds")).topic.removeprefix("turns/")
    conversation = (await dies.state(turn))["conversationId"]
    adopted, goes_on, log = asyncio.Event(), asyncio.Event(), adopts.services.log
    take_in = log.take_in

    async def late(stretches: list[Stretch]) -> None:
        if stretches:
            adopted.set()
            await goes_on.wait()
        await take_in(stretches)

    async def stays_away() -> list[Stretch]:
        await goes_on.wait()
        return []

    async def speaks() -> bool:
        return bool((await dies.state(turn))["content"])

    await until(speaks)
    monkeypatch.setattr(log, "take_in", late)
    monkeypatch.setattr(dies.services.log, "rejoin", stays_away)
    journal: Any = dies.services.log._journal
    await journal.licence.give_back()
    await asyncio.wait_for(adopted.wait(), 5)
    return Late(adopts, turn, conversation, goes_on)


async def test_a_message_that_comes_while_its_conversation_is_taken_over_waits_for_the_turn_there(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = await taken_over_late(nodes, monkeypatch)
    of_it = (late.conversation,)
    order = {**node_body(QUICK), "conversationId": late.conversation, "onBusy": "queue"}
    asking = asyncio.create_task(late.node.post("/api/coze/chat", order))
    await asyncio.sleep(1)  # for a message that does not wait
    async with await connected(late.node) as database:
        begun = await database.execute("SELECT turn FROM log_stretches WHERE home = %s", of_it)
        assert await begun.fetchall() == [(late.turn,)]
        late.goes_on.set()
        status, _, answer = await asking
        assert (status, answer["status"]) == (200, "completed")

        async def saved() -> bool:
            left = await database.execute("SELECT FROM log_stretches WHERE home = %s AND NOT kept", of_it)
            return not await left.fetchall()

        await until(saved)
        ranges = await database.execute("SELECT first, last FROM log_stretches WHERE key = %s ORDER BY first", of_it)
        (_, last), (following, _) = await ranges.fetchall()
        assert following == last + 1


async def test_a_turn_that_is_being_taken_over_is_not_over_for_who_cancels_it(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = await taken_over_late(nodes, monkeypatch)
    cancelling = asyncio.create_task(late.node.post(f"/api/coze/turns/{late.turn}/cancel"))
    await asyncio.sleep(1)  # for a command that does not wait
    assert not cancelling.done()
    late.goes_on.set()
    status, *_ = await cancelling
    assert status == 202
    assert (await late.node.ended(late.turn))["status"] == "cancelled"


async def test_a_turn_whose_end_could_not_be_written_keeps_its_conversation(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node is another one when it goes on, and releases the conversation after that end."""
    owner, _ = await nodes(2)
    log, claims = owner.services.log, owner.services.turns._means.others
    journal: Any = log._journal
    commit, release = journal.commit, claims.release
    released: list[bool] = []

    async def silent(number: int, batch: list[Record]) -> None:
        if any(kind == END for _, kind, *_ in batch):
            monkeypatch.setattr(journal, "commit", commit)
            raise Fenced("the database has been silent for too long")
        await commit(number, batch)

    def watched(key: LogKey) -> None:
        released.append(log.fenced)
        release(key)

    monkeypatch.setattr(journal, "commit", silent)
    monkeypatch.setattr(claims, "release", watched)
    with capture_logs() as lines:
        events = await owner.ask("/fault plain pieces:3 rate:0 -- words")
        await until(lambda: released)
    assert [event["event"] for event in events if event["event"] in ("completed", "reset")] == ["completed"]
    assert released == [False]
    ends = [line["outcome"] for line in lines if line["event"] in ("SSE stream ended", "Chat ended")]
    assert ends == [None, "completed"]


@pytest.mark.parametrize("adopts", ["owner", "other"])
async def test_readers_hear_of_an_end_that_was_durable_when_their_node_was_fenced(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, adopts: str
) -> None:
    """The last batch comes to the database late. Nothing follows in that turn: nobody has anything to go on with."""
    owner, other = await nodes(2)
    late(owner if adopts == "other" else other, monkeypatch)
    journal: Any = owner.services.log._journal
    commit, join = journal.commit, journal.open
    held: list[tuple[int, list[Record]]] = []

    async def silent(number: int, batch: list[Record]) -> None:
        if any(kind == END for _, kind, *_ in batch):
            monkeypatch.setattr(journal, "commit", commit)
            held.append((number, batch))
            raise Fenced("the database has been silent for too long")
        await commit(number, batch)

    async def join_late() -> Any:
        await commit(*held.pop())
        return await join()

    monkeypatch.setattr(journal, "commit", silent)
    monkeypatch.setattr(journal, "open", join_late)
    door = await owner.start("/fault plain pieces:30 rate:60 -- words")
    elsewhere = asyncio.create_task(everything(sse, Door(other.session, other.url, door.topic)))
    events = await everything(sse, door)
    assert [event["event"] for event in events if event["event"] in ("completed", "reset")] == ["completed"]
    assert (await elsewhere)[-1] == events[-1]
    assert not held
    await until(lambda: "gateway_stretches_adopted_total 1.0" in told(other if adopts == "other" else owner))


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("adopts", ["owner", "other"])
async def test_what_a_node_knew_of_its_message_is_not_lost_when_it_is_fenced(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, adopts: str, sent: bool
) -> None:
    """The log says that the message is about to be sent. It has been sent, and Coze has named the chat, or it never
    was."""
    message = "/fault plain pieces:3 rate:0 -- known"
    async with simulated() as coze:
        owner, other = await nodes(2, coze_api_base=coze.url, coze_api_token="a-token-for-tests")
        journal: Any = owner.services.log._journal
        commit = journal.commit
        stages: list[str] = []

        async def silent(number: int, batch: list[Record]) -> None:
            about_to_send = bool(stages)
            stages.extend(read_note(payload).stage for _, kind, _, payload in batch if kind == STATE)
            last = about_to_send if sent else stages == ["sending"]
            if not (sent and last):
                await commit(number, batch)
            if not last:
                return
            monkeypatch.setattr(journal, "commit", commit)
            raise Fenced("the database has been silent for too long")

        monkeypatch.setattr(journal, "commit", silent)
        late(owner if adopts == "other" else other, monkeypatch)
        events = await owner.ask(message)
        assert events[-1]["event"] == "completed"
        assert events[-1]["content"] == whole_text(message)
        assert coze.posts_of(message) == 1
        assert journal.commit == commit
        assert "gateway_stretches_adopted_total 1.0" in told(other if adopts == "other" else owner)
        await owner.services.store.settled()
        await other.services.store.settled()
        row = await owner.services.store.conversation(events[0]["conversationId"])
        assert row is not None
        assert row.coze_conversation_id, "the next message goes to the same conversation at Coze"


async def test_an_unlock_that_is_tried_again_takes_no_lock_that_was_locked_since(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose first try ended when the database was away sends its key again, perhaps to two nodes."""
    one, two = await nodes(2)
    monkeypatch.setattr("gateway.nodes.claims._UNLOCK_AGAIN", 0.1)
    ours: Any = one.services.turns._means.others
    others = two.services.turns._means.others
    unlocked = ours._unlocked
    tries = 0

    async def fails_at_first(mark: str, node: int) -> bool:
        nonlocal tries
        tries += 1
        return tries > 1 and await unlocked(mark, node)

    monkeypatch.setattr(ours, "_unlocked", fails_at_first)
    async with ours.alone_with("key"):
        pass
    async with ours.alone_with("key"):
        await asyncio.sleep(0.3)  # the first unlock is tried again
        async with await connected(one) as database:
            assert await rows(database, "log_locks")
    async with asyncio.timeout(5), others.alone_with("key"):
        pass
    assert tries == 2


async def test_a_message_that_comes_while_its_conversation_is_erased_does_not_bring_it_back(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await nodes(2)
    conversation = (await one.ask(QUICK))[0]["conversationId"]
    claims = two.services.turns._means.others
    claim = claims.claim

    async def after_the_erasure(key: LogKey) -> int | None:
        """The message has found its conversation by now."""
        monkeypatch.setattr(claims, "claim", claim)
        async with one.session.delete(f"{one.url}/api/coze/conversations/{conversation}") as response:
            assert response.status == 204
        return await claim(key)

    monkeypatch.setattr(claims, "claim", after_the_erasure)
    status, _, problem = await two.post("/api/coze/chat", {**node_body(QUICK), "conversationId": conversation})
    assert (status, problem["code"]) == (404, "not_found")
    async with await connected(two) as database:
        assert not await rows(database, "conversations")
        await until(partial(nothing, database, "log_heads"))


def node_body(message: str) -> dict[str, Any]:
    return {"userId": "u", "botId": "b", "message": message}


async def connected(node: Served) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(node.services.settings.database_url or "", autocommit=True)


async def rows(database: AsyncConnection[Any], table: str) -> list[Any]:
    return await (await database.execute(f"SELECT * FROM {table}".encode())).fetchall()


async def nothing(database: AsyncConnection[Any], table: str) -> bool:
    return not await rows(database, table)


async def test_a_shop_is_told_on_after_the_node_that_had_its_log_died(
    postgres: PostgresServer, tmp_path: Path, start_gateway: Callable[..., Awaitable[GatewayProcess]]
) -> None:
    url = await postgres.make()
    dead = await start_gateway(
        GATEWAY_DATABASE_URL=url, GATEWAY_DATA_DIR=str(tmp_path / "dead"), GATEWAY_SIMULATOR_FIRST_MS="1"
    )
    async with serving(tmp_path / "lives", database_url=url) as lives:
        await until(partial(knows_others, lives))
        listening = asyncio.create_task(first(sse, lives.door("shops/s"), None, 4, within=30))
        await until(lambda: lives.services.ledger.count("subscription"))
        sent = {**node_body(QUICK), "shopId": "s"}
        async with lives.session.post(f"{dead.url}/api/coze/chat", json=sent) as response:
            assert response.status == 200
        await until(lambda: getattr(lives.services.log.shelf.loaded(shop_log("s")), "head", 0) == 2)
        await dead.kill()
        assert (await lives.ask(QUICK, shopId="s"))[-1]["event"] == "completed"  # it waits for no node
        heard = await listening
        assert [int(event["id"].rpartition("-")[2]) for event in heard] == [1, 2, 3, 4]
        assert [event["type"] for event in heard] == ["turn.started", "turn.completed"] * 2
