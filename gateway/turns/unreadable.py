"""Unreadable: ends turns whose notes or events are damaged, so that no other turn waits for them."""

from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from gateway.errors import Code, GatewayError
from gateway.ids import TurnId
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.outline import legible
from gateway.log.packing import DAMAGED
from gateway.log.stretch import Stretch
from gateway.log.writer import Writer
from gateway.status import ENDED
from gateway.store.store import Store
from gateway.turns import projection
from gateway.turns.failure import failed
from gateway.turns.orders import read_note

logger = structlog.get_logger()


def is_readable(stretch: Stretch) -> bool:
    """Whether a turn's events and its note are sound. A shop's log has no note, and needs neither to go on."""
    try:
        return not stretch.turn or (legible(stretch) is not None and bool(read_note(stretch.state)))
    except DAMAGED:
        return False


class Unreadable:
    """The owner of these turns' stretches."""

    def __init__(self, log: EventLog, store: Store, clock: Callable[[], float]) -> None:
        self._log = log
        self._store = store
        self._clock = clock
        self.about: Mapping[str, object] = {}

    def end(self, stretch: Stretch, *, writable: bool) -> None:
        """Ends a running turn as failed, with the text that its readers have."""
        logger.error("turn.unreadable", turnId=stretch.turn, reason="its note or one of its events is damaged")
        seen = legible(stretch)
        content = "" if seen is None else seen.content
        last = failed(Code.INTERNAL, "en", conversation_id=stretch.key, turn_id=stretch.turn, content=content)
        writer = self._log.take_over(stretch, self)
        if writable:
            writer.append(last)
            writer.end()
        else:
            writer.owe(last)

    async def tell(self, stretch: Stretch) -> None:
        """Tells the store of the end. If the store can't be read now, the next start tells it."""
        with suppress(GatewayError):
            await self.fail(stretch.turn, stretch)

    async def fail(self, turn: str, left: Stretch | None = None) -> None:
        """Tells the store that a turn has failed, unless it knows an end already. `left` is what the log has of it.
        Raises `storage_unavailable`."""
        row = await self._store.turn(TurnId(turn))
        if row is not None and row.status not in ENDED:
            self._store.update(projection.lost(row, self._clock(), left))
            logger.warning("turn.lost", turnId=turn)
        else:
            self._log.keeper.told(turn)

    def lost(self, writer: Writer, error: JournalError) -> None:
        """The end could not be written: it is shown all the same."""

    def fenced(self, writer: Writer) -> None:
        """Another node ends it."""
