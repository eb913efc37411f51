"""The database, as far as nodes use it to deal with each other."""

from typing import Any

from gateway.log.journal import JournalError
from gateway.log.licence import translated
from gateway.postgres.address import conninfo
from gateway.postgres.link import Link
from gateway.telemetry.ledger import Ledger


class Database:
    """A connection of its own, so that the node never waits for a reader of old answers."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._link = Link(conninfo(url), ledger)
        self._closed = False

    async def ask(self, sql: str, *parameters: Any) -> list[Any]:
        """The rows of a statement that may safely be run twice. Raises `JournalError` if the database is away."""
        if self._closed:
            raise JournalError("this node is stopping")  # or a turn that ends now would connect again
        return await translated(self._link.run(sql, parameters))

    async def close(self) -> None:
        self._closed = True
        await self._link.close()
