"""The runner: owns the tasks of running turns, and starts queued turns when they are next."""

import asyncio
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from gateway.errors import GatewayError
from gateway.events import Notification
from gateway.ids import LogKey, TurnId
from gateway.log.tail import Tail
from gateway.telemetry.ledger import Held
from gateway.telemetry.observer import Story
from gateway.turns.abandonment import Abandonment
from gateway.turns.context import Means
from gateway.turns.live import LiveTurn
from gateway.turns.notifications import PREVIEW, Notifications
from gateway.turns.queues import Queues
from gateway.turns.telling import Telling

GRACE = 10.0
"""The least number of seconds that a turn gets that outlived its process, or that waits for its first listener."""

_OVER_WITHIN = 2.0
"""Seconds that fenced turns have to come to their ends."""


class Runner:
    """The only owner of running turns: one task per turn, which doesn't end when a connection closes."""

    def __init__(
        self, means: Means, *, telling: Telling, notifications: Notifications, abandonment: Abandonment
    ) -> None:
        self._means = means
        self._log = means.log
        self._telling = telling
        self._notifications = notifications
        self._abandonment = abandonment
        self.turns: dict[str, LiveTurn] = {}
        """By id: the turns that have not ended, or have just ended and are not stored yet."""
        self.queues = Queues()
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    # -- beginning ----------------------------------------------------------------------------------------------

    async def accept(self, live: LiveTurn, mark: str, *, queued: bool) -> None:
        """Takes a new turn in; it is durable on return. If this raises `storage_unavailable`, the turn never
        existed."""
        self.admit(live)
        tail = live.tail  # it moves to a log of its own if it is cancelled in the queue
        try:
            if queued:
                self._enqueue(live, mark)
            else:
                live.begin(mark)
            await self._log.committed()
            if live.pen.loss is not None:
                raise live.pen.loss
        except GatewayError as error:
            self.queues.leave(live)
            if live.task is None:  # otherwise it was cancelled meanwhile, and its task forgets it
                self._forget(live)
            if queued and not self._log.fenced:
                self._next(tail)
            error.retry_after = 1
            raise
        live.durable = True
        self._telling.began(live)
        if queued:
            self._next(tail)
        else:
            self.go(live)

    def admit(self, live: LiveTurn) -> None:
        """Adds a turn. It keeps its tail in memory until it is forgotten: one log must not have two tails."""
        self.turns[live.turn.turn_id] = live
        if token := _token_of(live):
            self._means.caller_tokens.hold(token)
        live.tail.users.add(live)
        if live.order.on_disconnect == "cancel":
            cancel = partial(self.cancel, live)
            # Watched from the start, because perhaps no listener ever comes.
            self._abandonment.watch(live.turn.turn_id, live.tail.key, cancel, at_least=GRACE)

    def _forget(self, live: LiveTurn) -> None:
        self._drop(live)
        self._abandonment.forget(live.turn.turn_id)
        self._log.shelf.drop(live.tail, live)
        if not self._log.fenced:  # else another node may already have a turn in the conversation; see `start_over`
            self._means.others.release(LogKey(live.turn.conversation_id))

    def _drop(self, live: LiveTurn) -> None:
        """Idempotent. After this node was taken for dead, another object may stand for the turn."""
        if self.turns.get(live.turn.turn_id) is live:
            del self.turns[live.turn.turn_id]
            if token := _token_of(live):
                self._means.caller_tokens.release(token)

    async def start_over(self) -> None:
        """This node was taken for dead: forgets all its turns, because other nodes go on with them."""
        for live in list(self.turns.values()):
            self.queues.leave(live)
            if live.task is None:
                self._forget(live)
        if running := [live.task for live in self.turns.values() if live.task is not None]:
            _, late = await asyncio.wait(running, timeout=_OVER_WITHIN)
            for task in late:
                task.cancel()  # it only tells Coze something
            if late:
                await asyncio.wait(late)
        self._means.others.lose_all()

    def tell(self, turn_id: str) -> None:
        """Tells the store at once how a running turn stands, so that it is found by Coze's ids from now on."""
        if (live := self.turns.get(turn_id)) is not None:
            self._telling.stands(live)

    def go(self, live: LiveTurn) -> None:
        """Starts the task of a turn that is in the log."""
        live.task = self.track(self._run(live, live.tail))

    def track(self, work: Any) -> "asyncio.Task[Any]":
        """Runs work that doesn't end when a connection closes; `close` ends it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def gate(self, conversation_id: str) -> asyncio.Lock:
        """A lock: while it is held, no turn starts in the conversation."""
        return self._gates.setdefault(conversation_id, asyncio.Lock())

    # -- waiting ------------------------------------------------------------------------------------------------

    def is_busy(self, tail: Tail) -> bool:
        """Whether a turn runs in the conversation, or waits to run."""
        return tail.writer is not None or self.queues.next(tail.key) is not None

    def _enqueue(self, live: LiveTurn, mark: str) -> None:
        """Queues a turn behind the running one. Until it starts, a log of its own keeps it, with no event in it."""
        live.wait(mark)
        if live.order.on_busy == "interrupt":
            for other in [other for other in self.turns.values() if other.tail is live.tail and other is not live]:
                if other.stretch is not None:
                    other.cancel()
                elif other.order.on_busy == "interrupt":
                    # It came first, and would already be running if the disk were faster.
                    self._cancel_queued(other)
        self.queues.line_up(live)

    def go_on(self) -> None:
        """Starts the waiting turns of conversations in which no turn runs."""
        for conversation_id in self.queues.conversations():
            if (live := self.queues.next(conversation_id)) is not None:
                self._next(live.tail)

    def _next(self, tail: Tail) -> None:
        """Starts the next queued turn of a conversation that has none running, once the log has that turn."""
        live = self.queues.next(tail.key)
        if tail.writer is not None or self.draining or live is None or not live.durable:
            return
        self.queues.leave(live)
        live.begin(live.order.mark())
        self.go(live)

    def _cancel_queued(self, live: LiveTurn) -> None:
        """Ends a turn that never started, in the log of its own; its readers are moved there."""
        self.queues.leave(live)
        old = live.pen.stay_apart(live)
        live.cancel()
        self._means.readers.redirect(live.turn.turn_id, old, live.tail)
        self.go(live)

    # -- running ------------------------------------------------------------------------------------------------

    async def _run(self, live: LiveTurn, tail: Tail) -> None:
        """`tail` is where the next turn waits, although this one may move to another."""
        turn, order, observer = live.turn, live.order, self._means.observer
        held: list[Held] = [
            self._means.ledger.open("turn", "runner.run"),
            self._means.ledger.open("task", "runner.run"),
        ]
        began = asyncio.get_running_loop().time()
        observer.turn_began(live.ids)
        try:
            try:
                if not live.note.announced:
                    await self._notify(live, "turn.started", order.input)
                await live.run()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                await live.broke(error)
            beginning = turn.beginning(PREVIEW)
            turn.release_text()
            try:
                await self._log.committed()
            except GatewayError:
                pass  # the log shows its last event now, and writes it later
            observer.turn_ended(live.ids, turn.outcome or "failed", asyncio.get_running_loop().time() - began)
            if live.pen.loss is None and not live.erased:
                self._telling.began(live)  # an interrupted turn that was never accepted may get here first
            if not live.erased:
                self._telling.stands(live)
            kind = f"turn.{turn.outcome or 'failed'}"
            await self._notify(live, kind, "" if live.erased else beginning or order.input, end=True)
        finally:
            try:
                if not self.draining and not live.elsewhere:
                    self._next(tail)
            finally:
                self._forget(live)
                for one in held:
                    one.close()
            level, details = live.course.line(turn)
            seconds = live.pen.seconds
            outcome = None if live.elsewhere else turn.outcome
            story = Story(order.streamed, outcome, turn.length, seconds, level, details)
            observer.turn_left(live.ids, story)

    async def _notify(self, live: LiveTurn, kind: Any, text: str, *, end: bool = False) -> None:
        if (shop := live.order.shop_id) is None:
            return
        turn, told = live.turn, partial(live.pen.announced, end=end)
        notification = Notification(kind, turn.conversation_id, turn.turn_id, live.order.user_id, text[:PREVIEW])
        if live.inherited and not end:  # the former process may have told them, without noting it
            self._notifications.repeat(shop, notification, told, at=live.note.started_at)
        else:
            await self._notifications.publish(shop, notification, told)

    # -- ending -------------------------------------------------------------------------------------------------

    def cancel(self, live: LiveTurn) -> bool:
        """Ends a turn as cancelled. False if it was over already."""
        if live.stretch is None:
            self._cancel_queued(live)
            return True
        ended = live.cancel()
        if ended:
            self._next(live.tail)  # its task may still have to wait for Coze
        return ended

    def end_all(self, conversation_id: str) -> list[TurnId]:
        """Cancels a conversation's turns, waiting ones first, and names them. Readers see their ends once the log is
        committed."""
        for live in self.queues.of(conversation_id):
            self.cancel(live)
        ours = [live for live in self.turns.values() if live.turn.conversation_id == conversation_id]
        for live in ours:
            self.cancel(live)
        return [live.turn.turn_id for live in ours]

    def disown(self, turn_id: TurnId) -> None:
        """Forgets an ended turn, although its task may still have something to tell Coze."""
        if (live := self.turns.get(turn_id)) is not None:
            live.erased = True
            self._drop(live)

    async def drain(self, seconds: float) -> None:
        """Starts nothing more and waits up to `seconds` for running turns. The next process finishes the rest."""
        self.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0 and (running := self._running()):
            await asyncio.wait(running, timeout=left)  # more may be adopted meanwhile, from nodes that stop, too

    def _running(self) -> "list[asyncio.Task[Any]]":
        return [live.task for live in self.turns.values() if live.task is not None and not live.task.done()]

    async def close(self) -> None:
        """Abandons the turns that still run; they stay unfinished in the log."""
        self.draining = True
        self._abandonment.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.turns.clear()

    def __repr__(self) -> str:
        return f"Runner({len(self.turns)} live, {self.queues!r})"


def _token_of(live: LiveTurn) -> str:
    """The hash of the caller's own token for Coze, "" if the gateway's is used."""
    return live.order.coze.token if live.order.coze is not None else ""
