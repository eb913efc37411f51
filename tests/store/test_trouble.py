"""A database that can't be written for a while: nothing is lost, everybody is told, it heals by itself."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import event

from gateway.errors import Code, GatewayError
from gateway.store import Store, database
from gateway.store.writer import RETRY_SECONDS
from gateway.telemetry.ledger import Ledger
from tests.store.conftest import OpenStore, in_a_file
from tests.store.disks import disk_errors, small_disk
from tests.store.writes import HEALS, begun, dump, update
from tests.waiting import until


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program that writes."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@asynccontextmanager
async def loop_never_stands(longest: float = 0.7) -> AsyncIterator[None]:
    """A blocked loop would stand for as long as SQLite waits for the lock: far longer than `longest`."""
    loop = asyncio.get_running_loop()
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)  # the beat
            gaps.append(loop.time() - before)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
    assert gaps
    assert max(gaps) < longest


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 1.0)


async def test_a_full_disk_is_said_and_heals_by_itself(tmp_path: Path, ledger: Ledger) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk.path / "gateway.db"
        store = await Store.open(f"sqlite:///{path}", ledger=ledger)
        store.begin(begun(0))
        await store.settled()
        disk.fill(store)
        number = 0
        while store.trouble is None:
            number += 1
            store.begin(begun(number, message="long " * 2000))
            with suppress(GatewayError):
                await store.settled()
        assert number < 100
        for _ in range(3):
            with pytest.raises(GatewayError, match="disk is full") as caught:
                await store.settled()
            assert caught.value.code is Code.STORAGE_UNAVAILABLE
            assert caught.value.detail == store.trouble == "the database's disk is full"
        store.update(update(number, "completed", content="whole"))
        last, zeroth = await store.turn(f"turn_{number}"), await store.turn("turn_0")
        assert last is not None
        assert zeroth is not None
        assert last.content == "whole"
        disk.free()
        await until(lambda: store.trouble is None and not store._writer.queued, within=HEALS)
        assert await store.turn(f"turn_{number}") == last
        await store.close()
        messages = [line for line in dump(path) if "long" in line]
        assert len(messages) == number
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


@in_a_file
async def test_a_disk_that_reports_errors_is_said_and_heals_by_itself(store: Store) -> None:
    store.begin(begun(1))
    await store.settled()
    with disk_errors():
        store.begin(begun(2))
        with pytest.raises(GatewayError, match="disk reports an error"):
            await store.settled()
        assert store.trouble == "the database's disk reports an error"
    await until(lambda: store.trouble is None, within=HEALS)
    page, _ = await store.messages("conv_1", before=None, limit=5)
    assert [message.turn_id for message in page] == ["turn_1", "turn_2"]


@in_a_file
async def test_a_short_lock_is_waited_for(store: Store, path: Path) -> None:
    with locked(path):
        store.begin(begun(1))
        waiting = asyncio.create_task(store.settled())
        await until(lambda: bool(store._writer.writing), within=HEALS)
        async with loop_never_stands():
            await asyncio.sleep(0.4)  # shorter than a lock is waited for
        assert not waiting.done()
    async with asyncio.timeout(2):
        await waiting
    assert store.trouble is None


@pytest.mark.usefixtures("impatient")
@in_a_file
async def test_a_long_lock_is_said_reads_go_on_and_it_heals_by_itself(path: Path, open_store: OpenStore) -> None:
    store = await open_store()
    store.begin(begun(1))
    await store.settled()
    with locked(path):
        store.update(update(1, content="one"))
        store.begin(begun(2))
        async with loop_never_stands():
            with pytest.raises(GatewayError, match="locked by another process") as caught:
                await store.settled()
        assert caught.value.code is Code.STORAGE_UNAVAILABLE
        assert store.trouble == "the database is locked by another process"
        one, two = await store.turn("turn_1"), await store.turn("turn_2")
        assert one is not None
        assert two is not None
        assert one.content == "one"
        page, _ = await store.messages("conv_1", before=None, limit=5)
        assert [message.turn_id for message in page] == ["turn_1"]
        store.update(update(1, "completed", content="one and all"))
    await until(lambda: store.trouble is None, within=HEALS)
    await store.settled()
    page, _ = await store.messages("conv_1", before=None, limit=5)
    assert [message.content for message in page] == ["question 1", "one and all", "question 2"]


@in_a_file
async def test_a_read_only_database_is_said_and_a_probe_finds_it_healed(store: Store) -> None:
    only = "ON"

    def set_only(connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA query_only={only}")
        cursor.close()

    event.listen(store._engine.sync_engine, "checkout", set_only)
    await store.probe()
    assert store.trouble == "the database is read-only"
    only = "OFF"
    await store.probe()
    assert store.trouble is None
    store.begin(begun(1))
    await store.settled()


@in_a_file
async def test_a_probe_alone_finds_the_trouble_and_it_heals_without_another_one(store: Store, path: Path) -> None:
    before = dump(path)
    await store.probe()
    assert store.trouble is None
    with disk_errors():
        await store.probe()
        assert store.trouble is not None
    await until(lambda: store.trouble is None, within=HEALS)
    assert dump(path) == before


@in_a_file
async def test_many_waiters_in_trouble_are_few_attempts(store: Store) -> None:
    attempts: list[None] = []
    event.listen(store._engine.sync_engine, "begin", lambda _: attempts.append(None))
    refused = 0

    async def insist(until: float) -> None:
        nonlocal refused
        while asyncio.get_running_loop().time() < until:
            with pytest.raises(GatewayError):
                await store.settled()
            refused += 1

    with disk_errors():
        store.begin(begun(1))
        until = asyncio.get_running_loop().time() + 0.5
        await asyncio.gather(*(insist(until) for _ in range(50)))
        assert refused >= 50 * 3
        assert len(attempts) <= 0.5 / RETRY_SECONDS[0] + 2
    await store.settled()


@in_a_file
async def test_trouble_is_logged_once_with_its_end_and_without_anybodys_text(store: Store) -> None:
    with structlog.testing.capture_logs() as logs:
        with disk_errors():
            store.begin(begun(1, message="a secret"))
            for _ in range(3):
                with pytest.raises(GatewayError):
                    await store.settled()
        await store.settled()
    assert [line["event"] for line in logs] == ["store.trouble", "store.healed"]
    assert "secret" not in repr(logs)


async def test_a_turn_that_no_database_takes_is_dropped_and_keeps_nobody_else_waiting(store: Store) -> None:
    with structlog.testing.capture_logs() as logs:
        store.begin(begun(1))
        store.begin(begun(2, message="\ud800"))
        store.begin(begun(3, "conv_3"))
        store.update(update(3, "completed", "conv_3", content="Fine"))
        await store.settled()
    assert store.trouble is None
    assert [(line["event"], line["turns"]) for line in logs] == [("store.refused", ["turn_2"])]
    assert await store.turn("turn_2") is None
    assert await store.turn("turn_1") is not None
    third = await store.turn("turn_3")
    assert third is not None
    assert third.content == "Fine"


@pytest.mark.usefixtures("impatient")
@in_a_file
async def test_a_locked_database_does_not_hold_a_close_up(path: Path, open_store: OpenStore) -> None:
    store = await open_store()
    with structlog.testing.capture_logs() as logs, locked(path):
        store.begin(begun(1))
        async with asyncio.timeout(5):
            await store.close()
    assert logs[-1] == {
        "event": "store.unwritten",
        "log_level": "warning",
        "turns": 1,
        "reason": "the database is locked by another process",
    }
