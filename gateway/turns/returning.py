"""Returning: a message that is repeated continues its turn instead of starting another. It is known by its key, or by a
position of its turn."""

from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, LogKey, TurnId, parse_position
from gateway.log.epochs import is_of
from gateway.log.log import EventLog
from gateway.log.packing import DAMAGED
from gateway.store.rows import Asked
from gateway.store.store import Store
from gateway.turns.orders import Order, read_note


async def marked(log: EventLog, store: Store, order: Order, mark: str) -> Asked | None:
    """The turn that was started with a mark; None if there is none. Raises `invalid_request` if that was for another
    body, `storage_unavailable`, `JournalError`."""
    if (found := await log.shelf.marked(mark)) is None:
        return None
    turn = TurnId(found[0])
    try:
        note = read_note(found[1])
        conversation, digest = ConversationId(note.conversation_id), note.order.digest()
    except DAMAGED:
        if (row := await store.turn(turn, texts=False)) is None:
            raise
        conversation, digest = row.conversation_id, row.digest
    if digest != order.digest():
        raise GatewayError(Code.INVALID_REQUEST, "the Idempotency-Key was used with another body")
    return Asked(turn, conversation, "")


async def returning(log: EventLog, store: Store, order: Order, position: str) -> Asked | None:
    """The turn of the same user, started with the same body, that the position belongs to; None if there is none.

    If it can't be known which turn of its log a position belongs to (its epoch is forgotten), the newest such turn is
    taken: its reader gets a `reset`, and no question is asked twice. Raises `JournalError`, `storage_unavailable`.
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
            # A position beyond the newest event can only have belonged to the newest turn.
            spans = {span.turn: (span.first, span.last if span is not tail.spans[-1] else 2**63) for span in tail.spans}
            log.shelf.drop(tail, None)  # it may have been read for this alone
        if unclear:
            last = turn
        elif (span := spans.get(turn.turn_id)) is not None:
            if span[0] <= asked.sequence <= span[1]:
                return turn
        elif ended is None and (end := parse_position(turn.position)) is not None and asked.sequence <= end.sequence:
            ended = turn  # retention took its events: of such turns, the first that ended after the position
    return ended or last
