"""The services that routes use: the objects that the composition root made, stored in the application under one key."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from adapters.edge.auth import Authenticator
from adapters.edge.limits import Connections
from gateway.config.settings import Settings
from gateway.log.log import EventLog
from gateway.reading.hub import Hub
from gateway.store.store import Store
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.turns.turns import Turns
from gateway.upstream.caller_tokens import CallerTokens
from gateway.upstream.protocol import Upstreams

if TYPE_CHECKING:
    from adapters.tenants import TenantsFile

_PROBE_EVERY = 1.0
_PROBE_WAIT = 0.25
_PROBE_LAST = 5.0  # how long a stop waits for the probe that is under way


class Probes:
    """Tests whether the log and the store can be written: one test at a time, and at most one per second.

    `files` are the files that were opened. When one is deleted or replaced, the process still writes to the old file,
    whose content is lost when the process ends.
    """

    def __init__(
        self, log: EventLog, store: Store, files: Iterable[Path], remarks: Callable[[], list[str]] = list
    ) -> None:
        self._log = log
        self._store = store
        self._files = {part: part.stat().st_ino for file in files for part in self._with_wal(file)}
        self.remarks = remarks  # what is away that the gateway can do without, one sentence each
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self.leaving = False  # the gateway is about to stop, but still accepts turns

    async def look(self) -> None:
        """Waits briefly for a test. If a file is locked, the test takes longer, and a later caller gets its result."""
        loop = asyncio.get_running_loop()
        if (self._task is None or self._task.done()) and loop.time() >= self._not_before:
            self._not_before = loop.time() + _PROBE_EVERY
            self._task = loop.create_task(self._probe())
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_PROBE_WAIT)

    async def _probe(self) -> None:
        await self._log.probe()
        await self._store.probe()

    def gone(self) -> list[str]:
        """The names of opened files that have since been deleted or replaced."""
        return [file.name for file, inode in self._files.items() if not file.exists() or file.stat().st_ino != inode]

    @staticmethod
    def _with_wal(file: Path) -> list[Path]:
        """A database and its write-ahead log, which exists while the database is open."""
        wal = file.with_name(f"{file.name}-wal")
        return [file, wal] if wal.exists() else [file]

    async def close(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_PROBE_LAST)
            self._task.cancel()  # PostgreSQL does not answer


class TurnCounter(Protocol):
    """Counts turns by account, in this process or over all nodes."""

    def take(self, account: str, most: int | None = None) -> Awaitable[None] | None:
        """Counts one turn. If it returns an awaitable, the turn is counted once that was awaited. Either may raise
        `rate_limited`. `most` turns per minute are allowed, by default as many as the settings say."""


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    log: EventLog
    hub: Hub
    turns: Turns
    upstreams: Upstreams
    caller_tokens: CallerTokens
    store: Store
    ledger: Ledger
    metrics: Metrics
    observer: Observer
    faults: Faults
    authenticator: Authenticator
    connections: Connections
    turn_rate: TurnCounter
    probes: Probes
    shops: "TenantsFile | None" = None
    """The shops with credentials of their own, if there are any."""


SERVICES = web.AppKey("services", Services)
