"""Turns, by their ids: questions and commands for front doors. A command's effect is durable when its method
returns."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
from msgspec import Struct

from gateway.errors import Code, GatewayError, no_such
from gateway.ids import ConversationId, LogKey
from gateway.log.journal import JournalError
from gateway.log.stretch import Stretch
from gateway.status import ENDED, Status
from gateway.store.rows import TurnRow, TurnUpdate
from gateway.store.store import Store
from gateway.turns.abandonment import Abandonment
from gateway.turns.asking import (
    CancelAsked,
    EraseAsked,
    GoneAsked,
    HeardAsked,
    InterruptAsked,
    LearntAsked,
    NotifyAsked,
    OutputsAsked,
    Reply,
    StartAsked,
    answer,
    ask,
    decode_question,
    encode,
    until_taken_over,
)
from gateway.turns.context import Means
from gateway.turns.elsewhere import Elsewhere
from gateway.turns.erasure import Erasure
from gateway.turns.feedback import Feedbacks
from gateway.turns.finding import Finding
from gateway.turns.interrupts import Interrupts
from gateway.turns.live import LiveTurn
from gateway.turns.naming import Namings
from gateway.turns.notifications import Notifications
from gateway.turns.orders import Order, read_note
from gateway.turns.projection import ended, snapshot
from gateway.turns.reconciling import kept
from gateway.turns.runner import Runner
from gateway.turns.starting import Accepted, Admit, Owns, Starting
from gateway.turns.takeover import TakeOver
from gateway.turns.telling import Telling

State = TurnRow | TurnUpdate
"""A turn's state: what readers may have seen of it, or what is stored."""


class Running(Struct, frozen=True):
    """A turn that has not ended, or has just ended. `key` is the log where its events are, or will be."""

    key: LogKey
    status: Status
    conversation_id: ConversationId


class Turns:
    """Everything about turns that a front door needs. `owns` says what the caller may access, by user and shop."""

    def __init__(self, means: Means, *, store: Store, notifications: Notifications, abandonment: Abandonment) -> None:
        names = Namings(store)
        self._means = means
        self._store = store
        self._notifications = notifications
        telling = Telling(store, names, clock=means.clock, faults=means.faults, ledger=means.ledger)
        self._telling = telling
        self._runner = Runner(means, telling=telling, notifications=notifications, abandonment=abandonment)
        self._elsewhere = Elsewhere(self._runner, means)
        self.finding = Finding(store, means.log, means.others)
        self.interrupts = Interrupts(self._runner, means.others)
        self._starting = Starting(self._runner, means, store=store, names=names, finding=self.finding)
        self.feedback = Feedbacks(
            means, store=store, finding=self.finding, state=lambda turn: self.state(turn, owns=_anybody)
        )
        self._erasure = Erasure(self._runner, log=means.log, store=store, readers=means.readers, others=means.others)
        self._takeover = TakeOver(
            self._runner, means, store=store, names=names, telling=telling, notifications=notifications
        )
        self._keeping: asyncio.Task[None] | None = None
        self._abandonment = abandonment

    # -- one turn -----------------------------------------------------------------------------------------------

    async def start(self, order: Order, *, owns: Owns, admit: Admit = lambda _: None, position: str = "") -> Accepted:
        """Starts a turn and returns once its `started` is durable, or once it is queued.

        Nothing is started for an order that already has a turn, which is found by its key, or by a `position` of it.
        `admit` is called last. Raises `not_found`, `conversation_busy`, `draining`, `storage_unavailable`, or
        `invalid_request` for a key that was used with another body. A request that is cancelled may still have started
        its turn.
        """
        return await self._starting.start(order, owns=owns, admit=admit, position=position)

    def running(self, turn_id: str) -> Running | None:
        """A turn that has not ended, or has just ended and is not stored yet."""
        live = self._runner.turns.get(turn_id)
        return None if live is None else _running(live)

    async def find(self, turn_id: str, *, owns: Owns) -> Running | TurnRow:
        """A turn that runs, or the row of one that is over, without its texts. Raises `not_found`, as `state` does."""
        found = await self._find(turn_id, owns)
        if isinstance(found, LiveTurn):
            return _running(found)
        if found.status in ENDED or not self._means.others.any:
            return found
        if (key := await self.finding.key_of(turn_id)) is None:
            return found
        if key == turn_id:  # the turn waits, and its readers wait in the log in which it will begin
            home = LogKey(found.conversation_id)
            self._elsewhere.watch(turn_id, home)
            return Running(home, "queued", found.conversation_id)
        return Running(key, "running" if found.status == "queued" else found.status, found.conversation_id)

    async def state(self, turn_id: str, *, owns: Owns) -> State:
        """The state of a turn. Raises `not_found`, also for a turn that belongs to somebody else."""
        found = await self._find(turn_id, owns)
        if isinstance(found, LiveTurn):
            return snapshot(found, 0.0)
        if found.status not in ENDED and self._means.others.any:
            stretch = await kept(self._means.log, turn_id)
            if stretch is not None and stretch.last >= stretch.first:
                return ended(stretch, read_note(stretch.state), 0.0)
        if (row := await self._store.turn(turn_id)) is None:
            raise GatewayError(Code.NOT_FOUND)
        return row

    async def cancel(self, turn_id: str, *, owns: Owns) -> bool:
        """Ends a turn as cancelled. False if it was over already. Raises `not_found`."""
        found = await self._find(turn_id, owns)
        if isinstance(found, LiveTurn):
            if not self._runner.cancel(found):
                return False
            await self._means.log.committed()
            return True
        return bool(await self._ask_its_node(found, CancelAsked(turn_id)))

    async def give_outputs(
        self, turn_id: str, outputs: list[tuple[str, str]], *, owns: Owns, once: bool = False
    ) -> bool:
        """Answers an `action_required`. False if the turn is over. With `once` the same outputs are not taken again.

        Raises `not_found`, or `invalid_request` when the turn doesn't wait for these outputs.
        """
        found = await self._find(turn_id, owns)
        if isinstance(found, LiveTurn):
            found.give_outputs(outputs, once=once)
            await self._means.log.committed()
            return True
        return bool(await self._ask_its_node(found, OutputsAsked(turn_id, outputs, once)))

    def tell(self, turn_id: str) -> None:
        """Tells the store at once how a running turn stands, so that it is found by Coze's ids from now on."""
        self._runner.tell(turn_id)

    async def _find(self, turn_id: str, owns: Owns) -> LiveTurn | TurnRow:
        live = self._runner.turns.get(turn_id)
        if live is not None and owns(live.order.user_id, live.order.shop_id):
            return live  # otherwise the answer takes as long as for a turn that never existed
        row = await self.finding.turn(turn_id)
        if row is None or not owns(row.user_id, row.shop_id):
            raise no_such(row)
        return row

    # -- turns of other nodes -----------------------------------------------------------------------------------

    async def _ask_its_node(self, row: TurnRow, question: CancelAsked | OutputsAsked) -> Any:
        """The answer of the node that runs the turn; None if the turn is over."""
        others = self._means.others
        if row.status in ENDED or not others.any:
            return None

        async def attempt() -> Reply | None:
            if (live := self._runner.turns.get(row.turn_id)) is not None:
                return Reply(await self._do(question, live))
            if (node := await others.runner_of(row.turn_id)) is not None:
                return await ask(others, node, question)
            return Reply() if await self._is_over(row.turn_id) else None

        return (await until_taken_over(attempt)).value

    async def _do(self, question: CancelAsked | OutputsAsked, live: LiveTurn) -> bool:
        if isinstance(question, CancelAsked):
            return await self.cancel(live.turn.turn_id, owns=_anybody)
        return await self.give_outputs(live.turn.turn_id, question.outputs, owns=_anybody, once=question.once)

    async def answer(self, asked: bytes) -> bytes:
        """Does what another node asks for, and returns the answer."""
        try:
            question = decode_question(asked)
        except msgspec.MsgspecError:
            return encode(Reply(code=Code.STORAGE_UNAVAILABLE, detail="a newer node asks what this one does not know"))
        match question:
            case StartAsked():
                work: Awaitable[Any] = self._starting.start(
                    question.order, owns=_anybody, admit=lambda _: None, position=question.position, mark=question.mark
                )
            case CancelAsked() | OutputsAsked():
                work = self._do_here(question)
            case HeardAsked():
                work = _known(self._abandonment.heard(question.key, question.turn))
            case InterruptAsked():
                work = _known(self.interrupts.here(question.event_id))
            case EraseAsked():
                work = self.erase(ConversationId(question.conversation))
            case GoneAsked():
                work = self._erasure.erased_elsewhere(question.keys)
            case NotifyAsked():
                work = self._notifications.tell(question)
            case LearntAsked():
                work = _known(self._means.learnt.here(question.attempt))
        return await answer(work)

    async def _do_here(self, question: CancelAsked | OutputsAsked) -> bool | None:
        """None if the turn is over. Raises `storage_unavailable` while this node takes it over."""
        if (live := self._runner.turns.get(question.turn)) is not None:
            return await self._do(question, live)
        if await self._is_over(question.turn):
            return None
        raise GatewayError(Code.STORAGE_UNAVAILABLE, "the turn is just being taken over", retry_after=1)

    async def _is_over(self, turn_id: str) -> bool:
        try:
            stretch = await kept(self._means.log, turn_id)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        return stretch is None or stretch.ended is not None

    async def adopt(self, orphans: list[Stretch], ended: list[Stretch], lost: list[str]) -> None:
        """Goes on with the stretches that a dead node left, and ends those of its turns of which nothing is left."""
        await self._takeover.adopt(orphans, ended)
        await self._takeover.lose(lost)

    async def start_over(self) -> None:
        """This node was taken for dead: others go on with its turns."""
        waiting = [(live.turn.turn_id, live.tail.key) for live in self._runner.turns.values() if live.stretch is None]
        await self._runner.start_over()
        self._store.look_after_break(write_again=False)
        for turn, conversation in waiting:
            self._elsewhere.watch(turn, conversation)

    # -- all of them --------------------------------------------------------------------------------------------

    async def erase(self, conversation_id: ConversationId) -> None:
        """Deletes a conversation, as `Erasure` says."""
        await self._erasure.erase(conversation_id)

    async def resume(self, orphans: list[Stretch]) -> None:
        """Goes on with turns that an earlier process left running. Called once, before any turn is started."""
        work = self._telling.run(self._runner.turns, self._notifications.roll)
        self._keeping = asyncio.get_running_loop().create_task(work)
        self._means.faults.watch("keep", self._keeping)
        await self._takeover.resume(orphans)

    def start_nothing_more(self) -> None:
        """New orders are refused from now on."""
        self._runner.draining = True

    @property
    def draining(self) -> bool:
        """Whether new orders are refused."""
        return self._runner.draining

    async def drain(self, seconds: float) -> None:
        """Starts nothing more. Other nodes go on with the running turns at once; if no other node lives, this waits up
        to `seconds` for them, and the next process finishes the rest."""
        self.start_nothing_more()
        await self._runner.drain(0.0 if await self._means.others.leave() else seconds)

    async def close(self) -> None:
        """Abandons the turns that still run; they stay unfinished in the log."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        await self._runner.close()
        await self._notifications.close()

    def __repr__(self) -> str:
        return f"Turns({self._runner!r})"


def _anybody(_user: str, _shop: str | None) -> bool:
    """The node that asks has checked the owner."""
    return True


async def _known(value: Any) -> Any:
    """An answer that is known without waiting."""
    return value


def _running(live: LiveTurn) -> Running:
    return Running(live.tail.key, live.status, live.turn.conversation_id)
