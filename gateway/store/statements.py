"""The statements that write changes, each safe to repeat, for SQLite and PostgreSQL alike."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from sqlalchemy import Boolean, Dialect, Double, Integer, Table, Text, bindparam, delete, func, or_, text, update
from sqlalchemy.sql.dml import Update, UpdateBase

from gateway.ids import ConversationId, TurnId
from gateway.postgres.text import storable
from gateway.status import ENDED
from gateway.store.changes import Changes, PendingConversation
from gateway.store.rows import Feedback, TurnBegun, TurnUpdate
from gateway.store.schema import conversations, turns

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

TOUCH = "UPDATE alembic_version SET version_num = version_num"
"""The smallest real write: it shows whether the database can be written, and changes nothing."""

_LONG = 64 * 1024
_CLOCK = "extract(epoch from clock_timestamp())::float8"

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
        self._shared = dialect.name == "postgresql"
        self._rename, self._rename_again = self._annotating(
            update(conversations).where(conversations.c.id == conversation_id), "titled_at", ["title"], dialect
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
        turn_id = bindparam("turn", type_=Text)
        self._rate, self._rate_again = self._annotating(
            update(turns).where(turns.c.id == turn_id), "rated_at", ["feedback", "feedback_comment"], dialect
        )

    def _annotating(
        self, one: Update, at: str, columns: list[str], dialect: Dialect
    ) -> tuple["_Prepared", "_Prepared"]:
        """Two statements that change a row. The first one gives the time, if other nodes may change it, too; with that
        time the second one can repeat it, and replaces nothing newer."""
        when = one.table.c[at]
        older = one.where(or_(when.is_(None), when < bindparam("before", type_=Double)))
        timed = one.values({at: text(_CLOCK)}).returning(when) if self._shared else one
        return _Prepared(timed, columns, dialect), _Prepared(older, [*columns, at], dialect)

    def timed(self, changes: Changes) -> Iterator[tuple[str, Any, Callable[[float | None], None]]]:
        """What is written after `writing`, where other nodes may write: SQL that returns a time, its values, and who is
        to be told of that time."""
        if not self._shared:
            return
        for conversation_id, conversation in changes.conversations.items():
            if conversation.title is not UNSET and conversation.titled_at is None:
                yield self._rename.sql, self._rename.values(_title(conversation_id, conversation)), conversation.titled
        for turn_id, pending in changes.turns.items():
            if pending.feedback is not None and pending.rated_at is None:
                yield self._rate.sql, self._rate.values(_feedback(turn_id, pending.feedback)), pending.rated

    def writing(self, changes: Changes) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """SQL with the rows to execute it for, in order: conversations come before the turns that refer to them."""
        for prepared in self._erasing if changes.erased else ():
            yield prepared.sql, [prepared.values({"conversation": one}) for one in changes.erased]
        begun: list[Row] = []
        named: list[Row] = []
        renamed: list[Row] = []
        renamed_before: list[Row] = []
        for conversation_id, conversation in changes.conversations.items():
            name = {"coze_conversation_id": conversation.coze_conversation_id, "naming": conversation.naming}
            if conversation.begun is not None:
                begun.append(beginning_of_conversation(conversation.begun) | name)
            elif conversation.naming:
                named.append({"conversation": conversation_id, "newest": conversation.naming} | name)
            if (at := conversation.titled_at) is not None:
                renamed_before.append(_title(conversation_id, conversation) | {"titled_at": at, "before": at})
            elif conversation.title is not UNSET and not self._shared:
                renamed.append(_title(conversation_id, conversation))
        first: list[Row] = []  # in the order in which turns began, which gives them their ordinals
        changed: list[Row] = []
        rated: list[Row] = []
        rated_before: list[Row] = []
        for turn_id, pending in changes.turns.items():
            if pending.begun is not None:
                first.append(beginning_of_turn(pending.begun))
            if pending.update is not None:
                changed.append(_changed(turn_id, pending.update, pending.answered_at))
            if pending.feedback is not None and (at := pending.rated_at) is not None:
                rated_before.append(_feedback(turn_id, pending.feedback) | {"rated_at": at, "before": at})
            elif pending.feedback is not None and not self._shared:
                rated.append(_feedback(turn_id, pending.feedback))
        for prepared, rows in (
            (self._begin_conversation, begun),
            (self._name_conversation, named),
            (self._rename, renamed),
            (self._rename_again, renamed_before),
            (self._begin_turn, first),
            (self._change_turn, changed),
            (self._rate, rated),
            (self._rate_again, rated_before),
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


def beginning_of_conversation(first: TurnBegun) -> Row:
    """A conversation's row before it has a name at Coze."""
    return {
        "id": first.conversation_id,
        "user_id": first.user_id,
        "shop_id": first.shop_id,
        "bot_id": first.bot_id,
        "created_at": first.created_at,
        "coze_conversation_id": "",
        "naming": 0,
        "title": None,
        "titled_at": None,
    }


def _title(conversation_id: ConversationId, given: PendingConversation) -> Row:
    return {"conversation": conversation_id, "title": given.title}


def _feedback(turn_id: TurnId, given: Feedback) -> Row:
    kind, comment = (None, None) if given.kind == "none" else (given.kind, given.comment)
    return {"turn": turn_id, "feedback": kind, "feedback_comment": comment}


def beginning_of_turn(turn: TurnBegun) -> Row:
    """A turn's row before its first update. Until then it counts as changed when it began."""
    return _NOTHING | {
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
_NOTHING = _STATE | {"answered_at": None, "feedback": None, "feedback_comment": None, "rated_at": None}
