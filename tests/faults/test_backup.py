"""A backup that is made while the gateway runs, and restored: readers go on exactly, or are told that they can't."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.simulator import whole_text
from tests.faults.coze import simulated
from tests.faults.disks import locked
from tests.faults.mortal import mortal
from tests.faults.reading import TRANSPORTS, Reader, client

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
