"""Take-over: goes on with turns that another process left, and tells the store what it missed."""

import asyncio
from functools import partial
from typing import Any

import structlog

from gateway.events import Notification
from gateway.ids import ConversationId, LogKey, TurnId
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.store.store import Store
from gateway.turns.context import Means, ids_of
from gateway.turns.learnt import Fate
from gateway.turns.live import LiveTurn, tell_cancelled
from gateway.turns.naming import Namings
from gateway.turns.notifications import PREVIEW, Notifications
from gateway.turns.orders import Note, read_note
from gateway.turns.reconciling import newest_known, reconcile, tell_missing
from gateway.turns.runner import GRACE, Runner
from gateway.turns.telling import Telling
from gateway.turns.turn import Turn
from gateway.turns.unreadable import Unreadable, is_readable
from gateway.upstream.protocol import ChatRef

logger = structlog.get_logger()

_LOOK_AGAIN = 1.0  # seconds between two checks whether the log can be written again


class TakeOver:
    """Takes over an earlier process's turns before requests are accepted, and later those of dead nodes."""

    def __init__(
        self,
        runner: Runner,
        means: Means,
        *,
        store: Store,
        names: Namings,
        telling: Telling,
        notifications: Notifications,
    ) -> None:
        self._runner = runner
        self._means = means
        self._log = means.log
        self._store = store
        self._names = names
        self._telling = telling
        self._notifications = notifications
        self._unreadable = Unreadable(means.log, store, means.clock)

    async def resume(self, orphans: list[Stretch]) -> None:
        """Takes over turns that a former process left running, in their order; they go on once the log can be
        written."""
        newest = await newest_known(self._store)
        await self.adopt(orphans, self._log.keeper.ended())
        tell = self._telling.ended_before
        await reconcile(self._log, self._store, running=self._runner.turns, tell=tell, clock=self._means.clock)
        if newest is not None:
            self._runner.track(tell_missing(self._log, self._store, newest=newest, tell=tell))

    async def adopt(self, orphans: list[Stretch], ended: list[Stretch]) -> None:
        """Goes on with turns that another process left running, and tells the store of those that had ended. A turn
        whose note or events are damaged ends as failed, and keeps no other from going on."""
        unreadable = [stretch for stretch in (*orphans, *ended) if not is_readable(stretch)]
        orphans = [stretch for stretch in orphans if stretch not in unreadable]
        ended = [stretch for stretch in ended if stretch not in unreadable]
        names = [self._names.recall(read_note(orphan.state)) for orphan in orphans if orphan.turn]
        self._keep_untold(ended)
        self._repeat_ends(ended)
        for name in names:
            await self._names.read(name)
        await self._log.probe()
        writable = self._log.trouble is None
        tails = await self._tails(orphans)
        running: list[LiveTurn] = []
        for stretch in orphans:  # without an await, so that no turn is left behind whatever fails or is deleted
            if stretch.number not in self._log.shelf.unsaved:
                continue  # its conversation was deleted meanwhile
            if not stretch.turn:
                writer = self._log.take_over(stretch, self._notifications)
                writer.end() if writable else writer.owe()
                self._notifications.adopted(writer)
                continue
            note, tail = read_note(stretch.state), tails[stretch.number]
            if note.stage == "queued":
                turn = Turn(ConversationId(note.conversation_id), TurnId(stretch.turn), note.order.language)
                self._runner.queues.line_up(self._taken(stretch, note, turn, tail, queued=True))
            else:
                running.append(self._taken(stretch, note, _restored(stretch, note), tail, queued=False))
        for tail in tails.values():
            self._log.shelf.drop(tail, self)
        for stretch in ended:  # after the shops' open stretches were ended
            self._notify_again(stretch)
        for stretch in unreadable:
            if stretch.number in self._log.shelf.unsaved and stretch.ended is None:
                self._unreadable.end(stretch, writable=writable)
            self._runner.track(self._unreadable.tell(stretch))
        claimed = [read_note(stretch.state).conversation_id if stretch.turn else stretch.key for stretch in ended]
        claimed += [stretch.key for stretch in unreadable]
        for key in map(LogKey, claimed):  # PostgreSQL claimed these conversations with their stretches
            self._means.others.hold(key)
            self._means.others.release(key)
        if writable:
            self._go_on(running)
        else:
            logger.warning("turns.wait_for_storage", turns=len(running), reason=self._log.trouble)
            self._runner.track(self._go_on_later(running))

    async def lose(self, turns: list[str]) -> None:
        """Tells the store that these turns have failed, because what the log had of them was damaged."""
        for turn in turns:
            await self._unreadable.fail(turn)

    async def _tails(self, orphans: list[Stretch]) -> dict[int, Tail]:
        """The tails in which these turns go on, by the numbers of their stretches. This object uses them until it
        drops them. Raises `JournalError`."""
        found: dict[int, Tail] = {}
        try:
            for stretch in orphans:
                if stretch.turn:
                    note = read_note(stretch.state)
                    key = LogKey(note.conversation_id) if note.stage == "queued" else LogKey(stretch.key)
                    tail = found[stretch.number] = await self._log.shelf.tail(key)
                    tail.users.add(self)
        except BaseException:
            for tail in found.values():
                self._log.shelf.drop(tail, self)
            raise
        return found

    def _repeat_ends(self, ended: list[Stretch]) -> None:
        """Tells the store again how these turns ended, and Coze which of them were cancelled: both may not know yet."""
        for stretch in ended:
            if stretch.number not in self._log.shelf.unsaved:
                continue  # its conversation was deleted meanwhile
            if stretch.turn and stretch.last >= stretch.first:
                note = read_note(stretch.state)
                self._telling.ended_before(stretch, note)
                if note.memory.chat_id and outline(stretch).status == "cancelled":
                    ref = ChatRef(note.memory.chat_id, note.memory.coze_conversation_id)
                    self._runner.track(tell_cancelled(self._means, ref, note, ids_of(stretch.turn, note)))

    def _keep_untold(self, ended: list[Stretch]) -> None:
        """Keeps ended turns from being saved until their shops know of them, which the process before may not have told
        everything."""
        for stretch in ended:
            writer = self._log.shelf.unsaved.get(stretch.number)
            if writer is not None and stretch.turn and stretch.last >= stretch.first:
                writer.announcing = read_note(stretch.state).untold

    def _notify_again(self, stretch: Stretch) -> None:
        """Tells a turn's shop what it may not have been told."""
        writer = self._log.shelf.unsaved.get(stretch.number)
        if writer is None or not writer.announcing:
            return
        note, seen = read_note(stretch.state), outline(stretch)
        order, shop = note.order, note.order.shop_id or ""
        untold: list[tuple[Any, str]] = [] if note.announced else [("turn.started", order.input)]
        for kind, text in [*untold, (f"turn.{seen.status}", seen.content or order.input)]:
            notification = Notification(kind, note.conversation_id, stretch.turn, order.user_id, text[:PREVIEW])
            told = partial(self._announced, writer, note, end=kind != "turn.started")
            self._notifications.repeat(shop, notification, told, at=note.started_at)

    def _announced(self, writer: Writer, note: Note, done: bool = True, *, end: bool) -> None:
        note.told(done, end=end)
        writer.announcing = note.untold
        if done and self._log.shelf.unsaved.get(writer.stretch.number) is writer:
            writer.note(note.pack())

    def _taken(self, stretch: Stretch, note: Note, turn: Turn, tail: Tail, *, queued: bool) -> LiveTurn:
        naming = self._names.of(turn.conversation_id)
        live = LiveTurn(self._means, note, turn, tail, naming=naming)
        self._means.others.hold(LogKey(turn.conversation_id))
        self._runner.admit(live)
        live.go_on_with(stretch, queued=queued)
        self._telling.began(live)
        return live

    async def _go_on_later(self, running: list[LiveTurn]) -> None:
        while self._log.trouble is not None:
            await asyncio.sleep(_LOOK_AGAIN)
            await self._log.probe()
        self._go_on(running)

    def _go_on(self, running: list[LiveTurn]) -> None:
        for live in running:
            if live.doubtful and self._means.others.any:
                self._runner.track(self._go_on_once_known(live))
            else:
                self._go_on_with(live)
        self._runner.go_on()

    async def _go_on_once_known(self, live: LiveTurn) -> None:
        """Goes on with a turn whose message was about to be sent. The node that was about to send it may live."""
        fate = None
        try:
            fate = await self._means.learnt.of(live.note.attempt)
        except Exception as error:
            self._means.faults.broke("turn", error, **live.ids.fields())
        self._go_on_with(live, fate)

    def _go_on_with(self, live: LiveTurn, fate: Fate | None = None) -> None:
        if live.erased:
            return self._runner.go(live)  # it was cancelled, and has only to be forgotten
        if self._runner.turns.get(live.turn.turn_id) is not live:
            return None  # this node was taken for dead meanwhile
        left = live.note.started_at + self._means.turn_timeout - self._means.clock()
        # Bounded both ways: the wall clock may have been set in between.
        live.restart_clock(min(max(left, GRACE), self._means.turn_timeout))
        live.taken_over(fate)
        self._telling.stands(live)
        self._means.observer.turn_taken_over(live.ids, live.note.stage, live.turn.phase)
        return self._runner.go(live)


def _restored(stretch: Stretch, note: Note) -> Turn:
    """The turn, restored from its log and its note."""
    seen = outline(stretch)
    return Turn.restore(
        ConversationId(note.conversation_id),
        TurnId(stretch.turn),
        note.order.language,
        note.memory,
        content=seen.content,
        reasoning=seen.reasoning,
        suggestions=seen.suggestions,
        cards=seen.cards,
        tool_calls=seen.tool_calls if seen.waits else (),
        audio=seen.audio,
    )
