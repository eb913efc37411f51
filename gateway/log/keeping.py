"""Keeping: saves ended stretches whole, drops the batches that they came in, and removes stretches by age."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from gateway.errors import Code, GatewayError
from gateway.ids import LogKey
from gateway.log.committing import Committer
from gateway.log.journal import Journal, JournalError
from gateway.log.shelf import Shelf
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.seldom import Seldom

logger = structlog.get_logger()

_FOLD_EVERY = 2.0
_SAVED_AT_ONCE = 16  # stretches per transaction, because commits wait for it
_TRIM_EVERY = 30.0
_PURGED_WITHIN = 1.0
_PURGE_AGAIN = 0.02
MOST_BATCHES = 20_000
"""If there are more batches, running stretches are saved too, so that the number of batches stays bounded."""


class Keeper:
    """Folds batches into saved stretches, and removes saved stretches by age.

    With `until_told` the stretch of an ended turn stays unsaved, even through restarts, until `told` says that the
    turn's end is stored elsewhere too, and its writer is not `announcing` it any more.
    """

    def __init__(
        self,
        journal: Journal,
        shelf: Shelf,
        committer: Committer,
        *,
        ledger: Ledger,
        retention: float,
        clock: Callable[[], float],
        until_told: bool,
        faults: Faults,
        most_batches: int = MOST_BATCHES,
    ) -> None:
        self._most_batches = most_batches
        self._journal = journal
        self._shelf = shelf
        self._committer = committer
        self._ledger = ledger
        self.retention = retention
        self._clock = clock
        self.until_told = until_told
        self._faults = faults
        self._seldom = Seldom()
        self.erased = 0
        """The last batch that may hold records of an erased log; 0 if none does."""
        self.leftovers = False
        """Whether there may be batches that nobody needs: an earlier process may have been killed, or a fold of this
        one may have failed, before they were dropped."""
        self._missed = False  # whether the last trim failed, so that it is not known which logs it trimmed

    async def run(self) -> None:
        """Folds every few seconds and trims every half a minute, for ever."""
        every = max(0.05, min(_FOLD_EVERY, self.retention / 4))
        trim_every = max(every, min(_TRIM_EVERY, self.retention / 4))
        since_trim, tidied = 0.0, -1
        committer = self._committer
        with self._ledger.open("task", "log.fold"):
            while True:
                await asyncio.sleep(every)
                since_trim += every
                try:
                    if committer.health.trouble is not None:
                        await committer.probe()
                    if committer.health.trouble is None:
                        await self.fold()
                        if since_trim >= trim_every:
                            since_trim = 0.0
                            await self.trim()
                        if tidied != committer.batches.last:  # without new batches there is nothing to tidy
                            tidied = committer.batches.last
                            await self._journal.tidy()
                except JournalError as error:
                    self._seldom.warning("log.fold_failed", reason=str(error))
                except Exception as error:
                    self._faults.broke("fold", error)

    async def fold(self, *, also_running: bool = False) -> None:
        """Saves ended stretches whole, and drops the batches that are no longer needed.

        With `until_told` a stretch waits until its end was told, even when the log closes.
        """
        unseen = self._committer.unseen()
        last = self._committer.batches.last
        running = (writer.stretch for writer in self._shelf.unsaved.values() if writer.stretch.ended is None)
        oldest = min((one.unsaved_from for one in running if one.unsaved_from), default=last + 1)
        crowded = last - oldest > self._most_batches
        ready = [
            writer
            for writer in self._shelf.unsaved.values()
            if writer.stretch.number not in unseen
            and writer.stretch.unsaved_from
            and (
                self._may_go(writer)
                if writer.stretch.ended is not None
                else also_running or crowded or writer.stretch.unsaved_from <= self.erased
            )
        ]
        self.leftovers |= bool(ready)
        loop = asyncio.get_running_loop()
        for start in range(0, len(ready), _SAVED_AT_ONCE):
            began = loop.time()
            saved = await self._save(ready[start : start + _SAVED_AT_ONCE])
            unseen = self._committer.unseen()
            for writer in saved:
                if writer.stretch.ended is None:
                    writer.stretch.unsaved_from = last + 1
                elif self._is_unsaved(writer) and writer.stretch.number not in unseen:
                    self._release(writer)
            # Over a network a save takes some milliseconds: half of the time is for commits.
            await asyncio.sleep(loop.time() - began if self._journal.shared and not also_running else 0)
        if self.leftovers or self.erased:
            async with self._committer.writing:
                self._committer.require_right()  # whoever goes on with a fenced process's stretches needs the batches
                before = min(self._oldest_batch(), last + 1)
                await self._journal.forget(before=before)
                self.leftovers = False
                if before > self.erased:
                    self.erased = 0

    async def _save(self, some: list[Writer]) -> list[Writer]:
        """Saves stretches and returns those that were saved. A stretch that can't be saved is lost with its batches."""
        try:
            async with self._committer.writing:
                self._committer.require_right()
                unseen = self._committer.unseen()
                # An erased stretch must stay erased, and one that has ended since has to wait like any other.
                some = [
                    writer
                    for writer in some
                    if self._is_unsaved(writer)
                    and (writer.stretch.ended is None or (self._may_go(writer) and writer.stretch.number not in unseen))
                ]
                await self._journal.save([writer.stretch for writer in some])
            return some
        except JournalError:
            raise
        except Exception as error:
            if len(some) > 1:
                return [saved for one in some for saved in await self._save([one])]
            self._faults.broke("fold", error, **some[0].about)
            self._discard(some[0])
            return []

    def _is_unsaved(self, writer: Writer) -> bool:
        return writer.stretch.number in self._shelf.unsaved

    def _discard(self, writer: Writer) -> None:
        if writer.stretch.ended is not None:
            self._shelf.unsaved.remove(writer)
            writer.tail.spans = [span for span in writer.tail.spans if span.number != writer.stretch.number]
            self._shelf.let_go(writer.tail)

    def _release(self, writer: Writer) -> None:
        """Lets a saved stretch leave memory, and its tail too if nobody uses that."""
        self._shelf.unsaved.remove(writer)
        for span in writer.tail.spans:
            if span.number == writer.stretch.number and not writer.tail.users:
                span.unload()
        self._shelf.let_go(writer.tail)

    def told(self, turn: str) -> None:
        """The turn's end is stored elsewhere too."""
        if (writer := self._shelf.unsaved.of_turn(turn)) is not None:
            writer.told = True

    def ended(self) -> list[Stretch]:
        """Stretches that ended and are not saved yet. After a start: those whose end an earlier process told nobody."""
        return [writer.stretch for writer in self._shelf.unsaved.values() if writer.stretch.ended is not None]

    def _may_go(self, writer: Writer) -> bool:
        """Whether its stretch need not wait until all are told of the end. Without a turn or an event there is nothing
        to tell."""
        ended = writer.stretch
        if not (self.until_told and ended.turn and ended.last >= ended.first):
            return True
        return writer.told and not writer.announcing

    def _oldest_batch(self) -> int:
        oldest = (writer.stretch.unsaved_from for writer in self._shelf.unsaved.values())
        return min((batch for batch in oldest if batch), default=self._committer.batches.last + 1)

    async def trim(self) -> None:
        """Lets retention take what ended long enough ago."""
        missed, self._missed = self._missed, True
        while keys := await self._trim_some():
            loaded = (self._shelf.loaded(LogKey(key)) for key in dict.fromkeys(keys))
            await self._drop_trimmed([tail for tail in loaded if tail is not None])
        before = self._clock() - self.retention
        trimmed: list[Tail] = []
        for tail in self._shelf.tails():
            oldest = tail.spans[0].stretch if tail.spans else None  # another process may have trimmed it
            if missed or (oldest is not None and oldest.ended is not None and oldest.ended < before):
                trimmed.append(tail)
        await self._drop_trimmed(trimmed)
        self._missed = False

    async def _drop_trimmed(self, tails: Collection[Tail]) -> None:
        """Lets go what retention took of logs that are in memory."""
        if not tails:
            return
        gone = {span.number for tail in tails for span in tail.spans}
        indexes = await self._journal.indexes([tail.key for tail in tails])
        gone -= {place.number for index in indexes.values() for place in index.places}
        gone -= self._shelf.unsaved.keys()
        for tail in tails:
            tail.spans = [span for span in tail.spans if span.number not in gone]

    async def _trim_some(self) -> list[str]:
        async with self._committer.writing:
            now = self._clock()
            return await self._journal.trim(before=now - self.retention, now=now)

    async def erase(self, keys: Collection[LogKey]) -> None:
        """Drops logs that nobody writes any more, with their marks. Once it returns, they don't come back; `purge`
        drops the batches that hold records of them. Raises `storage_unavailable`.
        """
        committer = self._committer
        if committer.health.trouble is not None:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, committer.health.trouble)
        await committer.committed()
        ours = [writer for writer in self._shelf.unsaved.values() if writer.stretch.key in keys]
        try:
            async with committer.writing:
                await self._journal.erase(list(keys), [writer.stretch.number for writer in ours])
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        self.drop(keys)

    def drop(self, keys: Collection[LogKey]) -> None:
        """Forgets what memory holds of logs that were erased from the journal, perhaps by another process."""
        for writer in [writer for writer in self._shelf.unsaved.values() if writer.stretch.key in keys]:
            self._shelf.unsaved.remove(writer)
            writer.tail.writer = None
        for stretch in [stretch for stretch in self._shelf.coming.values() if stretch.key in keys]:
            del self._shelf.coming[stretch.number]
        for key in keys:
            self._shelf.erase(key)
        self.erased = self._committer.batches.last

    async def purge(self) -> None:
        """Drops the batches with records of logs that were erased. Other turns may need some of these batches, until
        they have written everything and their ends are told. If that takes too long, or fails, a later fold does it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PURGED_WITHIN
        with suppress(JournalError):
            while self.erased and self._committer.health.trouble is None and loop.time() < until:
                await self.fold()
                await asyncio.sleep(_PURGE_AGAIN if self.erased else 0)

    async def saved_turns(self) -> list[str]:
        """The turns of saved stretches, oldest first."""
        return await self._journal.turns()
