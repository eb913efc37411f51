"""Batches: records given to the journal, each lot under a number of its own, until it is known to be durable."""

import asyncio

import structlog

from gateway.log.journal import Fenced, Journal, JournalError, Record, Uncertain
from gateway.log.segments import WHOLE
from gateway.log.writer import LONGEST_PIECE

logger = structlog.get_logger()

PATIENCE = 10.0
"""Seconds after which a batch is given up of which its journal does not say whether it is durable."""

_PORTION = 1024 * 1024  # characters of a long text that are committed at once
_ASK_AGAIN = 0.2


class Batches:
    """Numbers batches. A number is never given to other records, so that sending a batch again is safe."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._given = 0
        self.last = 0
        """The last batch that is durable."""

    def go_on_after(self, number: int) -> None:
        """What a former process committed has numbers up to this one."""
        self._given = self.last = number

    async def commit(self, records: list[Record]) -> None:
        """Makes records durable, all or nothing. Raises `JournalError`, and anything else for records that are broken.

        After an error they count as lost, though a journal that did not answer may have them. In a shared journal
        others go on with what it has: after its silence this process counts as `Fenced`.
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
        """Asks until the journal says whether it has the batch, and sends it again where it has not."""
        logger.warning("log.uncertain", batch=number, reason=str(doubt))
        try:
            async with asyncio.timeout_at(until):
                while True:
                    try:
                        if not await self._journal.holds(number):
                            await self._journal.commit(number, records)
                        return
                    except Fenced:
                        raise
                    except JournalError:
                        await asyncio.sleep(_ASK_AGAIN)
        except TimeoutError:
            raise (Fenced if self._journal.shared else JournalError)(str(doubt)) from doubt

    def __repr__(self) -> str:
        return f"Batches(durable up to {self.last}, {self._given - self.last} on their way or lost)"


def end_of_portion(batch: list[Record]) -> int:
    """Where a batch can be cut: after a piece of a long text, since what else comes together is kept together."""
    size = 0
    for at, (_, kind, _, payload) in enumerate(batch):
        if kind <= WHOLE:
            size += len(payload)
            if size >= _PORTION and kind != WHOLE and len(payload) == LONGEST_PIECE:
                return at + 1
    return len(batch)
