"""A link to PostgreSQL leaves nothing behind, whenever whoever waits for it is cancelled."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.postgres.address import conninfo
from gateway.postgres.link import Link
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer


class Ending(Link):
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
    link = Ending(conninfo(await postgres.make()), ledger)
    await link.run("SELECT 1")
    connection = link._connection
    assert connection is not None
    link.cancelled = asyncio.create_task(link.run("SELECT 2"))
    with pytest.raises(asyncio.CancelledError):
        await link.cancelled
    assert connection.closed
    del connection
    gc.collect()  # a connection that is still open would warn here
    link.cancelled = None
    assert await link.run("SELECT 3") == [(3,)]
    await link.close()
