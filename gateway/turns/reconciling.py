"""Reconciling: after a start, tells the store about the turns of former processes."""

from collections.abc import Callable, Container

import structlog

from gateway.errors import GatewayError
from gateway.log.journal import Broken, JournalError
from gateway.log.log import EventLog
from gateway.log.stretch import Stretch
from gateway.store.store import Store
from gateway.turns.orders import Note, read_note
from gateway.turns.projection import lost
from gateway.turns.unreadable import is_readable

logger = structlog.get_logger()

_TOLD_AT_ONCE = 100  # turns, after which we wait for the store to write before we tell it about more

Tell = Callable[[Stretch, Note], None]


async def reconcile(
    log: EventLog, store: Store, *, running: Container[str], tell: Tell, clock: Callable[[], float]
) -> None:
    """Ends the turns that the store has as unfinished although they have ended (the database was locked then), or
    although their log is gone or damaged. Turns whose log can't be read now stay as they are."""
    for row in await store.inventory.unfinished():
        if row.turn_id in running:
            continue
        try:
            stretch = await kept(log, row.turn_id)
        except Broken as error:
            logger.error("turn.unreadable", turnId=row.turn_id, reason=str(error))
            continue
        if stretch is None or not is_readable(stretch):
            store.update(lost(row, clock(), stretch))
            logger.warning("turn.lost", turnId=row.turn_id)  # its request was named in the note, which is gone too
        elif stretch.ended is not None and stretch.last >= stretch.first:
            tell(stretch, read_note(stretch.state))


async def newest_known(store: Store) -> float | None:
    """The start of the newest turn in the store, read before the store is told of any; None if it can't be read."""
    try:
        return await store.inventory.newest()
    except GatewayError as error:
        logger.warning("store.not_compared", reason=str(error))
        return None


async def tell_missing(log: EventLog, store: Store, *, newest: float, tell: Tell) -> None:
    """Tells the store about ended turns that only the log knows, because the database was restored from a backup.

    Only turns that started after `newest`, the newest one that the store knew, are told: if older ones are missing from
    the store, somebody deleted them.
    """
    try:
        told = 0
        for turn in await store.missing(await log.keeper.saved_turns()):
            try:
                stretch = await kept(log, turn)
            except Broken as error:
                logger.error("turn.unreadable", turnId=turn, reason=str(error))
                continue
            if stretch is None or stretch.ended is None or stretch.last < stretch.first or not is_readable(stretch):
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


async def kept(log: EventLog, turn: str) -> Stretch | None:
    """The turn's stretch, which does not stay in memory; None if it is not kept any more."""
    if (tail := await log.shelf.find(turn)) is None:
        return None
    span = next((s for s in reversed(tail.spans) if s.turn == turn), None)
    try:
        return await log.shelf.load(span) if span is not None else None
    finally:
        log.shelf.drop(tail, None)
