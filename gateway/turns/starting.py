"""Starting: makes exactly one turn of an order, however often the order comes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import Code, GatewayError, no_such
from gateway.ids import ConversationId, LogKey, TurnId, new_conversation_id, new_turn_id
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.tail import Tail
from gateway.store.rows import Asked
from gateway.store.store import Store
from gateway.turns.asking import StartAsked, ask, new_mark, until_taken_over
from gateway.turns.context import Means
from gateway.turns.finding import Finding
from gateway.turns.live import LiveTurn
from gateway.turns.naming import Naming, Namings
from gateway.turns.orders import Note, Order
from gateway.turns.patience import patience, patiently, within
from gateway.turns.returning import marked, returning
from gateway.turns.runner import Runner
from gateway.turns.turn import Turn
from gateway.waiting import outlived

T = TypeVar("T")

Owns = Callable[[str, str | None], bool]
"""Whether the caller may read and write what belongs to that user and shop."""


Admit = Callable[[Order], Awaitable[None] | None]
"""Counts a turn that is about to start, and raises if it must not start. If it returns an awaitable, the turn counts
once that was awaited. The order names the shop, also where the caller left that to the conversation."""


class Accepted(Struct, frozen=True):
    """A turn that was started for an order, or that an earlier request with the same key had started."""

    conversation_id: ConversationId
    turn_id: TurnId
    key: LogKey
    again: bool = False
    queued: bool = False


class _Began(NamedTuple):
    """What a start found before it locked or claimed anything, and until when it may wait for the database."""

    term: int
    breaks: int
    until: float


class _TakenForDead(Exception):
    """While this process started a turn, its node was taken for dead, or the database may have lost what it claimed.

    `perhaps` is a turn that had begun. If PostgreSQL has its first batch, another node goes on with it.
    """

    def __init__(self, perhaps: Accepted | None = None) -> None:
        super().__init__()
        self.perhaps = perhaps


class Starting:
    """Finds the turn that an order already has, or starts one."""

    def __init__(self, runner: Runner, means: Means, *, store: Store, names: Namings, finding: Finding) -> None:
        self._runner = runner
        self._means = means
        self._log: EventLog = means.log
        self._store = store
        self._finding = finding
        self._names = names
        self._marks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self, order: Order, *, owns: Owns, admit: Admit, position: str, mark: str = "") -> Accepted:
        """See `Turns.start`. If another node asks, `mark` replaces the order's own mark."""
        self._refuse_when_draining()
        work = self._find_or_start(order, owns, admit, position, mark, patience())
        return await outlived(self._runner.track(work))

    async def _find_or_start(
        self, order: Order, owns: Owns, admit: Admit, position: str, mark: str, until: float
    ) -> Accepted:
        """Goes on if its request is cancelled, so that a quick second request with the same key waits for the first."""
        try:
            return await self._find_or_start_in_term(order, owns, admit, position, mark, until)
        except _TakenForDead as dead:  # its claims and findings may be out of date, but it was admitted
            # Only once this node has joined again is it known what became of its old batches. Until then nobody who
            # may have a turn is refused.
            until = until if dead.perhaps is None else patience()
            await self._patiently(self._require_storage, until)
            if (begun := dead.perhaps) is not None and await self._is_known(begun, until):
                return begun
            return await self._find_or_start(order, owns, lambda _: None, position, mark, until)

    async def _is_known(self, begun: Accepted, until: float) -> bool:
        return await self._patiently(lambda: self._finding.key_of(begun.turn_id), until) is not None

    async def _find_or_start_in_term(
        self, order: Order, owns: Owns, admit: Admit, position: str, mark: str, until: float
    ) -> Accepted:
        others = self._means.others
        if others.any and self._log.fenced:
            await self._patiently(self._require_storage, until)  # until then the log knows turns that never began
        began = _Began(others.term, others.breaks, until)
        if not order.conversation_id:
            return await self._start_once(order, None, admit, position, mark, began)
        async with self._runner.gate(order.conversation_id):
            naming = self._names.of(ConversationId(order.conversation_id))
            order = await self._at_home(order, naming, owns, until)
            return await self._start_once(order, naming, admit, position, mark, began)

    async def _start_once(
        self, order: Order, naming: Naming | None, admit: Admit, position: str, mark: str, began: _Began
    ) -> Accepted:
        if not (mark := mark or order.mark()):
            if (earlier := await self._returned(order, position, began.until)) is not None:
                return earlier
            return await self._start(order, naming, mark, admit, position, began)
        lock = self._marks.setdefault(mark, asyncio.Lock())
        async with lock, self._means.others.alone_with(mark) if naming is None else nullcontext():
            earlier = await self._earlier(order, mark, began.until)
            if (earlier := earlier or await self._returned(order, position, began.until)) is not None:
                return earlier
            return await self._start(order, naming, mark, admit, position, began)

    async def _at_home(self, order: Order, naming: Naming, owns: Owns, until: float) -> Order:
        """The order for a known conversation; if it names no shop, it gets the conversation's."""
        row = await self._patiently(lambda: self._finding.conversation(naming.conversation_id), until)
        ours = row is not None and row.user_id == order.user_id and order.shop_id in (None, row.shop_id)
        if row is None or not ours or not owns(row.user_id, row.shop_id):
            raise no_such(row)
        naming.known(row.coze_conversation_id, row.naming)
        return order if order.shop_id == row.shop_id else replace(order, shop_id=row.shop_id)

    def _refuse_when_draining(self) -> None:
        if self._runner.draining:
            raise GatewayError(Code.DRAINING, retry_after=self._means.rng.uniform(1, 5))

    async def _returned(self, order: Order, position: str, until: float) -> Accepted | None:
        look = partial(returning, self._log, self._store, order, position)
        return await self._found(look, until) if position else None

    async def _earlier(self, order: Order, mark: str, until: float) -> Accepted | None:
        return await self._found(partial(marked, self._log, self._store, order, mark), until)

    async def _found(self, look: Callable[[], Awaitable[Asked | None]], until: float) -> Accepted | None:
        try:
            turn = await self._patiently(look, until)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        if turn is None:
            return None
        return Accepted(turn.conversation_id, turn.turn_id, LogKey(turn.conversation_id), again=True)

    async def _start(
        self,
        order: Order,
        naming: Naming | None,
        mark: str,
        admit: Admit,
        position: str,
        began: _Began,
    ) -> Accepted:
        others, (term, breaks, until) = self._means.others, began
        await self._patiently(self._require_storage, until)
        if naming is None:
            naming = self._names.of(new_conversation_id())
            key = LogKey(naming.conversation_id)
            others.hold(key)
            held = others.term
            tail = self._log.shelf.create(key)
        else:
            key = LogKey(naming.conversation_id)
            there = await self._at_its_node(order, key, mark, admit, position, until)
            if isinstance(there, Accepted):
                return there
            term = held = there
            tail = await self._claimed(key, naming, term, until)
        busy, waiting = self._runner.is_busy(tail), object()
        try:
            if busy and order.on_busy == "reject":
                raise GatewayError(Code.CONVERSATION_BUSY, "a turn is running in this conversation")
            self._refuse_when_draining()  # a drain may have started in the meantime
            if (counted := admit(order)) is not None:
                tail.users.add(waiting)
                await self._patiently(partial(_count, [counted], partial(admit, order)), until)
                self._refuse_when_draining()
                busy = self._runner.is_busy(tail)
                tail.users.discard(waiting)  # no await follows until the turn keeps the tail
        except BaseException:
            self._log.shelf.drop(tail, waiting)  # the tail may have been read for this order alone
            others.release(key, held)
            raise
        if (others.term, others.breaks) != (term, breaks):  # another node may have the conversation now, or the mark
            self._log.shelf.drop(tail, waiting)
            others.release(key, held)
            raise _TakenForDead
        if order.coze is not None and (named := order.coze.conversation) and not naming.name:
            naming.known(named, 1)
        note = Note(order, naming.conversation_id, self._means.clock())
        note.coze_conversation_id, note.naming = naming.name, naming.version
        turn = Turn(naming.conversation_id, new_turn_id(), order.language)
        live = LiveTurn(self._means, note, turn, tail, naming=naming)
        try:
            await self._runner.accept(live, mark, queued=busy)
        except GatewayError as error:
            if others.any and self._log.fenced:
                begun = Accepted(naming.conversation_id, turn.turn_id, tail.key, queued=busy)
                raise _TakenForDead(begun) from error
            raise
        if order.coze is not None:
            self._names.recall(note)
            if others.any:
                with suppress(GatewayError):  # the turn runs in any case, and the store will be told
                    await self._patiently(self._store.settled, until)  # so that any node knows the name
        return Accepted(naming.conversation_id, turn.turn_id, tail.key, queued=busy)

    async def _require_storage(self) -> None:
        if (trouble := self._log.trouble or self._store.trouble) is not None:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, trouble, retry_after=1)

    async def _patiently(self, work: Callable[[], Awaitable[T]], until: float) -> T:
        return await patiently(self._means.others, work, until=until)

    async def _claimed(self, key: LogKey, naming: Naming, term: int, until: float) -> Tail:
        """The tail of a conversation that this node has just claimed, with everything that other nodes wrote to it."""
        try:
            if self._means.others.any:
                row = await self._patiently(lambda: self._store.conversation(naming.conversation_id), until)
                if row is None:
                    raise no_such(row)  # another node has erased it since it was found
                naming.known(row.coze_conversation_id, row.naming)
            return await self._patiently(lambda: self._log.shelf.tail(key, newest=True), until)
        except JournalError as error:
            self._means.others.release(key, term)
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        except BaseException:
            self._means.others.release(key, term)
            raise

    async def _claim(self, key: LogKey, until: float) -> int | None:
        """See `Others.claim`. A claim that is being released may hold this one up, too."""
        try:
            async with asyncio.timeout_at(within(until)):
                return await self._means.others.claim(key)
        except TimeoutError:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, "the database does not answer", retry_after=1) from None

    async def _at_its_node(
        self, order: Order, key: LogKey, mark: str, admit: Admit, position: str, until: float
    ) -> Accepted | int:
        """The turn, if another node runs the conversation and starts it there; otherwise this node's term, in which it
        has claimed the conversation."""
        others = self._means.others
        asked = mark or new_mark()
        nodes: list[int] = []

        async def attempt() -> Accepted | int | None:
            if (node := await self._claim(key, until)) is None:
                return others.term
            if order.coze is not None and order.coze.token:  # only this node knows the token, and nothing may carry it
                raise GatewayError(Code.CONVERSATION_BUSY, "another node runs a turn in this conversation")
            if not nodes and (counted := admit(order)) is not None:
                await counted
            nodes.append(node)
            answer = await ask(others, node, StartAsked(order, asked, position))
            return None if answer is None else msgspec.convert(answer.value, Accepted)

        found: Accepted | int = await until_taken_over(attempt, until=until)
        if isinstance(found, Accepted):
            return found
        # Looks again even if no node had the conversation: since the first look, one may have run the whole turn.
        if not (nodes or (mark and others.any)) or (earlier := await self._earlier(order, asked, until)) is None:
            return found
        self._means.others.release(key, found)
        return earlier


async def _count(begun: list[Awaitable[None]], admit: Callable[[], Awaitable[None] | None]) -> None:
    """Counts the turn. The first try awaits the count that was begun, later ones begin another."""
    if (counted := begun.pop() if begun else admit()) is not None:
        await counted
