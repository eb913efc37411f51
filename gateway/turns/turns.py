"""Turns, by their ids: questions and commands for front doors. A command's effect is durable when its method
returns."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from gateway.errors import Code, GatewayError, no_such
from gateway.ids import ConversationId, LogKey
from gateway.log.stretch import Stretch
from gateway.status import Status
from gateway.store.rows import TurnRow, TurnUpdate
from gateway.store.store import Store
from gateway.turns.abandonment import Abandonment
from gateway.turns.context import Means
from gateway.turns.erasure import Erasure
from gateway.turns.live import LiveTurn
from gateway.turns.naming import Names
from gateway.turns.notifications import Notifications
from gateway.turns.orders import Order
from gateway.turns.projection import snapshot
from gateway.turns.runner import Runner
from gateway.turns.starting import Accepted, Owns, Starting
from gateway.turns.takeover import TakeOver
from gateway.turns.telling import Telling

State = TurnRow | TurnUpdate
"""A turn's state: what readers may have seen of it, or what is stored."""


class Running(Struct, frozen=True):
    """A turn that has not ended, or has just ended. `key` is the log where its events are, or will be."""

    key: LogKey
    status: Status


class Turns:
    """Everything about turns that a front door needs. `owns` says what the caller may access, by user and shop."""

    def __init__(self, means: Means, *, store: Store, notifications: Notifications, abandonment: Abandonment) -> None:
        names = Names(store)
        self._means = means
        self._store = store
        self._notifications = notifications
        telling = Telling(store, names, clock=means.clock, faults=means.faults, ledger=means.ledger)
        self._telling = telling
        self.runner = Runner(means, telling=telling, notifications=notifications, abandonment=abandonment)
        self._starting = Starting(self.runner, means, store=store, names=names)
        self._erasure = Erasure(self.runner, log=means.log, store=store, readers=means.readers)
        self._takeover = TakeOver(
            self.runner, means, store=store, names=names, telling=telling, notifications=notifications
        )
        self._keeping: asyncio.Task[None] | None = None

    # -- one turn -----------------------------------------------------------------------------------------------

    async def start(
        self, order: Order, *, owns: Owns, admit: Callable[[], None] = lambda: None, position: str = ""
    ) -> Accepted:
        """Starts a turn and returns once its `started` is durable, or once it is queued.

        Nothing is started for an order that already has a turn, which is found by its key, or by a `position` of it.
        `admit` is called last: it counts a turn that is about to start, and raises if the turn must not start. Raises
        `not_found`, `conversation_busy`, `draining`, `storage_unavailable`, or `invalid_request` for a key that was
        used with another body. A request that is cancelled may still have started its turn.
        """
        return await self._starting.start(order, owns=owns, admit=admit, position=position)

    def running(self, turn_id: str) -> Running | None:
        """A turn that has not ended, or has just ended and is not stored yet."""
        live = self.runner.turns.get(turn_id)
        return None if live is None else _running(live)

    async def find(self, turn_id: str, *, owns: Owns) -> Running | TurnRow:
        """A turn that runs, or the row of one that is over, without its texts. Raises `not_found`, as `state` does."""
        found = await self._find(turn_id, owns)
        return _running(found) if isinstance(found, LiveTurn) else found

    async def state(self, turn_id: str, *, owns: Owns) -> State:
        """A turn's state. Raises `not_found`, also for somebody else's turn."""
        found = await self._find(turn_id, owns)
        if isinstance(found, LiveTurn):
            return snapshot(found, 0.0)
        if (row := await self._store.turn(turn_id)) is None:
            raise GatewayError(Code.NOT_FOUND)
        return row

    async def cancel(self, turn_id: str, *, owns: Owns) -> bool:
        """Ends a turn as cancelled. False if it was over already. Raises `not_found`."""
        found = await self._find(turn_id, owns)
        if not isinstance(found, LiveTurn) or not self.runner.cancel(found):
            return False
        await self._means.log.committed()
        return True

    async def give_outputs(self, turn_id: str, outputs: list[tuple[str, str]], *, owns: Owns) -> bool:
        """Answers an `action_required`. False when the turn is over.

        Raises `not_found`, or `invalid_request` when the turn doesn't wait for these outputs.
        """
        found = await self._find(turn_id, owns)
        if not isinstance(found, LiveTurn):
            return False
        found.give_outputs(outputs)
        await self._means.log.committed()
        return True

    async def _find(self, turn_id: str, owns: Owns) -> LiveTurn | TurnRow:
        live = self.runner.turns.get(turn_id)
        if live is not None and owns(live.order.user_id, live.order.shop_id):
            return live  # a turn of somebody else takes the same path, and the same time, as one that never existed
        row = await self._store.turn(turn_id, texts=False)
        if row is None or not owns(row.user_id, row.shop_id):
            raise no_such(row)
        return row

    # -- all of them --------------------------------------------------------------------------------------------

    async def erase(self, conversation_id: ConversationId) -> None:
        """Deletes a conversation, as `Erasure` says."""
        await self._erasure.erase(conversation_id)

    async def resume(self, orphans: list[Stretch]) -> None:
        """Continues turns that a former process left running. Called once, before anything is started."""
        work = self._telling.run(self.runner.turns, self._notifications.roll)
        self._keeping = asyncio.get_running_loop().create_task(work)
        self._means.faults.watch("keep", self._keeping)
        await self._takeover.resume(orphans)

    def start_nothing_more(self) -> None:
        """New orders are refused from now on."""
        self.runner.draining = True

    @property
    def draining(self) -> bool:
        """Whether nothing more is started."""
        return self.runner.draining

    async def drain(self, seconds: float) -> None:
        """Starts nothing more and waits up to `seconds` for running turns. The next process finishes the rest."""
        await self.runner.drain(seconds)

    async def close(self) -> None:
        """Abandons the turns that still run; they stay unfinished in the log."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        await self.runner.close()

    def __repr__(self) -> str:
        return f"Turns({self.runner!r})"


def _running(live: LiveTurn) -> Running:
    return Running(live.tail.key, live.status)
