"""The committer's pace: how long the committer rests after a full batch, so that the next one carries more."""

import asyncio
from time import monotonic, thread_time

_FULL = 8
"""After a commit of more records than this there is a pause."""
_PAUSE = 0.002
# The pause grows while commits have over `_CROWD` records, and this thread either works for more than the share `_BUSY`
# of the time or comes back from the pause more than `_LATE` seconds late. Text that comes in a pause is merged, so that
# a machine that can't keep up sends fewer and larger pieces.
_CROWD = 64
_BUSY = 0.8
_LATE = 0.010
_LONGEST_PAUSE = 0.05


class Pacing:
    """`begin` is to be called when a commit begins, and `rest` when what it made durable was shown."""

    def __init__(self) -> None:
        self._pause = _PAUSE
        self._began = self._worked = self._woke = 0.0

    def begin(self) -> None:
        self._began, self._worked, self._woke = asyncio.get_running_loop().time(), thread_time(), monotonic()

    async def rest(self, records: int) -> None:
        """Waits until a pause after the commit's beginning is over, unless the commit had few records."""
        if records <= _FULL:
            self._pause = _PAUSE
            return
        loop = asyncio.get_running_loop()
        due = max(self._began + self._pause, loop.time())
        await asyncio.sleep(due - loop.time())
        late = loop.time() - due
        busy = (thread_time() - self._worked) / (monotonic() - self._woke)
        if records > _CROWD and (late > _LATE or busy > _BUSY):
            self._pause = min(max(2 * self._pause, late), _LONGEST_PAUSE)
        else:
            self._pause = max(self._pause / 2, _PAUSE)

    def __repr__(self) -> str:
        return f"Pacing({self._pause * 1000:.0f} ms)"
