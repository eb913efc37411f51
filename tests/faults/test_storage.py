"""A disk that is full, read-only, locked or damaged: said clearly, survived, healed, and nothing promised is lost."""

import asyncio
import contextlib
import random
import resource
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator import whole_text
from tests.faults.coze import SWIFT, gateway, patience, simulated
from tests.faults.disks import fill, is_sound, locked, may_write, read_only, small_disk
from tests.faults.mortal import mortal
from tests.faults.reading import TRANSPORTS, Reader, Refused, client
from tests.processes import GatewayProcess
from tests.waiting import until

LONG = "/fault plain pieces:400 rate:40 -- a long one"
DATABASES = ("log.db", "gateway.db")


async def _ready(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with session.get(f"{url}/readyz") as response:
        return response.status, await response.json()


async def _until_ready(session: aiohttp.ClientSession, url: str, wanted: int, within: float) -> float:
    began = time.monotonic()

    async def ready() -> bool:
        return (await _ready(session, url))[0] == wanted

    await until(ready, within=within)
    return time.monotonic() - began


async def _never_slow(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        began = time.monotonic()
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200
        assert time.monotonic() - began < patience(1.0)
        await asyncio.sleep(0.05)  # how often health is asked for


def _sound(folder: Path) -> bool:
    return all(is_sound(folder / name) for name in DATABASES)


@pytest.mark.parametrize("trouble", ["full", "failing"])
async def test_a_disk_that_cannot_be_written_is_said_survived_and_healed(tmp_path: Path, trouble: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with (
            simulated() as coze,
            mortal(disk, coze.url) as process,
            client() as session,
        ):
            url = process.url
            health = asyncio.create_task(_never_slow(session, url))
            before = Reader()
            await before.ask(session, url, "/fault plain rate:0 pieces:20 -- before", shopId="s")
            reader = Reader()
            asking = asyncio.create_task(reader.ask(session, url, LONG, shopId="s"))
            await reader.until(lambda r: r.text)
            listeners = []
            for transport in TRANSPORTS:
                listener = Reader(reader.book)
                listener.turn_id = reader.turn_id
                listeners.append((listener, asyncio.create_task(listener.listen(session, url, transport))))
                await listener.until(lambda r: r.text)

            filler = fill(disk) if trouble == "full" else None
            if filler is None:
                may_write(process.process.pid, 4096)
            async with asyncio.timeout(patience(10)):
                await asking
                await asyncio.gather(*(task for _, task in listeners))
            for one in (reader, *(listener for listener, _ in listeners)):
                assert one.last["code"] == "storage_unavailable"
                assert one.last["retryable"] is True
                assert one.text
                assert whole_text(LONG).startswith(one.text)
            status, answer = await _ready(session, url)
            assert status == 503
            assert answer["reasons"]
            for _ in range(2):
                with pytest.raises(Refused) as refused:
                    await Reader().ask(session, url, "now?")
                assert (refused.value.status, refused.value.code) == (503, "storage_unavailable")
            assert coze.requests["chat"] == 2
            await before.listen(session, url) if not before.over else None

            if filler is not None:
                filler.unlink()
            else:
                may_write(process.process.pid, resource.RLIM_INFINITY)
            assert await _until_ready(session, url, 200, within=patience(8)) < patience(6)
            after = Reader()
            await after.ask(session, url, message := "/fault plain rate:0 pieces:20 -- after")
            assert after.text == whole_text(message)
            again = Reader(reader.book)
            again.turn_id = reader.turn_id
            await again.listen(session, url)
            assert again.last == reader.last
            told = await until(partial(_notified, session, url, 4), within=patience(5))
            assert told == [
                (before.turn_id, "turn.started"),
                (before.turn_id, "turn.completed"),
                (reader.turn_id, "turn.started"),
                (reader.turn_id, "turn.failed"),
            ]
            assert not health.done()
            health.cancel()
            await asyncio.gather(health, return_exceptions=True)

            await process.again()
            for reader_before in (before, reader, after):
                again = Reader(reader_before.book)
                again.turn_id = reader_before.turn_id
                await again.listen(session, process.url)
                assert again.last == reader_before.last
                path = f"{process.url}/api/coze/turns/{again.turn_id}"
                async with session.get(path) as response:
                    stands = await response.json()
                assert stands["content"] == reader_before.text
                assert stands["status"] == {"completed": "completed", "error": "failed"}[again.last["event"]]
            assert await process.process.terminate() == 0
            assert "Traceback" not in process.logged()
            assert _sound(disk / "data")


async def _notified(session: aiohttp.ClientSession, url: str, many: int) -> list[tuple[str, str]]:
    """What the shop was told, once it is so much."""
    told: list[tuple[str, str]] = []
    after, events = "0", [True]
    while events:
        async with session.get(f"{url}/api/coze/shops/s/poll", params={"after": after, "wait": "0"}) as response:
            answer = await response.json()
        after, events = answer["next"], answer["events"]
        told += [(event["turnId"], event["type"]) for event in events]
    return told if len(told) >= many else []


async def test_a_turn_that_leaves_the_queue_onto_a_full_disk_tells_its_readers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with simulated() as coze, mortal(disk, coze.url) as process, client() as session:
            first, second, third = Reader(), Reader(), Reader()
            telling = [asyncio.create_task(first.ask(session, process.url, LONG))]
            await first.until(lambda r: r.text)
            order = {"conversationId": first.conversation_id, "onBusy": "queue"}
            for reader, key in ((second, "second"), (third, "third")):
                asking = reader.ask(session, process.url, "/fault plain -- next", key=key, **order)
                telling.append(asyncio.create_task(asking))
                await reader.until(lambda r: r.named("notice", "queued"))
            filler = fill(disk)
            async with asyncio.timeout(patience(10)):
                await asyncio.gather(*telling)
            readers = (first, second, third)
            assert [reader.last["code"] for reader in readers] == ["storage_unavailable"] * 3
            for trouble in ("full", "healed", "restarted"):
                if trouble == "healed":
                    filler.unlink()
                    await _until_ready(session, process.url, 200, within=patience(8))
                elif trouble == "restarted":
                    await process.again()
                for reader in (second, third):
                    again = Reader(reader.book)
                    again.turn_id = reader.turn_id
                    await again.listen(session, process.url)
                    assert (again.last, again.resets) == (reader.last, 0)
                    async with session.get(f"{process.url}/api/coze/turns/{reader.turn_id}") as response:
                        stands = await response.json()
                    error = stands["error"] or {}
                    assert trouble == "full" or (stands["status"], error.get("code")) == (
                        "failed",
                        "storage_unavailable",
                    )
                    assert trouble == "full" or stands["position"] == reader.last["id"]
            repeated = Reader(second.book)
            await repeated.ask(session, process.url, "/fault plain -- next", key="second", **order)
            assert (repeated.turn_id, repeated.last) == (second.turn_id, second.last)
            assert coze.requests["chat"] == 1


@pytest.mark.parametrize("trouble", ["full", "locked"])
async def test_killed_and_started_where_nothing_can_be_written_the_answer_waits_and_arrives(
    tmp_path: Path, trouble: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with simulated() as coze, mortal(disk, coze.url) as process, client() as session:
            reader = Reader()
            asking = asyncio.create_task(reader.ask(session, process.url, message := "/fault plain pieces:60 rate:40"))
            await reader.until(lambda r: r.text)
            await process.kill()
            await asyncio.gather(asking, return_exceptions=True)
            with contextlib.ExitStack() as heal:
                if trouble == "full":
                    heal.callback(fill(disk).unlink)
                else:
                    heal.enter_context(locked(disk / "data" / "log.db"))
                await process.start()
                assert (await _ready(session, process.url))[0] == 503
                listening = asyncio.create_task(reader.finish(session, lambda: process.url))
                with pytest.raises(Refused) as refused:
                    await Reader().ask(session, process.url, "now?")
                assert refused.value.code == "storage_unavailable"
                assert not listening.done()
            async with asyncio.timeout(patience(10)):
                await listening
            assert reader.last["event"] == "completed"
            assert reader.text == whole_text(message)
            assert reader.resets == 0
            assert coze.posts_of(message) == 1


async def test_a_lock_that_another_process_holds_is_waited_for_then_said_then_healed(tmp_path: Path) -> None:
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        url = process.url
        health = asyncio.create_task(_never_slow(session, url))
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, url, LONG))
        await reader.until(lambda r: r.text)
        with locked(*(tmp_path / "data" / name for name in DATABASES)):
            await asyncio.sleep(1.5)  # shorter than a lock is waited for
            assert not reader.over  # a short lock is nobody's business
            async with asyncio.timeout(8):
                await asking
            assert reader.last["code"] == "storage_unavailable"
            assert (await _ready(session, url))[0] == 503
            with pytest.raises(Refused) as refused:
                await Reader().ask(session, url, "now?")
            assert refused.value.code == "storage_unavailable"
        assert await _until_ready(session, url, 200, within=patience(8)) < patience(6)
        assert not health.done()
        health.cancel()
        await asyncio.gather(health, return_exceptions=True)
        after = Reader()
        await after.ask(session, url, message := "/fault plain rate:0 pieces:20 -- after")
        assert after.text == whole_text(message)
        assert await process.process.terminate() == 0
        assert "Traceback" not in process.logged()
        assert _sound(tmp_path / "data")


async def test_a_lock_shorter_than_the_wait_costs_nobody_anything(tmp_path: Path) -> None:
    message = "/fault plain pieces:60 rate:30 -- steady"
    idle = {"GATEWAY_UPSTREAM_IDLE_TIMEOUT": "5"}  # the lock is what is tried here, not a busy machine
    async with simulated() as coze, gateway(tmp_path, coze.url, **idle) as process, client() as session:
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, message))
        await reader.until(lambda r: r.text)
        with locked(*(tmp_path / "data" / name for name in DATABASES)):
            await asyncio.sleep(2)  # shorter than a lock is waited for
        await asking
        assert reader.text == whole_text(message)
        assert reader.last["event"] == "completed"
        assert reader.last["recovered"] is False


def _damage(file: Path, how: str) -> None:
    chance = random.Random(1)
    size = file.stat().st_size
    with file.open("r+b") as opened:
        match how:
            case "no database":
                opened.truncate(0)
                opened.write(b"what was here is gone\n" * 200)
            case "header":
                opened.write(chance.randbytes(64))
            case "middle":
                for at in range(4096, size, 4096):
                    opened.seek(at)
                    opened.write(chance.randbytes(2048))
            case "cut":
                opened.truncate(size // 2)
            case "emptied":
                opened.truncate(0)


@pytest.mark.parametrize("name", DATABASES)
async def test_a_damaged_file_is_set_aside_or_stops_the_start_with_a_sentence(tmp_path: Path, name: str) -> None:
    async with asyncio.TaskGroup() as group:
        for how in ("no database", "header", "middle", "cut", "emptied"):
            group.create_task(_start_on_damage(tmp_path / how, name, how))


async def _start_on_damage(tmp_path: Path, name: str, how: str) -> None:
    data = tmp_path / "data"
    async with simulated(first_ms=0, rate=0) as coze, client() as session:
        async with gateway(tmp_path, coze.url) as process:
            for number in range(4):
                reader = Reader()
                await reader.ask(session, process.url, f"/fault plain pieces:400 -- {number}")
            await process.terminate()
        _damage(data / name, how)
        settings = SWIFT | {"GATEWAY_DATA_DIR": str(data), "COZE_API_BASE": coze.url}
        again = await GatewayProcess.hatch("serve", "--port", "0", environment=settings)
        try:
            line = await again.logged("gateway.ready", "gateway.failed", within=20)
            if line["event"] == "gateway.failed":
                assert name == "gateway.db"
                assert "damaged" in line["why"]
                assert await again.ended() == 1
                return
            if how == "emptied":
                assert any(line["event"] == "storage.emptied" for line in again.lines)
                return
            assert name == "log.db"
            assert any(line["event"] == "log.set_aside" for line in again.lines)
            assert list(data.glob("log.db.damaged-*"))
            new = Reader()
            await again.ready()
            await new.ask(session, again.url, message := "/fault plain pieces:20 -- anew")
            assert new.text == whole_text(message)
            old = Reader()
            old.turn_id, old.position = reader.turn_id, reader.events[-2]["id"]
            async with asyncio.timeout(patience(5)):
                await old.listen(session, again.url)
            assert [event["event"] for event in old.events] == ["reset", "completed"]
            assert old.text == reader.text
        finally:
            await again.kill()


async def test_a_file_damaged_while_running_gives_no_wrong_answers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        done = Reader()
        await done.ask(session, process.url, "/fault plain rate:0 pieces:400 -- done")
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, "/fault plain pieces:80 rate:40 -- under way"))
        await reader.until(lambda r: r.text)
        await asyncio.sleep(2.5)  # what ended is saved now
        for name in DATABASES:
            _damage(data / name, "middle")
            wal = data / f"{name}-wal"
            if wal.exists():
                _damage(wal, "middle")
        async with asyncio.timeout(patience(15)):
            await asking
        assert reader.last["event"] in ("completed", "error")
        if reader.last["event"] == "error":
            assert reader.last["code"] == "storage_unavailable"
        for _ in range(3):
            again = Reader(done.book)
            again.turn_id = done.turn_id
            with contextlib.suppress(Refused):
                await again.listen(session, process.url)
        async with session.get(f"{process.url}/healthz") as response:
            assert response.status == 200
        assert "Traceback" not in process.logged()


async def test_a_folder_that_another_gateway_holds_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with simulated() as coze, gateway(tmp_path, coze.url) as process, client() as session:
        settings = SWIFT | {"GATEWAY_DATA_DIR": str(tmp_path / "data"), "COZE_API_BASE": coze.url}
        second = await GatewayProcess.hatch("serve", "--port", "0", environment=settings)
        try:
            line = await second.logged("gateway.failed")
            assert "another gateway is using the data folder" in line["why"]
            assert await second.ended(within=5) == 1
            assert "Traceback" not in "\n".join(second.text)
        finally:
            await second.kill()
        assert (await _ready(session, process.url))[0] == 200


async def test_a_folder_that_may_not_be_written_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with read_only(tmp_path / "data") as data:
        settings = SWIFT | {"GATEWAY_DATA_DIR": str(data), "COZE_API_BASE": "http://127.0.0.1:9"}
        process = await GatewayProcess.hatch("serve", "--port", "0", environment=settings)
        try:
            assert await process.ended(within=10) in (1, 2)
            said = "\n".join(process.text)
            assert "Traceback" not in said
            assert str(data) in said
        finally:
            await process.kill()


async def test_a_folder_that_is_gone_is_said_and_stops_no_stop(tmp_path: Path) -> None:
    async with simulated() as coze, gateway(tmp_path, coze.url) as process, client() as session:
        await Reader().ask(session, process.url, "/fault plain rate:0 pieces:4 -- hello")
        assert (await _ready(session, process.url))[0] == 200
        shutil.rmtree(tmp_path / "data")
        status, answer = await _ready(session, process.url)
        assert status == 503
        assert [reason for reason in answer["reasons"] if reason.startswith("log.db is gone")]
        assert await process.terminate(within=10) == 0
        assert "Traceback" not in "\n".join(process.text)


async def test_a_write_ahead_log_that_is_removed_while_it_is_used_is_said_and_no_position_is_given_twice(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    async with simulated() as coze, mortal(tmp_path, coze.url) as process, client() as session:
        before = Reader()
        await before.ask(session, process.url, "/fault plain rate:0 pieces:4 -- before")
        assert (await _ready(session, process.url))[0] == 200
        for name in DATABASES:
            (data / f"{name}-wal").unlink()
        status, answer = await _ready(session, process.url)
        assert status == 503
        assert [reason.split()[0] for reason in answer["reasons"]] == ["log.db-wal", "gateway.db-wal"]
        message = "/fault plain rate:0 pieces:9 -- lost with it"
        same = {"conversationId": before.conversation_id}
        with contextlib.suppress(Refused):
            after = Reader()
            await after.ask(session, process.url, message, **same)
        await process.again()
        assert (await _ready(session, process.url))[0] == 200
        new = Reader()
        try:
            await new.ask(session, process.url, message, **same)
        except Refused:  # the conversation was not in the file yet
            await new.ask(session, process.url, message)
        given = {event["id"] for reader in (before, after) for event in reader.events}
        assert not given & {event["id"] for event in new.events}
        assert "Traceback" not in process.logged()
