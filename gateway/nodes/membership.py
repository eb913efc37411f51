"""Membership: reports each second that this node lives, and adopts the stretches of dead nodes."""

import asyncio
import math
from contextlib import suppress
from time import monotonic
from typing import Protocol

import structlog

from gateway.log.journal import Fenced, JournalError
from gateway.log.licence import LEASE
from gateway.log.log import EventLog
from gateway.log.postgres import PostgresJournal
from gateway.log.stretch import Stretch
from gateway.nodes.following import Following
from gateway.nodes.news import News
from gateway.nodes.post import Post
from gateway.nodes.rings import Ring, Rings
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.node_metrics import NodeMetrics
from gateway.telemetry.seldom import Seldom

logger = structlog.get_logger()


_EVERY = 1.0
_CHANCE = LEASE / 2  # seconds for which a node that starts, and finds only silent nodes, lets them report


class Duties(Protocol):
    """What a node does for the others, and after it was taken for dead."""

    async def adopt(self, orphans: list[Stretch], ended: list[Stretch], lost: list[str]) -> None:
        """Goes on with adopted stretches that run, and tells the store of adopted ones that have ended, and of turns
        that are lost because they were damaged."""

    async def start_over(self) -> None:
        """Forgets the turns that this node had: others go on with them."""

    async def answer(self, asked: bytes) -> bytes:
        """Does what another node asks for, and returns the answer."""


class Membership:
    """The tasks of a node that concern other nodes: one beats, buries and adopts; one follows logs and answers."""

    def __init__(
        self,
        log: EventLog,
        journal: PostgresJournal,
        rings: Rings,
        news: News,
        following: Following,
        post: Post,
        duties: Duties,
        *,
        faults: Faults,
        ledger: Ledger,
        metrics: NodeMetrics,
    ) -> None:
        self._log = log
        self._journal = journal
        self._rings = rings
        self._news = news
        self._following = following
        self._post = post
        self._duties = duties
        self._faults = faults
        self._ledger = ledger
        self._metrics = metrics
        self._seldom = Seldom()
        self._wake = asyncio.Event()
        self._called = asyncio.Event()  # set when there may be stretches to adopt
        self._rounded = asyncio.Event()  # set when the round that is under way is over
        self._behind: dict[int, tuple[float, float]] = {}  # per node: how long its news waited, and when it rang
        self._look = True
        self._letters = False
        self._adopted: list[Stretch] = []  # those that `adopt` has to go on with
        self._tasks: list[asyncio.Task[None]] = []
        self._beat_at = math.inf  # when the database last accepted a beat
        # Since when it has accepted every beat, over one connection, and whether a beat or a connection was ever lost.
        self._steady_from, self._interrupted = asyncio.get_running_loop().time(), False
        self._breaks = 0

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._hear())]
        self._faults.watch("nodes", self._tasks[0])
        self._faults.watch("nodes", self._tasks[1])

    def heard(self, ring: Ring) -> None:
        """Takes a ring, of another node or of this one."""
        me = self._journal.licence.node
        if ring.node != me:
            self._news.heard(ring, me)
            if ring.node in self._following.nodes:
                self._news.spoken(ring)
            if self._following.lacks(ring.node, ring.batch):
                self._behind.setdefault(ring.node, (ring.waited, monotonic()))
            if ring.begun and self._reads(ring.begun):
                self._look = True
        if ring.post:
            self._post.came()
            self._letters = self._letters or me in ring.post
        if ring.adopt:
            self._called.set()
        if ring.node != me or ring.post:
            self._wake.set()

    def missed(self, node: int) -> None:
        """Batches of a node have to be read in the database."""
        self._behind.setdefault(node, (0.0, monotonic()))
        self._wake.set()

    def look(self) -> None:
        """News may have been lost."""
        self._look = True
        self._wake.set()

    def _reads(self, keys: list[str]) -> bool:
        return any((tail := self._log.shelf.loaded(key)) is not None and tail.users for key in keys)  # type: ignore[arg-type]

    async def _hear(self) -> None:
        """Does what rings ask for, and once a second looks for what no ring has told of."""
        with self._ledger.open("task", "nodes.hear"):
            due = 0.0
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - monotonic())):
                        await self._wake.wait()
                self._wake.clear()
                if monotonic() >= due:  # by the clock, because a busy node may ring all the time for other turns
                    due = monotonic() + _EVERY
                    self._look = self._letters = True
                    self._news.keep(self._following.nodes)
                try:
                    behind, self._behind = self._behind, {}
                    for node, (waited, heard) in behind.items():
                        await self._following.pull(node)
                        seconds = monotonic() - heard
                        self._metrics.news_read(waited + seconds, seconds)
                    if self._letters:
                        self._letters = False
                        await self._post.look(self._duties.answer)
                    if self._look:
                        self._look = False
                        await self._following.look()
                except JournalError as error:
                    self._seldom.warning("nodes.not_followed", reason=str(error))
                except Exception as error:
                    self._faults.broke("nodes", error)

    async def _beat(self) -> None:
        with self._ledger.open("task", "nodes.beat"):
            while True:
                try:
                    await self.round()
                except JournalError as error:
                    self._seldom.warning("nodes.no_beat", reason=str(error))
                except Exception as error:
                    self._faults.broke("nodes", error)
                self._rounded.set()
                self._called = asyncio.Event()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY):
                        await self._called.wait()

    async def round(self) -> None:
        """Beats once, and then buries and adopts. Raises `JournalError`."""
        if not self._log.fenced:
            try:
                nodes = await self._journal.licence.renew()
            except Fenced:
                nodes = 0
            except JournalError:
                if asyncio.get_running_loop().time() - self._beat_at > LEASE:
                    self._metrics.nodes_counted(0)
                raise
            self._metrics.nodes_counted(nodes)
            if nodes:
                self._rings.alone = nodes < 2
                self._beaten()
            else:
                await self._log.probe()  # finds out that this node is fenced
        if self._log.fenced:
            self._metrics.nodes_counted(0)
            await self._duties.start_over()
            self._adopted = []
            self._adopted = await self._log.rejoin()
            self._unsteady()
            self._metrics.node_rejoined()
            logger.warning("nodes.rejoined", node=self._journal.licence.node, why="was taken for dead, or cut off")
        else:
            buried = await self._journal.licence.bury_the_dead() if await self._may_bury() else 0
            if buried:
                self._metrics.nodes_buried(buried)
                logger.warning("nodes.buried", nodes=buried)
                self._rings.adopt()
            came = await self._journal.adopt()
            self._adopted += came
            await self._log.take_in(came)
        adopted, lost = self._adopted, self._journal.licence.lost
        if adopted or lost:
            ended = [stretch for stretch in adopted if stretch.ended is not None]
            await self._duties.adopt([stretch for stretch in adopted if stretch.ended is None], ended, lost)
            # Whatever has failed until here is done again in the next round.
            self._adopted, self._journal.licence.lost = [], []
            self._metrics.stretches_adopted(len(adopted))
            self._look = True
            self._wake.set()

    async def no_more_silent(self) -> None:
        """Returns when each node that has been silent for too long is buried, and this node has adopted what it can.
        Raises `JournalError`."""
        while True:
            self._rounded = asyncio.Event()
            await self._rounded.wait()
            if not await self._journal.licence.silent():
                return

    def _beaten(self) -> None:
        now, breaks = asyncio.get_running_loop().time(), self._journal.licence.breaks
        if now - self._beat_at > LEASE / 2 or breaks != self._breaks:
            self._unsteady()
        self._beat_at, self._breaks = now, breaks

    def _unsteady(self) -> None:
        self._steady_from, self._interrupted = asyncio.get_running_loop().time(), True

    async def _may_bury(self) -> bool:
        """Whether other nodes could report that they live: not right after the database was away, as it may have been
        until this node started, nor after a new connection, which may lead to a standby that does not know the nodes'
        last reports. A node that starts where nobody else lives need not wait as long: it is the one to go on."""
        steady = asyncio.get_running_loop().time() - self._steady_from
        if steady > LEASE or self._interrupted or steady <= _CHANCE:
            return steady > LEASE
        return not await self._journal.licence.others_live()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._post.close()
        await self._rings.close()
