"""A turn's work, or its start, cancelled at every await: nothing stays held, and the next start finishes the turn."""

import asyncio
import json
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from adapters.services import Services
from gateway.log.tail import Tail
from gateway.simulator import Simulator, whole_text
from gateway.turns.live import LiveTurn
from gateway.turns.orders import Order
from gateway.turns.starting import Accepted
from tests.cancellation.conftest import OpenCore, balanced
from tests.cancellation.steps import Cut, cut
from tests.waiting import until


def _order(message: str, **given: Any) -> Order:
    return Order(user_id="u1", bot_id="b1", message=message, **given)


def _start(services: Services, order: Order) -> Coroutine[Any, Any, Accepted]:
    return services.turns.start(order, owns=lambda *_: True)


async def _ending(services: Services, accepted: Accepted) -> dict[str, Any]:
    """The last event of a turn, read from its beginning."""
    subscription, _ = await services.hub.subscribe(accepted.key, asked=None, turn=accepted.turn_id)
    seen: list[dict[str, Any]] = []
    try:
        while not subscription.over:
            seen += [json.loads(b"{%b}" % entry.body) for entry in await subscription.next_batch(wait=5)]
            assert seen
    finally:
        subscription.close()
    assert sum(event["event"] in ("completed", "error", "cancelled") for event in seen) == 1
    return seen[-1]


MESSAGES = {
    "plain": "/fault plain pieces:12",
    "broken": "/fault plain pieces:12 drop-after:4",
    "refused once": "/fault plain pieces:3 status:429 retry-after:0 times:1",
    "for a shop": "/fault plain pieces:3",
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_turn_cancelled_at_any_await_is_finished_by_the_next_start(
    open_core: OpenCore, coze: Simulator, name: str
) -> None:
    shop = "shop-1" if name == "for a shop" else None
    started: list[tuple[str, Accepted]] = []
    async with open_core() as services:
        original = services.turns._runner._run
        cuts: list[Cut] = []

        async def run(live: LiveTurn, tail: Tail) -> None:
            await cuts[-1].run(original(live, tail))

        def ended(accepted: Accepted) -> bool:
            return services.turns.running(accepted.turn_id) is None

        services.turns._runner._run = run  # type: ignore[method-assign]
        at = 0
        while not cuts or cuts[-1].reached:
            at += 1
            cuts.append(Cut(at))
            message = f"{MESSAGES[name]} -- {name} {at}"
            accepted = await _start(services, _order(message, shop_id=shop))
            started.append((message, accepted))
            await until(partial(ended, accepted))
            await balanced(services)
        assert len(cuts) > 3
        assert services.ledger.count("task") == 4  # the log's two, the store's and the runner's own
    async with open_core() as services:
        ends = set()
        for message, accepted in started:
            async with asyncio.timeout(10):
                last = await _ending(services, accepted)
            ends.add(last["event"])
            if last["event"] == "completed":
                assert last["content"] == whole_text(message)
            else:
                assert last["code"] == "upstream_uncertain"
            assert coze.posts_of(message) <= 2
        assert "completed" in ends
        await balanced(services)
    assert coze.chats_started <= len(started)


async def test_a_start_cancelled_at_any_await_starts_one_turn_or_none(open_core: OpenCore, coze: Simulator) -> None:
    async with open_core() as services:
        at, reached = 0, True
        while reached:
            at += 1
            order = _order(f"/fault plain pieces:3 -- start {at}", idempotency_key=f"key-{at}")
            reached = await cut(_start(services, order), at)
            accepted = await _start(services, order)
            assert (await _ending(services, accepted))["content"] == whole_text(order.message)
            assert coze.posts_of(order.message) == 1
            await balanced(services)
        assert at > 1


async def test_a_start_in_a_known_conversation_cancelled_at_any_await_leaves_it_free(open_core: OpenCore) -> None:
    async with open_core() as services:
        first = await _start(services, _order("/fault plain pieces:3 -- first"))
        await _ending(services, first)
        at, reached = 0, True
        while reached:
            at += 1
            given = {"conversation_id": first.conversation_id, "on_busy": "queue"}
            reached = await cut(_start(services, _order(f"/fault plain pieces:2 -- cut {at}", **given)), at)
            after = await _start(services, _order(f"/fault plain pieces:2 -- whole {at}", **given))
            async with asyncio.timeout(10):
                assert (await _ending(services, after))["event"] == "completed"
            await balanced(services)
        assert at > 1


async def test_a_stop_cancelled_at_any_await_leaves_what_the_next_start_can_take(open_core: OpenCore) -> None:
    for at in range(1, 7):
        async with open_core() as services:
            accepted = await _start(services, _order(f"/fault plain pieces:40 rate:100 -- stop {at}"))
            await cut(services.turns._runner.drain(0.05), at)
            await cut(services.turns._runner.close(), at)
        async with open_core() as services:
            async with asyncio.timeout(10):
                last = await _ending(services, accepted)
            assert last["event"] in ("completed", "error")
            assert last.get("code", "upstream_uncertain") == "upstream_uncertain"
