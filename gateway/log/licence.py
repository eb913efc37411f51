"""A licence: a node's row in PostgreSQL. Without it the node writes nothing."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, Final, TypeVar

import structlog
from psycopg import Error

from gateway.ids import new_number
from gateway.log.burial import COLUMNS, REMOVE, bury, sound
from gateway.log.journal import JournalError
from gateway.log.packing import DAMAGED
from gateway.log.register import Register
from gateway.log.rows import LIVES, NUMBERS, Beginning
from gateway.log.stretch import Stretch
from gateway.postgres.failures import NoReply, is_outage, sentence
from gateway.postgres.link import Execute, Link

logger = structlog.get_logger()
T = TypeVar("T")

LEASE: Final = 6.0
"""Seconds by the database's clock after which a node that has not reported that it lives counts as dead."""

_ADOPTED_AT_ONCE = 1000  # logs
_TELLING = 0.3  # seconds in which other nodes that were told to stop at the same moment can say that they leave

_TAKE = (
    "INSERT INTO log_nodes (id, name) OVERRIDING SYSTEM VALUE VALUES (%s, %s) RETURNING id, (SELECT mark FROM log_made)"
)
_RENEW = "UPDATE log_nodes SET beat = now() WHERE id = %s RETURNING (SELECT count(*) FROM log_nodes)"
_OTHERS_LIVE = "SELECT 1 FROM log_nodes WHERE beat > now() - make_interval(secs => %s) AND id <> %s"
_LEAVING = "leaving "  # and the node's number: a lock that is held until the node is buried
_LEAVE = "INSERT INTO log_locks (name, node) SELECT %s || id, id FROM log_nodes WHERE id = %s ON CONFLICT DO NOTHING"
_OTHERS_STAY = f"{_OTHERS_LIVE} AND NOT EXISTS (SELECT FROM log_locks WHERE name = %s || id)"
_VISITS = "command at "  # the name of a node that only visits begins so
_SILENT = "SELECT id, name FROM log_nodes WHERE beat <= now() - make_interval(secs => %s) AND id <> %s"
_BEGUN_HERE = f"number >> {NUMBERS} = %s"  # `rows.beginner_of`
_ORPHAN = (
    "NOT kept AND (log_stretches.node IS NULL OR log_stretches.node = %s"
    f" AND NOT {_BEGUN_HERE} AND number <> ALL(%s::bigint[]))"
)
_ADOPT = (
    f"WITH {LIVES},"
    " claimed AS (UPDATE log_heads AS h SET node = id FROM lives WHERE (h.node IS NULL OR h.node < 0 OR h.node = id)"
    f" AND key IN (SELECT home FROM log_stretches WHERE {_ORPHAN} LIMIT %s) RETURNING key, id)"
    " UPDATE log_stretches SET node = claimed.id, batch = %s"
    f" FROM claimed WHERE home = claimed.key AND {_ORPHAN} RETURNING ordinal, "
    + ", ".join(f"log_stretches.{column}" for column in COLUMNS.split(", "))
)


class Licence:
    """The licence of this process's node. `node` is the node's number, which is never used again.

    To bury a node means to take its licence; from then on it writes nothing. All methods raise `JournalError`.
    """

    def __init__(self, link: Link, *, name: str, lease: float, visits: bool = False) -> None:
        self._link = link
        self._name = f"{_VISITS}{name}" if visits else name
        self._lease = lease
        self.node = 0
        self.lost: list[str] = []
        """The turns whose stretches it has deleted because they were damaged, until somebody takes them from here."""
        self.breaks = 0
        """How often its connection broke: after each time the database may have lost its last moments."""

    async def take(self) -> str:
        """Becomes a new node. Returns the random text that the log was given when it was made.

        The node's number is random: a database that loses its last moments would give some numbers twice.
        """
        ((self.node, made),) = await self._ask(_TAKE, new_number(), self._name)
        return str(made)

    async def renew(self) -> int:
        """Reports that this node lives. Returns how many nodes there are, 0 if this one was buried."""
        rows = await self._ask(_RENEW, self.node)
        return int(rows[0][0]) if rows else 0

    async def give_back(self, ghosts: Sequence[Beginning] = (), register: Register | None = None) -> None:
        """Buries this node itself, so that its stretches can be adopted at once. `ghosts` are deleted, and removed from
        the register: they began, but nobody was told so."""

        async def work(run: Execute) -> None:
            if await bury(run, node=self.node, silence=0.0, ghosts=[begun.number for begun in ghosts]) is None:
                return
            if ghosts and register is not None:
                for statement in register.removing(ghosts):
                    await run(*statement)

        if self.node:
            await translated(self._link.within(work))

    async def others_live(self) -> bool:
        """Whether another node has reported that it lives, and not too long ago."""
        return bool(await self._ask(_OTHERS_LIVE, self._lease, self.node))

    async def leave(self) -> bool:
        """Tells the others that this node is about to leave. Returns whether another node lives that does not
        leave. Of two nodes that leave at the same time, at least one learns of the other: each tells before it asks."""
        await self._ask(_LEAVE, _LEAVING, self.node)
        await asyncio.sleep(_TELLING)
        return bool(await self._ask(_OTHERS_STAY, self._lease, self.node, _LEAVING))

    async def silent(self) -> dict[int, str]:
        """The other nodes that have been silent for too long, with their names. While the database is away no node can
        report that it lives."""
        return dict(await self._ask(_SILENT, self._lease, self.node))

    async def bury_the_dead(self) -> int:
        """Buries the nodes that have been silent for too long. Returns how many, not counting those that only visited.
        Their stretches can be adopted now. If one can't be buried, the others are, and the next call tries it again.

        Call this only when nodes could have reported. Once the connection breaks, no more nodes are buried: a database
        that has lost its last moments makes nodes look silent.
        """
        breaks, buried = self.breaks, 0
        for node, name in (await self.silent()).items():
            try:
                lost = await self._bury(node, breaks)
                if lost is not None:
                    buried += not name.startswith(_VISITS)
                    self.lost += lost
            except (JournalError, Error, *DAMAGED) as error:
                logger.error("nodes.not_buried", node=node, reason=str(error))
        return buried

    async def _bury(self, node: int, breaks: int) -> list[str] | None:
        async def work(run: Execute) -> list[str] | None:
            return None if breaks != self.breaks else await bury(run, node=node, silence=self._lease)

        return await translated(self._link.within(work))

    async def adopt(self, batch: int, known: Collection[int] | None = None) -> list[Stretch]:
        """Adopts the stretches of some logs that have no node. Returns them in the order in which they began.

        This node adds to them in batches after `batch`. With `known`, the numbers of all stretches that it has, it also
        finds stretches that it adopted before without getting the reply. Stretches that it began itself are left out:
        one that it begins meanwhile is not among `known`, and would run twice. Stretches that are damaged are deleted:
        their turns are lost.
        """
        orphan = (0 if known is None else self.node, self.node, list(known or ()))
        rows = await self._ask(_ADOPT, self.node, *orphan, _ADOPTED_AT_ONCE, batch, *orphan)
        found = [(row[1:], sound(row[1:])) for row in sorted(rows, key=lambda row: row[0])]
        if damaged := [row for row, stretch in found if stretch is None]:
            await self._ask(REMOVE, [row[0] for row in damaged], self.node)
            self.lost += [row[4] for row in damaged]
            logger.error("log.unreadable", stretches=[row[0] for row in damaged])
        return [stretch for _, stretch in found if stretch is not None]

    async def _ask(self, sql: str, *parameters: Any) -> list[Any]:
        return await translated(self._link.run(sql, parameters))

    def __repr__(self) -> str:
        return f"Licence(node {self.node})"


async def translated(work: Awaitable[T]) -> T:
    """The work's result. An outage becomes a `JournalError`; errors about the values are raised as they are."""
    try:
        return await work
    except (NoReply, Error) as error:
        if is_outage(error):
            raise JournalError(sentence(error)) from error
        raise
