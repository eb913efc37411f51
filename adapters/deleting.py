"""Deleting from the command line: conversations of a data folder that no gateway is using, or of a PostgreSQL database
that any number of them may be using."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from adapters import storage
from gateway import __version__
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, TurnId
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.store.store import Store
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Metrics
from gateway.turns import projection
from gateway.turns.asking import EraseAsked, GoneAsked, HeardAsked, answer, decode_question
from gateway.turns.erasure import Erasure
from gateway.turns.orders import read_note
from gateway.turns.others import Nobody
from gateway.turns.unreadable import Unreadable, is_readable

if TYPE_CHECKING:
    from gateway.nodes.cluster import Cluster

_RETENTION: Final = 10 * 365 * 86400.0
"""Seconds: so long that this command removes nothing by age, because gateways may have other settings."""

_BURIED_WITHIN: Final = 30.0  # seconds


class StoppedError(GatewayError):
    """Deleting stopped in the middle: some or all of it may remain."""


async def delete(
    settings: Settings, *, conversation_id: str | None = None, user_id: str | None = None, shop_id: str | None = None
) -> list[ConversationId]:
    """Deletes one conversation, or all conversations of a user (in one shop, or with None in all shops), completely.

    Returns the ids of what was deleted. Raises `storage_unavailable`, also while a gateway runs on this data folder; as
    a `StoppedError` if something may have been deleted by then.
    In PostgreSQL this process is a node for as long as it takes, and has the other nodes delete what they run.
    """
    if missing := [file for file in storage.files(settings) if not file.exists()]:
        raise GatewayError(Code.STORAGE_UNAVAILABLE, f"there is no {missing[0]}: is GATEWAY_DATA_DIR right?")
    ledger, faults = Ledger(), Faults()
    async with AsyncExitStack() as stack:
        stack.enter_context(storage.unused(settings))
        cluster = await storage.cluster(settings, ledger, faults, Metrics(ledger, __version__).nodes, visits=True)
        log = EventLog(
            storage.journal(settings, ledger) if cluster is None else cluster.journal,
            ledger=ledger,
            retention=_RETENTION,
            clock=time.time,
            faults=faults,
            until_told=True,
            follow=None if cluster is None else cluster.follow,
        )
        running = await storage.opened(log)
        stack.push_async_callback(log.close)
        store = await Store.open(storage.database(settings), ledger=ledger, on_ended=log.keeper.told, faults=faults)
        stack.push_async_callback(store.close)
        others = Nobody() if cluster is None else cluster.claims(store.settled)
        erasure = Erasure(_NoTurns(), log=log, store=store, readers=_NoReaders(), others=others)

        visitor = _Visitor(log, store, erasure, Unreadable(log, store, time.time))
        await visitor.adopt(running, log.keeper.ended(), [])
        await store.settled()
        if cluster is not None:
            cluster.start(log, visitor, when_back=store.look_after_break)
            stack.push_async_callback(cluster.close)
            await _learn_of_dead_nodes(cluster)
            await store.settled()
        if user_id is not None:
            found = await store.inventory.conversations_of(user_id, shop_id)
        else:
            row = await store.conversation(conversation_id or "")
            found = [row.id] if row is not None else []
        for one in found:
            try:
                await erasure.erase(one)
            except GatewayError as error:
                raise StoppedError(error.code, str(error)) from error
        return found


async def _learn_of_dead_nodes(cluster: "Cluster") -> None:
    """Makes sure that the store knows the turns of dead nodes, which may have been killed before they told it. Raises
    `storage_unavailable`."""
    try:
        async with asyncio.timeout(_BURIED_WITHIN):
            await cluster.no_more_silent()
    except (JournalError, TimeoutError) as error:
        raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error) or "dead nodes can't be buried") from error


class _Visitor:
    """This process as a node: it runs no turns."""

    def __init__(self, log: EventLog, store: Store, erasure: Erasure, unreadable: Unreadable) -> None:
        self._log = log
        self._store = store
        self._erasure = erasure
        self._unreadable = unreadable

    async def adopt(self, orphans: list[Stretch], ended: list[Stretch], lost: list[str]) -> None:
        """Tells the store of these turns: the process that wrote them may have been killed before it did."""
        for stretch in [*orphans, *ended]:
            if not is_readable(stretch):
                await self._unreadable.fail(stretch.turn, stretch)
            elif stretch.turn:
                self._tell(stretch)
        for turn in lost:
            await self._unreadable.fail(turn)

    def _tell(self, stretch: Stretch) -> None:
        note = read_note(stretch.state)
        if (writer := self._log.shelf.unsaved.get(stretch.number)) is not None:
            writer.announcing = note.untold  # a gateway will tell them
        self._store.begin(projection.begun(stretch.turn, note))
        if note.coze_conversation_id or note.naming:
            self._store.name(ConversationId(note.conversation_id), note.coze_conversation_id, note.naming or 1)
        if stretch.ended is not None and stretch.last >= stretch.first:
            self._store.update(projection.ended(stretch, note, time.time()))

    async def start_over(self) -> None:
        """This node was taken for dead, and had no turns."""

    async def answer(self, asked: bytes) -> bytes:
        return await answer(self._do(asked))

    async def _do(self, asked: bytes) -> Any:
        """A conversation that is being deleted here accepts no message."""
        match decode_question(asked):
            case HeardAsked():
                return None
            case GoneAsked(keys):
                return await self._erasure.erased_elsewhere(keys)
            case EraseAsked(conversation):
                return await self._erasure.erase(ConversationId(conversation))
            case _:
                raise GatewayError(Code.STORAGE_UNAVAILABLE, "the conversation is being deleted", retry_after=1)


class _NoTurns:
    """The turns of this process, which has none."""

    def __init__(self) -> None:
        self._gate = asyncio.Lock()

    def track(self, work: Any) -> "asyncio.Task[Any]":
        return asyncio.ensure_future(work)

    def gate(self, _conversation_id: str) -> asyncio.Lock:
        return self._gate

    def end_all(self, _conversation_id: str) -> list[TurnId]:
        return []

    def disown(self, _turn_id: TurnId) -> None:
        pass


class _NoReaders:
    """The readers of this process, which has none."""

    def redirect(self, _turn: str, _old: Tail, _new: Tail) -> None:
        pass

    def dismiss(self, _tail: Tail) -> None:
        pass
