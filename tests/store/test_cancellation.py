"""Callers that are cancelled anywhere leave the store as usable as before."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.store import Store
from gateway.telemetry.ledger import Ledger
from tests.store.conftest import OpenStore, no_worker_threads
from tests.store.writes import begun, update

CALLS: dict[str, Callable[[Store], Coroutine[Any, Any, Any]]] = {
    "settled": lambda store: store.settled(),
    "probe": lambda store: store.probe(),
    "turn": lambda store: store.turn("turn_1"),
    "conversation": lambda store: store.conversation("conv_1"),
    "messages": lambda store: store.messages("conv_1", before="turn_1.assistant", limit=5),
}


async def cancelled_after(steps: int, call: Coroutine[Any, Any, Any]) -> bool:
    """Runs `call` for so many turns of the loop; whether it was still running then."""
    task = asyncio.create_task(call)
    for _ in range(steps):
        await asyncio.sleep(0)
    running = task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return running


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_may_be_cancelled_at_any_step(store: Store, name: str) -> None:
    store.begin(begun(1))
    store.update(update(1, "completed", content="A"))
    await store.settled()
    cut = 0
    for steps in range(40):
        store.begin(begun(100 + steps))
        cut += await cancelled_after(steps, CALLS[name](store))
    assert cut > 0
    async with asyncio.timeout(5):
        await asyncio.gather(*(store.turn("turn_1") for _ in range(20)))
        store.update(update(139, "completed", content="B"))
        await store.settled()
    assert store.trouble is None
    page, _ = await store.messages("conv_1", before=None, limit=200)
    assert len(page) == 2 + 40 + 1


async def test_a_close_that_is_cancelled_goes_on(url: str, ledger: Ledger, open_store: OpenStore) -> None:
    for steps in range(30):
        store = await Store.open(url, ledger=ledger)
        store.begin(begun(steps))
        readings = [asyncio.create_task(store.turn("turn_0")) for _ in range(6)]
        await cancelled_after(steps, store.close())
        for reading in readings[::2]:
            reading.cancel()
        await store.close()
        await asyncio.gather(*readings, return_exceptions=True)
    await no_worker_threads()
    page, _ = await (await open_store()).messages("conv_1", before=None, limit=200)
    assert len(page) == 30


async def test_a_close_waits_for_reads_whose_callers_are_gone(url: str, ledger: Ledger) -> None:
    for steps in range(20):
        store = await Store.open(url, ledger=ledger)
        await asyncio.gather(*(cancelled_after(steps, store.turn("turn_0")) for _ in range(6)))
        await store.close()
        gc.collect()
        await no_worker_threads()


async def test_an_open_may_be_cancelled_at_any_step(empty: str, ledger: Ledger) -> None:
    cut = 0
    for steps in [*range(0, 60, 6), *range(60, 400, 40)]:
        task = asyncio.create_task(Store.open(empty, ledger=ledger))
        for _ in range(steps):
            await asyncio.sleep(0)
        cut += task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Store):
            await outcome.close()
        gc.collect()
        await no_worker_threads()
    assert cut > 10
    store = await Store.open(empty, ledger=ledger)
    await store.close()
