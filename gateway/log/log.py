"""The event log: one log per key. Each is a sequence of stretches, committed in groups and read by cursors."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from gateway.log.committing import Committer
from gateway.log.journal import BEGIN, Journal, JournalError
from gateway.log.keeping import MOST_BATCHES, Keeper
from gateway.log.shelf import Follower, Shelf
from gateway.log.showing import Showing
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Owner, Writer
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import UNHEARD, Observer
from gateway.telemetry.words import Part

logger = structlog.get_logger()


class EventLog:
    """The log as other folders see it. Readers use `shelf`, the logs in memory. The code that tells the store of ended
    turns, or deletes, uses `keeper`. To write, `begin` and `take_over` give a `Writer`.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        ledger: Ledger,
        retention: float,
        clock: Callable[[], float],
        observer: Observer = UNHEARD,
        until_told: bool = False,
        faults: Faults | None = None,
        follow: Callable[[Shelf], Follower] | None = None,
        taken_back: Callable[[], None] = lambda: None,
        most_batches: int = MOST_BATCHES,
    ) -> None:
        self._journal = journal
        self._faults = faults or Faults(observer)
        self.shelf = Shelf(journal, follow, taken_back)
        showing = Showing(self.shelf, observer=observer, faults=self._faults)
        self.committer = Committer(journal, self.shelf, showing, ledger=ledger, clock=clock, faults=self._faults)
        self.keeper = Keeper(
            journal,
            self.shelf,
            self.committer,
            ledger=ledger,
            retention=retention,
            clock=clock,
            until_told=until_told,
            faults=self._faults,
            most_batches=most_batches,
        )
        self._next_number = 1
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> list[Stretch]:
        """Opens the journal. Returns the stretches that an earlier process left running, in the order in which they
        began."""
        running = [stretch for stretch in await self._join() if stretch.ended is None]
        jobs: tuple[tuple[Part, Callable[[], Coroutine[Any, Any, None]]], ...] = (
            ("commit", self.committer.run),
            ("fold", self.keeper.run),
        )
        for part, job in jobs:
            self._tasks.append(asyncio.create_task(job()))
            self._faults.watch(part, self._tasks[-1])
        return running

    async def _join(self) -> list[Stretch]:
        recovered = await self._journal.open()
        self._next_number = recovered.next_number
        self.shelf.made = recovered.made
        self.committer.batches.go_on_after(recovered.last_batch)
        self.keeper.erased = recovered.erased
        self.keeper.leftovers = recovered.last_batch > 0
        self.shelf.coming.clear()
        await self.take_in(recovered.stretches)
        return recovered.stretches

    async def take_in(self, stretches: list[Stretch]) -> None:
        """Puts stretches that another process left into their logs, except for those that are erased in the meantime.
        If it raises, another call goes on with the rest."""
        coming = self.shelf.coming
        coming.update((stretch.number, stretch) for stretch in stretches)
        left = list(coming.values())
        if not left:
            return
        indexes = await self._journal.indexes(list({stretch.key for stretch in left}))
        for stretch in left:
            if coming.pop(stretch.number, None) is None:
                continue  # erased
            tail = self.shelf.recover(stretch, indexes.get(stretch.key))
            writer = Writer(self.committer, stretch, tail, foreign=stretch.ended is None)
            self.shelf.unsaved.add(writer)
            if stretch.ended is None:
                tail.writer = writer

    async def rejoin(self) -> list[Stretch]:
        """Opens the journal again, after another process had taken it over. Readers stay. Returns the stretches that it
        adopts."""
        for writer in list(self.shelf.unsaved.values()):
            self.shelf.unsaved.remove(writer)
        for tail in self.shelf.tails():
            tail.writer = None
            tail.next = tail.head + 1
            self.shelf.drop(tail, None)  # unless somebody reads it
        adopted = await self._join()
        self.committer.rejoin()
        return adopted

    @property
    def fenced(self) -> bool:
        """Whether another process has taken the journal over."""
        return self.committer.fenced

    async def close(self) -> None:
        """Commits what was appended, saves what can be saved, and closes the journal."""
        self.committer.close()
        commit, *others = self._tasks or [asyncio.create_task(asyncio.sleep(0))]
        for task in others:
            task.cancel()
        await asyncio.wait([commit, *others])  # a close that is cancelled must not cancel a commit
        self._tasks.clear()
        try:
            await self.keeper.fold(also_running=True)
        except JournalError as error:
            logger.warning("log.not_saved", reason=str(error))
        except Exception as error:
            self._faults.broke("fold", error)
        finally:
            await self._journal.close()  # otherwise its threads would keep the process alive

    def begin(
        self, tail: Tail, turn: str, state: bytes = b"", *, owner: Owner, mark: str = "", home: str = ""
    ) -> Writer:
        """Begins a stretch at the end of the tail. A tail has one writer: the one before must have ended its stretch.

        `Shelf.marked` finds the stretch by `mark` as long as it is kept. `owner` is told of losses. `home` is the log
        for which the turn waits: the node that goes on with that log also goes on with this stretch.
        """
        if tail.writer is not None:
            raise RuntimeError(f"{tail!r} is being written by {tail.writer!r}")
        epochs = self.committer.write_as_mine(tail)
        stretch = Stretch(self._next_number, tail.key, epochs, tail.next, turn, state, mark)
        self._next_number += 1
        writer = Writer(self.committer, stretch, tail, owner)
        tail.writer = writer
        self.shelf.unsaved.add(writer)
        self.committer.put(
            (stretch.number, BEGIN, stretch.first, (tail.key, epochs, turn, state, mark, home or tail.key))
        )
        return writer

    def take_over(self, stretch: Stretch, owner: Owner) -> Writer:
        """Goes on with a running stretch that another process left, or whose writer has stopped.

        The writer that it had until now is fenced, even if it is still at work.
        """
        before = self.shelf.unsaved[stretch.number]
        if stretch.ended is not None:
            raise RuntimeError(f"{stretch!r} has ended")
        writer = before.handed_to(owner)
        writer.tail.writer = writer
        self.shelf.unsaved.add(writer)
        before.fence()
        return writer

    async def committed(self) -> None:
        """Waits until everything that was appended before is durable. Raises `storage_unavailable` if it is lost."""
        await self.committer.committed()

    @property
    def trouble(self) -> str | None:
        """Why the journal can't be written now; None while it can be."""
        return self.committer.health.trouble

    @property
    def backlog(self) -> int:
        """The number of records that were appended and are not durable yet."""
        return len(self.committer.pending) + len(self.committer.in_flight)

    async def probe(self) -> None:
        """Finds out whether the journal can be written, while nothing else is being written."""
        await self.committer.probe()

    def __repr__(self) -> str:
        return f"EventLog({self.shelf!r}, {self.committer!r})"
