"""Committing: what writers append becomes durable in groups, and is shown then."""

import asyncio
from collections.abc import Callable

from gateway.errors import Code, GatewayError
from gateway.ids import new_token
from gateway.log.apart import commit_apart
from gateway.log.batches import Batches, end_of_portion
from gateway.log.health import Health
from gateway.log.journal import Broken, Fenced, Journal, JournalError, Record
from gateway.log.losses import let_go, tell
from gateway.log.shelf import Shelf, epoch_mark
from gateway.log.showing import Showing
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger

_BUSY_BATCH = 8  # a commit of more records than this is followed by a pause, so that the next one carries more
_PAUSE = 0.002
_CROWD = 64  # with more records a commit, and a loop that comes back from the pause as late as this, the pause grows:
_LATE = 0.010  # what comes meanwhile is merged, so a machine that can't keep up gives fewer and larger pieces
_LONGEST_PAUSE = 0.05
_RETRY_EVERY = 1.0
_MINE = 10  # hex digits


class Committer:
    """The desk where writers put their records, and the loop that commits them.

    Order: events of one stretch are seen in the order they were appended, none is left out, and none is seen before
    it is durable, with one exception: when the journal can't be written, the stretch's owner is told that what it
    appended and nobody has seen is gone, and the last event that it then owes is shown at once and written first when
    the journal heals. The same is done when one turn's data break the journal or the showing (`Broken`): the others
    go on. When another process has taken the journal over (`Fenced`), or may do so because a shared one has been silent
    for too long, all owners are told so, and nothing is owed.
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
        self.writing = asyncio.Lock()
        """Held while the journal is written: one thing at a time."""
        self.batches = Batches(journal)
        self.pending: list[Record] = []
        self.in_flight: list[Record] = []
        self.owed: list[Record] = []
        self.long = False
        """Whether there are pieces of a long text, between which what is pending may be cut."""
        self.wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []  # for what is pending
        self._in_flight_waiters: list[asyncio.Future[None]] = []
        self._mine = new_token()[:_MINE]  # this process's part of the epochs that it opens
        self._closing = False
        self._fenced: Fenced | None = None

    # -- the desk -----------------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Adds a record to what is to be committed."""
        self.pending.append(record)
        if len(self.pending) == 1:
            self.wake.set()

    def write_as_mine(self, tail: Tail) -> str:
        """The log's epochs, of which the newest is this process's from the next event on."""
        if not tail.epochs.newest.endswith(self._mine):
            tail.epochs = tail.epochs.then(epoch_mark(tail.key) + self._mine, tail.next)
        return tail.epochs.text

    def is_newest(self, writer: Writer) -> bool:
        """Whether no later stretch was begun in its log, as far as they are not saved yet."""
        number, tail = writer.stretch.number, writer.tail
        return not any(later > number and its.tail is tail for later, its in self._shelf.unsaved.items())

    def owe(self, records: list[Record]) -> None:
        """Shows these records at once, and writes them before all others when the journal heals."""
        self.owed += records
        self._show(records)

    async def committed(self) -> None:
        """Waits until all that was appended before is durable. Raises `storage_unavailable` when it is lost."""
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
        """The stretches of which something is not durable yet."""
        return {record[0] for record in self.in_flight + self.pending + self.owed}

    # -- the loop -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets the loop end once all is committed."""
        self._closing = True
        self.wake.set()

    async def run(self) -> None:
        """Commits what is pending, again and again, until `close`."""
        pause = _PAUSE
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
                    pause = await self._commit(pause)
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

    async def _commit(self, pause: float) -> float:
        """Commits what is pending and shows it; the pause to be made after the next full batch."""
        loop = asyncio.get_running_loop()
        began = loop.time()
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
        if len(batch) <= _BUSY_BATCH or self._closing:
            return pause
        due = max(began + pause, loop.time())
        await asyncio.sleep(due - loop.time())
        late = loop.time() - due
        return min(4 * late, _LONGEST_PAUSE) if late > _LATE and len(batch) > _CROWD else _PAUSE

    async def _commit_with_owed(self, batch: list[Record]) -> None:
        owed, self.owed = self.owed, []
        try:
            await self.batches.commit(owed + batch)
        except BaseException:
            self.owed = owed + self.owed
            raise

    async def _commit_apart(self, batch: list[Record]) -> list[Record]:
        """Ends the turns whose records break the journal; what is durable now of a batch that holds some."""
        unsaved = self._shelf.unsaved
        logs: dict[Tail, list[Record]] = {}
        for record in batch:
            logs.setdefault(unsaved[record[0]].tail, []).append(record)
        outcome = await commit_apart(self.batches, self.owed, logs)
        self.owed = []
        for tail, error in outcome.broken.items():
            self._faults.broke("turn", error, turns=[w.about for w in unsaved.values() if w.tail is tail])
            lost = [r for r in self.in_flight + self.pending if unsaved[r[0]].tail is tail]
            self.in_flight = [r for r in self.in_flight if unsaved[r[0]].tail is not tail]
            self.pending = [r for r in self.pending if unsaved[r[0]].tail is not tail]
            let_go(self._shelf, lost, Broken(f"the turn is broken: {type(error).__name__}"), self._faults)
        return outcome.durable

    def take(self) -> list[Record]:
        """What is to be committed next: all that was appended until now, or of a long text as much as is little."""
        batch, self.pending = self.pending, []
        if self.long:
            end = end_of_portion(batch)
            batch, self.pending = batch[:end], batch[end:]
        self.in_flight = batch
        if self.pending:
            return batch  # whoever waits, waits for the rest too
        self.long = False
        self._in_flight_waiters, self._waiters = self._waiters, []
        return batch

    def written(self, batch: list[Record]) -> None:
        """The batch is durable, and what was owed before it."""
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
        """A turn's events are durable and can't be shown: it ends after the last one that was."""
        stretch, tail = writer.stretch, writer.tail
        self._faults.broke("turn", error, **writer.about)
        self.pending = [record for record in self.pending if record[0] != stretch.number]
        head = tail.head
        tell(writer, Broken(f"the turn is broken: {type(error).__name__}"), self._faults)
        if stretch.ended is None:
            writer.owe()
        tail.head = max(tail.head, head)

    def lose(self, error: JournalError) -> None:
        """The journal refused: what was appended and not seen is gone, and its owners are told."""
        if not isinstance(error, Broken):
            self.health.troubled(error)
        lost, waiters = self._drop()
        let_go(self._shelf, lost, error, self._faults)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        asyncio.get_running_loop().call_later(_RETRY_EVERY, self.wake.set)

    def _fence(self, error: Fenced) -> None:
        """Another process writes the journal now: this one adds nothing more to it, and owes nobody anything."""
        self.health.troubled(error)
        self._fenced = error
        _, waiters = self._drop()
        self.owed = []
        for writer in list(self._shelf.unsaved.values()):
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

    def rejoin(self) -> None:
        """The journal is this process's again, or a part of it."""
        self._fenced = None
        self._mine = new_token()[:_MINE]  # readers may have what the one before could not write
        self.health.healed()

    def _drop(self) -> tuple[list[Record], list[asyncio.Future[None]]]:
        """Takes what is not durable off the desk, and whoever waits for it."""
        lost = self.in_flight + self.pending
        waiters = self._in_flight_waiters + self._waiters
        self.in_flight, self.pending, self._in_flight_waiters, self._waiters = [], [], [], []
        return lost, waiters

    async def probe(self) -> None:
        """Learns whether the journal can be written, when nothing else is being written."""
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
