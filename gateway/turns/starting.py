"""Starting: an order becomes a turn exactly once, however often it comes."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import Code, GatewayError, no_such
from gateway.ids import ConversationId, LogKey, TurnId, new_conversation_id, new_turn_id
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.store.store import Store
from gateway.turns.context import Means
from gateway.turns.live import LiveTurn
from gateway.turns.naming import Names, Naming
from gateway.turns.orders import Note, Order, read_note
from gateway.turns.returning import returning
from gateway.turns.runner import Runner
from gateway.turns.turn import Turn
from gateway.waiting import outlived

Owns = Callable[[str, str | None], bool]
"""Whether the caller may read and write what belongs to that user and shop."""


class Accepted(Struct, frozen=True):
    """A turn that was started for an order, or that an earlier request with the same key had started."""

    conversation_id: ConversationId
    turn_id: TurnId
    key: LogKey
    again: bool = False
    queued: bool = False


class Starting:
    """Finds the turn that an order already has, or starts one."""

    def __init__(self, runner: Runner, means: Means, *, store: Store, names: Names) -> None:
        self._runner = runner
        self._means = means
        self._log: EventLog = means.log
        self._store = store
        self._names = names
        self._marks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self, order: Order, *, owns: Owns, admit: Callable[[], None], position: str) -> Accepted:
        """As `Turns.start` says."""
        self._refuse_when_draining()
        return await outlived(self._runner.track(self._find_or_start(order, owns, admit, position)))

    async def _find_or_start(self, order: Order, owns: Owns, admit: Callable[[], None], position: str) -> Accepted:
        """Goes on if its request is cancelled, so that a quick second request with the same key waits for the first."""
        if not order.conversation_id:
            return await self._start_once(order, None, admit, position)
        async with self._runner.gate(order.conversation_id):
            naming = self._names.of(ConversationId(order.conversation_id))
            return await self._start_once(await self._at_home(order, naming, owns), naming, admit, position)

    async def _start_once(
        self, order: Order, naming: Naming | None, admit: Callable[[], None], position: str
    ) -> Accepted:
        if not (mark := order.mark()):
            if (earlier := await self._returned(order, position)) is not None:
                return earlier
            return await self._start(order, naming, mark, admit)
        lock = self._marks.setdefault(mark, asyncio.Lock())
        async with lock:
            earlier = await self._earlier(order, mark) or await self._returned(order, position)
            if earlier is not None:
                return earlier
            return await self._start(order, naming, mark, admit)

    async def _at_home(self, order: Order, naming: Naming, owns: Owns) -> Order:
        """The order for a known conversation; if it names no shop, it gets the conversation's."""
        row = await self._store.conversation(naming.conversation_id)
        ours = row is not None and row.user_id == order.user_id and order.shop_id in (None, row.shop_id)
        if row is None or not ours or not owns(row.user_id, row.shop_id):
            raise no_such(row)
        naming.known(row.coze_conversation_id, row.naming)
        return order if order.shop_id == row.shop_id else replace(order, shop_id=row.shop_id)

    def _refuse_when_draining(self) -> None:
        if self._runner.draining:
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
        runner, shelf = self._runner, self._log.shelf
        tail = None
        if naming is not None:
            try:
                tail = await shelf.tail(LogKey(naming.conversation_id))
            except JournalError as error:
                raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        else:
            naming = self._names.of(new_conversation_id())
        conversation_id = naming.conversation_id
        busy = tail is not None and runner.is_busy(tail)
        try:
            if busy and order.on_busy == "reject":
                raise GatewayError(Code.CONVERSATION_BUSY, "a turn is running in this conversation")
            self._refuse_when_draining()  # a drain may have started in the meantime; from here on there is no await
            admit()
        except GatewayError:
            if tail is not None:
                shelf.drop(tail, None)  # it may have been read for this alone
            raise
        if tail is None:
            tail = shelf.create(LogKey(conversation_id))
        note = Note(order, conversation_id, self._means.clock())
        note.coze_conversation_id, note.naming = naming.name, naming.version
        turn = Turn(conversation_id, new_turn_id(), order.language)
        live = LiveTurn(self._means, note, turn, tail, naming=naming)
        await runner.accept(live, mark, queued=busy)
        return Accepted(conversation_id, turn.turn_id, tail.key, queued=busy)
