"""Notifications: what a shop's people are told, over every transport, resumed like events."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from gateway.events import Notification
from gateway.turns.notifications import Notifications, Told
from tests.transports.conftest import Serve, serving
from tests.transports.readers import LISTENING, Event, first
from tests.waiting import until


async def test_a_shop_hears_of_its_turns_over_every_transport(serve: Serve, plugin: Path) -> None:
    served = await serve()
    door = served.door("shops/店 1")
    listening = [asyncio.create_task(first(read, door, None, 6)) for read in LISTENING.values()]
    await until(lambda: served.services.ledger.count("subscription") >= len(listening), within=5)
    message = "/fault plain pieces:30 rate:0 -- " + "长" * 100
    done = await served.ask(message, shopId="店 1", userId="u1")
    await served.ask("/fault failed rate:0 -- x", shopId="店 1", userId="u2")
    await served.ask("/fault plain rate:0 -- not yours", shopId="another")
    stopped = await served.start("/fault plain pieces:4000 -- stop", shopId="店 1", userId="u3")
    await served.post(f"/api/coze/{stopped.topic}/cancel")
    heard = await asyncio.gather(*listening)
    assert all(events == heard[0] for events in heard)
    assert [(event["type"], event["userId"]) for event in heard[0]] == [
        ("turn.started", "u1"),
        ("turn.completed", "u1"),
        ("turn.started", "u2"),
        ("turn.failed", "u2"),
        ("turn.started", "u3"),
        ("turn.cancelled", "u3"),
    ]
    first_two = heard[0][:2]
    assert first_two[0]["preview"] == message[:80]
    assert first_two[1]["preview"] == done[-1]["content"][:80]
    for event in first_two:
        assert event.keys() == {"event", "type", "conversationId", "turnId", "userId", "preview", "id"}
        assert (event["conversationId"], event["turnId"]) == (done[0]["conversationId"], done[0]["turnId"])


async def test_notifications_are_resumed_at_every_position_over_every_transport(serve: Serve, plugin: Path) -> None:
    served = await serve()
    for number in range(5):
        await served.ask(f"/fault plain pieces:1 rate:0 -- {number}", shopId="s")
    door = served.door("shops/s")
    events = await first(LISTENING["sse"], door, "0", 10)
    for read in LISTENING.values():
        for at, event in enumerate(events[:-1]):
            assert await first(read, door, event["id"], len(events) - at - 1) == events[at + 1 :]
        (reset,) = await first(read, door, "garbage")
        assert (reset["event"], reset["reason"], reset["content"]) == ("reset", "unknown", "")
    nothing: list[Event] = []
    with contextlib.suppress(TimeoutError):
        nothing = await first(LISTENING["sse"], door, None, 1, within=0.3)
    assert nothing == []


async def test_notifications_survive_their_stretch_and_a_restart(serve: Serve, tmp_path: Path) -> None:
    served = await serve(data_dir=tmp_path / "kept", retention_seconds=2)  # stretches are closed every half second
    for number in range(2):
        await served.ask(f"/fault plain pieces:1 rate:0 -- {number}", shopId="s")
        await asyncio.sleep(0.8)  # longer than a stretch stays open
    events = await first(LISTENING["sse"], served.door("shops/s"), "0", 4)
    assert len({event["id"] for event in events}) == 4
    assert await first(LISTENING["sse"], served.door("shops/s"), events[1]["id"], 2) == events[2:]


@pytest.mark.parametrize("told", ["noted", "told", ""])
async def test_a_shop_is_told_once_of_an_end_that_came_right_before_a_stop(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """The end is durable, and its notification may be, perhaps with a note of it. Nobody has told the store."""
    publish = Notifications.publish

    async def late(self: Notifications, shop: str, said: Notification, note: Told) -> None:
        if told or said.type == "turn.started":
            await publish(self, shop, said, (lambda done=True: None) if told == "told" else note)

    with monkeypatch.context() as patch:
        async with serving(tmp_path / "kept") as stops:
            patch.setattr(Notifications, "publish", late)
            patch.setattr(stops.services.log.keeper, "_may_go", lambda _: False)
            asked = await stops.ask("/fault plain pieces:1 rate:0 -- last words", shopId="s")
            await stops.services.log.committed()
    served = await serve(data_dir=tmp_path / "kept" / "data")
    await served.ask("/fault plain pieces:1 rate:0 -- next", shopId="s")
    events = await first(LISTENING["sse"], served.door("shops/s"), "0", 4)
    kinds = [event["type"] for event in events if event["turnId"] == asked[0]["turnId"]]
    assert kinds == ["turn.started", "turn.completed"]
    assert next(event["preview"] for event in events if event["type"] == "turn.completed") == asked[-1]["content"]
