"""Bugs of our own, planted: whatever breaks in one turn's data ends that turn, and everything else goes on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import Code, GatewayError
from gateway.events import Failed, Started
from gateway.ids import LogKey, shop_log
from gateway.log.journal import Broken
from gateway.log.packing import pack
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.reading.hub import Hub
from gateway.telemetry.observer import Observer
from gateway.turns.notifications import Notifications
from tests.contracts.journals import KEY, Bench, Counted, fields, last, piece
from tests.contracts.test_cursors import Listener
from tests.contracts.test_trouble import durably

OTHER = LogKey("conv_2")


class Bug(Exception):
    pass


@pytest.fixture
def faults(durable: Bench) -> Counted:
    def end(stretch: Stretch) -> None:
        """Ends a stretch as a live turn does."""
        if stretch.last >= stretch.first and stretch.ended is None:
            durable.writer(stretch).owe(Failed("it broke", Code.INTERNAL.value, True, stretch.key, stretch.turn, ""))

    durable.owner.then = end
    return durable.faults


async def two(bench: Bench) -> tuple[Stretch, Stretch]:
    stretches = await bench.begin("turn_1"), await bench.begin("turn_2", OTHER)
    for stretch in stretches:
        await bench.write(stretch, Started(stretch.key, stretch.turn, "?"))
    return stretches


async def works(bench: Bench, other: Stretch) -> None:
    """Checks that the other turn goes on, that new ones begin, and that a restart finds the same."""
    await bench.write(other, piece("on"), last("turn_2", "on"), end=True)
    await bench.turn("turn_3", key=LogKey("conv_3"))
    await bench.turn("turn_4")
    await bench.fold()
    keys = (KEY, OTHER, LogKey("conv_3"))
    found = [await bench.read(await bench.tail(key)) for key in keys]
    for _ in range(2):
        await bench.reopen()
        assert [await bench.read(await bench.tail(key)) for key in keys] == found
        assert bench.running == []


async def test_records_that_break_the_journal_end_their_turn_alone(durable: Bench, faults: Counted) -> None:
    broken, other = await two(durable)
    durable.writer(broken).append(piece("lost with it"))
    durable.writer(broken).append(piece("half a character: \ud83d"))
    durable.writer(other).append(piece("o"))
    await durable.log.committed()
    (lost,) = durable.lost
    assert lost[0] is broken
    assert isinstance(lost[1], Broken)
    assert durable.log.trouble is None
    assert durably(await durable.read(await durable.tail())) == ["started", "error"]
    assert [fields(e).get("content") for e in other.read(after=1)] == ["o"]
    assert faults.parts == ["commit", "turn"]
    await works(durable, other)


async def test_the_turn_that_begins_in_a_broken_log_is_lost_with_it(durable: Bench, faults: Counted) -> None:
    broken, other = await two(durable)
    durable.writer(broken).append(piece("\ud83d"))
    durable.writer(broken).end()
    next_one = durable.log.begin(await durable.tail(), "turn_5", owner=durable.owner).stretch
    durable.writer(next_one).append(Started(KEY, "turn_5", "?"))
    await durable.log.committed()
    assert [stretch.turn for stretch, _ in durable.lost] == ["turn_1", "turn_5"]
    assert durably(await durable.read(await durable.tail())) == ["started", "error"]
    await works(durable, other)


async def test_an_event_that_cant_be_encoded_leaves_no_gap(durable: Bench, faults: Counted) -> None:
    broken, other = await two(durable)
    with pytest.raises(UnicodeEncodeError):
        durable.writer(broken).append(last("turn_1", "\ud83d"))
    await durable.write(broken, last("turn_1", ""), end=True)
    await works(durable, other)


async def test_a_durable_event_that_cant_be_shown_ends_its_turn_and_is_not_shown_later(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = await two(durable)
    await durable.write(broken, piece("a"))
    apply = Stretch.apply

    def buggy(stretch: Stretch, kind: int, payload: Any) -> None:
        if payload == "bug":
            raise Bug
        apply(stretch, kind, payload)

    monkeypatch.setattr(Stretch, "apply", buggy)
    for text in ("b", "bug", "never shown"):
        durable.writer(broken).append(piece(text))
    durable.writer(other).append(piece("o"))
    await durable.log.committed()
    durable.writer(other).append(piece("o"))
    await durable.log.committed()
    monkeypatch.undo()
    events = [fields(e) for e in await durable.read(await durable.tail())]
    assert [event["event"] for event in events] == ["started", "message", "error"]
    assert events[1]["content"] == "ab"
    assert faults.parts == ["turn"]
    await works(durable, other)


class Buggy:
    def news(self, tail: Tail) -> None:
        raise Bug


async def test_counting_and_news_that_break_keep_nobody_from_what_is_written(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*_: object) -> None:
        raise Bug

    monkeypatch.setattr(durable.log.committer._showing, "_shown", buggy)
    broken, other = await two(durable)
    (await durable.tail()).watchers[Buggy()] = None
    await durable.write(broken, piece("a"), last("turn_1", "a"), end=True)
    assert durable.lost == []
    assert set(faults.parts) == {"show"}
    await works(durable, other)


async def test_a_turn_that_cant_be_saved_keeps_none_of_the_others_from_it(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    await durable.turn("turn_1")
    wanted = await durable.turn("turn_2", key=OTHER)

    def buggy(stretch: Stretch) -> bytes:
        if stretch.turn == "turn_1":
            raise Bug
        return pack(stretch)

    monkeypatch.setattr(durable.storage.packing, "pack", buggy)
    await durable.fold()
    monkeypatch.undo()
    assert faults.parts == ["fold"]
    assert durable.log.keeper.ended() == []
    assert [e.sequence for e in await durable.read(await durable.tail(OTHER))][-1] == wanted.last
    await durable.turn("turn_3")
    await durable.fold()


async def test_the_loops_survive_what_nobody_thought_of(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = asyncio.Event()

    async def buggy(*_: object) -> Any:
        called.set()
        raise Bug

    monkeypatch.setattr(durable.log.committer, "_commit", buggy)
    durable.log.committer.wake.set()
    durable.log.committer.put((0, 0, 0, ""))
    durable.log.committer.pending.clear()
    durable.log.committer.owed.append((0, 0, 0, ""))
    await asyncio.wait_for(called.wait(), 5)
    durable.log.committer.owed.clear()
    monkeypatch.undo()
    called = asyncio.Event()
    monkeypatch.setattr(durable.log.keeper, "fold", buggy)
    await asyncio.wait_for(called.wait(), 10)
    monkeypatch.undo()
    assert faults.parts == ["commit", "fold"]
    assert not any(task.done() for task in durable.log._tasks)
    await durable.turn()


async def test_a_close_whose_last_save_meets_a_bug_still_gives_the_journal_back(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the journal's threads would keep a stopping process alive for ever."""
    await durable.turn("turn_1")

    async def buggy(**_: Any) -> None:
        raise Bug

    monkeypatch.setattr(durable.log.keeper, "fold", buggy)
    await durable.log.close()
    assert faults.parts == ["fold"]
    assert durable.ledger.count("database") == 0


async def test_commits_that_break_again_and_again_are_said_by_health(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy() -> Any:
        raise Bug

    with monkeypatch.context() as planted:
        planted.setattr(durable.log.committer, "take", buggy)
        for number in range(3):
            assert faults.stopped == {}
            stretch = await durable.begin(f"turn_{number}", LogKey(f"conv_{number}"))
            durable.writer(stretch).append(piece("a"))
            with pytest.raises(GatewayError):
                await durable.log.committed()
        assert "no commit works any more" in faults.stopped["commit"]
    await durable.turn("turn_9", key=OTHER)
    assert faults.stopped == {}


@pytest.fixture
async def hub(durable: Bench, faults: Counted) -> AsyncIterator[Hub]:
    hub = Hub(durable.log.shelf, ledger=durable.ledger, heartbeat=0.05, faults=faults)
    yield hub
    await hub.close()


def buggy_lines(*_: object) -> bytes:
    raise Bug


async def test_a_reader_that_cant_be_served_is_cut_and_the_others_are_served(
    durable: Bench, hub: Hub, faults: Counted
) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    listeners = [Listener((await hub.subscribe(KEY, asked=None))[0]) for _ in range(5)]
    for listener in listeners:
        hub.attach(listener)
    listeners[2].encode = buggy_lines
    for text in ("a", "b", "c"):
        await durable.write(stretch, piece(text))
        await asyncio.sleep(0)
    for listener in listeners:
        if listener is listeners[2]:
            assert listener.told == [Code.INTERNAL]
            assert len(listener.events) == 1
            continue
        assert "".join(event.get("content", "") for event in listener.events) == "abc"
        hub.detach(listener)
    assert faults.parts == ["deliver"]
    assert durable.ledger.count("subscription") == 0


class Raising(Observer):
    def events_delivered(self, transport: str, times: int) -> None:
        raise Bug

    def events_late(self, transport: str, seconds: float, times: int) -> None:
        raise Bug


async def test_measuring_that_breaks_keeps_nobody_from_what_is_delivered(durable: Bench, faults: Counted) -> None:
    stretch = await durable.begin()
    hub = Hub(durable.log.shelf, ledger=durable.ledger, heartbeat=3600, faults=faults, observer=Raising())
    listener = Listener((await hub.subscribe(KEY, asked=None))[0])
    hub.attach(listener)
    for text in ("a", "b", "c"):
        await durable.write(stretch, piece(text))
        await asyncio.sleep(0)
    assert "".join(event["content"] for event in listener.events) == "abc"
    assert set(faults.parts) == {"deliver"}
    assert len(faults.parts) > 3
    hub.detach(listener)
    await hub.close()


async def test_a_heart_that_breaks_is_cut_and_the_others_beat(durable: Bench, hub: Hub, faults: Counted) -> None:
    beats = asyncio.Event()
    listeners = [Listener((await hub.subscribe(KEY, asked=None))[0]) for _ in range(3)]
    for listener in listeners:
        hub.attach(listener)
    listeners[0].beat = buggy_lines  # type: ignore[assignment,method-assign]
    listeners[1].beat = lambda now: None  # type: ignore[method-assign]
    count = 0

    def beat(now: float) -> None:
        nonlocal count
        count += 1
        if count == 3:
            beats.set()

    listeners[2].beat = beat  # type: ignore[method-assign]
    await asyncio.wait_for(beats.wait(), 5)
    assert listeners[0].told == [Code.INTERNAL]
    assert faults.parts == ["heartbeat"]
    for listener in listeners[1:]:
        hub.detach(listener)


async def test_a_notification_that_breaks_breaks_no_turn(
    durable: Bench, faults: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.events import Notification

    notifications = Notifications(durable.log, retention=3600, clock=durable.clock, faults=faults)
    said = Notification("turn.started", KEY, "turn_1", "u", "\ud83d")
    told: list[tuple[str, bool]] = []
    await notifications.publish("s", said, lambda done=True: told.append(("broken", done)))
    assert faults.parts == ["notify"]
    fine = Notification("turn.started", KEY, "turn_1", "u", "fine")
    await notifications.publish("s", fine, lambda done=True: told.append(("fine", done)))
    assert told == [("broken", True), ("fine", True)]  # nobody waits for the first one any more
    await durable.log.committed()
    (entry,) = await durable.read(await durable.tail(shop_log("s")))
    assert fields(entry)["preview"] == "fine"


async def test_a_loop_that_ends_all_the_same_is_known(durable: Bench, faults: Counted) -> None:
    class Fatal(BaseException):
        pass

    async def fatal() -> None:
        raise Fatal

    task = asyncio.create_task(fatal())
    faults.watch("fold", task)
    with pytest.raises(Fatal):
        await task
    await asyncio.sleep(0)
    assert "fold" in faults.stopped
    assert faults.parts == ["fold"]
