"""The projection: a turn's state, as the store keeps it and as callers get it, from its log and its note."""

from typing import Any

from gateway.errors import Code
from gateway.events import Cancelled, Completed, Failed, Last
from gateway.ids import ConversationId, ShopId, TurnId, UserId
from gateway.log.epochs import Epochs
from gateway.log.outline import Outline, legible, outline
from gateway.log.stretch import Stretch
from gateway.status import status
from gateway.store.rows import TurnBegun, TurnRow, TurnUpdate
from gateway.turns.failure import failed, kept, told_again
from gateway.turns.live import LiveTurn
from gateway.turns.orders import Note
from gateway.turns.turn import Memory


def begun(turn_id: str, note: Note) -> TurnBegun:
    """A turn's beginning."""
    order = note.order
    return TurnBegun(
        turn_id=TurnId(turn_id),
        conversation_id=ConversationId(note.conversation_id),
        user_id=UserId(order.user_id),
        shop_id=ShopId(order.shop_id) if order.shop_id is not None else None,
        bot_id=order.bot_id,
        message=order.input,
        created_at=note.started_at,
        digest=order.digest(),
    )


def snapshot(live: LiveTurn, now: float) -> TurnUpdate:
    """A turn as the store keeps it. Content and position belong together: both are what readers may have seen."""
    turn, stretch = live.turn, live.stretch
    seen = outline(stretch) if stretch is not None else Outline()
    if turn.memory.given or turn.phase not in ("action_required", "recovering"):
        seen.waits = False  # the outputs were given, and no event says so
    return _update(
        turn.turn_id,
        turn.conversation_id,
        seen,
        turn.memory,
        now,
        begun=stretch is not None,
        usage=turn.usage if seen.last is not None else None,
        position=live.tail.position(stretch.last if stretch is not None else live.tail.head),
    )


def glance(live: LiveTurn, now: float) -> TurnUpdate:
    """The same for a running turn, at less cost, so that the store has its text so far. It may already contain text
    that is still on its way to the log, so it has no position."""
    turn = live.turn
    seen = Outline(
        content=turn.content,
        reasoning=turn.reasoning,
        suggestions=list(turn.suggestions),
        waits=turn.phase == "action_required",
        tool_calls=turn.tool_calls,
    )
    return _update(turn.turn_id, turn.conversation_id, seen, turn.memory, now)


def ended(stretch: Stretch, note: Note, now: float) -> TurnUpdate:
    """A turn from its log and its note alone: one that has ended, or that runs at another node."""
    seen = outline(stretch)
    seen.waits = seen.waits and not note.memory.given
    return _update(
        TurnId(stretch.turn),
        ConversationId(note.conversation_id),
        seen,
        note.memory,
        now,
        usage=seen.last.usage if isinstance(seen.last, Completed) else None,
        position=Epochs.parse(stretch.epochs).position(stretch.last),
    )


def lost(row: TurnRow, now: float, left: Stretch | None = None) -> TurnUpdate:
    """The end of a turn whose events are lost, so that nobody can tell how it continued; with `left`, its events, only
    its note is lost."""
    turn_id, conversation_id, position = row.turn_id, row.conversation_id, row.position
    seen = Outline(content=row.content, reasoning=row.reasoning, suggestions=row.suggestions)
    if left is not None and (shown := legible(left)) is not None:
        seen, position = shown, Epochs.parse(left.epochs).position(left.last)
    if seen.last is None:
        seen.last = failed(Code.INTERNAL, "en", conversation_id=conversation_id, turn_id=turn_id, content=seen.content)
    memory = Memory(chat_id=row.coze_chat_id, coze_conversation_id=row.coze_conversation_id)
    return _update(turn_id, conversation_id, seen, memory, now, position=position)


def _update(
    turn_id: TurnId,
    conversation_id: ConversationId,
    seen: Outline,
    memory: Memory,
    now: float,
    *,
    begun: bool = True,
    usage: dict[str, Any] | None = None,
    position: str = "",
) -> TurnUpdate:
    last = seen.last
    return TurnUpdate(
        turn_id=turn_id,
        conversation_id=conversation_id,
        status=seen.status if begun else status(begun=False),
        content=seen.content,
        reasoning=seen.reasoning,
        suggestions=seen.suggestions,
        usage=usage,
        error=kept(last) if isinstance(last, Failed) else None,
        coze_chat_id=memory.chat_id,
        coze_conversation_id=memory.coze_conversation_id,
        updated_at=now,
        position=position,
        tool_calls=seen.tool_calls if seen.waits else [],
        recovered=isinstance(last, Completed) and last.recovered,
        awaiting_reply=isinstance(last, Completed) and last.awaiting_reply,
    )


def last_event(row: TurnRow) -> Last:
    """The last event of a turn whose events retention has removed, rebuilt from the store."""
    match row.status:
        case "completed":
            return Completed(
                row.conversation_id,
                row.turn_id,
                row.content,
                row.usage,
                row.recovered,
                awaiting_reply=row.awaiting_reply,
            )
        case "cancelled":
            return Cancelled(row.conversation_id, row.turn_id, row.content)
        case _:
            return told_again(row)
