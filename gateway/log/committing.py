"""Committing: makes what writers append durable, in groups, and then shows it."""

import asyncio
from collections.abc import Callable

from gateway.errors import Code, GatewayError
from gateway.ids import new_token
from gateway.log.batches import Batches, end_of_portion
from gateway.log.epochs import epoch_mark
from gateway.log.health import Health
from gateway.log.isolating import commit_apart
from gateway.log.journal import Broken, Fenced, Journal, JournalError, Record
from gateway.log.losses import let_go, tell
from gateway.log.pacing import Pacing
from gateway.log.shelf import Shelf
from gateway.log.showing import Showing
from gateway.log.tail import SOMEBODY_ELSE, Tail
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger

_RETRY_EVERY = 1.0
_MINE = 10  # hex digits


class Committer:
    """The desk where writers put their records, and the loop that commits them.

    Readers see a stretch's events in the order in which they were appended. None is left out, and none is seen before
    it is durable, with one exception: if the journal can't be written, each stretch's owner is told that the events
    that it appended and nobody has seen are gone. It then owes the stretch's last event, which is shown at once and is
    the first to be written when the journal works again. The same happens to a single turn whose data can't be written
    or shown (`Broken`), while the others go on. If another process has taken the journal over (`Fenced`), or may do so
    because a shared journal has been silent for too long, all owners are told so, and owe nothing.
    """

    def __init__(
        self,
        journal: Journal,
        shelf: Shelf,
        showing: Showing,
        *,
        ledger: Ledger,
        clock: Callable[[], float],
        faults: Faults,
    ) -> None:
        self._journal = journal
        self._shelf = shelf
        self._showing = showing
        self._ledger = ledger
        self._faults = faults
        self.clock = clock
        self.health = Health(faults)
        self._pacing = Pacing()
        self.writing = asyncio.Lock()
        """Held while something is written to the journal, so that only one write is under way at a time."""
        self.batches = Batches(journal)
        self.pending: list[Record] = []
        self.in_flight: list[Record] = []
        self.owed: list[Record] = []
        self.long = False
        """Whether pieces of a long text are pending: a batch may end between them."""
        self.wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []  # until what is pending is durable
        self._in_flight_waiters: list[asyncio.Future[None]] = []
        self._mine = new_token()[:_MINE]  # this process's part of the epochs that it opens
        self._closing = False
        self._fenced: Fenced | None = None

    # -- the desk -----------------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Adds a record to the next commit."""
        self.pending.append(record)
        if len(self.pending) == 1:
            self.wake.set()

    def write_as_mine(self, tail: Tail) -> str:
        """Makes an epoch of this process the log's newest, from the next event on. Returns the log's epochs as text."""
        if not tail.epochs.newest.endswith(self._mine):
            tail.epochs = tail.epochs.then(epoch_mark(tail.key) + self._mine, tail.next)
        return tail.epochs.text

    def is_newest(self, writer: Writer) -> bool:
        """Whether its log has no later stretch that is not saved yet."""
        number, tail = writer.stretch.number, writer.tail
        return not any(later > number and its.tail is tail for later, its in self._shelf.unsaved.items())

    def owe(self, records: list[Record]) -> None:
        """Shows these records at once, and writes them before all others when the journal works again."""
        self.owed += records
        self._show(records)

    async def committed(self) -> None:
        """Waits until everything that was appended before is durable. Raises `storage_unavailable` if it is lost."""
        if self._fenced is not None:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(self._fenced))
        if not self.pending and not self.in_flight:
            return
        waiter = asyncio.get_running_loop().create_future()
        (self._waiters if self.pending else self._in_flight_waiters).append(waiter)
        try:
            await waiter
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error

    def unseen(self) -> set[int]:
        """The numbers of the stretches that have a record which is not durable yet."""
        return {record[0] for record in self.in_flight + self.pending + self.owed}

    # -- the loop -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets the loop end once everything is committed."""
        self._closing = True
        self.wake.set()

    async def run(self) -> None:
        """Commits what is pending, again and again, until `close`."""
        with self._ledger.open("task", "log.commit"):
            while not (self._closing and not self.pending):
                await self.wake.wait()
                self.wake.clear()
                if not self.pending and not self.owed:
                    continue
                if self._fenced is not None:
                    self._fence(self._fenced)
                    continue
                try:
                    await self._commit()
                except Fenced as error:
                    self._fence(error)
                except JournalError as error:
                    self.lose(error)
                except Exception as error:
                    self._faults.broke("commit", error)
                    self.lose(Broken(f"the event log is broken: {type(error).__name__}"))
                    self.health.met_a_bug(error)
                if self.pending:
                    self.wake.set()

    async def _commit(self) -> None:
        """Commits what is pending and shows it."""
        self._pacing.begin()
        batch = self.take()
        try:
            async with self.writing:
                await self._commit_with_owed(batch)
        except JournalError:
            raise
        except Exception as error:
            self._faults.broke("commit", error)
            async with self.writing:
                batch = await self._commit_apart(batch)
        self.written(batch)
        if not self._closing:
            await self._pacing.rest(len(batch))

    async def _commit_with_owed(self, batch: list[Record]) -> None:
        owed, self.owed = self.owed, []
        try:
            await self.batches.commit(owed + batch)
        except BaseException:
            self.owed = owed + self.owed
            raise

    async def _commit_apart(self, batch: list[Record]) -> list[Record]:
        """Commits a batch with records that break the journal: ends the turns of those records. Returns the records
        that are durable now."""
        unsaved = self._shelf.unsaved
        logs: dict[Tail, list[Record]] = {}
        for record in batch:
            if record[0] in unsaved:  # else its log was erased meanwhile
                logs.setdefault(unsaved[record[0]].tail, []).append(record)
        outcome = await commit_apart(self.batches, self.owed, logs)
        self.owed = []
        for tail, error in outcome.broken.items():
            self._faults.broke("turn", error, turns=[w.about for w in unsaved.values() if w.tail is tail])
            numbers = {number for number, writer in unsaved.items() if writer.tail is tail}
            lost = [r for r in self.in_flight + self.pending if r[0] in numbers]
            self.in_flight = [r for r in self.in_flight if r[0] not in numbers]
            self.pending = [r for r in self.pending if r[0] not in numbers]
            let_go(self._shelf, lost, Broken(f"the turn is broken: {type(error).__name__}"), self._faults)
        return outcome.durable

    def take(self) -> list[Record]:
        """The next batch: everything that was appended until now, but of a long text only a portion."""
        batch, self.pending = self.pending, []
        if self.long:
            end = end_of_portion(batch)
            batch, self.pending = batch[:end], batch[end:]
        self.in_flight = batch
        if self.pending:
            return batch  # those who wait also wait for the rest
        self.long = False
        self._in_flight_waiters, self._waiters = self._waiters, []
        return batch

    def written(self, batch: list[Record]) -> None:
        """The batch is durable, and with it all that was owed."""
        self.in_flight = []
        self.health.committed()
        self._show(batch)
        waiters, self._in_flight_waiters = self._in_flight_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _show(self, records: list[Record]) -> None:
        for number, why in self._showing.show(records, self.batches.last).items():
            self._break(self._shelf.unsaved[number], why)

    # -- what can't be written or shown -------------------------------------------------------------------------

    def _break(self, writer: Writer, error: Exception) -> None:
        """A turn's events are durable, but can't be shown: the turn ends after the last event that was shown."""
        stretch, tail = writer.stretch, writer.tail
        self._faults.broke("turn", error, **writer.about)
        self.pending = [record for record in self.pending if record[0] != stretch.number]
        head = tail.head
        tell(writer, Broken(f"the turn is broken: {type(error).__name__}"), self._faults)
        if stretch.ended is None:
            writer.owe()
        tail.head = max(tail.head, head)

    def lose(self, error: JournalError) -> None:
        """The journal could not be written: what was appended and not seen is gone, and its owners are told."""
        if not isinstance(error, Broken):
            self.health.troubled(error)
        lost, waiters = self._drop()
        let_go(self._shelf, lost, error, self._faults)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        asyncio.get_running_loop().call_later(_RETRY_EVERY, self.wake.set)

    def _fence(self, error: Fenced) -> None:
        """Another process writes the journal now: this one adds nothing more to it, and owes no last events."""
        self.health.troubled(error)
        self._fenced = error
        _, waiters = self._drop()
        self.owed = []
        for writer in list(self._shelf.unsaved.values()):
            if writer.tail.writer is None:  # its end may not be durable, and then somebody else goes on there
                writer.tail.writer = SOMEBODY_ELSE
            try:
                writer.fence()
            except Exception as fault:
                self._faults.broke("turn", fault, **writer.about)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    @property
    def fenced(self) -> bool:
        """Whether another process writes the journal now."""
        return self._fenced is not None

    def require_right(self) -> None:
        """Raises `Fenced` if another process writes the journal now, or may do so."""
        if self._fenced is not None:
            raise self._fenced

    def rejoin(self) -> None:
        """The journal, or this node's part of it, is this process's again."""
        self._fenced = None
        self._mine = new_token()[:_MINE]  # readers may have seen owed events that were never written
        self.health.healed()

    def _drop(self) -> tuple[list[Record], list[asyncio.Future[None]]]:
        """Takes from the desk the records that are not durable, and the waiters for them."""
        lost = self.in_flight + self.pending
        waiters = self._in_flight_waiters + self._waiters
        self.in_flight, self.pending, self._in_flight_waiters, self._waiters = [], [], [], []
        return lost, waiters

    async def probe(self) -> None:
        """Finds out whether the journal can be written, while nothing else is being written."""
        if self._fenced is not None:
            return
        try:
            async with self.writing:
                if self.owed:
                    await self._commit_with_owed([])
                else:
                    await self._journal.probe()
        except Fenced as error:
            self._fence(error)
        except JournalError as error:
            self.health.troubled(error)
        except Exception as error:
            self._faults.broke("commit", error)
            self.health.troubled(Broken(f"the event log is broken: {type(error).__name__}"))
        else:
            self.health.healed()

    def __repr__(self) -> str:
        return f"Committer({len(self.pending)} pending, {len(self.owed)} owed, {self.health})"
