"""A link to PostgreSQL: one connection, and its deadlines."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from psycopg import AsyncConnection, Error, OperationalError
from psycopg.errors import DeadlockDetected
from psycopg.rows import TupleRow

from gateway.postgres.address import CONNECT_SECONDS, REPLY_SECONDS
from gateway.postgres.failures import DEADLOCKS, NoReply, sentence
from gateway.telemetry.ledger import Held, Ledger

_DEADLINE = REPLY_SECONDS + CONNECT_SECONDS

Connection = AsyncConnection[TupleRow]
T = TypeVar("T")


class Execute(Protocol):
    """Executes one statement and returns its rows."""

    async def __call__(self, sql: str, parameters: Sequence[Any] = ()) -> list[TupleRow]: ...


class Link:
    """One connection, which is made when it is needed, and made anew after a failure. One statement at a time."""

    def __init__(
        self, reached: str, ledger: Ledger, *, opened: Callable[[Execute], Awaitable[None]] | None = None
    ) -> None:
        """`opened` uses each new connection before anybody else does. If it raises, the connection is given up."""
        self._opened = opened
        self._conninfo = reached
        self._ledger = ledger
        self._connection: Connection | None = None
        self._held: Held | None = None
        self._busy = asyncio.Lock()

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[TupleRow]:
        """Executes one statement in a transaction of its own and returns its rows.

        Raises `NoReply` if it may or may not have been done, and psycopg's own errors if the server refused it.
        """
        return await self._in_turn(lambda: self._run(sql, parameters))

    async def alone(self, work: Callable[[Execute], Awaitable[T]]) -> T:
        """Does work of one statement, which is a transaction. Does and raises what `within` does."""
        return await self._in_turn(lambda: work(self._run))

    async def within(self, work: Callable[[Execute], Awaitable[T]]) -> T:
        """Does work in one transaction: `work` gets the function that executes its statements, perhaps once more after
        a deadlock. Raises as `run` does."""
        return await self._in_turn(lambda: self._within(work))

    async def _in_turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does work once what came before it is done. It waits for that no longer than for a reply: while PostgreSQL
        does not answer, many would otherwise wait for each other's time to run out."""
        try:
            async with asyncio.timeout(_DEADLINE):
                await self._busy.acquire()
        except TimeoutError:
            raise NoReply("PostgreSQL does not answer") from None
        try:
            return await self._in_time(_repeated(work))
        finally:
            self._busy.release()

    async def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[TupleRow]:
        cursor = await (await self._open()).execute(sql.encode(), parameters, prepare=True, binary=True)
        return await cursor.fetchall() if cursor.description else []

    async def _within(self, work: Callable[[Execute], Awaitable[T]]) -> T:
        connection = await self._open()
        async with connection.transaction():
            return await work(self._run)

    async def _open(self) -> Connection:
        connection = self._connection
        if connection is not None and not connection.closed:
            return connection
        self._let_go()
        self._held = self._ledger.open("database")
        try:
            connection = self._connection = await AsyncConnection.connect(self._conninfo, autocommit=True)
            if self._opened is not None:
                await self._opened(self._run)
        except BaseException:
            if connection is not None:
                connection.pgconn.finish()
            self._let_go()
            raise
        return connection

    async def _in_time(self, work: Awaitable[T]) -> T:
        """The result of work. If it takes too long, or its caller is cancelled, the connection is closed."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait([task], timeout=_DEADLINE)
        except asyncio.CancelledError:
            await self._abandon(task)
            raise
        if not done:
            await self._abandon(task)
            raise NoReply("PostgreSQL does not answer")
        try:
            return task.result()
        except Error as error:
            if error.sqlstate is None or self._connection is None or self._connection.broken:
                raise NoReply(sentence(error)) from error
            raise
        except (OSError, TimeoutError) as error:
            raise NoReply(sentence(error)) from error

    async def _abandon(self, task: "asyncio.Future[Any]") -> None:
        """Ends work by ending its connection. If it were only cancelled, that would wait for the server."""
        connection = self._connection
        if connection is None:
            task.cancel()  # it is connecting
        else:
            hang_up(connection)
            self._let_go()  # the next work gets a new connection in any case
        try:
            await asyncio.wait([task], timeout=1)
        finally:
            if connection is not None and task.done():
                connection.pgconn.finish()  # work that had just ended has not noticed that its connection was hung up
            task.cancel()

    def _let_go(self) -> None:
        self._connection = None
        if self._held is not None:
            self._held.close()
            self._held = None

    async def close(self) -> None:
        """Closes the link, and ends a statement that is under way."""
        if self._busy.locked() and self._connection is not None:
            hang_up(self._connection)
        async with self._busy:
            if self._connection is not None:
                await self._connection.close()
            self._let_go()

    def __repr__(self) -> str:
        return f"Link({'closed' if self._connection is None else 'open'})"


async def _repeated(work: Callable[[], Awaitable[T]]) -> T:
    """The result of work, which is done again if it was one side of a deadlock: PostgreSQL has undone all of it."""
    for _ in range(DEADLOCKS):
        with suppress(DeadlockDetected):
            return await work()
    return await work()


def hang_up(connection: Connection) -> None:
    """Ends a connection under whoever uses it. To close it instead would take its descriptor from the event loop while
    the loop still watches it, and libuv then aborts the process."""
    with suppress(OSError, OperationalError), socket.socket(fileno=os.dup(connection.fileno())) as its_socket:
        its_socket.shutdown(socket.SHUT_RDWR)
