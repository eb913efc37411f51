"""The runner: starts turns, keeps one running at a time in a conversation, takes over orphans, drains."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog
from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import Code, GatewayError
from gateway.events import Notification, Started
from gateway.ids import ConversationId, LogKey, TurnId, new_conversation_id, new_turn_id
from gateway.log.epochs import Epochs
from gateway.log.journal import JournalError
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.store.store import Store
from gateway.telemetry.ledger import Held
from gateway.turns.abandonment import Abandonment
from gateway.turns.books import close_books, newest_known, tell_missing
from gateway.turns.live import LiveTurn, Means, tell_cancelled
from gateway.turns.naming import Names, Naming
from gateway.turns.notifications import PREVIEW, Notifications
from gateway.turns.orders import Note, Order, read_note
from gateway.turns.returning import returning
from gateway.turns.standing import begun, glance, restored, snapshot, told
from gateway.turns.turn import Turn
from gateway.upstream.protocol import ChatRef
from gateway.waiting import outlived

logger = structlog.get_logger()

_KEEP_STEP = 0.1
_KEEP_EVERY = 10.0  # how often what there is of a running answer goes to the store; the log has every piece
_LOOK_AGAIN = 1.0  # between two looks whether the log can be written again
_GRACE = 10.0  # what a turn that outlived its process gets at least, and one that waits for its first listener


Owns = Callable[[str, str | None], bool]
"""Whether the caller may write to a conversation of that user and shop."""


class Accepted(Struct, frozen=True):
    """A turn that was started for an order, or that an earlier request with the same key had started."""

    conversation_id: ConversationId
    turn_id: TurnId
    key: LogKey
    again: bool = False
    queued: bool = False


class Runner:
    """The only owner of running turns: one task each, which no connection can end by leaving."""

    def __init__(self, means: Means, *, store: Store, notifications: Notifications, abandonment: Abandonment) -> None:
        self._means = means
        self._log = means.log
        self._store = store
        self._notifications = notifications
        self._abandonment = abandonment
        self._live: dict[str, LiveTurn] = {}
        self._queues: dict[str, deque[LiveTurn]] = {}
        self._starting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._names = Names(store)
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self.draining = False

    # -- starting -----------------------------------------------------------------------------------------------

    async def start(
        self, order: Order, *, owns: Owns, admit: Callable[[], None] = lambda: None, position: str = ""
    ) -> Accepted:
        """Starts a turn and returns once its `started` is durable, or once it is queued.

        Nothing is started for an order whose turn is there already: found by its key, or by a `position` of it.
        `admit` is asked last: it counts a turn that is about to be started, and raises when it must not be. Raises
        `not_found`, `conversation_busy`, `draining`, `storage_unavailable`, or `invalid_request` for a key used with
        another body. A request that is cancelled may still have started its turn.
        """
        self._refuse_when_draining()
        return await outlived(self.track(self._find_or_start(order, owns, admit, position)))

    async def _find_or_start(self, order: Order, owns: Owns, admit: Callable[[], None], position: str) -> Accepted:
        """Not cancelled with its request, so that a hasty second one with the same key waits for the first."""
        if not order.conversation_id:
            return await self._start_once(order, None, admit, position)
        async with self.gate(order.conversation_id):
            naming = self._names.of(ConversationId(order.conversation_id))
            return await self._start_once(await self._at_home(order, naming, owns), naming, admit, position)

    async def _start_once(
        self, order: Order, naming: Naming | None, admit: Callable[[], None], position: str
    ) -> Accepted:
        if not (mark := order.mark()):
            if (earlier := await self._returned(order, position)) is not None:
                return earlier
            return await self._start(order, naming, mark, admit)
        lock = self._starting.setdefault(mark, asyncio.Lock())
        async with lock:
            earlier = await self._earlier(order, mark) or await self._returned(order, position)
            if earlier is not None:
                return earlier
            return await self._start(order, naming, mark, admit)

    async def _at_home(self, order: Order, naming: Naming, owns: Owns) -> Order:
        """An order for a known conversation, which is of the conversation's shop also where it names none."""
        row = await self._store.conversation(naming.conversation_id)
        ours = row is not None and row.user_id == order.user_id and order.shop_id in (None, row.shop_id)
        if row is None or not ours or not owns(row.user_id, row.shop_id):
            raise GatewayError(Code.NOT_FOUND, "there is none" if row is None else "it is another user's or shop's")
        naming.known(row.coze_conversation_id, row.naming)
        return order if order.shop_id == row.shop_id else replace(order, shop_id=row.shop_id)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise GatewayError(Code.DRAINING, retry_after=self._means.rng.uniform(1, 5))

    async def _returned(self, order: Order, position: str) -> Accepted | None:
        try:
            turn = await returning(self._log, self._store, order, position) if position else None
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        if turn is None:
            return None
        return Accepted(turn.conversation_id, turn.turn_id, LogKey(turn.conversation_id), again=True)

    async def _earlier(self, order: Order, mark: str) -> Accepted | None:
        try:
            found = await self._log.shelf.marked(mark)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        if found is None:
            return None
        turn, state = found
        note = read_note(state)
        if note.order.digest() != order.digest():
            raise GatewayError(Code.INVALID_REQUEST, "the Idempotency-Key was used with another body")
        conversation = ConversationId(note.conversation_id)
        return Accepted(conversation, TurnId(turn), LogKey(conversation), again=True)

    async def _start(self, order: Order, naming: Naming | None, mark: str, admit: Callable[[], None]) -> Accepted:
        if (trouble := self._log.trouble or self._store.trouble) is not None:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, trouble, retry_after=1)
        turn_id = new_turn_id()
        tail = None
        if naming is not None:
            try:
                tail = await self._log.shelf.tail(LogKey(naming.conversation_id))
            except JournalError as error:
                raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        else:
            naming = self._names.of(new_conversation_id())
        conversation_id = naming.conversation_id
        busy = tail is not None and (tail.writer is not None or conversation_id in self._queues)
        try:
            if busy and order.on_busy == "reject":
                raise GatewayError(Code.CONVERSATION_BUSY, "a turn is running in this conversation")
            self._refuse_when_draining()  # it may have begun since, and nothing waits from here on
            admit()
        except GatewayError:
            if tail is not None:
                self._log.shelf.drop(tail, None)  # it may have been read for this alone
            raise
        if tail is None:
            tail = self._log.shelf.create(LogKey(conversation_id))
        note = Note(order, conversation_id, self._means.clock())
        note.coze_conversation_id, note.naming = naming.name, naming.version
        turn = Turn(conversation_id, turn_id, order.language)
        live = self._admit(LiveTurn(self._means, note, turn, tail, naming=naming, timeout=self._means.turn_timeout))
        try:
            if busy:
                self._enqueue(live, mark)
            else:
                self._begin(live, mark)
            await self._log.committed()
            if live.loss is not None:
                raise live.loss
        except GatewayError as error:
            self._dequeue(live)
            self._forget(live)
            error.retry_after = 1
            raise
        self._begin_in_store(live)
        if busy:
            self._next(tail)
        else:
            self._go(live)
        return Accepted(conversation_id, turn_id, tail.key, queued=busy)

    def _admit(self, live: LiveTurn) -> LiveTurn:
        """Takes a turn in. It holds its tail in memory until it is forgotten: there must not be two of one log."""
        self._live[live.turn.turn_id] = live
        live.tail.users.add(live)
        if live.order.on_disconnect == "cancel":
            cancel = partial(self.cancel, live)
            self._abandonment.watch(live.turn.turn_id, live.tail.key, cancel, at_least=_GRACE)  # perhaps nobody comes
        return live

    def _forget(self, live: LiveTurn) -> None:
        self._live.pop(live.turn.turn_id, None)
        self._abandonment.forget(live.turn.turn_id)
        self._log.shelf.drop(live.tail, live)

    def _begin(self, live: LiveTurn, mark: str = "") -> None:
        """Writes `started`: from now on the turn is in the log, and survives."""
        turn, note = live.turn, live.note
        note.stage = "accepted"
        live.writer = self._log.begin(live.tail, turn.turn_id, note.pack(), mark=mark, owner=live)
        live.stretch = live.writer.stretch
        live.writer.append(Started(turn.conversation_id, turn.turn_id, note.order.message))

    def _go(self, live: LiveTurn) -> None:
        live.task = self.track(self._run(live))

    def gate(self, conversation_id: str) -> asyncio.Lock:
        """Whoever holds it knows that no turn begins in the conversation."""
        return self._gates.setdefault(conversation_id, asyncio.Lock())

    # -- queueing -----------------------------------------------------------------------------------------------

    def _enqueue(self, live: LiveTurn, mark: str) -> None:
        """Puts a turn behind the running one. Until it starts it is kept in a log of its own, with no event in it."""
        live.note.stage = "queued"
        waiting = self._log.shelf.create(LogKey(live.turn.turn_id))
        live.writer = self._log.begin(waiting, live.turn.turn_id, live.note.pack(), mark=mark, owner=live)
        if live.order.on_busy == "interrupt":
            for other in [other for other in self._live.values() if other.tail is live.tail and other is not live]:
                if other.stretch is not None:
                    other.cancel()
                elif other.order.on_busy == "interrupt":  # it came first, and would be running but for the disk
                    self._cancel_queued(other)
        self._line_up(live)

    def _line_up(self, live: LiveTurn) -> None:
        """Who interrupts is next. Done again in the order in which the turns came, it makes the same queue."""
        queue = self._queues.setdefault(live.turn.conversation_id, deque())
        if live.order.on_busy == "interrupt":
            queue.appendleft(live)
        else:
            queue.append(live)

    def _dequeue(self, live: LiveTurn) -> None:
        queue = self._queues.get(live.turn.conversation_id)
        if queue is not None and live in queue:
            queue.remove(live)
            if not queue:
                del self._queues[live.turn.conversation_id]

    def _next(self, tail: Tail) -> None:
        """Starts the next queued turn of a conversation that has none running."""
        queue = self._queues.get(tail.key)
        if tail.writer is not None or self.draining or not queue:
            return
        live = queue.popleft()
        if not queue:
            del self._queues[tail.key]
        live.waiting = live.writer
        if live.waiting is not None:
            live.waiting.end()
        live.restart_clock(self._means.turn_timeout)
        live.note.started_at = self._means.clock()
        self._begin(live, live.order.mark())
        self._go(live)

    def _cancel_queued(self, live: LiveTurn) -> None:
        """Ends a turn that never started, in the log of its own; its readers are led there."""
        self._dequeue(live)
        assert live.writer is not None, live
        old, live.stretch, live.tail = live.tail, live.writer.stretch, live.writer.tail
        live.tail.users.add(live)
        self._log.shelf.drop(old, live)
        live.cancel()
        self._means.readers.redirect(live.turn.turn_id, old, live.tail)
        self._go(live)

    # -- running ------------------------------------------------------------------------------------------------

    async def _run(self, live: LiveTurn) -> None:
        turn, order = live.turn, live.order
        held: list[Held] = [
            self._means.ledger.open("turn", "runner.run"),
            self._means.ledger.open("task", "runner.run"),
        ]
        began = asyncio.get_running_loop().time()
        try:
            try:
                if order.shop_id is not None and not live.note.announced:
                    await self._notify(live, "turn.started", order.message)
                    live.announced()
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
                pass  # the log owes its last event now
            self._means.metrics.turn_ended(turn.outcome or "failed", asyncio.get_running_loop().time() - began)
            if live.loss is None and not live.erased:
                self._begin_in_store(live)  # an interrupted one that was never accepted may be here first
            if not live.erased:
                self._keep(live)
            outcome = turn.outcome or "failed"
            await self._notify(live, f"turn.{outcome}", "" if live.erased else beginning or order.message)
        finally:
            if not self.draining:
                self._next(live.tail)
            self._forget(live)
            for one in held:
                one.close()
            level, course = live.course.line(turn, address=self._means.address)
            getattr(logger, level)(
                "SSE stream ended" if order.streamed else "Chat ended",
                conversationId=turn.conversation_id,
                turnId=turn.turn_id,
                outcome=turn.outcome,
                fullResponseLength=turn.length,
                seconds=round(live.seconds, 3),
                requestId=order.request_id,
                **course,
            )

    async def _notify(self, live: LiveTurn, kind: Any, text: str) -> None:
        if (shop := live.order.shop_id) is not None:
            turn = live.turn
            notification = Notification(kind, turn.conversation_id, turn.turn_id, live.order.user_id, text[:PREVIEW])
            await self._notifications.publish(shop, notification)

    def track(self, work: Any) -> "asyncio.Task[Any]":
        """Work that no connection can end by leaving; `close` does."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what is known of turns ---------------------------------------------------------------------------------

    def live(self, turn_id: str) -> LiveTurn | None:
        """A turn that has not ended, or has just ended and is not kept yet."""
        return self._live.get(turn_id)

    def cancel(self, live: LiveTurn) -> bool:
        """Ends a turn as cancelled. False when it was over already."""
        if live.stretch is None:
            self._cancel_queued(live)
            return True
        ended = live.cancel()
        if ended:
            self._next(live.tail)  # its task may have to wait for Coze still
        return ended

    def end_all(self, conversation_id: str) -> list[LiveTurn]:
        """Cancels a conversation's turns, those that wait first; they are seen to end once the log is committed."""
        for live in list(self._queues.get(conversation_id, ())):
            self.cancel(live)
        ours = [live for live in self._live.values() if live.turn.conversation_id == conversation_id]
        for live in ours:
            self.cancel(live)
        return ours

    def disown(self, live: LiveTurn) -> None:
        """Nothing is known of an ended turn any more, though its task may still have something to tell Coze."""
        live.erased = True
        self._live.pop(live.turn.turn_id, None)

    # -- keeping ------------------------------------------------------------------------------------------------

    def _begin_in_store(self, live: LiveTurn) -> None:
        if not live.stored:
            live.stored = True
            self._store.begin(begun(live.turn.turn_id, live.note))

    def _tell_store(self, stretch: Stretch, note: Note) -> None:
        """Repeats what the store was told of a turn that has ended: it may have been killed before it was written."""
        self._store.begin(begun(stretch.turn, note))
        self._names.recall(note)
        position = Epochs.parse(stretch.epochs).position(stretch.last)
        self._store.update(told(stretch, note, position, self._means.clock()))

    def _keep(self, live: LiveTurn) -> None:
        """Tells the store what readers may have seen of a turn."""
        live.changed = False
        try:
            self._store.update(snapshot(live, self._means.clock()))
        except Exception as error:
            self._means.faults.broke("keep", error, turnId=live.turn.turn_id)

    async def _keep_for_ever(self) -> None:
        """Tells the store of each running turn every few seconds, a few turns at a time: many at once are felt."""
        loop = asyncio.get_running_loop()
        changed: list[LiveTurn] = []
        share, not_before = 1, 0.0
        with self._means.ledger.open("task", "runner.keep"):
            while True:
                await asyncio.sleep(_KEEP_STEP)
                if not changed and loop.time() >= not_before:
                    not_before = loop.time() + _KEEP_EVERY
                    self._notifications.roll()
                    changed = [live for live in self._live.values() if live.changed and live.stretch is not None]
                    share = max(1, round(len(changed) * _KEEP_STEP / _KEEP_EVERY))
                for live in changed[-share:]:
                    if live.turn.phase != "ended":
                        live.changed = False
                        try:
                            self._store.update(glance(live, self._means.clock()))
                        except Exception as error:
                            self._means.faults.broke("keep", error, turnId=live.turn.turn_id)
                del changed[-share:]

    # -- life ---------------------------------------------------------------------------------------------------

    async def resume(self, orphans: list[Stretch]) -> None:
        """Takes over what a former process left running, in the order it began; it goes on once that can be written."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep_for_ever())
        self._means.faults.watch("keep", self._keeper)
        newest = await newest_known(self._store)
        names = [self._names.recall(read_note(orphan.state)) for orphan in orphans if orphan.turn]
        for stretch in self._log.keeper.ended():
            if stretch.turn and stretch.last >= stretch.first:
                note = read_note(stretch.state)
                self._tell_store(stretch, note)
                if note.memory.chat_id and outline(stretch).status == "cancelled":  # it may not have been told either
                    ref = ChatRef(note.memory.chat_id, note.memory.coze_conversation_id)
                    self.track(tell_cancelled(self._means.upstream, ref, stretch.turn))
        for name in names:
            await self._names.read(name)
        await self._log.probe()
        writable = self._log.trouble is None
        running: list[LiveTurn] = []
        for stretch in orphans:
            if not stretch.turn:
                writer = self._log.take_over(stretch, self._notifications)
                writer.end() if writable else writer.owe()
                continue
            note = read_note(stretch.state)
            if note.stage == "queued":
                await self._resume_queued(stretch, note)
            else:
                running.append(self._resume_one(stretch, await self._log.shelf.tail(LogKey(stretch.key)), note))
        if writable:
            self._go_on(running)
        else:
            logger.warning("turns.wait_for_storage", turns=len(running), reason=self._log.trouble)
            self.track(self._go_on_later(running))
        await close_books(self._log, self._store, running=self._live, tell=self._tell_store, clock=self._means.clock)
        if newest is not None:
            self.track(tell_missing(self._log, self._store, newest=newest, tell=self._tell_store))

    async def _go_on_later(self, running: list[LiveTurn]) -> None:
        while self._log.trouble is not None:
            await asyncio.sleep(_LOOK_AGAIN)
            await self._log.probe()
        self._go_on(running)

    def _go_on(self, running: list[LiveTurn]) -> None:
        for live in running:
            left = live.note.started_at + self._means.turn_timeout - self._means.clock()
            # Bounded both ways: the wall clock may have been set in between.
            live.restart_clock(min(max(left, _GRACE), self._means.turn_timeout))
            live.taken_over()
            self._keep(live)
            logger.info("turn.taken_over", turnId=live.turn.turn_id, stage=live.note.stage, phase=live.turn.phase)
            self._go(live)
        for live in [queue[0] for queue in self._queues.values()]:
            self._next(live.tail)

    def _resume_one(self, stretch: Stretch, tail: Tail, note: Note) -> LiveTurn:
        turn, naming = restored(stretch, note), self._names.of(ConversationId(note.conversation_id))
        live = LiveTurn(self._means, note, turn, tail, naming=naming, timeout=self._means.turn_timeout)
        live.stretch = stretch
        self._admit(live)
        live.writer = self._log.take_over(stretch, live)
        self._begin_in_store(live)
        return live

    async def _resume_queued(self, stretch: Stretch, note: Note) -> None:
        tail = await self._log.shelf.tail(LogKey(note.conversation_id))
        naming = self._names.of(ConversationId(note.conversation_id))
        turn = Turn(ConversationId(note.conversation_id), TurnId(stretch.turn), note.order.language)
        live = LiveTurn(self._means, note, turn, tail, naming=naming, timeout=self._means.turn_timeout)
        self._admit(live)
        live.writer = self._log.take_over(stretch, live)
        self._begin_in_store(live)
        self._line_up(live)

    async def drain(self, seconds: float) -> None:
        """Starts nothing more and waits for what runs, at most so long. What is left is the next process's."""
        self.draining = True
        running = [live.task for live in self._live.values() if live.task is not None]
        if running:
            await asyncio.wait(running, timeout=seconds)

    async def close(self) -> None:
        """Lets go of the turns that still run; they stay unfinished in the log."""
        self.draining = True
        self._abandonment.close()
        tasks = [*self._tasks, *([self._keeper] if self._keeper is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._live.clear()

    def __repr__(self) -> str:
        return f"Runner({len(self._live)} live, {sum(map(len, self._queues.values()))} queued)"
