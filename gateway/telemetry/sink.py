"""A sink: where log lines leave the process, without waiting for whoever should read them.

A pipe, a terminal or a socket blocks its writer while its reader stands still. So lines for one of these go through a
bounded queue to a thread. Files never block for long, so they are written to at once.
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
"""Bytes of lines that may wait for a reader: some thousand lines, or a pause of seconds on a busy gateway."""

_AT_ONCE: Final = 64 * 1024  # bytes per write: the size of a pipe, so that a slow reader makes room bit by bit
_FAREWELL: Final = 1.0  # seconds that the end of the process waits for the last lines


class Sink:
    """Writes lines. If the reader has gone, or the disk is full, lines are lost, but nothing else fails."""

    def __init__(self, stream: BinaryIO) -> None:
        # Written without a buffer: it would keep lines that a full disk refused, and fail again when the process ends.
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
        """Waits until all lines so far are written. False if that takes longer than `within`."""
        return True

    debug = info = warning = error = critical = exception = msg


class QueuedSink(Sink):
    """The same through a thread. Lines keep their order; if there is no room for a line, it is dropped and counted.

    Once there is room again, `report` is called with the number of dropped lines, and logs a line that says so.
    """

    def __init__(self, stream: BinaryIO, report: Callable[[int], None]) -> None:
        super().__init__(stream)
        self._handle = stream.fileno()
        self._report = report
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # of the lines that are not written yet
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
            self._report(unreported)  # calls this method again, before the line that found room is written
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
        """Lines to write together. None, and the thread becomes idle, if there are none and nothing is to be
        reported."""
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
        """Writes all data, however long that takes. False if nobody will ever read them."""
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._handle, view) :]
                except BlockingIOError:  # another process that shares the file has made it non-blocking
                    select.select([], [self._handle], [])
        except (OSError, ValueError):
            return False
        return True

    debug = info = warning = error = critical = exception = msg


def sink(stream: BinaryIO, report: Callable[[int], None]) -> Sink:
    """The sink that fits the kind of file that `stream` writes to."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # the stream is in memory, or closed
        return Sink(stream)
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(stream.fileno())
    return QueuedSink(stream, report) if waits else Sink(stream)
