"""The statements that write a batch, each safe to repeat, for SQLite and PostgreSQL alike."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from sqlalchemy import Boolean, Dialect, Double, Integer, Table, Text, bindparam, delete, func, or_, text, update
from sqlalchemy.sql.dml import UpdateBase

from gateway.ids import ConversationId, TurnId
from gateway.postgres.text import storable
from gateway.status import ENDED
from gateway.store.batch import Batch
from gateway.store.rows import TurnBegun, TurnUpdate
from gateway.store.schema import conversations, turns

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

TOUCH = "UPDATE alembic_version SET version_num = version_num"
"""The smallest real write: it shows whether the database can be written, and changes nothing."""

_LONG = 64 * 1024

Row = dict[str, Any]


class Statements:
    """Compiled once and executed with plain tuples: SQLAlchemy's own way costs 14 µs more for each turn that starts."""

    def __init__(self, dialect: Dialect) -> None:
        insert = _insert(dialect)
        conversation = insert(conversations)
        # Constants are written out, because bound values must come with each row. `turns.` is for PostgreSQL, which
        # would not know whether the existing row or the new one is meant.
        runs = text("turns.status NOT IN ('completed', 'failed', 'cancelled')")
        self._begin_conversation = _Prepared(
            conversation.on_conflict_do_update(
                index_elements=["id"],
                set_={
                    "coze_conversation_id": conversation.excluded.coze_conversation_id,
                    "naming": conversation.excluded.naming,
                },
                where=text("excluded.naming > conversations.naming"),
            ),
            [c.name for c in conversations.c],
            dialect,
        )
        self._name_conversation = _Prepared(
            update(conversations)
            .where(conversations.c.id == bindparam("conversation", type_=Text))
            .where(conversations.c.naming < bindparam("newest", type_=Integer)),
            ["coze_conversation_id", "naming"],
            dialect,
        )
        conversation_id = bindparam("conversation", type_=Text)
        self._rename_conversation = _Prepared(
            update(conversations).where(conversations.c.id == conversation_id), ["title"], dialect
        )
        self._erasing = [
            _Prepared(delete(turns).where(turns.c.conversation_id == conversation_id), [], dialect),
            _Prepared(delete(conversations).where(conversations.c.id == conversation_id), [], dialect),
        ]
        columns = [c.name for c in turns.c if c.name != "ordinal"]
        turn = insert(turns).inline()  # otherwise PostgreSQL would return each ordinal
        self._begin_turn = _Prepared(turn.on_conflict_do_nothing(index_elements=["id"]), columns, dialect)
        self._change_turn = _Prepared(
            update(turns)
            .where(turns.c.id == bindparam("turn", type_=Text))
            .where(or_(runs, bindparam("ends", type_=Boolean)))
            .values(answered_at=func.coalesce(turns.c.answered_at, bindparam("answered", type_=Double))),
            list(_STATE),
            dialect,
        )
        self._rate_turn = _Prepared(
            update(turns).where(turns.c.id == bindparam("turn", type_=Text)), ["feedback", "feedback_comment"], dialect
        )

    def writing(self, batch: Batch) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """SQL with the rows to execute it for, in order: conversations come before the turns that refer to them."""
        for prepared in self._erasing if batch.erased else ():
            yield prepared.sql, [prepared.values({"conversation": one}) for one in batch.erased]
        begun: list[Row] = []
        named: list[Row] = []
        renamed: list[Row] = []
        for conversation_id, conversation in batch.conversations.items():
            name = {"coze_conversation_id": conversation.coze_conversation_id, "naming": conversation.naming}
            if conversation.begun is not None:
                begun.append(_conversation(conversation.begun) | name)
            elif conversation.naming:
                named.append({"conversation": conversation_id, "newest": conversation.naming} | name)
            if conversation.title is not UNSET:
                renamed.append({"conversation": conversation_id, "title": conversation.title})
        first: list[Row] = []  # in the order in which turns began, which gives them their ordinals
        changed: list[Row] = []
        rated: list[Row] = []
        for turn_id, pending in batch.turns.items():
            if pending.begun is not None:
                first.append(_NOTHING | _identity(pending.begun))
            if pending.update is not None:
                changed.append(_changed(turn_id, pending.update, pending.answered_at))
            if (given := pending.feedback) is not None:
                kept = (None, None) if given.kind == "none" else (given.kind, given.comment)
                rated.append({"turn": turn_id, "feedback": kept[0], "feedback_comment": kept[1]})
        for prepared, rows in (
            (self._begin_conversation, begun),
            (self._name_conversation, named),
            (self._rename_conversation, renamed),
            (self._begin_turn, first),
            (self._change_turn, changed),
            (self._rate_turn, rated),
        ):
            if rows:
                yield prepared.sql, list(map(prepared.values, rows))
        if changed and len(changed[-1]["content"]) > _LONG:
            # SQLite keeps the values that a statement was last given until it is given others.
            yield self._change_turn.sql, [self._change_turn.values(_NO_TURN)]


def _insert(dialect: Dialect) -> Callable[[Table], "sqlite.Insert | postgresql.Insert"]:
    """The dialect's INSERT, which can handle existing rows. PostgreSQL's is imported only if needed: that takes 0.1
    s."""
    if dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert


class _Prepared:
    def __init__(self, statement: UpdateBase, columns: list[str], dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self.sql = str(compiled)
        # SQLite's driver takes values by their order, PostgreSQL's by their names.
        self.values: Callable[[Row], Any] = _named if compiled.positiontup is None else _in_order(compiled.positiontup)


def _named(row: Row) -> Row:
    return {name: storable(name, value) for name, value in row.items()}


def _in_order(names: list[str]) -> Callable[[Row], tuple[Any, ...]]:
    if len(names) == 1:
        return lambda row: (row[names[0]],)
    return itemgetter(*names)


def _conversation(first: TurnBegun) -> Row:
    return {
        "id": first.conversation_id,
        "user_id": first.user_id,
        "shop_id": first.shop_id,
        "bot_id": first.bot_id,
        "created_at": first.created_at,
        "title": None,
    }


def _identity(turn: TurnBegun) -> Row:
    """The columns that never change. Until its first update, a turn counts as changed when it began."""
    return {
        "id": turn.turn_id,
        "conversation_id": turn.conversation_id,
        "user_id": turn.user_id,
        "shop_id": turn.shop_id,
        "bot_id": turn.bot_id,
        "message": turn.message,
        "created_at": turn.created_at,
        "updated_at": turn.created_at,
        "digest": turn.digest,
    }


def _state(update: TurnUpdate) -> Row:
    return {
        "status": update.status,
        "content": update.content,
        "reasoning": update.reasoning,
        "suggestions": _json(update.suggestions),
        "usage": _json(update.usage),
        "error": _json(update.error),
        "coze_chat_id": update.coze_chat_id,
        "coze_conversation_id": update.coze_conversation_id,
        "position": update.position,
        "tool_calls": _json(update.tool_calls),
        "recovered": update.recovered,
        "awaiting_reply": update.awaiting_reply,
        "updated_at": update.updated_at,
    }


def _changed(turn_id: TurnId, update: TurnUpdate, answered_at: float | None) -> Row:
    return _state(update) | {"turn": turn_id, "answered": answered_at, "ends": update.status in ENDED}


def _json(value: Any) -> str | None:
    if value is None:
        return None
    return _encode(value).decode() if value else ("[]" if isinstance(value, list) else "{}")


_encode = msgspec.json.Encoder().encode
_STATE = _state(TurnUpdate(turn_id=TurnId(""), conversation_id=ConversationId(""), status="queued", updated_at=0.0))
_NO_TURN = _STATE | {"turn": "", "answered": None, "ends": False}
_NOTHING = _STATE | {"answered_at": None, "feedback": None, "feedback_comment": None}
