"""A hatchery: a process that has imported the gateway, and forks whenever a test wants one or a command of it.

The imports of a gateway take a second of processor time. What is forked has run nothing of the gateway yet, and is a
process of its own in every respect: its environment, folder, descriptors, signals and exit status are its own.
"""

import asyncio
import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from runpy import run_module
from tempfile import TemporaryFile
from typing import BinaryIO

_MOST = 1024 * 1024
"""Bytes of a request: the arguments and the environment."""


class Hatched:
    """A forked process, as far as `asyncio.subprocess.Process` is used of one. `stderr` is its output."""

    def __init__(self, pid: int, stderr: asyncio.StreamReader, report: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._report = report
        self._end = asyncio.create_task(self._ended())

    async def _ended(self) -> int:
        status = await self._report.read()  # to the end of the pipe, which is closed by that
        self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and the hatchery has not said so yet
                os.kill(self.pid, number)


class Hatchery:
    """The hatchery of this process. It ends with it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    async def hatch(self, command: Sequence[str], environment: Mapping[str, str], *, limit: int) -> Hatched:
        """`python -m …` for this module with its arguments, in the folder in which this process is. If it is cancelled,
        there is no such process."""
        hatching = asyncio.create_task(self._hatch(command, environment, limit))
        try:
            return await asyncio.shield(hatching)
        except asyncio.CancelledError:
            process = await hatching
            process.send_signal(signal.SIGKILL)
            await process.wait()
            raise

    async def _hatch(self, command: Sequence[str], environment: Mapping[str, str], limit: int) -> Hatched:
        stderr, its_stderr = os.pipe()
        report, its_report = os.pipe()
        self._ask(command, environment, os.getcwd(), os.open(os.devnull, os.O_WRONLY), its_stderr, its_report)
        said = await _reader(os.fdopen(stderr, "rb", 0), limit)
        reported = await _reader(os.fdopen(report, "rb", 0), 1024)
        return Hatched(int(await reported.readline()), said, reported)

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, *, within: float
    ) -> subprocess.CompletedProcess[str]:
        """The same, as `subprocess.run` does it with everything captured."""
        report, its_report = os.pipe()
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err, os.fdopen(report, "rb") as told:
            self._ask(command, environment, str(folder), os.dup(out.fileno()), os.dup(err.fileno()), its_report)
            pid = int(told.readline())
            if not select.select([told], [], [], within)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(command), within)
            status = os.waitstatus_to_exitcode(int(told.read()))
            said = [file.read() for file in (out, err) if file.seek(0) == 0]
            return subprocess.CompletedProcess(list(command), status, *said)

    def _ask(self, command: Sequence[str], environment: Mapping[str, str], folder: str, *descriptors: int) -> None:
        """The descriptors, which are closed here, are its stdout, its stderr, and a pipe for the report."""
        try:
            request = json.dumps([list(command), dict(environment), folder]).encode()
            socket.send_fds(self._control, [request], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        self._control.close()
        self._process.wait()


async def _reader(pipe: BinaryIO, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


# -- in the hatchery --------------------------------------------------------------------------------------------------


def _import_gateway() -> None:
    for module in (
        "gateway.config.loading",
        "adapters.serving",
        "adapters.edge.jwts",
        "gateway.simulator",
        "uvloop",
    ):
        import_module(module)
    with suppress(ImportError):  # what only nodes need may be missing
        for module in ("gateway.nodes.cluster", "gateway.nodes.bus", "sqlalchemy.dialects.postgresql.psycopg"):
            import_module(module)


def _serve(control: socket.socket) -> list[str]:
    """Forks until nobody asks any more. In a new process it returns the command, and in the hatchery nothing."""
    wake, waker = socket.socketpair()
    for end in (wake, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test run's business
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            wake.recv(4096)
            _bury(reports)
        if control not in ready:
            continue
        request, descriptors, _, _ = socket.recv_fds(control, _MOST, 3)
        if not request:  # the test run has ended, or was killed: nothing outlives it
            for pid in reports:
                os.kill(pid, signal.SIGKILL)
            return []
        *output, report = descriptors
        command, environment, folder = json.loads(request)
        if not (pid := os.fork()):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for end in (control, wake, waker):
                end.close()
            for descriptor in (report, *reports.values()):
                os.close(descriptor)
            _move_in(output, environment, folder)
            return [str(part) for part in command]
        for descriptor in output:
            os.close(descriptor)
        reports[pid] = report
        os.write(report, b"%d\n" % pid)


def _bury(reports: dict[int, int]) -> None:
    """Reports the status of each process that has ended."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            report = reports.pop(pid)
            with suppress(BrokenPipeError):  # nobody waits for it
                os.write(report, b"%d\n" % status)
            os.close(report)


def _move_in(output: Sequence[int], environment: Mapping[str, str], folder: str) -> None:
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), *output)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    gc.enable()


def main() -> None:
    gc.disable()
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_gateway()
    gc.freeze()
    if command := _serve(control):
        sys.argv = command
        run_module(command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
