"""Books: what the store must be told of the turns of former processes, after a start."""

from collections.abc import Callable, Container

import structlog

from gateway.errors import GatewayError
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.stretch import Stretch
from gateway.store.store import Store
from gateway.turns.orders import Note, read_note
from gateway.turns.standing import lost

logger = structlog.get_logger()

_TOLD_AT_ONCE = 100  # turns, after which the store writes before it is told of more

Tell = Callable[[Stretch, Note], None]


async def close_books(
    log: EventLog, store: Store, *, running: Container[str], tell: Tell, clock: Callable[[], float]
) -> None:
    """Ends in the store what ended, or was lost, without its knowing: it was locked, or the log is gone."""
    for row in await store.inventory.unfinished():
        if row.turn_id in running:
            continue
        stretch = await _kept(log, row.turn_id)
        if stretch is None:
            store.update(lost(row, clock()))
            logger.warning("turn.lost", turnId=row.turn_id)
        elif stretch.ended is not None and stretch.last >= stretch.first:
            tell(stretch, read_note(stretch.state))


async def newest_known(store: Store) -> float | None:
    """When the newest turn began that the store knew at the start, before it is told of any; None if it can't say."""
    try:
        return await store.inventory.newest()
    except GatewayError as error:
        logger.warning("store.not_compared", reason=str(error))
        return None


async def tell_missing(log: EventLog, store: Store, *, newest: float, tell: Tell) -> None:
    """Tells the store of ended turns that only the log knows: the database was brought back from an earlier moment.

    Of those alone that are newer than the `newest` that the store knew: what is missing among older ones was deleted.
    """
    try:
        told = 0
        for turn in await store.missing(await log.keeper.saved_turns()):
            stretch = await _kept(log, turn)
            if stretch is None or stretch.ended is None or stretch.last < stretch.first:
                continue
            if (note := read_note(stretch.state)).started_at <= newest:
                continue
            tell(stretch, note)
            told += 1
            if told % _TOLD_AT_ONCE == 0:
                await store.settled()
        if told:
            logger.warning("store.behind_the_log", turns=told, consequence="they were told again from the log")
    except (GatewayError, JournalError) as error:
        logger.warning("store.not_compared", reason=str(error))


async def _kept(log: EventLog, turn: str) -> Stretch | None:
    """The turn's stretch, which doesn't stay in memory."""
    if (tail := await log.shelf.find(turn)) is None:
        return None
    span = next((s for s in reversed(tail.spans) if s.turn == turn), None)
    stretch = await log.shelf.load(span) if span is not None else None
    log.shelf.drop(tail, None)
    return stretch
