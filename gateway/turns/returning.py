"""Returning: a message that comes again with a position of its own turn means that turn, not another one."""

from gateway.ids import LogKey, parse_position
from gateway.log.log import EventLog
from gateway.log.shelf import is_of
from gateway.store.rows import Asked
from gateway.store.store import Store
from gateway.turns.orders import Order


async def returning(log: EventLog, store: Store, order: Order, position: str) -> Asked | None:
    """The turn of the same user, started with the same body, that the position is of; None when there is none.

    A position that can't be told from those of other turns in its log (its epoch is forgotten) counts for the newest
    such turn: a `reset` tells its reader, and nothing is asked twice. Raises `JournalError`, `storage_unavailable`.
    """
    asked = parse_position(position)
    if asked is None:
        return None
    last, ended = None, None
    spans: dict[str, tuple[int, int]] | None = None
    for turn in await store.asked(order.digest()):
        if is_of(turn.turn_id, asked.epoch):
            return turn  # cancelled before it started: it has a log of its own
        if not is_of(turn.conversation_id, asked.epoch):
            continue
        if spans is None:
            tail = await log.shelf.tail(LogKey(turn.conversation_id))
            unclear = tail.epochs.refuses(asked) is not None
            # What is beyond the newest event can only have been the newest turn's.
            spans = {span.turn: (span.first, span.last if span is not tail.spans[-1] else 2**63) for span in tail.spans}
            log.shelf.drop(tail, None)  # it may have been read for this alone
        if unclear:
            last = turn
        elif (span := spans.get(turn.turn_id)) is not None:
            if span[0] <= asked.sequence <= span[1]:
                return turn
        elif ended is None and (end := parse_position(turn.position)) is not None and asked.sequence <= end.sequence:
            ended = turn  # retention took its events: of these the first that ended after the position
    return ended or last
