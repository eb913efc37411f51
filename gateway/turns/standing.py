"""A turn's standing: derived from its log and its note, in the form that the store and callers get."""

from typing import Any

from msgspec import UNSET

from gateway.errors import Code
from gateway.events import Failed
from gateway.ids import ConversationId, ShopId, TurnId, UserId
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.sentences import sentence
from gateway.store.rows import Status, TurnBegun, TurnRow, TurnUpdate
from gateway.turns.live import LiveTurn
from gateway.turns.orders import Note
from gateway.turns.turn import Turn


def restored(stretch: Stretch, note: Note) -> Turn:
    """The turn, restored from its log and its note."""
    seen = outline(stretch)
    return Turn.restore(
        ConversationId(note.conversation_id),
        TurnId(stretch.turn),
        note.order.language,
        note.memory,
        content=seen.content,
        reasoning=seen.reasoning,
        suggestions=seen.suggestions,
        cards=seen.cards,
        tool_calls=seen.tool_calls if seen.status == "action_required" else (),
        audio=seen.audio,
    )


def snapshot(live: LiveTurn, now: float) -> TurnUpdate:
    """A turn as the store keeps it. Content and position belong together: both are what readers may have seen."""
    turn, stretch = live.turn, live.stretch
    seen = outline(stretch) if stretch is not None else None
    ended = seen is not None and seen.last is not None
    status: Status = "queued"
    if seen is not None:
        status = seen.status
    memory = turn.memory
    failure = turn.failure
    return TurnUpdate(
        turn_id=turn.turn_id,
        conversation_id=turn.conversation_id,
        status=status,
        content=seen.content if seen is not None else "",
        reasoning=seen.reasoning if seen is not None else "",
        suggestions=seen.suggestions if seen is not None else [],
        usage=turn.usage if ended else None,
        error=None if failure is None or not ended else error_fields(failure),
        coze_chat_id=memory.chat_id,
        coze_conversation_id=memory.coze_conversation_id,
        updated_at=now,
        position=live.tail.position(stretch.last if stretch is not None else live.tail.head),
        tool_calls=seen.tool_calls if seen is not None and seen.status == "action_required" else [],
        recovered=seen is not None and bool((seen.last or {}).get("recovered")),
    )


def glance(live: LiveTurn, now: float) -> TurnUpdate:
    """The same for a running turn, at less cost, so that the store has its text so far. It may already contain text
    that is still on its way to the log."""
    turn = live.turn
    return TurnUpdate(
        turn_id=turn.turn_id,
        conversation_id=turn.conversation_id,
        status="action_required" if turn.phase == "action_required" else "running",
        content=turn.content,
        reasoning=turn.reasoning,
        suggestions=list(turn.suggestions),
        coze_chat_id=turn.memory.chat_id,
        coze_conversation_id=turn.memory.coze_conversation_id,
        updated_at=now,
        tool_calls=turn.tool_calls,
    )


def begun(turn_id: str, note: Note) -> TurnBegun:
    """A turn's beginning as the store keeps it."""
    order = note.order
    return TurnBegun(
        turn_id=TurnId(turn_id),
        conversation_id=ConversationId(note.conversation_id),
        user_id=UserId(order.user_id),
        shop_id=ShopId(order.shop_id) if order.shop_id is not None else None,
        bot_id=order.bot_id,
        message=order.message,
        created_at=note.started_at,
        digest=order.digest(),
    )


def told(stretch: Stretch, note: Note, position: str, now: float) -> TurnUpdate:
    """An ended turn as the store keeps it, from its log alone."""
    seen = outline(stretch)
    last = seen.last or {}
    failed = seen.status == "failed"
    error: dict[str, Any] = {n: last[n] for n in ("error", "code", "retryable", "upstream") if n in last}
    return TurnUpdate(
        turn_id=TurnId(stretch.turn),
        conversation_id=ConversationId(note.conversation_id),
        status=seen.status,
        content=seen.content,
        reasoning=seen.reasoning,
        suggestions=seen.suggestions,
        usage=last.get("usage"),
        error=error if failed else None,
        coze_chat_id=note.memory.chat_id,
        coze_conversation_id=note.memory.coze_conversation_id,
        updated_at=now,
        position=position,
        tool_calls=[],
        recovered=bool(last.get("recovered")),
    )


def lost(row: TurnRow, now: float) -> TurnUpdate:
    """The end of a turn whose events are lost, so that nobody can tell how it continued."""
    return TurnUpdate(
        turn_id=row.turn_id,
        conversation_id=row.conversation_id,
        status="failed",
        content=row.content,
        reasoning=row.reasoning,
        suggestions=row.suggestions,
        error={"error": sentence(Code.INTERNAL, "en"), "code": Code.INTERNAL.value, "retryable": True},
        coze_chat_id=row.coze_chat_id,
        coze_conversation_id=row.coze_conversation_id,
        updated_at=now,
        position=row.position,
    )


def error_fields(failure: Failed) -> dict[str, Any]:
    fields = {"error": failure.error, "code": failure.code, "retryable": failure.retryable}
    return fields if failure.upstream is UNSET else {**fields, "upstream": failure.upstream}
