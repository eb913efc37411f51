"""The hub: who listens to which log, and the one place from which outlets are served."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import structlog

from gateway.errors import Code, GatewayError
from gateway.events import encode_fields
from gateway.ids import LogKey, Position, parse_position
from gateway.log.epochs import Epochs
from gateway.log.journal import JournalError
from gateway.log.outline import outline
from gateway.log.shelf import Shelf, is_of
from gateway.log.stretch import Entry, Stretch
from gateway.log.tail import Span, Tail
from gateway.reading.frames import LARGE, Frame, Frames
from gateway.reading.subscription import Subscription
from gateway.reading.unsent import Unsent
from gateway.telemetry.faults import Faults, Part
from gateway.telemetry.ledger import Ledger

logger = structlog.get_logger()

Encode = Callable[[Tail, list[Entry]], bytes]
"""Turns entries into one frame of a transport. Pure, so that all readers at one position share the result."""

ResetReason = Literal["expired", "unknown", "ahead"]

_WRITES_A_TICK = 1000  # deliveries before new connections and other logs get their turn
_SLICE = 250  # of them on one log
PORTION = 64 * 1024
"""Characters of a long answer that are read and encoded at once."""

_MOST_AT_ONCE = 256 * 1024  # bytes given to one outlet before others get their turn
_LOOK_FOR_ROOM = 0.25
_RESETS_KEPT = 4  # of one log, for whoever else has to be told the same
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

    def hand(self, frame: Frame) -> None:
        """Gives it a large frame, which it sends bit by bit; it is `paused` until all of it is on its way."""

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """Where frames go while `paused` is false; None once it is closed."""

    def finish(self) -> None:
        """The turn has nothing more to give."""


class Watch(Protocol):
    """What the hub reports to metrics, added up over a tick."""

    def delivered(self, label: str, events: int) -> None: ...
    def delay(self, label: str, seconds: float, times: int) -> None: ...


class Audience(Protocol):
    """Who wants to know whether anybody listens: to a turn, or with None to all of a log."""

    def joined(self, key: LogKey, turn: str | None) -> None: ...
    def left(self, key: LogKey, turn: str | None) -> None: ...


class Hub:
    """Subscriptions and outlets over one event log.

    Serving: once a loop tick, for each log with news, readers at the same position get the same frame, encoded once;
    a reader that is not ready keeps its cursor and gets one joined frame when it is. Nothing is queued for anybody. A
    reader at whom our own code fails is told so and cut; the others are served.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        ledger: Ledger,
        watch: Watch,
        heartbeat: float,
        unsent: Unsent | None = None,
        faults: Faults | None = None,
        audience: Audience | None = None,
    ) -> None:
        self.shelf = shelf
        self.unsent = unsent or Unsent()
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
        self._fetching: dict[Outlet, asyncio.Task[None]] = {}
        self._frames = Frames()
        self._crowded_out: dict[Outlet, None] = {}  # those whose next frame finds no room
        self._room_timer: asyncio.TimerHandle | None = None
        self._outlets: dict[Tail, dict[Outlet, None]] = {}  # by the log that they read
        self._audience = audience

    # -- subscribing ----------------------------------------------------------------------------------------------

    async def subscribe(self, key: LogKey, *, asked: str | None, turn: str | None = None) -> tuple[Subscription, bool]:
        """A cursor for the position asked for, and whether it continues exactly. Raises `JournalError`.

        None asks for the beginning of the turn, or of the running turn, else for what comes from now on; "0" for the
        oldest kept. A position that can't be continued exactly gets a `reset` as its preface, and goes on from there.
        `gone` says that retention was faster, and took the turn's events.
        """
        tail = await self.shelf.tail(key)
        span = next((s for s in reversed(tail.spans) if s.turn == turn), None) if turn is not None else None
        after, reason = _start(tail, asked, turn, span)
        subscription = Subscription(
            self, tail, self._ledger.open("subscription", "hub.subscribe"), after=after, turn=turn, span=span
        )
        subscription.reason = reason
        self._joined(subscription)
        try:
            if span is not None and span.stretch is None and after < span.last:
                # Loaded, it is held for this reader, whatever retention takes from now on.
                subscription.gone = await self.shelf.load(span) is None
            if reason is not None and not subscription.gone:
                await self._reset(subscription, reason, span)
        except BaseException:
            subscription.close()
            raise
        return subscription, reason is None

    def apart(self, key: LogKey, turn: str, at: Position) -> Subscription:
        """A cursor for a turn whose events are not kept: over a tail of its own, in which its last event is `at`."""
        tail = Tail(key, Epochs.parse(at.epoch), at.sequence)
        held = self._ledger.open("subscription", "hub.apart")
        subscription = Subscription(self, tail, held, after=at.sequence, turn=turn, span=None)
        subscription.gone = True
        self._joined(subscription)
        return subscription

    def _joined(self, subscription: Subscription) -> None:
        if self._audience is not None:
            self._audience.joined(subscription.key, subscription.turn)

    async def _reset(self, subscription: Subscription, reason: ResetReason, span: Span | None) -> None:
        """Puts the cursor where it can go on exactly, and says so first."""
        tail = subscription.tail
        if span is None and subscription.turn is None and tail.spans:
            span = tail.spans[-1]
        stretch = await self.shelf.load(span) if span is not None else None
        if stretch is None:
            status = "queued" if subscription.turn is not None else ""
            subscription.after = tail.head
            subscription.preface = [
                reset(tail.head, reason, turn_id=subscription.turn or "", status=status, content="")
            ]
            return
        at = stretch.last
        if stretch.turn and stretch.ended is not None:
            at -= 1  # a finished turn's last event follows its reset
        subscription.after = at
        key = stretch.number, at, reason
        if (told := tail.resets.get(key)) is None:
            found = outline(stretch)
            status = found.status if stretch.turn else ""  # a shop's log is of no turn
            told = reset(at, reason, turn_id=stretch.turn, status=status, content=found.content)
            if len(tail.resets) >= _RESETS_KEPT:
                tail.resets.clear()
            tail.resets[key] = told
        subscription.preface = [told]

    async def catch_up(self, subscription: Subscription) -> None:
        if (span := subscription.span) is not None and subscription.turn is not None:
            subscription.after = span.last  # whoever asks for the turn again is told from the store
        else:
            await self._reset(subscription, "expired", None)

    async def load(self, span: Span) -> Stretch | None:
        return await self.shelf.load(span)

    def left(self, subscription: Subscription) -> None:
        """A subscription was closed."""
        tail = subscription.tail
        self.shelf.drop(tail, subscription)
        if not tail.users:
            tail.resets.clear()
            self._frames.drop(tail)
        if self._audience is not None:
            self._audience.left(subscription.key, subscription.turn)

    # -- outlets --------------------------------------------------------------------------------------------------

    def attach(self, outlet: Outlet) -> None:
        """Serves the outlet from now on, at once with what there is."""
        self._enlist(outlet)
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
            self._forget(outlet)
            self._strike(outlet)
            outlet.subscription.close()

    def _enlist(self, outlet: Outlet) -> None:
        tail = outlet.subscription.tail
        self._outlets.setdefault(tail, {})[outlet] = None
        tail.watchers[self] = None

    def _strike(self, outlet: Outlet) -> None:
        tail = outlet.subscription.tail
        outlets = self._outlets.get(tail, {})
        outlets.pop(outlet, None)
        if not outlets and self._outlets.pop(tail, None) is not None:
            tail.watchers.pop(self, None)

    def _forget(self, outlet: Any) -> None:
        """Nothing is prepared for it any more."""
        self._crowded_out.pop(outlet, None)
        if (task := self._fetching.pop(outlet, None)) is not None:
            task.cancel()

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """Moves the readers of a queued turn that will never be in its conversation's log to the log that it is in."""
        outlets = [outlet for outlet in self._outlets.get(old, ()) if outlet.subscription.turn == turn]
        for outlet in outlets:
            self._strike(outlet)
        for user in [u for u in old.users if isinstance(u, Subscription) and u.turn == turn]:
            old.users.discard(user)
            new.users.add(user)
            user.tail, user.after = new, 0
        for outlet in outlets:
            self._enlist(outlet)
        old.news()
        self.news(new)

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: gives its readers what there is, and tells them to go."""
        for outlet in list(self._outlets.get(tail, ())):
            self.serve(outlet)
            if outlet in self._hearts:
                outlet.farewell(Code.NOT_FOUND)
        for user in list(tail.users):
            if isinstance(user, Subscription):
                user.gone, user.preface = True, []
        tail.news()

    def serve(self, outlet: Outlet) -> None:
        """Gives one outlet what it has not had yet, as far as it is ready and its turn lasts, in one write."""
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
        self._forget(heart)
        if (subscription := getattr(heart, "subscription", None)) is not None:
            self._strike(heart)  # type: ignore[arg-type]
            subscription.close()

    def _serve(self, outlet: Outlet) -> None:
        if outlet.paused or outlet not in self._hearts or outlet in self._crowded_out:
            return
        subscription = outlet.subscription
        parts: list[bytes] = [outlet.greeting] if outlet.greeting else []
        outlet.greeting = b""
        given = size = 0
        large: Frame | None = None
        while size < _MOST_AT_ONCE and large is None:
            if subscription.preface:
                frame = self._preface(outlet)
            elif (span := subscription.span) is None or subscription.after >= span.last:
                break
            elif span.stretch is None or subscription.outrun:
                self._fetch(outlet, span)
                break
            else:
                frame = self._slice(outlet, span.stretch)
            if frame is None:
                self._wait_for_room(outlet)
                break
            given += frame.events
            size += len(frame.data)
            if len(frame.data) > LARGE:
                large = frame
            else:
                parts.append(frame.data)
        if (parts or large is not None) and outlet.transport is not None:
            outlet.spoke = True
            if parts:
                outlet.transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
            if large is not None:
                outlet.hand(large)
            self._given[outlet.label] = self._given.get(outlet.label, 0) + given
        if subscription.turn is not None and subscription.over:
            outlet.finish()
        elif size >= _MOST_AT_ONCE:
            self._loop.call_soon(self.serve, outlet)

    def _preface(self, outlet: Outlet) -> Frame | None:
        """The frame of what a reader is told first; None when there is no room for it now."""
        subscription = outlet.subscription
        entries = subscription.preface
        key = outlet.encode, subscription.tail.position(entries[-1].sequence), *entries
        frame = self._frame(key, outlet, entries)
        if frame is not None:
            subscription.preface = []
            subscription.give_room_back()
        return frame

    def _slice(self, outlet: Outlet, stretch: Stretch) -> Frame | None:
        """The frame of what comes after the outlet's position; None when there is no room for it now."""
        subscription = outlet.subscription
        after = subscription.after
        key = stretch.number, outlet.encode, after, stretch.last
        if (frame := self._frames.get(key)) is None:
            frame = self._frame(key, outlet, stretch.read(after=after, most=PORTION))
        if frame is not None:
            subscription.after = frame.last
        return frame

    def _frame(self, key: Any, outlet: Outlet, entries: list[Entry]) -> Frame | None:
        """Made once for all who are at one place, and counted while it lives if it is large."""
        if (made := self._frames.get(key)) is not None:
            return made
        data = outlet.encode(outlet.subscription.tail, entries)
        try:
            hold = self.unsent.reserve(len(data)) if len(data) > LARGE else None
        except GatewayError:
            return None
        return self._frames.keep(outlet.subscription.tail, key, Frame(data, len(entries), entries[-1].sequence, hold))

    def _wait_for_room(self, outlet: Outlet) -> None:
        self._crowded_out[outlet] = None
        if self._room_timer is None:
            self._room_timer = self._loop.call_later(_LOOK_FOR_ROOM, self._look_for_room)

    def _look_for_room(self) -> None:
        """Serves those who wait for room, in their order, as far as there is some."""
        self._room_timer = None
        for outlet in list(self._crowded_out):
            del self._crowded_out[outlet]
            self.serve(outlet)
            if outlet in self._crowded_out:
                break
        if self._crowded_out and self._room_timer is None:
            self._room_timer = self._loop.call_later(_LOOK_FOR_ROOM, self._look_for_room)

    def _serve_all(self, tail: Tail, outlets: tuple[Outlet, ...]) -> None:
        """`serve` for many on one log. Those who are up to date but for this news, nearly all, share one frame."""
        hearts = self._hearts
        at, stretch, encode, frame, events, whole = -1, None, None, b"", 0, True
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
                entries = mine.read(after=after, most=PORTION)
                frame, events = encode(tail, entries), len(entries)
                whole = entries[-1].sequence == mine.last and len(frame) <= LARGE
            if not whole:
                self.serve(outlet)
                continue
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
                    if outlet.subscription.outrun or await self.shelf.load(span) is None:
                        await self.catch_up(outlet.subscription)
                except JournalError as error:
                    logger.warning("hub.fetch_failed", reason=str(error))
                    del self._fetching[outlet]
                    outlet.farewell(Code.STORAGE_UNAVAILABLE)
                    return
                except Exception as error:
                    del self._fetching[outlet]
                    self._cut(outlet, "deliver", error)
                    return
                del self._fetching[outlet]
                self.serve(outlet)

        if outlet not in self._fetching:
            self._fetching[outlet] = self._loop.create_task(fetch())

    # -- news -----------------------------------------------------------------------------------------------------

    def news(self, tail: Tail) -> None:
        """A log has something new for those who are attached."""
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
                outlets = tuple(self._outlets.get(tail, ()))
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
        return [user for tail in list(self.shelf.tails()) for user in tail.users if isinstance(user, Subscription)]

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._room_timer is not None:
            self._room_timer.cancel()
            self._room_timer = None
        self.unsent.close()
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        self._fetching.clear()

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
