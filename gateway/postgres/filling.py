"""A filling: one transaction that fills an empty database with many rows."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

from psycopg import AsyncConnection, Error
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from gateway.postgres.address import conninfo
from gateway.postgres.failures import NoReply
from gateway.postgres.link import hang_up
from gateway.postgres.text import storable

_REPLY_SECONDS: Final = 60.0
"""How long PostgreSQL may take to accept a row, or to do what concerns few rows."""

_CHECK_SECONDS: Final = 1800.0
"""How long it may take to check all rows of a table."""

_AFTER_THAT: Final = 0.1
_LOCK_SECONDS: Final = 5
_SAY_EVERY: Final = 5.0

_BOOL: Final = 16
_TEXT: Final = 25
_JSON: Final = 114
"""PostgreSQL's numbers of its types. It reads JSON as it reads text."""

T = TypeVar("T")


class Filling:
    """Rows pass through one at a time. `say` is called with a line of progress now and then."""

    def __init__(self, connection: AsyncConnection[TupleRow], say: Callable[[str], None]) -> None:
        self._connection = connection
        self._say = say

    async def run(self, sql: str, *parameters: Any) -> list[TupleRow]:
        """Executes one statement. Returns its rows."""
        cursor = await self._in_time(self._connection.execute(sql.encode(), parameters), _REPLY_SECONDS)
        return await cursor.fetchall() if cursor.description is not None else []

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, of: int) -> None:
        """Adds rows to a table. `of` is how many there are, for the progress."""
        done, said = 0, time.monotonic()
        listed = ", ".join(columns)
        types = await self._types(f"SELECT {listed} FROM {table} LIMIT 0")
        into = f"COPY {table} ({listed}) FROM STDIN WITH (FORMAT BINARY)".encode()  # as text, bytes would be long
        async with AsyncExitStack() as stack:
            cursor = await stack.enter_async_context(self._connection.cursor())
            copy = await stack.enter_async_context(cursor.copy(into))
            copy.set_types(types)
            for row in rows:
                values = [_value(*one) for one in zip(columns, row, types, strict=True)]
                await self._in_time(copy.write_row(values), _REPLY_SECONDS)
                done += 1
                if time.monotonic() - said > _SAY_EVERY:
                    said = time.monotonic()
                    self._say(f"{table}: {done} of {of}")
            await self._in_time(stack.pop_all().aclose(), _CHECK_SECONDS)
        self._say(f"{table}: {done}")

    async def _types(self, sql: str) -> list[int]:
        cursor = await self._in_time(self._connection.execute(sql.encode()), _REPLY_SECONDS)
        return [_TEXT if column.type_code == _JSON else column.type_code for column in cursor.description or ()]

    async def _in_time(self, work: Awaitable[T], seconds: float) -> T:
        # The connection ends first: psycopg would ask a server that does not answer to cancel the statement, and wait.
        loop = asyncio.get_running_loop()
        ending = loop.call_later(seconds, hang_up, self._connection)
        try:
            async with asyncio.timeout(seconds + _AFTER_THAT):
                return await work
        except (TimeoutError, Error) as error:
            if loop.time() < ending.when():
                raise
            raise NoReply("PostgreSQL does not answer") from error
        finally:
            ending.cancel()


def _value(column: str, value: Any, kind: int) -> Any:
    """SQLite has no type for truth."""
    return bool(value) if kind == _BOOL else storable(column, value)


@asynccontextmanager
async def filling(url: str, say: Callable[[str], None], *, locked: Sequence[str]) -> AsyncIterator[Filling]:
    """All that is done within is committed at the end, or nothing of it. Nobody else writes `locked` tables meanwhile.

    Raises `NoReply` and psycopg's errors. If the reply to the commit is lost, the rows may be there.
    """
    # A server that writes a checkpoint may accept nothing for longer than a node would wait.
    reached = make_conninfo(conninfo(url), tcp_user_timeout=round(_REPLY_SECONDS * 1000))
    async with await AsyncConnection.connect(reached, autocommit=True) as connection:
        found = Filling(connection, say)
        await found.run("BEGIN")
        for setting in ("statement_timeout = 0", "idle_in_transaction_session_timeout = 0"):
            await found.run(f"SET LOCAL {setting}")
        await found.run(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
        await found.run(f"LOCK TABLE {', '.join(locked)} IN EXCLUSIVE MODE")
        yield found
        await found.run("COMMIT")
