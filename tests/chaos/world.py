"""One chaos run: askers and listeners who believe only what they are given, while everything around them breaks."""

import asyncio
import contextlib
import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gateway.simulator import Simulator, whole_text
from tests.chaos.plan import Strike, question, strikes
from tests.faults.coze import BASELINE_KINDS, ledger, patience, simulated
from tests.faults.disks import fill
from tests.faults.mortal import Mortal
from tests.faults.proxy import Proxy, proxied
from tests.faults.reading import GONE, TRANSPORTS, Broken, Reader, Refused, client
from tests.folders import prepared

LIVENESS, READY = 10.0, 3.0
ERRORS = {
    "upstream_uncertain",
    "upstream_unavailable",
    "upstream_failed",
    "storage_unavailable",
    "conversation_busy",
}
"""What a turn may end with, when what it needed was broken at its moment."""

SETTINGS = {"GATEWAY_DRAIN_SECONDS": "0.3", "GATEWAY_RETENTION_SECONDS": "600", "GATEWAY_SEND_TIMEOUT": "5"}
ASKERS = 4


@dataclass
class Told:
    """One turn: what was asked, and everyone who heard it."""

    message: str
    key: str
    reader: Reader
    listeners: list[Reader] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    queued: bool = False


class World:
    """The parts of a run. `calm` is set when the blows are over."""

    def __init__(
        self, seed: int, coze: Simulator, to_coze: Proxy, gateway: Mortal, line: Proxy, folder: Path, disk: bool
    ) -> None:
        self.seed = seed
        self.coze = coze
        self.to_coze = to_coze
        self.gateway = gateway
        self.line = line
        self.folder = folder
        self.disk = disk
        self.told: list[Told] = []
        self.blows: Counter[str] = Counter()
        self.calm = asyncio.Event()

    async def ask(self, session: aiohttp.ClientSession, chance: random.Random, name: str) -> None:
        """Asks one thing after the other, in a conversation of its own or the last one's, listened to by others."""
        number, conversation = 0, ""
        while not self.calm.is_set():
            number += 1
            told = Told(question(chance, f"{name} {number}"), f"{self.seed}-{name}-{number}", Reader())
            told.queued = bool(conversation) and chance.random() < 0.3
            self.told.append(told)
            fields = {"conversationId": conversation, "onBusy": "queue"} if told.queued else {}
            asking = asyncio.create_task(
                self._follow(session, told.reader, told, random.Random(chance.random()), fields)
            )
            listening = [
                asyncio.create_task(self._overhear(session, told, random.Random(chance.random())))
                for _ in range(chance.randrange(3))
            ]
            await asyncio.gather(asking, *listening)
            conversation = told.reader.conversation_id
            await asyncio.sleep(chance.uniform(0, 0.2))

    async def _follow(
        self, session: aiohttp.ClientSession, reader: Reader, told: Told, chance: random.Random, fields: dict[str, str]
    ) -> None:
        while not reader.turn_id:
            try:
                await reader.ask(session, self.line.url, told.message, key=told.key, **fields)
            except GONE:
                await asyncio.sleep(0.05)
            except Refused as refused:
                if refused.status != 503:
                    raise Broken(f"{told.key}: {refused}") from refused
                await asyncio.sleep(0.1)
        await self._to_the_end(session, reader, chance)

    async def _overhear(self, session: aiohttp.ClientSession, told: Told, chance: random.Random) -> None:
        """Joins somewhere in the middle, and changes its transport again and again."""
        reader = Reader(told.reader.book)
        while not told.reader.turn_id:
            await asyncio.sleep(0.02)
            if told.reader.over:
                return
        await asyncio.sleep(chance.uniform(0, 0.5))
        reader.turn_id = told.reader.turn_id
        told.listeners.append(reader)
        await self._to_the_end(session, reader, chance)

    async def _to_the_end(self, session: aiohttp.ClientSession, reader: Reader, chance: random.Random) -> None:
        while not reader.over:
            pieces = None if self.calm.is_set() or chance.random() < 0.3 else chance.randrange(1, 12)
            try:
                await reader.listen(session, self.line.url, chance.choice(TRANSPORTS), pieces=pieces)
            except GONE:
                pass
            except Refused as refused:
                if refused.status != 503:
                    raise Broken(f"{reader.turn_id}: {refused}") from refused
            if not reader.over:
                await asyncio.sleep(0.03)

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
        """A last event that is owed is lost with its process, so nothing else breaks until it is written."""
        async with client() as session, asyncio.timeout(patience(LIVENESS)):
            while True:
                async with session.get(f"{self.gateway.url}/readyz") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)

    async def judge(self, session: aiohttp.ClientSession) -> None:
        """All that can be said afterwards of every turn."""
        asked = len(self.told)
        if self.coze.chats_started > asked:
            raise Broken(f"{self.coze.chats_started} chats for {asked} messages")
        for told in self.told:
            reader = told.reader
            last = reader.last
            posts = self.coze.posts_of(told.message)
            if posts > (4 if told.queued else 1):
                raise Broken(f"{told.message!r} was sent {posts} times")
            if last["event"] == "completed":
                if reader.text != whole_text(told.message):
                    raise Broken(f"{told.message!r} got {reader.text[-80:]!r}")
            elif last["event"] != "error" or last["code"] not in ERRORS:
                raise Broken(f"{told.message!r} ended with {last}")
            for one in (reader, *told.listeners):
                if one.last != last or one.text != reader.text:
                    raise Broken(f"{told.message!r} ended in two ways: {last} and {one.last}")
                if one.resets:
                    raise Broken(f"{told.message!r}: a reset: {one.named('reset')}")
            async with session.get(f"{self.gateway.url}/api/coze/turns/{reader.turn_id}") as response:
                stands: dict[str, Any] = await response.json()
            wanted = "completed" if last["event"] == "completed" else "failed"
            if (stands["status"], stands["content"]) != (wanted, reader.text):
                raise Broken(f"{told.message!r} stands as {stands}, its last event was {last}")

    def outcomes(self) -> Counter[str]:
        return Counter(str(t.reader.last.get("code") or t.reader.last["event"]) for t in self.told if t.reader.over)


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
            gateway = Mortal(prepared(folder / "disk" / "data"), to_coze.url, SETTINGS)
            try:
                await gateway.start()
                async with proxied(gateway.url) as line:
                    yield World(seed, coze, to_coze, gateway, line, folder / "disk", disk)
            finally:
                for life in gateway.lives:
                    await life.kill()


async def run(seed: int, seconds: float, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> World:
    """One whole run. Raises an exception group that holds `Broken` when a promise is, or the world finds no rest."""
    async with world(seed, folder) as here, client() as session:
        async with asyncio.TaskGroup() as askers:
            for number in range(ASKERS):
                askers.create_task(here.ask(session, random.Random(f"{seed} asker {number}"), f"asker-{number}"))
            for strike in strikes(seed, seconds, disk=here.disk):
                await here.strike(strike)
                say(f"{strike.blow} after {strike.after:.2f}")
            here.calm.set()
            askers.create_task(_rest(here))
        await here.judge(session)
        await _balanced(session, here)
        if await here.gateway.process.terminate(within=10) != 0:
            raise Broken("a stop ended with another status than 0")
        if "Traceback" in (logged := here.gateway.logged()):
            raise Broken(logged[logged.index("Traceback") - 500 :][:3000])
        _sound(here.folder / "data")
        return here


async def _rest(here: World) -> None:
    """Raises `Broken` when someone still waits for an end long after the last blow."""
    for _ in range(round(patience(LIVENESS) * 20)):
        if all(one.over for told in here.told for one in (told.reader, *told.listeners)):
            return
        await asyncio.sleep(0.05)
    waiting = [
        (told.message, one.turn_id, one.events[-3:])
        for told in here.told
        for one in (told.reader, *told.listeners)
        if not one.over
    ]
    raise Broken(f"not at rest {LIVENESS} s after the last blow: {waiting}")


async def _balanced(session: aiohttp.ClientSession, here: World) -> None:
    held: dict[str, int] = {}
    for _ in range(100):
        held = {k: v for k, v in (await ledger(session, here.gateway.url)).items() if k in BASELINE_KINDS and v}
        if not held:
            return
        await asyncio.sleep(0.05)
    raise Broken(f"still held five seconds later: {held}")


def _sound(folder: Path) -> None:
    for name in ("log.db", "gateway.db"):
        database = sqlite3.connect(folder / name)
        try:
            found = database.execute("PRAGMA integrity_check").fetchall()
        finally:
            database.close()
        if found != [("ok",)]:
            raise Broken(f"{name}: {found}")
