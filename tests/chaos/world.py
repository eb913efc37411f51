"""One chaos run over one gateway, in which everything around its askers and listeners breaks."""

import asyncio
import contextlib
import sqlite3
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.chaos.crowd import Crowd, balanced, without_a_fault
from tests.chaos.plan import BLOWS, Strike, strikes
from tests.faults.coze import patience, simulated
from tests.faults.disks import fill
from tests.faults.mortal import Mortal
from tests.faults.proxy import Proxy, proxied
from tests.faults.reading import Broken, client
from tests.folders import prepared

LIVENESS, READY = 10.0, 3.0
SETTINGS = {"GATEWAY_DRAIN_SECONDS": "0.3", "GATEWAY_RETENTION_SECONDS": "600", "GATEWAY_SEND_TIMEOUT": "5"}


class World:
    """The parts of a run."""

    def __init__(self, crowd: Crowd, to_coze: Proxy, gateway: Mortal, line: Proxy, folder: Path, disk: bool) -> None:
        self.crowd = crowd
        self.to_coze = to_coze
        self.gateway = gateway
        self.line = line
        self.folder = folder
        self.disk = disk
        self.blows: Counter[str] = Counter()

    async def strike(self, strike: Strike) -> None:
        """One blow, to its end."""
        await asyncio.sleep(strike.after)
        self.blows[strike.blow] += 1
        match strike.blow:
            case "kill":
                await self.gateway.kill()
                await self._reborn()
            case "stop":
                if await self.gateway.process.terminate(within=10) != 0:
                    raise Broken("a stop ended with another status than 0")
                await self._reborn()
            case "cut clients":
                self.line.cut_all("reset" if strike.hard else "close")
            case "cut coze":
                self.to_coze.cut_all("reset" if strike.hard else "close")
            case "refuse coze":
                self.to_coze.refuse()
                self.to_coze.cut_all("close")
                await asyncio.sleep(strike.lasts)
                await self.to_coze.listen()
            case "crumble":
                self.line.weather.bytewise = self.to_coze.weather.bytewise = True
                await asyncio.sleep(strike.lasts)
                self.line.weather.bytewise = self.to_coze.weather.bytewise = False
            case "stall coze":
                self.to_coze.freeze()
                await asyncio.sleep(strike.lasts)
                self.to_coze.thaw()
            case "full disk":
                filler = fill(self.folder)
                await asyncio.sleep(strike.lasts)
                filler.unlink()
                await self._healed()

    async def _reborn(self) -> None:
        await self.gateway.start()
        self.line.target(self.gateway.url)
        if self.gateway.births[-1] > patience(READY):
            raise Broken(f"it took {self.gateway.births[-1]:.1f} s to start again")

    async def _healed(self) -> None:
        """Waits until owed last events are written, because they would be lost with their process."""
        async with client() as session, asyncio.timeout(patience(LIVENESS)):
            while True:
                async with session.get(f"{self.gateway.url}/readyz") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)


@contextlib.contextmanager
def disk_of_its_own(folder: Path) -> Any:
    """Whether the folder is a small disk, which root can have."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    small = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield small
    finally:
        if small:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.asynccontextmanager
async def world(seed: int, folder: Path) -> AsyncIterator[World]:
    with disk_of_its_own(folder / "disk") as disk:
        async with simulated(first_ms=80, rate=60) as coze, proxied(coze.url) as to_coze:
            gateway = Mortal(prepared(folder / "disk" / "data"), to_coze.url, SETTINGS, cold=True)
            try:
                await gateway.start()
                async with proxied(gateway.url) as line:
                    crowd = Crowd(seed, coze, lambda _: line.url)
                    yield World(crowd, to_coze, gateway, line, folder / "disk", disk)
            finally:
                for life in gateway.lives:
                    await life.kill()


async def run(seed: int, seconds: float, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> World:
    """One whole run. Raises an exception group that holds `Broken` when a promise is, or the world finds no rest."""
    async with world(seed, folder) as here, client() as session:

        async def strike() -> None:
            for one in strikes(seed, seconds, BLOWS if here.disk else BLOWS[:-1]):
                await here.strike(one)
                say(f"{one.blow} after {one.after:.2f}")

        await here.crowd.gather(session, strike, LIVENESS)
        here.crowd.judge()
        await here.crowd.judge_at(session, here.gateway.url)
        await here.crowd.judge_staff(session, here.gateway.url)
        await balanced(session, here.gateway.url)
        if await here.gateway.process.terminate(within=10) != 0:
            raise Broken("a stop ended with another status than 0")
        without_a_fault(here.gateway.logged())
        _sound(here.folder / "data")
        return here


def _sound(folder: Path) -> None:
    for name in ("log.db", "gateway.db"):
        database = sqlite3.connect(folder / name)
        try:
            found = database.execute("PRAGMA integrity_check").fetchall()
        finally:
            database.close()
        if found != [("ok",)]:
            raise Broken(f"{name}: {found}")
