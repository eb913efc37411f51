"""What the parts of a live turn share: the means of every turn, and the context of this one."""

import asyncio
import random
from collections.abc import Callable

from msgspec import Struct, field

from gateway.log.log import EventLog
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import Observer, TurnIds
from gateway.turns.course import Course
from gateway.turns.learnt import Learnt
from gateway.turns.naming import Naming
from gateway.turns.orders import Note
from gateway.turns.others import Nobody, Others
from gateway.turns.readers import Readers
from gateway.turns.turn import Turn
from gateway.upstream.caller_tokens import CallerTokens
from gateway.upstream.protocol import Upstream, Upstreams


class Means(Struct):
    """The services that every live turn uses."""

    log: EventLog
    upstream: Upstreams
    caller_tokens: CallerTokens
    observer: Observer
    faults: Faults
    ledger: Ledger
    rng: random.Random
    clock: Callable[[], float]
    turn_timeout: float
    retries: int
    retry_uncertain: bool
    readers: Readers
    learnt: Learnt
    others: Others = field(default_factory=Nobody)


class Waking:
    """Wakes a turn's task when something has changed: the turn's phase, or an id that Coze gave."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = self._loop.create_future()

    def wake(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)

    def changed(self) -> "asyncio.Future[None]":
        """Done at the next change."""
        if self._changed.done():
            self._changed = self._loop.create_future()
        return self._changed

    async def pause(self, seconds: float, turn: Turn) -> None:
        """Sleeps for `seconds`, or until the turn ends."""
        until = self._loop.time() + seconds
        while turn.phase != "ended" and (left := until - self._loop.time()) > 0:
            await asyncio.wait((self.changed(),), timeout=left)


class Context(Struct, frozen=True):
    """One live turn: its state, its note, its conversation's name at Coze, and its course, which its log line tells."""

    means: Means
    turn: Turn
    note: Note
    naming: Naming
    course: Course
    waking: Waking

    @property
    def upstream(self) -> Upstream:
        """Coze, as it is asked on behalf of the turn's user and shop: with the credentials that hold now."""
        return upstream_of(self.means, self.note)

    @property
    def ids(self) -> TurnIds:
        """The ids under which observers are told of this turn."""
        return ids_of(self.turn.turn_id, self.note)


def ids_of(turn_id: str, note: Note) -> TurnIds:
    """The ids of a turn, also of one that a former process ran."""
    return TurnIds(turn_id, note.conversation_id, note.order.request_id)


def upstream_of(means: Means, note: Note) -> Upstream:
    """Coze, as it is asked for a turn, also for one that a former process ran."""
    return means.upstream.on_behalf_of(note.order.user_id, note.order.shop_id, note.order.coze)
