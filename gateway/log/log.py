"""The event log: appended by one writer a stretch, committed in groups, read by cursor."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Coroutine
from itertools import chain
from typing import Any, Protocol
from weakref import WeakValueDictionary

import structlog
from msgspec import structs

from gateway.errors import Code, GatewayError
from gateway.events import Event, Last, Text, body
from gateway.ids import LogKey, new_token
from gateway.log.apart import commit_apart
from gateway.log.epochs import Epochs
from gateway.log.journal import BEGIN, CUT, END, EPOCHS, MORE, STATE, Broken, Journal, JournalError, Place, Record
from gateway.log.stretch import LAST, MESSAGE, REASONING, WHOLE, Stretch
from gateway.log.tail import Span, Tail
from gateway.telemetry.faults import Faults, Part
from gateway.telemetry.ledger import Ledger
from gateway.waiting import outlived

logger = structlog.get_logger()

_BUSY_BATCH = 8  # a commit of more records than this is followed by a pause, so that the next one carries more
_PAUSE = 0.002
_CROWD = 64  # with more records a commit, and a loop that comes back from the pause as late as this, the pause grows:
_LATE = 0.010  # what comes meanwhile is merged, so a machine that can't keep up gives fewer and larger pieces
_LONGEST_PAUSE = 0.05
_FOLD_EVERY = 2.0
_SAVED_AT_ONCE = 16  # stretches a transaction, for which commits wait
_TRIM_EVERY = 30.0
_BACKLOG_BATCHES = 20_000  # above this even running stretches are saved, so that the batches stay bounded
_RETRY_EVERY = 1.0
_MINE = 10  # hex digits
_LONGEST_PIECE = 64 * 1024  # characters; what is said at once and is longer becomes several pieces
_PORTION = 1024 * 1024  # characters of a long text that are committed at once
_LONG = 64 * 1024  # characters of a text that a last event doesn't repeat
_TEXT_KINDS = {"message": MESSAGE, "reasoning": REASONING}


class Owner(Protocol):
    """Who has begun a stretch."""

    def lost(self, stretch: Stretch, error: JournalError) -> None:
        """What was appended and nobody has seen is gone. It may end the stretch with `owe`."""


class EventLog:
    """Logs by key, each a row of stretches. One process writes them all.

    Order: events of one stretch are seen in the order they were appended, none is left out, and none is seen before
    it is durable, with one exception: when the journal can't be written, the stretch's owner is told that
    what it appended and nobody has seen is gone, and the last event that it then gives to `owe` is shown at once and
    written first when the journal heals. The same is done when one turn's data break the journal or the showing
    (`Broken`): the others go on. A tail's watchers hear of each commit that touched it.

    With `until_told` a turn that ended is kept as one to be told of (`ended_unsaved`), over restarts too, until `told`
    says that others know of its end.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        ledger: Ledger,
        retention: float,
        clock: Callable[[], float],
        count: Callable[[str, int], None] = lambda *_: None,
        until_told: bool = False,
        faults: Faults | None = None,
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._retention = retention
        self._until_told = until_told
        self._clock = clock
        self._count = count
        self._faults = faults or Faults()
        self.trouble: str | None = None
        self._tails: dict[str, Tail] = {}
        self._loading: dict[str, asyncio.Task[Tail]] = {}
        self._reading: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._open: dict[int, tuple[Stretch, Tail]] = {}  # not saved yet
        self._owners: dict[int, Owner] = {}  # of stretches in `_open`
        self._turns: dict[str, Tail] = {}  # turns in `_open`, for `find`
        self._told: set[str] = set()  # turns in `_open` of whose end others know
        self._marks: dict[str, Stretch] = {}  # likewise, for `marked`
        self._pending: list[Record] = []
        self._long = False  # it has pieces of a long text, between which it may be cut
        self._owed: list[Record] = []
        self._in_flight: list[Record] = []
        self._waiters: list[asyncio.Future[None]] = []  # for what is pending
        self._in_flight_waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._next_number = 1
        self._made = ""
        self._mine = new_token()[:_MINE]  # this process's part of the epochs that it opens
        self._foreign: set[int] = set()  # running stretches to which this process has not written yet
        self._last_batch = 0
        self._erased = 0  # the last batch that may hold something of an erased log; 0 when none does
        self._inherited = False  # a former process left batches, and may have been killed before it dropped them
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._writing = asyncio.Lock()

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> list[Stretch]:
        """Opens the journal; the stretches that a former process left running, in the order they began."""
        recovered = await self._journal.open()
        self._next_number = recovered.next_number
        self._made = recovered.made
        self._last_batch = recovered.last_batch
        self._erased = recovered.erased
        self._inherited = recovered.last_batch > 0
        running = []
        for stretch in recovered.stretches:
            tail = await self._load_tail(LogKey(stretch.key), stretch.epochs)
            if not any(span.number == stretch.number for span in tail.spans):
                tail.spans.append(Span(Place(stretch.first, stretch.last, stretch.number, stretch.turn)))
                tail.spans.sort(key=lambda span: span.first)
            next(span for span in tail.spans if span.number == stretch.number).stretch = stretch
            if stretch.last >= tail.head:
                tail.epochs = Epochs.parse(stretch.epochs)
            tail.head = max(tail.head, stretch.last)
            tail.next = tail.head + 1
            self._remember(stretch, tail)
            if stretch.ended is None:
                tail.writer = stretch.number
                self._foreign.add(stretch.number)
                running.append(stretch)
        jobs: tuple[tuple[Part, Callable[[], Coroutine[Any, Any, None]]], ...] = (
            ("commit", self._commit_for_ever),
            ("fold", self._fold_for_ever),
        )
        for part, job in jobs:
            self._tasks.append(asyncio.create_task(job()))
            self._faults.watch(part, self._tasks[-1])
        return running

    def ended_unsaved(self) -> list[Stretch]:
        """Stretches that ended and are not saved yet; after `open`, those of which the process before told nobody."""
        return [stretch for stretch, _ in self._open.values() if stretch.ended is not None]

    async def close(self) -> None:
        """Commits what was appended, saves what can be saved, gives the journal back."""
        self._closing = True
        self._wake.set()
        commit, *others = self._tasks or [asyncio.create_task(asyncio.sleep(0))]
        for task in others:
            task.cancel()
        await asyncio.gather(commit, *others, return_exceptions=True)
        self._tasks.clear()
        try:
            await self.fold(also_running=True)
        except JournalError as error:
            logger.warning("log.not_saved", reason=str(error))
        except Exception as error:
            self._faults.broke("fold", error)
        finally:
            await self._journal.close()  # its threads would keep the process alive

    # -- writing ------------------------------------------------------------------------------------------------

    def begin(self, tail: Tail, turn: str, state: bytes = b"", *, owner: Owner, mark: str = "") -> Stretch:
        """Begins a stretch at the tail's end. There is one writer per tail: the one before must have ended.

        `mark` is a name by which `marked` finds it as long as it is kept. `owner` is told of losses.
        """
        if tail.writer is not None:
            raise RuntimeError(f"{tail!r} is being written by #{tail.writer}")
        number = self._next_number
        self._next_number += 1
        tail.writer = number
        epochs = self._write_as_mine(tail)
        stretch = Stretch(number, tail.key, epochs, tail.next, turn, state, mark)
        self._remember(stretch, tail)
        self._owners[number] = owner
        self._put((number, BEGIN, stretch.first, (tail.key, epochs, turn, state, mark)))
        return stretch

    def take_over(self, stretch: Stretch, owner: Owner) -> None:
        """Goes on with a stretch that a former process left running."""
        self._owners[stretch.number] = owner

    def append(self, stretch: Stretch, event: Event) -> None:
        """Adds an event. It is seen once it is durable; nothing is awaited here."""
        number = stretch.number
        tail = self._open[number][1]
        if self._foreign and number in self._foreign:
            self._put(self._go_on_with(number, tail))
        sequence = tail.next
        pending = self._pending
        if type(event) is Text:
            if len(event.content) > _LONGEST_PIECE:
                self._append_long(stretch, event)
                return
            pending.append((number, _TEXT_KINDS[event.kind], sequence, event.content))
        else:
            pending.append(self._whole(stretch, sequence, event))
        tail.next = sequence + 1  # only now: an event that can't be encoded must not leave a gap
        if len(pending) == 1:
            self._wake.set()

    def note(self, stretch: Stretch, state: bytes) -> None:
        """Replaces the writer's note, in order with the events."""
        stretch.noted = len(state)
        self._put((stretch.number, STATE, 0, state))

    def note_more(self, stretch: Stretch, more: bytes) -> None:
        """Adds to the writer's note, in order with the events."""
        self._put((stretch.number, MORE, stretch.noted, more))
        stretch.noted += len(more)

    def end(self, stretch: Stretch) -> None:
        """Ends the stretch after what was appended; its retention begins."""
        self._put((stretch.number, END, 0, self._clock()))
        self._open[stretch.number][1].writer = None

    def owe(self, stretch: Stretch, last: Event | None = None) -> None:
        """Ends a stretch that can't be written now, showing its last event if it has one; written before all else."""
        number, sequence = stretch.number, stretch.last + 1
        tail = self._open[number][1]
        if not any(later > number and its is tail for later, (_, its) in self._open.items()):
            tail.next = sequence
            tail.writer = None
        # The journal may have taken what it said that it could not, and what was not shown must not be there later.
        records: list[Record] = [(number, CUT, stretch.last, None)]
        if last is not None:
            if number in self._foreign:
                records.append(self._go_on_with(number, tail))
            records.append(self._whole(stretch, sequence, last))
            tail.next = max(tail.next, sequence + 1)
        records.append((number, END, 0, self._clock()))
        self._owed += records
        self._apply(records)

    async def committed(self) -> None:
        """Waits until all that was appended before is durable. Raises `storage_unavailable` when it is lost."""
        if not self._pending and not self._in_flight:
            return
        waiter = asyncio.get_running_loop().create_future()
        (self._waiters if self._pending else self._in_flight_waiters).append(waiter)
        try:
            await waiter
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error

    @property
    def backlog(self) -> int:
        """Records appended and not yet durable."""
        return len(self._pending) + len(self._in_flight)

    def _append_long(self, stretch: Stretch, text: Text) -> None:
        """Adds a text in several pieces, for which `_take` needs not make one batch."""
        for at in range(0, len(text.content), _LONGEST_PIECE):
            self.append(stretch, Text(text.kind, text.content[at : at + _LONGEST_PIECE]))
        self._long = True

    def _whole(self, stretch: Stretch, sequence: int, event: Event) -> Record:
        """The record of an event that is no piece of text. A last one doesn't repeat a long text that was shown."""
        if isinstance(event, Last) and len(event.content) > _LONG:
            later = chain(self._in_flight, self._pending)
            if stretch.says(event.content, later):
                return stretch.number, LAST, sequence, body(structs.replace(event, content=""))
        return stretch.number, WHOLE, sequence, body(event)

    def _put(self, record: Record) -> None:
        self._pending.append(record)
        if len(self._pending) == 1:
            self._wake.set()

    def _go_on_with(self, number: int, tail: Tail) -> Record:
        """Says that what comes now in a stretch that a former process left running is this one's."""
        self._foreign.discard(number)
        return number, EPOCHS, tail.next, self._write_as_mine(tail)

    def _write_as_mine(self, tail: Tail) -> str:
        """The log's epochs, of which the newest is this process's from the next event on."""
        if not tail.epochs.newest.endswith(self._mine):
            tail.epochs = tail.epochs.then(epoch_mark(tail.key) + self._mine, tail.next)
        return tail.epochs.text

    def _remember(self, stretch: Stretch, tail: Tail) -> None:
        self._open[stretch.number] = (stretch, tail)
        tail.unsaved += 1
        if stretch.turn:
            self._turns[stretch.turn] = tail
        if stretch.mark:
            self._marks[stretch.mark] = stretch

    def _unremember(self, stretch: Stretch, tail: Tail) -> None:
        del self._open[stretch.number]
        self._owners.pop(stretch.number, None)
        tail.unsaved -= 1
        if self._turns.get(stretch.turn) is tail:
            del self._turns[stretch.turn]
            self._told.discard(stretch.turn)
        if self._marks.get(stretch.mark) is stretch:
            del self._marks[stretch.mark]

    # -- group commit -------------------------------------------------------------------------------------------

    async def _commit_for_ever(self) -> None:
        pause = _PAUSE
        with self._ledger.open("task", "log.commit"):
            while not (self._closing and not self._pending):
                await self._wake.wait()
                self._wake.clear()
                if not self._pending and not self._owed:
                    continue
                try:
                    pause = await self._commit(pause)
                except JournalError as error:
                    self._lose(error)
                except Exception as error:
                    self._faults.broke("commit", error)
                    self._lose(Broken(f"the event log is broken: {type(error).__name__}"))
                if self._pending:
                    self._wake.set()

    async def _commit(self, pause: float) -> float:
        """Commits what is pending and shows it; the pause to be made after the next full batch."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        batch = self._take()
        try:
            async with self._writing:
                await self._commit_with_owed(batch)
        except JournalError:
            raise
        except Exception as error:
            self._faults.broke("commit", error)
            async with self._writing:
                batch = await self._commit_apart(batch)
        self._written(batch)
        if len(batch) <= _BUSY_BATCH or self._closing:
            return pause
        due = max(began + pause, loop.time())
        await asyncio.sleep(due - loop.time())
        late = loop.time() - due
        return min(4 * late, _LONGEST_PAUSE) if late > _LATE and len(batch) > _CROWD else _PAUSE

    async def _commit_with_owed(self, batch: list[Record]) -> None:
        owed, self._owed = self._owed, []
        try:
            self._last_batch = await self._journal.commit(owed + batch)
        except BaseException:
            self._owed = owed + self._owed
            raise

    async def _commit_apart(self, batch: list[Record]) -> list[Record]:
        """Ends the turns whose records break the journal; what is durable now of a batch that holds some."""
        logs: dict[Tail, list[Record]] = {}
        for record in batch:
            logs.setdefault(self._open[record[0]][1], []).append(record)
        outcome = await commit_apart(self._journal, self._owed, logs)
        self._owed = []
        self._last_batch = outcome.batch or self._last_batch
        for tail, error in outcome.broken.items():
            self._faults.broke("turn", error, turns=[s.turn for s, its in self._open.values() if its is tail])
            lost = [r for r in self._in_flight + self._pending if self._open[r[0]][1] is tail]
            self._in_flight = [r for r in self._in_flight if self._open[r[0]][1] is not tail]
            self._pending = [r for r in self._pending if self._open[r[0]][1] is not tail]
            self._let_go(lost, Broken(f"the turn is broken: {type(error).__name__}"))
        return outcome.durable

    def _take(self) -> list[Record]:
        """What is to be committed next: all that was appended until now, or of a long text as much as is little."""
        batch, self._pending = self._pending, []
        if self._long:
            end = _end_of_portion(batch)
            batch, self._pending = batch[:end], batch[end:]
        self._in_flight = batch
        if self._pending:
            return batch  # whoever waits, waits for the rest too
        self._long = False
        self._in_flight_waiters, self._waiters = self._waiters, []
        return batch

    def _written(self, batch: list[Record]) -> None:
        """The batch is durable, and what was owed before it."""
        self._in_flight = []
        self._heal()
        self._apply(batch)
        waiters, self._in_flight_waiters = self._in_flight_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _apply(self, batch: list[Record]) -> None:
        """Shows what is durable now: the one place where events become visible."""
        touched: dict[Tail, None] = {}
        live = self._open
        shown: dict[str, int] = {}
        pieces = [0, 0]
        broken: dict[int, Exception] = {}
        for number, kind, sequence, payload in batch:
            if broken and number in broken:
                continue
            stretch, tail = live[number]
            try:
                if kind <= WHOLE or kind == LAST:
                    if kind >= WHOLE:
                        name = payload[9 : payload.index(b'"', 9)].decode()
                        shown[name] = shown.get(name, 0) + 1
                    else:
                        pieces[kind] += 1
                    stretch.apply(kind, payload)
                    tail.head = sequence
                    touched[tail] = None
                elif kind == STATE:
                    stretch.state = payload
                elif kind == MORE:
                    stretch.state += payload
                elif kind == END:
                    stretch.ended = payload
                    touched[tail] = None
                elif kind == EPOCHS:
                    stretch.epochs = payload
                elif kind == BEGIN:  # only now: to a reader, what is not durable is not there, not even an empty place
                    tail.spans.append(Span(Place(sequence, sequence - 1, number, stretch.turn), stretch))
            except Exception as error:
                broken[number] = error
            if not stretch.backlog:
                stretch.backlog = self._last_batch
        for name, times in (*shown.items(), ("message", pieces[MESSAGE]), ("reasoning", pieces[REASONING])):
            if times:
                try:
                    self._count(name, times)
                except Exception as error:
                    self._faults.broke("show", error)
        now = asyncio.get_running_loop().time()
        for tail in touched:
            tail.published = now
            try:
                tail.news()
            except Exception as error:
                self._faults.broke("show", error)
        for number, why in broken.items():
            self._break(number, why)

    def _break(self, number: int, error: Exception) -> None:
        """A turn's events are durable and can't be shown: it ends after the last one that was."""
        stretch, tail = self._open[number]
        self._faults.broke("turn", error, turn=stretch.turn)
        self._pending = [record for record in self._pending if record[0] != number]
        head = tail.head
        self._tell(self._owners.get(number), stretch, Broken(f"the turn is broken: {type(error).__name__}"))
        if stretch.ended is None:
            self.owe(stretch)
        tail.head = max(tail.head, head)

    def _lose(self, error: JournalError) -> None:
        """The journal refused: what was appended and not seen is gone, and its writers are told."""
        if not isinstance(error, Broken):
            self._trouble(error)
        lost = self._in_flight + self._pending
        waiters = self._in_flight_waiters + self._waiters
        self._in_flight, self._pending, self._in_flight_waiters, self._waiters = [], [], [], []
        self._let_go(lost, error)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        loop = asyncio.get_running_loop()
        loop.call_later(_RETRY_EVERY, self._wake.set)

    def _let_go(self, lost: list[Record], error: JournalError) -> None:
        """These records were never written, and never seen: as if they had not been. Tells their writers."""
        stretches: dict[int, tuple[Stretch, Owner | None]] = {}
        begun: set[int] = set()
        for number, kind, _, _ in lost:
            stretch, tail = self._open[number]
            tail.next = tail.head + 1
            stretches[number] = stretch, self._owners.get(number)
            if kind == BEGIN:
                begun.add(number)
            elif kind == EPOCHS:
                self._foreign.add(number)
        for number in begun:
            stretch, tail = self._open[number]
            self._unremember(stretch, tail)
            tail.writer = None
            self._forget_tail(tail)
        for stretch, owner in stretches.values():
            self._tell(owner, stretch, error)

    def _tell(self, owner: Owner | None, stretch: Stretch, error: JournalError) -> None:
        try:
            if owner is not None:
                owner.lost(stretch, error)
        except Exception as fault:
            self._faults.broke("turn", fault, turn=stretch.turn)

    def _trouble(self, error: Exception) -> None:
        if self.trouble is None:
            logger.error("log.unwritable", reason=str(error))
        self.trouble = str(error)

    def _heal(self) -> None:
        if self.trouble is not None:
            logger.info("log.healed", after=self.trouble)
            self.trouble = None

    async def probe(self) -> None:
        """Learns whether the journal can be written, when nothing else is being written."""
        try:
            async with self._writing:
                if self._owed:
                    await self._commit_with_owed([])
                else:
                    await self._journal.probe()
        except JournalError as error:
            self._trouble(error)
        except Exception as error:
            self._faults.broke("commit", error)
            self._trouble(Broken(f"the event log is broken: {type(error).__name__}"))
        else:
            self._heal()

    # -- keeping ------------------------------------------------------------------------------------------------

    async def _fold_for_ever(self) -> None:
        every = max(0.05, min(_FOLD_EVERY, self._retention / 4))
        trim_every = max(every, min(_TRIM_EVERY, self._retention / 4))
        since_trim, tidied = 0.0, -1
        with self._ledger.open("task", "log.fold"):
            while True:
                await asyncio.sleep(every)
                since_trim += every
                try:
                    if self.trouble is not None:
                        await self.probe()
                    if self.trouble is None:
                        await self.fold()
                        if since_trim >= trim_every:
                            since_trim = 0.0
                            await self.trim()
                        if tidied != self._last_batch:  # nothing to move for a gateway that nobody asks
                            tidied = self._last_batch
                            await self._journal.tidy()
                except JournalError as error:
                    logger.warning("log.fold_failed", reason=str(error))
                except Exception as error:
                    self._faults.broke("fold", error)

    async def fold(self, *, also_running: bool = False) -> None:
        """Saves finished stretches whole and drops the batches that nobody needs any more.

        A turn of whose end nobody was told yet waits, also at a close.
        """
        unseen = {record[0] for record in self._in_flight + self._pending + self._owed}
        crowded = self._last_batch - self._oldest_batch() > _BACKLOG_BATCHES
        ready = [
            stretch
            for stretch, _ in self._open.values()
            if stretch.number not in unseen
            and stretch.backlog
            and (
                self._may_go(stretch)
                if stretch.ended is not None
                else also_running or crowded or stretch.backlog <= self._erased
            )
        ]
        last = self._last_batch
        for start in range(0, len(ready), _SAVED_AT_ONCE):
            some = ready[start : start + _SAVED_AT_ONCE]
            for stretch in await self._save(some):
                if stretch.ended is None:
                    stretch.backlog = last + 1
                elif stretch.number in self._open:
                    tail = self._open[stretch.number][1]
                    self._unremember(stretch, tail)
                    self._release(tail, stretch)
            await asyncio.sleep(0)
        if ready or self._erased or self._inherited:
            async with self._writing:
                before = min(self._oldest_batch(), last + 1)
                await self._journal.forget(before=before)
                self._inherited = False
                if before > self._erased:
                    self._erased = 0

    async def _save(self, some: list[Stretch]) -> list[Stretch]:
        """Saves stretches; those that are saved. What is broken in itself is not kept beyond its batches."""
        try:
            async with self._writing:
                some = [stretch for stretch in some if stretch.number in self._open]  # an erased one must stay erased
                await self._journal.save(some)
            return some
        except JournalError:
            raise
        except Exception as error:
            if len(some) > 1:
                return [saved for one in some for saved in await self._save([one])]
            self._faults.broke("fold", error, turn=some[0].turn)
            self._discard(some[0])
            return []

    def _discard(self, stretch: Stretch) -> None:
        tail = self._open[stretch.number][1]
        if stretch.ended is not None:
            self._unremember(stretch, tail)
            tail.spans = [span for span in tail.spans if span.number != stretch.number]
            self._forget_tail(tail)

    def told(self, turn: str) -> None:
        """Others know of the turn's end, for good."""
        if turn in self._turns:
            self._told.add(turn)

    def _may_go(self, ended: Stretch) -> bool:
        """Whether nobody has to be told of it any more; of what has no turn, or no event, there is nothing to tell."""
        return not (self._until_told and ended.turn and ended.last >= ended.first) or ended.turn in self._told

    def _oldest_batch(self) -> int:
        return min((s.backlog for s, _ in self._open.values() if s.backlog), default=self._last_batch + 1)

    def _release(self, tail: Tail, stretch: Stretch) -> None:
        """A saved stretch leaves memory; so does a tail that nobody watches or writes."""
        for span in tail.spans:
            if span.number == stretch.number and not tail.users:
                span._last = stretch.last
                span.stretch = None
        self._forget_tail(tail)

    def _forget_tail(self, tail: Tail) -> None:
        if not tail.users and not tail.unsaved and self._tails.get(tail.key) is tail:
            del self._tails[tail.key]

    async def trim(self) -> None:
        """Lets retention take what ended long enough ago."""
        while keys := await self._trim_some():
            for key in keys:
                if (tail := self._tails.get(key)) is not None:
                    index = await self._journal.index(key)
                    kept = {place.number for place in index.places} if index else set()
                    tail.spans = [s for s in tail.spans if s.number in kept or s.number in self._open]

    async def _trim_some(self) -> list[str]:
        async with self._writing:
            now = self._clock()
            return await self._journal.trim(before=now - self._retention, now=now)

    async def erase(self, keys: Collection[LogKey]) -> None:
        """Drops logs that nobody writes any more, with their marks: for good when it returns.

        Batches that hold something of them follow within seconds. Raises `storage_unavailable`.
        """
        if self.trouble is not None:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, self.trouble)
        await self.committed()
        ours = [(stretch, tail) for stretch, tail in self._open.values() if stretch.key in keys]
        try:
            async with self._writing:
                await self._journal.erase(list(keys), [stretch.number for stretch, _ in ours])
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        for stretch, tail in ours:
            self._unremember(stretch, tail)
            tail.writer = None
        for key in keys:
            if key in self._tails:
                gone = self._tails.pop(key)
                gone.spans = []
                gone.resets.clear()
        self._erased = self._last_batch

    # -- reading ------------------------------------------------------------------------------------------------

    def create(self, key: LogKey) -> Tail:
        """The tail of a log that is known to be new."""
        tail = self._tails[key] = Tail(key, self._no_epochs(key))
        return tail

    async def tail(self, key: LogKey) -> Tail:
        """The log's tail, read from the journal when it is not in memory. Raises `JournalError`.

        Whoever means to keep it joins its `users` before awaiting anything else.
        """
        while (tail := self._tails.get(key)) is None:  # again, when another who waited has left with it meanwhile
            task = self._loading.get(key)
            if task is None:
                task = self._loading[key] = asyncio.create_task(self._load_tail(key))
                task.add_done_callback(lambda _: self._loading.pop(key, None))
            await outlived(task, expected=JournalError)
        return tail

    async def _load_tail(self, key: LogKey, epochs: str = "") -> Tail:
        index = await self._journal.index(key)
        if (tail := self._tails.get(key)) is not None:
            return tail
        if index is None:
            tail = Tail(key, Epochs.parse(epochs) if epochs else self._no_epochs(key))
        else:
            tail = Tail(key, Epochs.parse(index.epochs), index.head)
            tail.spans = [Span(place) for place in index.places]
        self._tails[key] = tail
        return tail

    async def find(self, turn: str) -> Tail | None:
        """The log that holds a turn's stretch, None when it is not kept."""
        if (tail := self._turns.get(turn)) is not None:
            return tail
        key = await self._journal.find(turn)
        return None if key is None else await self.tail(LogKey(key))

    async def saved_turns(self) -> list[str]:
        """The turns that are kept whole, oldest first."""
        return await self._journal.turns()

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        """The turn and the note of the newest stretch that was begun with a mark and is still kept."""
        if (stretch := self._marks.get(mark)) is not None:
            return stretch.turn, stretch.state
        return await self._journal.marked(mark)

    async def load(self, span: Span) -> Stretch | None:
        """Brings a stored stretch into memory; None when retention took it."""
        if span.stretch is None:
            if (lock := self._reading.get(span.number)) is None:
                lock = self._reading[span.number] = asyncio.Lock()
            async with lock:  # many readers of one stored answer read it once
                if span.stretch is None:
                    span.stretch = await self._journal.load(span.number)
        return span.stretch

    def drop(self, tail: Tail, user: object) -> None:
        """Someone who held the tail has left: what was loaded for it leaves memory with the last one."""
        tail.users.discard(user)
        if not tail.users:
            for span in tail.spans:
                if span.stretch is not None and span.number not in self._open:
                    span._last = span.stretch.last
                    span.stretch = None
            self._forget_tail(tail)

    def stretch(self, number: int) -> Stretch:
        """A stretch that is not saved yet."""
        return self._open[number][0]

    def tail_of(self, stretch: Stretch) -> Tail:
        """The tail of a stretch that is not saved yet."""
        return self._open[stretch.number][1]

    def loaded(self, key: LogKey) -> Tail | None:
        """The log's tail if it is in memory, as it is while anybody reads or writes it."""
        return self._tails.get(key)

    def tails(self) -> list[Tail]:
        """All that are in memory."""
        return list(self._tails.values())

    def _no_epochs(self, key: str) -> Epochs:
        """The epoch of a log of which nothing is kept: the same at each look, another when the journal is made anew.

        Each epoch begins with a mark of the key, so that a position of an older one is told from one of another log.
        """
        return Epochs.parse(epoch_mark(key) + self._made)

    def __repr__(self) -> str:
        return f"EventLog({len(self._tails)} tails, {len(self._open)} unsaved, {len(self._pending)} pending)"


def _end_of_portion(batch: list[Record]) -> int:
    """Where a batch can be cut: after a piece of a long text, since what else comes together is kept together."""
    size = 0
    for at, (_, kind, _, payload) in enumerate(batch):
        if kind <= WHOLE:
            size += len(payload)
            if size >= _PORTION and kind != WHOLE and len(payload) == _LONGEST_PIECE:
                return at + 1
    return len(batch)


def epoch_mark(key: str) -> str:
    return hashlib.blake2s(key.encode(), digest_size=4).hexdigest()


def is_of(key: str, epoch: str) -> bool:
    """Whether an epoch, current or older, belongs to the log `key`."""
    return epoch.startswith(epoch_mark(key))
