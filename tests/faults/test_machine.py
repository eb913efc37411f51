"""What the machine does to a gateway: no descriptors left, a wall clock that jumps."""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.simulator import whole_text
from tests.faults.coze import SWIFT, gateway, patience, simulated
from tests.faults.network import connected
from tests.faults.reading import GONE, Reader, client
from tests.processes import ROOT, GatewayProcess, clean_environment
from tests.waiting import until


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_without_descriptors_new_connections_wait_or_are_refused_and_what_runs_goes_on(tmp_path: Path) -> None:
    message = "/fault plain pieces:240 rate:40 -- steady"
    async with simulated() as coze, gateway(tmp_path, coze.url) as process, client() as session:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (64, 64))
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, message))
        await reader.until(lambda r: r.text)
        crowd = [await asyncio.to_thread(connected, process.url) for _ in range(100)]
        await until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) >= 63)
        shut_out = Reader()
        with pytest.raises(GONE):
            async with asyncio.timeout(1):
                await shut_out.ask(session, process.url, "nobody hears this")
        had, began = len(reader.events), time.monotonic()
        used = _processor_seconds(process.pid)
        await asyncio.sleep(2)  # the processor time of so long is measured
        assert (_processor_seconds(process.pid) - used) / (time.monotonic() - began) <= 0.5
        assert len(reader.events) > had + 20
        for sock in crowd:
            sock.close()
        async with asyncio.timeout(patience(2)):
            while True:
                try:
                    async with session.get(f"{process.url}/readyz") as response:
                        assert response.status == 200
                        break
                except GONE:
                    await asyncio.sleep(0.05)  # as a client that comes back does
        again = Reader()
        await again.ask(session, process.url, after := "/fault plain rate:0 pieces:9 -- after")
        assert again.text == whole_text(after)
        await asking
        assert reader.text == whole_text(message)
        assert "Traceback" not in "\n".join(process.text)
        assert len(process.text) < 100


@asynccontextmanager
async def _clocked(folder: Path, coze: str, **environment: str) -> AsyncIterator[GatewayProcess]:
    settings = SWIFT | {"GATEWAY_DATA_DIR": str(folder / "data"), "COZE_API_BASE": coze} | environment
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "faults" / "clocked.py"),
        "serve",
        "--port",
        "0",
        env=clean_environment() | settings,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    process = GatewayProcess(running, "gateway.ready")
    try:
        await process.ready()
        yield process
    finally:
        await process.kill()


HOURS = ("3600", "-3600")


async def test_a_clock_that_jumps_an_hour_changes_nothing(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for jump in HOURS:
            group.create_task(_jump(tmp_path / jump, jump))


async def _jump(tmp_path: Path, jump: str) -> None:
    message = "/fault plain pieces:60 rate:30 drop-after:40 -- what time is it?"
    async with (
        simulated() as coze,
        _clocked(tmp_path, coze.url, CLOCK_JUMP=jump, GATEWAY_RETENTION_SECONDS="60") as process,
        client() as session,
    ):
        done, reader = Reader(), Reader()
        await done.ask(session, process.url, "/fault plain rate:0 pieces:9 -- before")
        asking = asyncio.create_task(reader.ask(session, process.url, message))
        await reader.until(lambda r: r.text)
        process.send_signal(signal.SIGUSR1)
        await process.logged("clock.jumped")
        await asking
        assert reader.text == whole_text(message)
        assert reader.last["recovered"] is True
        assert all(event.get("delayMs", 0) >= 0 for event in reader.events)
        await asyncio.sleep(2.5)  # a round of what saves and trims
        for one in (done, reader):
            again = Reader(one.book)
            again.turn_id = one.turn_id
            await again.listen(session, process.url)
            assert again.last == one.last
            assert again.resets == 0


async def test_a_clock_that_jumped_over_a_restart_loses_no_running_turn(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for offset in HOURS:
            group.create_task(_jump_over_a_restart(tmp_path / offset, offset))


async def _jump_over_a_restart(tmp_path: Path, offset: str) -> None:
    message = "/fault plain pieces:60 rate:30 -- what time is it?"
    async with simulated() as coze, client() as session:
        reader = Reader()
        async with _clocked(tmp_path, coze.url) as process:
            first = Reader()
            await first.ask(session, process.url, "/fault plain rate:0 pieces:9 -- before")
            asking = asyncio.create_task(reader.ask(session, process.url, message))
            await reader.until(lambda r: r.text)
        await asyncio.gather(asking, return_exceptions=True)
        async with _clocked(tmp_path, coze.url, CLOCK_OFFSET=offset) as process:
            async with asyncio.timeout(patience(8)):
                await reader.finish(session, lambda: process.url)
            assert reader.text == whole_text(message)
            assert reader.resets == 0
            last = Reader()
            await last.ask(session, process.url, "/fault plain rate:0 pieces:9 -- after")
            body = f"{process.url}/api/coze/conversations/{reader.conversation_id}/messages"
            async with session.get(body) as response:
                kept = (await response.json())["messages"]
            assert [m["role"] for m in kept] == ["user", "assistant"]
        assert coze.posts_of(message) == 1
