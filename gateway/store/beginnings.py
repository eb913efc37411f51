"""Beginnings: the rows of turns that begin, for PostgreSQL, where the log inserts them in its own transaction."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from sqlalchemy import JSON, Table

from gateway.postgres.text import storable
from gateway.store.rows import TurnBegun
from gateway.store.schema import conversations, turns
from gateway.store.statements import Row, beginning_of_conversation, beginning_of_turn


def _insert(into: Table) -> str:
    columns = [column.name for column in into.c if column.name != "ordinal"]
    given = ", ".join(f"given.{column}" for column in columns)
    return (
        f"INSERT INTO {into.name} ({', '.join(columns)}) SELECT {given}"
        f" FROM lives, json_populate_recordset(NULL::{into.name}, %s::json) AS given ON CONFLICT DO NOTHING"
    )


INSERTS: Final = f"conversations_begun AS ({_insert(conversations)}), turns_begun AS ({_insert(turns)})"
"""Two queries of a WITH clause, which insert nothing if its query `lives` finds nothing. Each has one value, of
`values`. Rows that are there already stay as they are."""

_REMOVE_TURNS: Final = "DELETE FROM turns WHERE id = ANY(%s)"
_REMOVE_CONVERSATIONS: Final = (
    "DELETE FROM conversations AS c WHERE id = ANY(%s) AND NOT EXISTS (SELECT FROM turns WHERE conversation_id = c.id)"
)


_ENCODED: Final = frozenset(column.name for column in turns.c if isinstance(column.type, JSON))


def values(begun: Iterable[TurnBegun]) -> tuple[str, str]:
    """The conversations and the turns, as JSON."""
    rows = [(beginning_of_conversation(one), beginning_of_turn(one)) for one in begun]
    return _json(row for row, _ in rows), _json(row for _, row in rows)


def removing(of_turns: list[str], of_conversations: list[str]) -> list[tuple[str, tuple[list[str]]]]:
    """Statements that remove turns, and those of these conversations that have no other turn; with their values."""
    return [(_REMOVE_TURNS, (of_turns,)), (_REMOVE_CONVERSATIONS, (of_conversations,))]


def _json(rows: Iterable[Row]) -> str:
    return msgspec.json.encode([{name: _value(name, value) for name, value in row.items()} for row in rows]).decode()


def _value(column: str, value: Any) -> Any:
    if column in _ENCODED and value is not None:
        return msgspec.Raw(value.encode())
    return storable(column, value)
