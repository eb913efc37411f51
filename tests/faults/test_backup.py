"""A backup that is made while the gateway runs, and restored: readers go on exactly, or are told that they can't."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.log.log import EventLog
from gateway.simulator import whole_text
from gateway.store.store import Store
from gateway.turns import reconciling, takeover
from tests.faults.coze import simulated
from tests.faults.disks import locked
from tests.faults.mortal import mortal
from tests.faults.reading import TRANSPORTS, Book, Reader, Refused, client
from tests.transports.conftest import serving
from tests.waiting import until

DATABASES = ("log.db", "gateway.db")
LONG = "/fault plain pieces:200 rate:100 -- a long one"


def back_up(data: Path, to: Path) -> None:
    """As docs/operations.md says, the log first."""
    to.mkdir()
    for name in DATABASES:
        with closing(sqlite3.connect(data / name)) as source, closing(sqlite3.connect(to / name)) as target:
            source.backup(target)


def restore(data: Path, backup: Path, *names: str) -> None:
    for name in names or DATABASES:
        for part in data.glob(f"{name}*"):
            part.unlink()
        shutil.copy(backup / name, data / name)


async def stored(data: Path, *readers: Reader) -> None:
    """Waits until the database has the ends of these readers' turns."""

    def ended() -> bool:
        with closing(sqlite3.connect(f"file:{data / 'gateway.db'}?mode=ro", uri=True)) as db:
            found = dict(db.execute("SELECT id, status FROM turns").fetchall())
        return all(found.get(reader.turn_id) in ("completed", "failed", "cancelled") for reader in readers)

    await until(ended)


def at(reader: Reader) -> Reader:
    """A reader who has what this one has now."""
    other = Reader(reader.book)
    other.turn_id, other.conversation_id = reader.turn_id, reader.conversation_id
    other.position, other.text = reader.position, reader.text
    return other


async def test_a_turn_that_ended_while_the_database_was_locked_is_there_after_a_kill(tmp_path: Path) -> None:
    """The log keeps what the store has not confirmed, however long that takes, and the next start tells it."""
    data = tmp_path / "data"
    message = "/fault plain rate:0 pieces:20 -- done"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        reader = Reader()
        with locked(data / "gateway.db"):
            await reader.ask(session, process.url, message)
            await asyncio.sleep(3.5)  # the log saves finished turns meanwhile, shorter than the database is waited for
            await process.kill()
        await process.start()
        async with session.get(f"{process.url}/api/coze/turns/{reader.turn_id}") as response:
            assert response.status == 200
            turn = await response.json()
        assert (turn["status"], turn["content"]) == ("completed", whole_text(message))
        path = f"{process.url}/api/coze/conversations/{reader.conversation_id}/messages"
        async with session.get(path) as response:
            assert [one["role"] for one in (await response.json())["messages"]] == ["user", "assistant"]


async def test_positions_before_a_backup_continue_exactly_and_later_ones_are_a_reset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        done = Reader()
        await done.ask(session, process.url, "/fault plain rate:0 pieces:20 -- done")
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, LONG))
        await reader.until(lambda r: len(r.events) > 20)
        early = [at(reader) for _ in TRANSPORTS]
        await asyncio.to_thread(back_up, data, tmp_path / "backup")
        seen = len(reader.events)
        await reader.until(lambda r: len(r.events) > seen + 30)
        late = [at(reader) for _ in TRANSPORTS]
        await process.kill()
        await asyncio.gather(asking, return_exceptions=True)
        restore(data, tmp_path / "backup")
        await process.start()
        for one, transport in [*zip(early, TRANSPORTS, strict=True), *zip(late, TRANSPORTS, strict=True)]:
            await one.listen(session, process.url, transport)
            assert one.text == one.last["content"] == whole_text(LONG)
        assert [one.resets for one in early] == [0, 0, 0]
        assert [one.resets for one in late] == [1, 1, 1]
        assert coze.posts_of(LONG) == 1
        again = Reader(done.book)
        again.turn_id, again.position, again.text = done.turn_id, done.events[-2]["id"], done.text
        await again.listen(session, process.url)
        assert (again.last, again.resets) == (done.last, 0)


async def _found(session: aiohttp.ClientSession, path: str) -> bool:
    async with session.get(path) as response:
        return response.status == 200


async def test_a_database_older_than_the_log_is_told_what_it_lacks_and_nothing_that_was_deleted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        deleted = Reader()
        await deleted.ask(session, process.url, "/fault plain rate:0 pieces:5 -- deleted")
        first = Reader()
        await first.ask(session, process.url, "/fault plain rate:0 pieces:5 -- first")
        await stored(data, deleted, first)
        with closing(sqlite3.connect(data / "gateway.db")) as db:
            db.execute("DELETE FROM turns WHERE id = ?", (deleted.turn_id,))
            db.commit()
        await asyncio.to_thread(back_up, data, tmp_path / "backup")
        later = []
        for number in range(3):
            later.append(Reader())
            same = {"conversationId": later[0].conversation_id} if number else {}
            await later[-1].ask(session, process.url, f"/fault plain rate:0 pieces:5 -- {number}", **same)
        await asyncio.sleep(2.5)  # until the log has let go of them
        await process.kill()
        restore(data, tmp_path / "backup", "gateway.db")
        await process.start()
        for reader in later:
            path = f"{process.url}/api/coze/turns/{reader.turn_id}"
            await until(partial(_found, session, path))
            again = Reader(reader.book)
            again.turn_id = reader.turn_id
            await again.listen(session, process.url)
            assert again.last == reader.last
        path = f"{process.url}/api/coze/conversations/{later[0].conversation_id}/messages"
        async with session.get(path) as response:
            found = (await response.json())["messages"]
        assert [one["turnId"] for one in found if one["role"] == "user"] == [one.turn_id for one in later]
        async with session.get(f"{process.url}/api/coze/turns/{deleted.turn_id}") as response:
            assert response.status == 404


async def test_a_running_turn_does_not_keep_ended_ones_from_a_database_older_than_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a start takes: here the database has what it was told before it is compared with the log."""
    reconcile = reconciling.reconcile

    async def late(log: EventLog, store: Store, **others: Any) -> None:
        await store.settled()
        await reconcile(log, store, **others)

    monkeypatch.setattr(takeover, "reconcile", late)
    data, slow = tmp_path / "data", "/fault plain pieces:400 rate:100 -- goes on"
    async with serving(tmp_path, drain_seconds=0) as served:
        await Reader().ask(served.session, served.url, "/fault plain rate:0 pieces:5 -- before")
        await served.services.store.settled()
        await asyncio.to_thread(back_up, data, tmp_path / "backup")
        ended, running = Reader(), Reader()
        await ended.ask(served.session, served.url, "/fault plain rate:0 pieces:5 -- ended")
        await served.services.log.keeper.fold()
        asking = asyncio.create_task(running.ask(served.session, served.url, slow))
        await running.until(lambda r: len(r.events) > 20)
    await asyncio.gather(asking, return_exceptions=True)
    restore(data, tmp_path / "backup", "gateway.db")
    async with serving(tmp_path) as served:
        await until(partial(_found, served.session, f"{served.url}/api/coze/turns/{ended.turn_id}"))
        await running.listen(served.session, served.url)
        assert (running.resets, running.text) == (0, whole_text(slow))


async def test_a_log_older_than_the_database_loses_no_answer_that_the_database_has(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, LONG))
        await reader.until(lambda r: len(r.events) > 20)
        early = at(reader)
        early.book = Book()  # the turn will end a second time, in the log that was brought back
        await asyncio.to_thread(back_up, data, tmp_path / "backup")
        await asking
        after, same = Reader(), {"conversationId": reader.conversation_id}
        await after.ask(session, process.url, "/fault plain rate:0 pieces:5 -- after", **same)
        await stored(data, reader, after)
        await process.kill()
        restore(data, tmp_path / "backup", "log.db")
        await process.start()
        await early.listen(session, process.url)
        assert (early.resets, early.text) == (0, whole_text(LONG))
        has_all, has_nothing = at(after), Reader(after.book)
        has_nothing.turn_id = after.turn_id
        await has_all.listen(session, process.url)
        assert has_all.events == []
        await has_nothing.listen(session, process.url)
        assert (has_nothing.last["content"], has_nothing.resets) == (after.text, 1)
        assert coze.posts_of(LONG) == 1
        new = Reader()
        await new.ask(session, process.url, "/fault plain rate:0 pieces:5", **same)
        assert not {event["id"] for event in new.events} & {event["id"] for event in [*reader.events, *after.events]}


async def test_a_last_event_that_is_told_from_the_database_is_the_same_to_the_letter(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        readers = [Reader() for _ in range(4)]
        plans = ("pieces:12", "pieces:12 drop-after:4", "pieces:3 status:400", "question")
        for reader, plan in zip(readers, plans, strict=True):
            await reader.ask(session, process.url, f"/fault plain rate:0 {plan} -- {plan}")
        assert [reader.last.get("recovered") for reader in readers] == [False, True, None, False]
        assert [reader.last.get("awaitingReply") for reader in readers] == [None, None, None, True]
        await stored(data, *readers)
        await process.kill()
        for part in data.glob("log.db*"):
            part.unlink()
        await process.start()
        for reader in readers:
            for transport in TRANSPORTS:
                again = Reader(reader.book)
                again.turn_id = reader.turn_id
                await again.listen(session, process.url, transport)
                assert again.last == reader.last


async def test_a_turn_whose_note_is_damaged_ends_as_failed_and_keeps_no_other_from_going_on(tmp_path: Path) -> None:
    damaged, sound = Reader(), Reader()
    message = "/fault plain pieces:80 rate:40 -- goes on"
    async with serving(tmp_path, drain_seconds=0) as served:
        asking = [
            asyncio.create_task(one.ask(served.session, served.url, message, key=key))
            for one, key in ((damaged, "key"), (sound, ""))
        ]
        for one in (damaged, sound):
            await one.until(lambda r: r.text)
        writer = served.services.turns._runner.turns[damaged.turn_id].pen.writer
        assert writer is not None
        writer.note(b"\xc1 is no note")
    await asyncio.gather(*asking, return_exceptions=True)
    async with serving(tmp_path, drain_seconds=0) as served:
        for one in (damaged, sound):
            await one.listen(served.session, served.url)
        assert sound.last["content"] == whole_text(message)
        assert damaged.last["code"] == "internal"
        await until(lambda: served.ended(damaged.turn_id))
    async with serving(tmp_path) as served:
        assert (await served.state(damaged.turn_id))["status"] == "failed"
        assert (await served.state(damaged.turn_id))["content"] == damaged.text
        again = Reader()
        await again.ask(served.session, served.url, message, key="key")
        assert again.turn_id == damaged.turn_id
        with pytest.raises(Refused, match="422"):
            await again.ask(served.session, served.url, "another question", key="key")
