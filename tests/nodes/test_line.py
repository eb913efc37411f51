"""A line to PostgreSQL leaves nothing behind, whenever whoever waits for it is cancelled."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.postgres.address import conninfo
from gateway.postgres.line import Line
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer


class Ending(Line):
    """Cancels a task in the moment in which its statement has ended."""

    cancelled: "asyncio.Task[Any] | None" = None

    async def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        rows = await super()._run(sql, parameters)
        if self.cancelled is not None:
            self.cancelled.cancel()
        return rows


async def test_a_statement_that_ends_as_its_caller_is_cancelled_leaves_no_connection_open(
    postgres: PostgresServer, ledger: Ledger
) -> None:
    line = Ending(conninfo(await postgres.make()), ledger)
    await line.run("SELECT 1")
    connection = line._connection
    assert connection is not None
    line.cancelled = asyncio.create_task(line.run("SELECT 2"))
    with pytest.raises(asyncio.CancelledError):
        await line.cancelled
    assert connection.closed
    del connection
    gc.collect()  # a connection that is still open would warn here
    line.cancelled = None
    assert await line.run("SELECT 3") == [(3,)]
    await line.close()
