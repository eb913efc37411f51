"""Subscribing: decides where each reader's cursor starts, and where it continues when it can't do so exactly."""

import asyncio
from typing import Final, Protocol

from gateway.events import Reset
from gateway.ids import LogKey, Position, parse_position
from gateway.log.entry import Entry
from gateway.log.epochs import Epochs, is_of
from gateway.log.journal import JournalError
from gateway.log.shelf import Shelf
from gateway.log.stretch import Stretch
from gateway.log.tail import Span, Tail
from gateway.reading.resets import ResetReason, Resets
from gateway.reading.subscription import Subscription
from gateway.telemetry.ledger import Ledger

_SHOWN_WITHIN: Final = 10.0
"""Seconds for which the database may be away without an error."""

_LOOK_AGAIN: Final = 0.5
"""Seconds between two looks, because a log that another process takes over gives no news."""


class Audience(Protocol):
    """Is told who listens: to a turn, or, with None, to a whole log."""

    def joined(self, key: LogKey, turn: str | None) -> None: ...
    def left(self, key: LogKey, turn: str | None) -> None: ...


class Subscriptions:
    """Gives cursors over the logs of a shelf, and loads for them what is not in memory.

    `draining`: readers no longer wait for news; `closing`: they no longer wait for the end of a turn either.
    """

    def __init__(self, shelf: Shelf, *, ledger: Ledger, audience: Audience | None = None) -> None:
        self.draining = False
        self.closing = False
        self._shelf = shelf
        self._ledger = ledger
        self._audience = audience
        self._resets = Resets()

    async def subscribe(self, key: LogKey, *, asked: str | None, turn: str | None = None) -> tuple[Subscription, bool]:
        """A cursor for the position asked for, and whether it continues exactly. Raises `JournalError`.

        None asks for the beginning of the turn, or of the running turn, or else for the events from now on; "0" asks
        for the oldest event that is kept. If a position can't be continued exactly, the cursor gets a `reset` as its
        preface, and continues after that. `gone` says that retention has taken the turn's events in the meantime.
        """
        tail = await self._shelf.tail(key)
        span = _span_of(tail, turn)
        after, reason = _start(tail, asked, turn, span)
        if reason is not None and asked is not None:
            await self._await_shown(tail, asked)
            span = _span_of(tail, turn)
            after, reason = _start(tail, asked, turn, span)
        held = self._ledger.open("subscription", "hub.subscribe")
        subscription = Subscription(self, tail, held, after=after, turn=turn, span=span)
        subscription.reason = reason
        self._joined(subscription)
        if key in self._shelf.gone:
            subscription.erased()
            return subscription, True
        try:
            if span is not None and span.stretch is None and after < span.last:
                # Once loaded, the stretch is held for this reader, whatever retention takes from now on.
                subscription.gone = await self._shelf.load(span) is None
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

    async def _await_shown(self, tail: Tail, asked: str) -> None:
        """Waits until this process shows what another one may have shown already. Raises `JournalError`.

        Others may read a batch that is durable before the process that wrote it has heard that it is.
        """
        waiting = object()
        tail.users.add(waiting)
        try:
            if (position := parse_position(asked)) is not None:
                async with asyncio.timeout(_SHOWN_WITHIN):
                    while self._shelf.unsaved.are_ahead(tail) and tail.head < position.sequence < tail.next:
                        await asyncio.wait([tail.changed()], timeout=_LOOK_AGAIN)
            await self._shelf.freshen(tail)
        except BaseException as error:
            self._shelf.drop(tail, waiting)
            if isinstance(error, TimeoutError):
                raise JournalError("it is not known whether the newest events are durable") from error
            raise
        tail.users.discard(waiting)  # from here on there is no await until the cursor joins them

    def _joined(self, subscription: Subscription) -> None:
        if self._audience is not None:
            self._audience.joined(subscription.key, subscription.turn)

    async def _reset(self, subscription: Subscription, reason: ResetReason, span: Span | None) -> None:
        """Moves the cursor to where it can continue exactly, with a preface that says so."""
        tail = subscription.tail
        if span is None and subscription.turn is None and tail.spans:
            span = tail.spans[-1]
        stretch = await self._shelf.load(span) if span is not None else None
        if stretch is None:
            status = "queued" if subscription.turn is not None else ""
            subscription.after = tail.head
            subscription.preface = [Entry.of(tail.head, Reset(reason, subscription.turn or "", status, ""))]
            return
        at = stretch.last
        if stretch.turn and stretch.ended is not None:
            at -= 1  # a finished turn's last event follows its reset
        subscription.after = at
        subscription.preface = [self._resets.of(tail, stretch, at, reason)]

    # -- as the source of cursors ---------------------------------------------------------------------------------

    async def load(self, span: Span) -> Stretch | None:
        return await self._shelf.load(span)

    async def catch_up(self, subscription: Subscription) -> None:
        if subscription.ahead:
            subscription.ahead = False
            await self._reset(subscription, "ahead", subscription.span if subscription.turn is not None else None)
        elif (span := subscription.span) is not None and subscription.turn is not None:
            subscription.after = span.last  # a later request for the turn is answered from the store
        else:
            await self._reset(subscription, "expired", None)

    def left(self, subscription: Subscription) -> None:
        tail = subscription.tail
        self._shelf.drop(tail, subscription)
        if not tail.users:
            self._resets.drop(tail)
        if self._audience is not None:
            self._audience.left(subscription.key, subscription.turn)

    # -- where turns and logs end otherwise than readers were told ------------------------------------------------

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """The turn will never appear in `old`: its readers continue in `new`."""
        for subscription in [one for one in _readers(old) if one.turn == turn]:
            old.users.discard(subscription)
            new.users.add(subscription)
            subscription.tail, subscription.after = new, 0

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: its readers get what is left of it, and nothing more."""
        for subscription in _readers(tail):
            subscription.preface += subscription.rest()
            subscription.gone = True

    def drain(self, *, also_running: bool) -> None:
        """From now on no reader waits for news; with `also_running`, none waits for the end of a turn either."""
        self.draining = True
        self.closing = also_running

    def wake(self) -> None:
        """Makes waiting readers check whether they should still wait."""
        for tail in self._shelf.tails():
            if _readers(tail):
                tail.news()

    def __repr__(self) -> str:
        return f"Subscriptions({self._ledger.count('subscription')}, {self._resets})"


def _readers(tail: Tail) -> list[Subscription]:
    return [user for user in tail.users if isinstance(user, Subscription)]


def _span_of(tail: Tail, turn: str | None) -> Span | None:
    return next((span for span in reversed(tail.spans) if span.turn == turn), None) if turn is not None else None


def _start(tail: Tail, asked: str | None, turn: str | None, span: Span | None) -> tuple[int, ResetReason | None]:
    """Where a reader starts, and, if it can't continue exactly where it asked to, the reason."""
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
