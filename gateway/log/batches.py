"""Batches: gives records to the journal under a number, until it is known that they are durable."""

import asyncio

import structlog

from gateway.log.journal import Fenced, Journal, JournalError, Record, Uncertain
from gateway.log.segments import WHOLE
from gateway.log.writer import LONGEST_PIECE
from gateway.waiting import PATIENCE

logger = structlog.get_logger()

_PORTION = 1024 * 1024  # characters of a long text that are committed at once
_ASK_AGAIN = 0.2


class Batches:
    """Numbers batches. No number is ever used for other records, so that it is safe to send a batch again."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._given = 0
        self.last = 0
        """The number of the last batch that is durable."""

    def go_on_after(self, number: int) -> None:
        """The batches of an earlier process have numbers up to this one."""
        self._given = self.last = number

    async def commit(self, records: list[Record]) -> None:
        """Makes records durable, all or none. Raises `JournalError`, or any other exception if the records are broken.

        After an error the records count as lost, although a journal that did not answer may have them. If a shared
        journal did not answer, `Fenced` is raised, because other processes go on with what that journal has.
        """
        self._given += 1
        number = self._given
        until = asyncio.get_running_loop().time() + PATIENCE
        try:
            await self._journal.commit(number, records)
        except Uncertain as doubt:
            await self._settle(number, records, doubt, until)
        self.last = number

    async def _settle(self, number: int, records: list[Record], doubt: Uncertain, until: float) -> None:
        """Asks until the journal says whether it has the batch, and sends the batch again if it does not have it."""
        logger.warning("log.uncertain", batch=number, reason=str(doubt))
        try:
            async with asyncio.timeout_at(until):
                while not await self._has(number):
                    try:
                        await self._journal.commit(number, records)
                        return
                    except Uncertain:
                        await asyncio.sleep(_ASK_AGAIN)
        except TimeoutError:
            raise (Fenced if self._journal.shared else JournalError)(str(doubt)) from doubt

    async def _has(self, number: int) -> bool:
        """Asks until the journal says whether it has the batch."""
        while True:
            try:
                return await self._journal.holds(number)
            except Fenced:
                raise
            except JournalError:
                await asyncio.sleep(_ASK_AGAIN)

    def __repr__(self) -> str:
        return f"Batches(durable up to {self.last}, {self._given - self.last} on their way or lost)"


def end_of_portion(batch: list[Record]) -> int:
    """Where a batch may be cut: only after a piece of a long text, because other records that come together are
    committed together."""
    size = 0
    for at, (_, kind, _, payload) in enumerate(batch):
        if kind <= WHOLE:
            size += len(payload)
            if size >= _PORTION and kind != WHOLE and len(payload) == LONGEST_PIECE:
                return at + 1
    return len(batch)
