"""Sinks: log lines never wait for their reader and keep their order, and dropped lines are reported."""

import asyncio
import fcntl
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from gateway.telemetry.sink import ROOM, QueuedSink, Sink, sink
from tests.faults.coze import SWIFT, simulated
from tests.faults.reading import Reader, client
from tests.processes import ROOT, clean_environment

Pair = tuple[int, BinaryIO]


def pipe() -> Pair:
    reading, writing = os.pipe()
    return reading, open(writing, "wb")


def terminal() -> Pair:
    reading, writing = pty.openpty()
    attributes = termios.tcgetattr(writing)
    attributes[1] &= ~termios.OPOST  # line ends as they are
    termios.tcsetattr(writing, termios.TCSANOW, attributes)
    return reading, open(writing, "wb")


def sockets() -> Pair:
    one, other = socket.socketpair()
    return one.detach(), open(other.detach(), "wb")


def read(handle: int, until: Callable[[bytes], bool], within: float = 10.0) -> bytes:
    data, deadline = b"", time.monotonic() + within
    while not until(data) and time.monotonic() < deadline:
        if select.select([handle], [], [], 0.1)[0]:
            data += os.read(handle, 65536)
    return data


def accounted(data: bytes) -> int:
    """How many numbered lines are there or reported as dropped. Each must have its place, whenever there was room."""
    count = 0
    for line in data.splitlines():
        if line.startswith(b"dropped "):
            count += int(line.split()[1])
        else:
            assert int(line[:6]) == count
            count += 1
    return count


@pytest.fixture(params=[pipe, terminal, sockets], ids=lambda make: make.__name__)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    reading, writing = request.param()
    yield reading, writing
    os.close(reading)
    writing.close()


def test_what_nobody_reads_is_dropped_and_told_of_when_there_is_room_again(pair: Pair) -> None:
    reading, writing = pair
    out = sink(writing, lambda dropped: out.msg(b"dropped %d" % dropped))
    assert isinstance(out, QueuedSink)
    began = time.monotonic()
    for number in range(20_000):
        out.msg(b"%06d " % number + b"x" * 120)
    assert time.monotonic() - began < 5
    assert out.dropped > 5000
    data = read(reading, lambda data: data.endswith(b"\n") and accounted(data) == 20_000)
    assert accounted(data) == 20_000
    assert data.count(b"dropped ") >= 1
    assert out.flush(5)
    out.msg(b"and on")
    assert read(reading, lambda data: data.endswith(b"\n")) == b"and on\n"


def test_a_report_stands_where_the_lines_are_missing(pair: Pair) -> None:
    reading, writing = pair
    out = sink(writing, lambda dropped: out.msg(b"dropped"))
    line = b"x" * 1000
    while not out.dropped:
        out.msg(line)
    got = read(reading, lambda data: len(data) >= ROOM // 2)
    out.msg(b"after")
    got += read(reading, lambda data: data.endswith(b"after\n"))
    assert got.splitlines()[-2:] in ([b"dropped", b"after"], [line, b"after"])
    assert got.count(b"dropped\n") == 1
    assert got.index(b"dropped") < got.index(b"after")


def test_a_line_larger_than_all_room_is_written_when_nothing_else_waits(pair: Pair) -> None:
    reading, writing = pair
    out = sink(writing, lambda dropped: None)
    out.msg(b"x" * (2 * ROOM))
    assert len(read(reading, lambda data: data.endswith(b"\n"))) == 2 * ROOM + 1


def test_a_file_has_its_lines_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as file:
        out = sink(file, lambda dropped: None)
        assert type(out) is Sink
        out.msg(b"line")
        assert (tmp_path / "log").read_bytes() == b"line\n"


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    reading, writing = pipe()
    out = sink(writing, lambda dropped: None)
    os.close(reading)
    out.msg(b"line")
    assert out.flush(5)
    assert out.dropped == 1
    writing.close()


def test_a_handle_that_another_made_non_blocking_loses_nothing() -> None:
    reading, writing = pipe()
    os.set_blocking(writing.fileno(), False)
    out = sink(writing, lambda dropped: None)
    for _ in range(500):
        out.msg(b"x" * 1000)
    assert len(read(reading, lambda data: len(data) >= 500 * 1001)) == 500 * 1001
    os.close(reading)
    writing.close()


def test_lines_of_many_threads_are_whole() -> None:
    reading, writing = pipe()
    out = sink(writing, lambda dropped: None)

    def write() -> None:
        for _ in range(200):
            out.msg(b"y" * 300)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    lines = read(reading, lambda data: data.count(b"\n") >= 1600).splitlines()
    assert set(lines) == {b"y" * 300}
    assert len(lines) == 1600
    os.close(reading)
    writing.close()


def test_the_last_lines_are_written_at_the_end_and_a_reader_that_stands_still_delays_it_for_a_second_only() -> None:
    code = (
        "from gateway.telemetry import logs\nlogs.configure('json')\n"
        "for n in range({}): logs.get_logger().info('line', n=n, pad='x' * 100)\nraise SystemExit(3)"
    )
    environment = clean_environment()
    done = subprocess.run(
        [sys.executable, "-c", code.format(2000)], check=False, cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 2000
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", code.format(9000)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
    ) as stuck:
        assert stuck.wait(20) == 3
    assert time.monotonic() - began < 15


def test_a_full_disk_costs_lines_and_not_the_exit_status() -> None:
    code = "from gateway.telemetry import logs\nlogs.configure('json')\nlogs.get_logger().info('line')"
    environment = clean_environment() | {"PYTHONUNBUFFERED": ""}  # stderr has a buffer
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=environment, stderr=full)
    assert done.returncode == 0


def test_a_line_that_a_full_disk_has_torn_is_a_line_of_its_own(tmp_path: Path) -> None:
    code = (
        "import resource, signal\nfrom gateway.telemetry import logs\nlogs.configure('json')\nlog = logs.get_logger()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (300, 10000))\n"
        "for n in range(9): log.info('early', n=n)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\nlog.info('late')"
    )
    with (tmp_path / "log").open("wb") as file:
        done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=clean_environment(), stderr=file)
    assert done.returncode == 0
    *whole, torn, last = (tmp_path / "log").read_bytes().splitlines()
    assert [json.loads(line)["n"] for line in whole] == list(range(len(whole)))
    assert torn.startswith(b"{")
    assert not torn.endswith(b"}")
    assert json.loads(last)["event"] == "late"


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_streams_that_came_closed_are_opened_on_nothing(closed: str) -> None:
    code = (
        "import os\nfrom gateway.__main__ import main\nfrom gateway.telemetry import logs\n"
        "assert main(['make-key', 'name']) == 0\nlogs.configure()\nlogs.get_logger().info('line')\n"
        "raise SystemExit(os.open('.', os.O_RDONLY))  # a database's number"
    )
    environment = clean_environment()
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    assert subprocess.run(shell, check=False, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode > 2


async def test_a_gateway_whose_stderr_nobody_reads_serves_on_and_ends(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    environment = clean_environment() | SWIFT | {"GATEWAY_DATA_DIR": str(tmp_path)}
    async with simulated(rate=0, first_ms=1) as coze, client() as session:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--port", "0"),
            env=environment | {"COZE_API_BASE": coze.url},
            stderr=writing,
        )
        os.close(writing)
        try:
            began = await asyncio.to_thread(read, reading, lambda data: b"gateway.ready" in data, 30)
            ready = next(json.loads(line) for line in began.splitlines() if b"gateway.ready" in line)
            url = ready["url"].rstrip("/")
            for number in range(40):  # two lines of 200 bytes each at least
                reader = Reader()
                async with asyncio.timeout(30):
                    await reader.ask(session, url, f"/fault plain pieces:2 -- {number}")
                assert reader.last["event"] == "completed"
            async with session.get(f"{url}/metrics") as response:
                assert "\ngateway_log_lines_dropped_total 0.0\n" in await response.text()
            rest = await asyncio.to_thread(read, reading, lambda data: data.count(b"SSE stream ended") >= 40)
            assert rest.count(b"SSE stream ended") == 40
            process.terminate()
            async with asyncio.timeout(30):
                assert await process.wait() == 0
            assert b"gateway.stopped" in os.read(reading, 65536)
        finally:
            os.close(reading)
            if process.returncode is None:
                process.kill()
                await process.wait()
