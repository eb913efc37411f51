"""Members: nodes with their membership, in the test's own process. Each makes its rounds when the test says so."""

from prometheus_client import CollectorRegistry

from gateway.log.stretch import Stretch
from gateway.nodes.membership import Membership
from gateway.nodes.news import News
from gateway.nodes.post import Post
from gateway.nodes.rings import Rings
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.node_metrics import NodeMetrics
from tests.nodes.test_following import Node


class Noted:
    """Duties that are only noted. `adopted` is what the node was given to go on with, each time."""

    def __init__(self) -> None:
        self.adopted: list[list[Stretch]] = []
        self.lost: list[str] = []

    async def adopt(self, orphans: list[Stretch], ended: list[Stretch], lost: list[str]) -> None:
        self.lost += lost
        if orphans or ended:
            self.adopted.append(orphans + ended)

    async def start_over(self) -> None: ...

    async def answer(self, asked: bytes) -> bytes:
        return asked


class Member(Node):
    """A node and its membership."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        super().__init__(url, ledger)
        self._rings = Rings(url, ledger=ledger, heard=lambda _: None)
        self._ledger = ledger
        self.duties = Noted()
        self.registry = CollectorRegistry()
        self.membership: Membership

    async def join(self) -> None:
        """Becomes a node, as a process does that starts."""
        await self.log.open()
        licence = self.journal.licence
        self.membership = Membership(
            self.log,
            self.journal,
            self._rings,
            News(self._rings, None),
            self.following,
            Post(self.database, licence, self._rings),
            self.duties,
            faults=Faults(),
            ledger=self._ledger,
            metrics=NodeMetrics(self.registry),
        )

    async def round(self) -> None:
        await self.membership.round()

    async def lives(self) -> bool:
        """Reports that it lives. Returns whether that is still believed."""
        return bool(await self.journal.licence.renew())

    async def silent(self) -> None:
        """Its last report is an hour old."""
        await self.database.ask(
            "UPDATE log_nodes SET beat = beat - interval '1 hour' WHERE id = %s", self.journal.licence.node
        )

    async def close(self) -> None:
        await self._rings.close()
        await super().close()
