"""An outlet: where log lines leave the process, without anybody waiting for whoever should read them.

A pipe, a terminal or a socket whose reader stands still blocks its writer; so lines for one of these go through a
bounded queue to a thread. Files take what they get, so they are written at once.
"""

import atexit
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import BinaryIO, Final

ROOM: Final = 1024 * 1024
"""Bytes of lines that wait for a reader: some thousand lines, a reader's pause of seconds on a busy gateway."""

_AT_ONCE: Final = 64 * 1024  # bytes a write: a pipe's size, so that a reader that is slow makes room bit by bit
_FAREWELL: Final = 1.0  # seconds that the end of the process waits for the last lines


class Outlet:
    """Writes lines. A reader that has gone, or a full disk, costs lines and nothing else."""

    def __init__(self, stream: BinaryIO) -> None:
        # Not through a buffer: it would keep what a full disk refused, and fail once more when the process ends.
        self._stream = getattr(stream, "raw", stream)
        self._torn = False  # the disk was full in the middle of a line
        self.dropped = 0

    def msg(self, line: bytes) -> None:
        whole = b"\n" * self._torn + line + b"\n"
        left = memoryview(whole)
        try:
            while left:
                if not (written := self._stream.write(left)):
                    raise BlockingIOError
                left = left[written:]
            self._stream.flush()
            self._torn = False
        except (OSError, ValueError):
            self._torn = self._torn or len(left) < len(whole)
            self.dropped += 1

    def flush(self, within: float) -> bool:
        """Waits until what was said is written. False when that took too long."""
        return True

    debug = info = warning = error = critical = exception = msg


class QueuedOutlet(Outlet):
    """The same through a thread. Lines keep their order; one that finds no room is dropped and counted in `dropped`.

    Once there is room again, `report` is called with how many were dropped; it says so in a line of its own.
    """

    def __init__(self, stream: BinaryIO, report: Callable[[int], None]) -> None:
        super().__init__(stream)
        self._handle = stream.fileno()
        self._report = report
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # of the lines, until they are written
        self._unreported = 0
        self._idle = True
        self._work = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def msg(self, line: bytes) -> None:
        with self._lock:
            if self._bytes and self._bytes + len(line) >= ROOM:
                self.dropped += 1
                self._unreported += 1
                return
            unreported, self._unreported = self._unreported, 0
            if not unreported:
                self._put(line)
        if unreported:
            self._report(unreported)  # comes back here, before the line that found room again
            with self._lock:
                self._put(line)

    def flush(self, within: float) -> bool:
        deadline = time.monotonic() + within
        while self._bytes and time.monotonic() < deadline:
            time.sleep(0.002)
        return not self._bytes

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line) + 1
        if self._idle:
            self._idle = False
            if self._thread is None:
                # A daemon, for a reader that never comes must not keep the process alive.
                self._thread = threading.Thread(target=self._write_for_ever, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.flush, _FAREWELL)
            self._work.release()

    def _write_for_ever(self) -> None:
        while True:
            self._work.acquire()
            while (lines := self._next()) is not None:
                written = self._write(b"".join(line + b"\n" for line in lines))
                with self._lock:
                    self._bytes -= sum(map(len, lines)) + len(lines)
                    if not written:
                        self.dropped += len(lines)

    def _next(self) -> list[bytes] | None:
        """Lines to write together. None, and idle, when there are none and nothing is to be reported."""
        with self._lock:
            taken: list[bytes] = []
            size = 0
            while self._lines and (not taken or size + len(self._lines[0]) < _AT_ONCE):
                taken.append(line := self._lines.popleft())
                size += len(line) + 1
            if taken:
                return taken
            unreported, self._unreported = self._unreported, 0
            self._idle = not unreported
        if not unreported:
            return None
        self._report(unreported)
        return []

    def _write(self, data: bytes) -> bool:
        """Writes all of it, however long that takes. False when nobody will ever read it."""
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._handle, view) :]
                except BlockingIOError:  # whoever shares it with us made it so
                    select.select([], [self._handle], [])
        except (OSError, ValueError):
            return False
        return True

    debug = info = warning = error = critical = exception = msg


def outlet(stream: BinaryIO, report: Callable[[int], None]) -> Outlet:
    """The outlet that fits what `stream` leads to."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # in memory, or closed
        return Outlet(stream)
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(stream.fileno())
    return QueuedOutlet(stream, report) if waits else Outlet(stream)
