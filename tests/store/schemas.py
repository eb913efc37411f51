"""The rules of a PostgreSQL database's tables on which gateways rely, and those that a migration breaks."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection

_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity <> '' OR c.relkind = 'v', a.attidentity::text, a.attgenerated::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
"""
_RULES = """
SELECT conrelid::regclass::text, contype::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'x')
UNION ALL
SELECT indrelid::regclass::text, 'u', regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') FROM pg_index
JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = 'public'::regnamespace AND indisunique
UNION ALL
SELECT tgrelid::regclass::text, 't', tgname FROM pg_trigger WHERE NOT tgisinternal
"""


class Column(NamedTuple):
    kind: str
    required: bool
    filled: bool
    """Whether whoever leaves it out is given a value."""
    identity: str
    generated: str


class Schema(NamedTuple):
    """`rules` are what the database refuses: by table, checks, references, unique indexes and triggers."""

    columns: dict[tuple[str, str], Column]
    rules: set[tuple[str, str, str]]

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.columns}


def schema_of(connection: Connection) -> Schema:
    columns = connection.exec_driver_sql(_COLUMNS).all()
    rules = connection.exec_driver_sql(_RULES).all()
    return Schema({(row[0], row[1]): Column(*row[2:]) for row in columns}, {(r[0], r[1], r[2]) for r in rules})


def broken(before: Schema, after: Schema) -> Iterator[str]:
    """Why a gateway that was written for the tables `before` fails, or may fail, with those that are there `after`."""
    for (table, name), column in before.columns.items():
        now = after.columns.get((table, name))
        if now is None:
            yield f"{table}.{name} is gone"
        elif (now.kind, now.identity, now.generated) != (column.kind, column.identity, column.generated):
            yield f"{table}.{name} has become {now.kind} from {column.kind}"
        elif now.required and not column.required:
            yield f"{table}.{name} must have a value now"
        elif column.filled and not now.filled:
            yield f"{table}.{name} has no default any more"
    for (table, name), column in after.columns.items():
        if (table, name) not in before.columns and table in before.tables and column.required and not column.filled:
            yield f"{table}.{name} is new and must have a value"
    for table, _, rule in after.rules - before.rules:
        if table in before.tables:
            yield f"{table} has a new rule: {rule}"
    for table, kind, rule in before.rules - after.rules:
        if kind == "u":
            yield f"{table} has lost what ON CONFLICT relies on: {rule}"
