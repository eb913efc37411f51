"""The long run: a steady load with blows, after which nothing may have grown."""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import aiohttp

from gateway.simulator import Simulator, whole_text
from tests.chaos.plan import question
from tests.faults.coze import BASELINE_KINDS, ledger, simulated
from tests.faults.mortal import Mortal, mortal
from tests.faults.proxy import Proxy, proxied
from tests.faults.reading import GONE, TRANSPORTS, Broken, Reader, Refused, client

TURNS_A_MINUTE = 50
LISTENERS = 100
RETENTION = 60.0
MOST_SLOPE = 1.0
"""MiB in ten minutes."""

_SAMPLE_EVERY = 5.0


class Sample(NamedTuple):
    at: float
    memory_mib: float
    file_mib: float
    descriptors: int


class Soak:
    """`running` are the turns that can be listened to now."""

    def __init__(self, seed: int, coze: Simulator, gateway: Mortal, line: Proxy, to_coze: Proxy, folder: Path) -> None:
        self.coze = coze
        self.gateway = gateway
        self.line = line
        self.to_coze = to_coze
        self.folder = folder
        self.chance = random.Random(seed)
        self.running: dict[str, Reader] = {}
        self.outcomes: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.over = asyncio.Event()

    async def ask(self, session: aiohttp.ClientSession, number: int) -> None:
        message = question(self.chance, f"soak {number}").replace("rate:0", "rate:15").replace("rate:200", "rate:10")
        reader = Reader()
        while not reader.turn_id:
            try:
                asking = asyncio.create_task(reader.ask(session, self.line.url, message, key=f"soak-{number}"))
                await asyncio.wait([asking], timeout=1)
                if reader.turn_id:
                    self.running[reader.turn_id] = reader
                await asking
            except GONE:
                await asyncio.sleep(0.1)
        self.running[reader.turn_id] = reader
        await reader.finish(session, lambda: self.line.url)
        self.running.pop(reader.turn_id, None)
        last = reader.last
        self.outcomes[last.get("code") or last["event"]] += 1
        if last["event"] == "completed" and reader.text != whole_text(message):
            raise Broken(f"{message!r} got {reader.text[-80:]!r}")
        if self.coze.posts_of(message) > 1:
            raise Broken(f"{message!r} was sent {self.coze.posts_of(message)} times")

    async def listen(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        while not self.over.is_set():
            if not self.running:
                await asyncio.sleep(0.1)
                continue
            first = chance.choice(list(self.running.values()))
            reader = Reader(first.book)
            reader.turn_id = first.turn_id
            while not reader.over:
                try:
                    pieces = chance.choice((None, 3, 20))
                    await reader.listen(session, self.line.url, chance.choice(TRANSPORTS), pieces=pieces)
                except GONE:
                    pass
                except Refused as refused:
                    raise Broken(f"{reader.turn_id}: {refused}") from refused
                await asyncio.sleep(0.05)

    async def break_things(self) -> None:
        while not self.over.is_set():
            await asyncio.sleep(self.chance.uniform(2, 10))
            match self.chance.choice(("clients", "clients", "coze", "stall")):
                case "clients":
                    self.line.cut_all(self.chance.choice(("close", "reset")))
                case "coze":
                    self.to_coze.cut_all(self.chance.choice(("close", "reset")))
                case _:
                    self.to_coze.freeze()
                    await asyncio.sleep(self.chance.uniform(0.2, 1.5))
                    self.to_coze.thaw()

    async def measure(self) -> None:
        began = time.monotonic()
        pid = self.gateway.process.pid
        while not self.over.is_set():
            sample = sampled(time.monotonic() - began, pid, self.folder / "data")
            self.samples.append(sample)
            _say(
                f"{sample.at:6.0f} s  {sample.memory_mib:6.1f} MiB  log {sample.file_mib:5.2f} MiB  "
                f"{sample.descriptors:4d} descriptors  {len(self.running):3d} running  {dict(self.outcomes)}"
            )
            await asyncio.sleep(_SAMPLE_EVERY)


def sampled(at: float, pid: int, folder: Path) -> Sample:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    files = sum(path.stat().st_size for path in folder.glob("log.db*"))
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Sample(at, memory, files / 2**20, len(os.listdir(f"/proc/{pid}/fd")))


def slope(samples: list[Sample]) -> float:
    """MiB in ten minutes, by least squares."""
    middle = sum(s.at for s in samples) / len(samples)
    mean = sum(s.memory_mib for s in samples) / len(samples)
    over = sum((s.at - middle) * (s.memory_mib - mean) for s in samples)
    return over / sum((s.at - middle) ** 2 for s in samples) * 600


async def soak(folder: Path, *, seconds: float, seed: int) -> int:
    """Prints what it sees; 0 when nothing has grown and no promise was broken."""
    settings = {"GATEWAY_RETENTION_SECONDS": str(RETENTION)}
    async with (
        simulated(first_ms=300, rate=20) as coze,
        proxied(coze.url) as to_coze,
        mortal(folder, to_coze.url, cold=True, **settings) as gateway,
        proxied(gateway.url) as line,
        client() as session,
    ):
        here = Soak(seed, coze, gateway, line, to_coze, folder)
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(here.measure())
            group.create_task(here.break_things())
            for number in range(LISTENERS):
                group.create_task(here.listen(session, random.Random(f"{seed} {number}")))
            number = 0
            while time.monotonic() < until:
                number += 1
                group.create_task(here.ask(session, number))
                await asyncio.sleep(60 / TURNS_A_MINUTE)
            here.over.set()
        if coze.chats_started > number:
            raise Broken(f"{coze.chats_started} chats for {number} messages")
        await asyncio.sleep(5)
        held = await ledger(session, gateway.url)
        left = {kind: held[kind] for kind in BASELINE_KINDS if held.get(kind)}
        status = await gateway.process.terminate()
    warm = [sample for sample in here.samples if sample.at >= min(300.0, seconds / 2)]
    half = len(warm) // 2
    grows = slope(warm)
    earlier, later = (max(s.file_mib for s in part) for part in (warm[:half], warm[half:]))
    _say(
        f"{number} turns {dict(here.outcomes)}; left {left or 'nothing'}; memory {grows:+.2f} MiB in ten minutes; "
        f"log at most {earlier:.2f}, then {later:.2f} MiB; exit status {status}"
    )
    well = not left and grows <= MOST_SLOPE and later <= earlier * 1.5 + 1 and status == 0
    return 0 if well else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
