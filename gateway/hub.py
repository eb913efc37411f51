"""The hub: who listens to which log, and the one place from which outlets are served."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import structlog

from gateway.errors import Code
from gateway.events import encode_fields
from gateway.faults import Faults, Part
from gateway.ids import LogKey, Position, parse_position
from gateway.ledger import Ledger
from gateway.log.epochs import Epochs
from gateway.log.journal import JournalError
from gateway.log.log import EventLog, is_of
from gateway.log.stretch import Entry, Stretch
from gateway.log.tail import Span, Tail
from gateway.outline import outline
from gateway.subscription import Subscription

logger = structlog.get_logger()

Encode = Callable[[Tail, list[Entry]], bytes]
"""Turns entries into one frame of a transport. Pure, so that all readers at one position share the result."""

ResetReason = Literal["expired", "unknown", "ahead"]

_WRITES_A_TICK = 1000  # deliveries before new connections and other logs get their turn
_SLICE = 250  # of them on one log
_FRAMES_KEPT = 64
_MOST_AT_ONCE = 1024 * 1024  # bytes given to one outlet before others get their turn
_BEATS_A_SLICE = 250


class Heart(Protocol):
    """A connection that is kept alive and told of the end. All calls come from the event loop's thread."""

    def beat(self, now: float) -> None:
        """A heartbeat is due; also the time to notice a peer that accepts nothing."""

    def farewell(self, code: Code) -> None:
        """Tells the reader to come back, or to go, and ends."""

    def busy(self) -> bool:
        """Whether it hears a turn that still runs."""


class Outlet(Heart, Protocol):
    """The last mile to one reader that mostly waits. Never blocks."""

    subscription: Subscription
    encode: Encode
    label: str
    greeting: bytes

    @property
    def paused(self) -> bool:
        """Whether its socket accepts nothing now; it is served again once it does."""

    spoke: bool

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """Where frames go while `paused` is false; None once it is closed."""

    def finish(self) -> None:
        """The turn has nothing more to give."""


class Watch(Protocol):
    """What the hub reports to metrics, added up over a tick."""

    def delivered(self, label: str, events: int) -> None: ...
    def delay(self, label: str, seconds: float, times: int) -> None: ...


class Hub:
    """Subscriptions and outlets over one event log.

    Serving: once a loop tick, for each log with news, readers at the same position get the same frame, encoded once;
    a reader that is not ready keeps its cursor and gets one joined frame when it is. Nothing is queued for anybody. A
    reader at whom our own code fails is told so and cut; the others are served.
    """

    def __init__(
        self, log: EventLog, *, ledger: Ledger, watch: Watch, heartbeat: float, faults: Faults | None = None
    ) -> None:
        self.log = log
        self.draining = False
        self.closing = False
        self._ledger = ledger
        self._watch = watch
        self._heartbeat = heartbeat
        self._faults = faults or Faults()
        self._hearts: dict[Heart, None] = {}
        self._due: dict[Tail, None] = {}
        self._work = self._slices()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._given: dict[str, int] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self.on_left: Callable[[Subscription], None] = lambda _: None
        self.on_joined: Callable[[Subscription], None] = lambda _: None
        log.on_news = self._news

    # -- subscribing ----------------------------------------------------------------------------------------------

    async def subscribe(self, key: LogKey, *, asked: str | None, turn: str | None = None) -> tuple[Subscription, bool]:
        """A cursor for the position asked for, and whether it continues exactly. Raises `JournalError`.

        None asks for the beginning of the turn, or of the running turn, else for what comes from now on; "0" for the
        oldest kept. A position that can't be continued exactly gets a `reset` as its preface, and goes on from there.
        """
        tail = await self.log.tail(key)
        span = next((s for s in reversed(tail.spans) if s.turn == turn), None) if turn is not None else None
        after, reason = _start(tail, asked, turn, span)
        subscription = Subscription(
            self, tail, self._ledger.open("subscription", "hub.subscribe"), after=after, turn=turn, span=span
        )
        subscription.reason = reason
        if reason is not None:
            try:
                await self._reset(subscription, reason, span)
            except BaseException:
                subscription.close()
                raise
        self.on_joined(subscription)
        return subscription, reason is None

    def apart(self, key: LogKey, turn: str, at: Position) -> Subscription:
        """A cursor for a turn whose events are not kept: over a tail of its own, in which its last event is `at`."""
        tail = Tail(key, Epochs.parse(at.epoch), at.sequence)
        held = self._ledger.open("subscription", "hub.apart")
        subscription = Subscription(self, tail, held, after=at.sequence, turn=turn, span=None)
        subscription.gone = True
        return subscription

    async def _reset(self, subscription: Subscription, reason: ResetReason, span: Span | None) -> None:
        """Puts the cursor where it can go on exactly, and says so first."""
        tail = subscription.tail
        if span is None and subscription.turn is None and tail.spans:
            span = tail.spans[-1]
        stretch = await self.log.load(span) if span is not None else None
        if stretch is None:
            status = "queued" if subscription.turn is not None else ""
            subscription.after = tail.head
            subscription.preface = [
                reset(tail.head, reason, turn_id=subscription.turn or "", status=status, content="")
            ]
            return
        found = outline(stretch)
        at = stretch.last
        if stretch.turn and stretch.ended is not None:
            at -= 1  # a finished turn's last event follows its reset
        subscription.after = at
        status = found.status if stretch.turn else ""  # a shop's log is of no turn
        subscription.preface = [reset(at, reason, turn_id=stretch.turn, status=status, content=found.content)]

    async def catch_up(self, subscription: Subscription) -> None:
        if (span := subscription.span) is not None and subscription.turn is not None:
            subscription.after = span.last  # whoever asks for the turn again is told from the store
        else:
            await self._reset(subscription, "expired", None)

    async def load(self, span: Span) -> Stretch | None:
        return await self.log.load(span)

    def left(self, subscription: Subscription) -> None:
        """A subscription was closed."""
        self.log.drop(subscription.tail, subscription)
        self.on_left(subscription)

    def listeners(self, tail: Tail, turn: str) -> int:
        """How many listen to a turn, by itself or with its conversation."""
        return sum(1 for u in tail.users if isinstance(u, Subscription) and u.turn in (None, turn))

    # -- outlets --------------------------------------------------------------------------------------------------

    def attach(self, outlet: Outlet) -> None:
        """Serves the outlet from now on, at once with what there is."""
        outlet.subscription.tail.watchers[outlet] = None
        self.join(outlet)
        self.serve(outlet)

    def join(self, heart: Heart) -> None:
        """Beats it, and tells it of the end."""
        self._hearts[heart] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._heartbeat / 2, self._beat_all)

    def leave(self, heart: Heart) -> None:
        """Forgets it. Idempotent."""
        self._hearts.pop(heart, None)

    def detach(self, outlet: Outlet) -> None:
        """Forgets the outlet and closes its subscription. Idempotent."""
        if outlet in self._hearts:
            del self._hearts[outlet]
            outlet.subscription.tail.watchers.pop(outlet, None)
            outlet.subscription.close()

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """Moves the readers of a queued turn that will never be in its conversation's log to the log that it is in."""
        for user in [u for u in old.users if isinstance(u, Subscription) and u.turn == turn]:
            old.users.discard(user)
            new.users.add(user)
            user.tail, user.after = new, 0
        for outlet in [o for o in old.watchers if o.subscription.turn == turn]:
            del old.watchers[outlet]
            new.watchers[outlet] = None
        old.news()
        self._news(new)

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: gives its readers what there is, and tells them to go."""
        for outlet in list(tail.watchers):
            self.serve(outlet)
            if outlet in self._hearts:
                outlet.farewell(Code.NOT_FOUND)
        for user in list(tail.users):
            if isinstance(user, Subscription):
                user.gone, user.preface = True, []
        tail.news()

    def serve(self, outlet: Outlet) -> None:
        """Gives one outlet all that it has not had yet, as far as it is ready, in one write."""
        try:
            self._serve(outlet)
        except Exception as error:
            self._cut(outlet, "deliver", error)

    def _cut(self, heart: Heart, part: Part, error: Exception) -> None:
        """Our own code fails at this reader: it is told, and served no more."""
        self._faults.broke(part, error)
        try:
            heart.farewell(Code.INTERNAL)
        except Exception as again:
            self._faults.broke(part, again)
        self._hearts.pop(heart, None)
        if (subscription := getattr(heart, "subscription", None)) is not None:
            subscription.tail.watchers.pop(heart, None)
            subscription.close()

    def _serve(self, outlet: Outlet) -> None:
        subscription = outlet.subscription
        tail = subscription.tail
        if outlet.paused or outlet not in self._hearts:
            return
        frames: list[bytes] = [outlet.greeting] if outlet.greeting else []
        outlet.greeting = b""
        given = 0
        if subscription.preface:
            entries, subscription.preface = subscription.preface, []
            frames.append(outlet.encode(tail, entries))
            given = len(entries)
        size = 0
        while (span := subscription.span) is not None and subscription.after < span.last and size < _MOST_AT_ONCE:
            if span.stretch is None or subscription.outrun:
                self._fetch(outlet, span)
                break
            frame, events = self._frame(outlet, span.stretch)
            frames.append(frame)
            size += len(frame)
            given += events
            subscription.after = span.last
        if frames and outlet.transport is not None:
            outlet.spoke = True
            outlet.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
            self._given[outlet.label] = self._given.get(outlet.label, 0) + given
        if subscription.turn is not None and subscription.over:
            outlet.finish()
        elif size >= _MOST_AT_ONCE:
            self._loop.call_soon(self.serve, outlet)

    def _frame(self, outlet: Outlet, stretch: Stretch) -> tuple[bytes, int]:
        """The frame from the outlet's position to the stretch's last event, made once for all who are there."""
        subscription = outlet.subscription
        frames = subscription.tail.frames
        key = (outlet.encode, subscription.after, stretch.last)
        if (made := frames.get(key)) is None:
            entries = stretch.read(after=subscription.after)
            made = outlet.encode(subscription.tail, entries), len(entries)
            if len(frames) < _FRAMES_KEPT:
                frames[key] = made
        return made

    def _serve_all(self, tail: Tail, outlets: tuple[Outlet, ...]) -> None:
        """`serve` for many on one log. Those who are up to date but for this news, nearly all, share one frame."""
        hearts = self._hearts
        at, stretch, encode, frame, events = -1, None, None, b"", 0
        label, given = "", 0
        for outlet in outlets:
            subscription = outlet.subscription
            span = subscription.reading
            if span is None or subscription.preface or (mine := span.stretch) is None or mine.ended is not None:
                self.serve(outlet)
                continue
            after = subscription.after
            if after >= mine.last:
                continue
            if after < mine.first - 1:  # retention took what comes between; a fetch is under way to say so
                self.serve(outlet)
                continue
            if outlet.paused or outlet not in hearts:
                continue
            if after != at or mine is not stretch or outlet.encode is not encode:
                at, stretch, encode = after, mine, outlet.encode
                entries = mine.read(after=after)
                frame, events = encode(tail, entries), len(entries)
            if (transport := outlet.transport) is None:
                continue
            transport.write(frame)
            outlet.spoke = True
            subscription.after = mine.last
            if outlet.label is not label:
                if given:
                    self._given[label] = self._given.get(label, 0) + given
                label, given = outlet.label, 0
            given += events
        if given:
            self._given[label] = self._given.get(label, 0) + given

    def _fetch(self, outlet: Outlet, span: Span) -> None:
        """Reads a stored stretch for an outlet that is behind what is in memory, then goes on serving it."""

        async def fetch() -> None:
            with self._ledger.open("task", "hub.fetch"):
                try:
                    if outlet.subscription.outrun or await self.log.load(span) is None:
                        await self.catch_up(outlet.subscription)
                except JournalError as error:
                    logger.warning("hub.fetch_failed", reason=str(error))
                    outlet.farewell(Code.STORAGE_UNAVAILABLE)
                    return
                except Exception as error:
                    self._cut(outlet, "deliver", error)
                    return
                self.serve(outlet)

        task = self._loop.create_task(fetch())
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    # -- news -----------------------------------------------------------------------------------------------------

    def _news(self, tail: Tail) -> None:
        if tail.watchers:
            self._due[tail] = None
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Serves what is due, a bounded number of deliveries a tick."""
        left = _WRITES_A_TICK
        published, label, times = 0.0, "", 0
        for tail, outlets in self._work:
            if tail.published != published or outlets[0].label is not label:
                self._delayed(label, published, times)
                published, label, times = tail.published, outlets[0].label, 0
            try:
                self._serve_all(tail, outlets)
            except Exception:
                for outlet in outlets:  # one by one: whoever fails here is cut
                    self.serve(outlet)
            times += len(outlets)
            left -= len(outlets)
            if left <= 0:
                self._loop.call_soon(self._flush)
                break
        else:
            self._work = self._slices()
            self._scheduled = False
        self._delayed(label, published, times)
        self._report()

    def _slices(self) -> Iterator[tuple[Tail, tuple[Outlet, ...]]]:
        """Who is to be served, log by log, a bounded number at a time. News that comes meanwhile waits its turn."""
        while self._due:
            due, self._due = self._due, {}
            for tail in due:
                outlets = tuple(tail.watchers)
                if 0 < len(outlets) <= _SLICE:
                    yield tail, outlets
                    continue
                for at in range(0, len(outlets), _SLICE):
                    yield tail, outlets[at : at + _SLICE]

    def _delayed(self, label: str, published: float, times: int) -> None:
        if times:
            try:
                self._watch.delay(label, self._loop.time() - published, times)
            except Exception as error:
                self._faults.broke("deliver", error)

    def _report(self) -> None:
        given, self._given = self._given, {}
        for label, events in given.items():
            try:
                self._watch.delivered(label, events)
            except Exception as error:
                self._faults.broke("deliver", error)

    # -- heartbeats -----------------------------------------------------------------------------------------------

    def _beat_all(self) -> None:
        """One timer beats all hearts, twice an interval: whoever got something since is skipped once, so that nobody
        hears nothing for longer than the interval."""
        self._timer = self._loop.call_later(self._heartbeat / 2, self._beat_all)
        self._report()
        self._beat(list(self._hearts), 0)

    def _beat(self, hearts: list[Heart], at: int) -> None:
        """A slice a tick, so that others get their turn; without a pause between, for a sleeping peer costs more."""
        now = self._loop.time()
        for heart in hearts[at : at + _BEATS_A_SLICE]:
            if heart in self._hearts:
                try:
                    heart.beat(now)
                except Exception as error:
                    self._cut(heart, "heartbeat", error)
        if at + _BEATS_A_SLICE < len(hearts) and not self.closing:
            self._loop.call_soon(self._beat, hearts, at + _BEATS_A_SLICE)

    # -- the end --------------------------------------------------------------------------------------------------

    def drain(self, *, also_running: bool = False) -> None:
        """Tells those who only wait to come back; with `also_running` those too whose turn still runs."""
        self.draining = True
        self.closing = also_running
        for heart in list(self._hearts):
            try:
                if also_running or not heart.busy():
                    heart.farewell(Code.DRAINING)
            except Exception as error:
                self._cut(heart, "deliver", error)
        for tail in {u.tail for u in self._waiting()}:
            tail.news()

    def _waiting(self) -> list[Subscription]:
        return [user for tail in list(self.log.tails()) for user in tail.users if isinstance(user, Subscription)]

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in list(self._fetching):
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)

    def __repr__(self) -> str:
        return f"Hub({len(self._hearts)} outlets, {len(self._due)} logs due)"


def _start(tail: Tail, asked: str | None, turn: str | None, span: Span | None) -> tuple[int, ResetReason | None]:
    """Where a reader begins, and why it can't go on exactly where it asked to, if it can't."""
    if turn is not None:
        beginning = span.first - 1 if span is not None else tail.head
    elif (running := tail.running) is not None and running.turn:  # a shop's log has no turns
        beginning = running.first - 1
    else:
        beginning = tail.head
    if asked is None:
        return beginning, None
    if asked == "0":
        return (beginning if turn is not None else tail.floor), None
    position = parse_position(asked)
    if position is None or not is_of(tail.key, position.epoch):
        return beginning, "unknown"
    if (refused := tail.epochs.refuses(position)) is not None:
        return beginning, refused
    if position.sequence > tail.head:
        return beginning, "ahead"
    if turn is not None:
        return max(position.sequence, beginning), None
    if position.sequence < tail.floor:
        return beginning, "expired"
    return position.sequence, None


def reset(sequence: int, reason: ResetReason, *, turn_id: str, status: str, content: str) -> Entry:
    """The event that tells a reader to replace what it shows; its id is the position to go on from."""
    fields: dict[str, Any] = {"reason": reason, "turnId": turn_id, "status": status, "content": content}
    return Entry(sequence, b'"event":"reset",' + encode_fields(fields))
