"""Looking together: one look at the database for all readers who ask for one before it begins.

Otherwise hundreds of polls a second would wait in line for looks of their own, and each reader that leaves in the
middle of one would break the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from gateway.log.journal import JournalError
from gateway.log.tail import Tail
from gateway.waiting import outlived


class Together:
    """`look` calls `begin` first, and then looks at the tails that `begin` returns."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._asked: list[Tail] = []
        self._coming: asyncio.Future[None] | None = None  # the look that has not begun yet

    async def at(self, tails: Iterable[Tail]) -> None:
        """Returns when a look at these tails that began after the call is done. Raises `JournalError`."""
        self._asked += tails
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._look())
        await outlived(self._coming, expected=JournalError)

    def begin(self) -> list[Tail]:
        """What was asked for until now."""
        asked, self._asked, self._coming = self._asked, [], None
        return list(dict.fromkeys(asked))
