"""A licence: a node's row in PostgreSQL, without which it writes nothing."""

from collections.abc import Awaitable, Collection
from functools import partial
from typing import Any, Final, TypeVar

from psycopg import Error

from gateway.log.burial import COLUMNS, bury, stretch_of
from gateway.log.journal import JournalError
from gateway.log.stretch import Stretch
from gateway.postgres.failures import NoReply, is_outage, sentence
from gateway.postgres.line import Line

T = TypeVar("T")

LEASE: Final = 6.0
"""Seconds after which a node that has not said that it lives may be taken for dead, by the database's clock."""

_ADOPTED_AT_ONCE = 1000  # logs

_TAKE = "INSERT INTO log_nodes (name) VALUES (%s) RETURNING id, (SELECT mark FROM log_made)"
_RENEW = "UPDATE log_nodes SET beat = now() WHERE id = %s RETURNING (SELECT count(*) FROM log_nodes)"
_DEAD = "SELECT id FROM log_nodes WHERE beat <= now() - make_interval(secs => %s) AND id <> %s"
_ORPHAN = "NOT kept AND (log_stretches.node IS NULL OR log_stretches.node = %s AND number <> ALL(%s::bigint[]))"
_ADOPT = (
    "WITH lives AS (SELECT id FROM log_nodes WHERE id = %s FOR SHARE),"
    " claimed AS (UPDATE log_heads AS h SET node = id FROM lives WHERE (h.node IS NULL OR h.node < 0 OR h.node = id)"
    f" AND key IN (SELECT home FROM log_stretches WHERE {_ORPHAN} LIMIT %s) RETURNING key, id)"
    " UPDATE log_stretches SET node = claimed.id, batch = %s"
    f" FROM claimed WHERE home = claimed.key AND {_ORPHAN} RETURNING ordinal, "
    + ", ".join(f"log_stretches.{column}" for column in COLUMNS.split(", "))
)


class Licence:
    """Of one node: `node` is its number, which is never given again. All methods raise `JournalError`.

    Whoever buries a node takes its licence; from then on it writes nothing.
    """

    def __init__(self, line: Line, *, name: str, lease: float) -> None:
        self._line = line
        self._name = name
        self._lease = lease
        self.node = 0

    async def take(self) -> str:
        """Becomes a node, another one than before; the mark that the log was given when it was made."""
        ((self.node, made),) = await self._ask(_TAKE, self._name)
        return str(made)

    async def renew(self) -> int:
        """Says that this node lives; how many nodes there are, 0 when this one was buried."""
        rows = await self._ask(_RENEW, self.node)
        return int(rows[0][0]) if rows else 0

    async def give_back(self) -> None:
        """Ends as a node: what it had can be adopted at once."""
        if self.node:
            await translated(self._line.within(partial(bury, node=self.node, silence=0.0)))

    async def bury_the_dead(self) -> int:
        """Takes their licence from nodes that have been silent for too long; how many. What they wrote waits to be
        adopted."""
        dead = [node for (node,) in await self._ask(_DEAD, self._lease, self.node)]
        for node in dead:
            await translated(self._line.within(partial(bury, node=node, silence=self._lease)))
        return len(dead)

    async def adopt(self, batch: int, known: Collection[int] | None = None) -> list[Stretch]:
        """The stretches of some logs that had no node, and have this one now, in the order in which they began.

        What this node adds to them comes in batches after `batch`. With `known`, the numbers of all that it has, it
        finds what it adopted without hearing of it, too.
        """
        orphan = (0 if known is None else self.node, list(known or ()))
        rows = await self._ask(_ADOPT, self.node, *orphan, _ADOPTED_AT_ONCE, batch, *orphan)
        return [stretch_of(row[1:]) for row in sorted(rows, key=lambda row: row[0])]

    async def _ask(self, sql: str, *parameters: Any) -> list[Any]:
        return await translated(self._line.run(sql, parameters))

    def __repr__(self) -> str:
        return f"Licence(node {self.node})"


async def translated(work: Awaitable[T]) -> T:
    """The work's result. An outage is a `JournalError`; what is wrong with the values stays what it is."""
    try:
        return await work
    except (NoReply, Error) as error:
        if is_outage(error):
            raise JournalError(sentence(error)) from error
        raise
