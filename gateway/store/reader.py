"""The reader: the one way in which the store reads its database."""

import asyncio
from typing import Any

from sqlalchemy import Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.errors import Code, GatewayError
from gateway.postgres.text import EXACT, original
from gateway.store import failures
from gateway.waiting import PATIENCE, outlived

Values = tuple[Any, ...]


class StoreReader:
    """Reads rows. A caller that is cancelled leaves its read to end by itself, so that no connection is lost."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reads: set[asyncio.Task[list[Values]]] = set()

    async def rows(self, statement: Select[Any]) -> list[Values]:
        """Raises `storage_unavailable` when the database can't be read, or does not answer."""
        read = asyncio.create_task(self._read(statement), name="store-read")
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)
        try:
            async with asyncio.timeout(PATIENCE):
                return await outlived(read)
        except TimeoutError:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, "the database does not answer") from None

    async def _read(self, statement: Select[Any]) -> list[Values]:
        try:
            try:
                return await self._execute(statement)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return await self._execute(statement)  # over a new connection: the server has cut the old ones
        except Exception as error:
            if failures.is_storage_failure(error):
                raise GatewayError(Code.STORAGE_UNAVAILABLE, failures.sentence(error)) from error
            raise

    async def _execute(self, statement: Select[Any]) -> list[Values]:
        async with self._engine.connect() as connection:
            result = await connection.execute(statement)
            exact = [column.name in EXACT for column in statement.selected_columns]
            if connection.dialect.name != "postgresql" or not any(exact):
                return [tuple(row) for row in result]
            return [tuple(original(v) if e else v for v, e in zip(row, exact, strict=True)) for row in result]

    async def close(self, within: float) -> None:
        """Returns when the reads that have begun are over, at most so many seconds later."""
        if self._reads:
            await asyncio.wait(self._reads, timeout=within)
        for read in self._reads:
            read.cancel()

    def __repr__(self) -> str:
        return f"StoreReader({len(self._reads)} reads)"
