"""The cluster, as one node sees it: makes the parts that deal with other nodes, and connects them."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.log.log import EventLog
from gateway.log.postgres import PostgresJournal
from gateway.log.register import Register
from gateway.log.shelf import Shelf
from gateway.nodes.claims import Claims
from gateway.nodes.database import Database
from gateway.nodes.following import Following
from gateway.nodes.membership import Duties, Membership
from gateway.nodes.message import BatchMessage
from gateway.nodes.news import News
from gateway.nodes.post import Post
from gateway.nodes.rate import SharedRate
from gateway.nodes.rings import Ring, Rings
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.node_metrics import NodeMetrics

if TYPE_CHECKING:
    from gateway.nodes.bus import Bus


class Cluster:
    """Made before the log, which writes `journal` and follows other nodes. Started once turns can run.

    A node that only `visits`, as a command does, runs no turns and leaves those of dead nodes to the others.
    """

    def __init__(
        self,
        url: str,
        bus_url: str | None,
        *,
        name: str,
        ledger: Ledger,
        faults: Faults,
        metrics: NodeMetrics,
        register: Register,
        visits: bool = False,
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._metrics = metrics
        self._rings = Rings(url, ledger=ledger, heard=self._heard)
        self._bus = None if bus_url is None else self._made(bus_url)
        self._news = News(self._rings, self._bus)
        metrics.news_goes(redis=None if self._bus is None else False)
        self.journal = PostgresJournal(
            url,
            ledger=ledger,
            name=name,
            visits=visits,
            watch=self._news,
            told=metrics,
            when_back=self._back,
            register=register,
        )
        self._when_back: Callable[[], None] | None = None
        self._database = Database(url, ledger)
        self._post = Post(self._database, self.journal.licence, self._rings)
        self._following: Following | None = None
        self._claims: Claims | None = None
        self._membership: Membership | None = None

    def _made(self, url: str) -> "Bus":
        """The bus. Its driver is imported for it alone."""
        from gateway.nodes.bus import Bus

        return Bus(
            url,
            ledger=self._ledger,
            faults=self._faults,
            metrics=self._metrics,
            heard=self._brought,
            changed=self._bus_changed,
        )

    def follow(self, shelf: Shelf) -> Following:
        """Makes the part that keeps a shelf's tails up to date with other nodes."""
        self._following = Following(
            self._database,
            self.journal.licence,
            shelf,
            began=self._news.follow,
            missed=self._missed,
            metrics=self._metrics,
        )
        return self._following

    def claims(self, settled: Callable[[], Awaitable[None]]) -> Claims:
        """Makes the part through which turns deal with other nodes."""
        self._claims = Claims(self._database, self.journal.licence, self._post, self._rings, settled)
        return self._claims

    def turn_rate(self, most: int) -> SharedRate:
        """Counts the turns of accounts over all nodes."""
        return SharedRate(self._database, most)

    def start(self, log: EventLog, duties: Duties, *, when_back: Callable[[], None]) -> None:
        """From now on this node reports that it lives, and listens to the others. `when_back` is called after a broken
        connection."""
        assert self._following is not None
        self._when_back = when_back
        self._membership = Membership(
            log,
            self.journal,
            self._rings,
            self._news,
            self._following,
            self._post,
            duties,
            faults=self._faults,
            ledger=self._ledger,
            metrics=self._metrics,
        )
        self._rings.start()
        self._membership.start()
        if self._bus is not None:
            self._bus.start()

    async def no_more_silent(self) -> None:
        """Returns when the dead nodes are buried, and this node has adopted what it can. Raises `JournalError`."""
        assert self._membership is not None
        await self._membership.no_more_silent()

    def _heard(self, ring: Ring) -> None:
        if self._membership is not None:
            self._membership.heard(ring)

    def _missed(self, node: int) -> None:
        if self._membership is not None:
            self._membership.missed(node)

    def _back(self) -> None:
        if self._when_back is not None:
            self._when_back()

    def _brought(self, message: BatchMessage) -> None:
        assert self._following is not None
        self._following.came(message)

    def _bus_changed(self) -> None:
        self._news.bus_changed(self.journal.licence.node)
        if self._membership is not None:
            self._membership.look()

    def remarks(self) -> list[str]:
        """What is away that this node can do without, one sentence each."""
        if self._bus is None or self._bus.up:
            return []
        return [f"{self._bus.trouble}: other nodes are heard over PostgreSQL"]

    async def close(self) -> None:
        """Stops listening and answering. The log closes the journal."""
        if self._bus is not None:
            await self._bus.close()
        if self._membership is not None:
            await self._membership.close()
        if self._claims is not None:
            await self._claims.close()
        await self._database.close()

    def __repr__(self) -> str:
        return f"Cluster({self.journal}, {self._following}, {self._claims})"
