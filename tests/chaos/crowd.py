"""The crowd of a chaos run: askers and listeners, and the checks of everything that they were given."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from gateway.simulator import Simulator, whole_text
from tests.chaos.plan import question
from tests.faults.coze import BASELINE_KINDS, ledger, patience
from tests.faults.reading import GONE, TRANSPORTS, Broken, Reader, Refused

R = TypeVar("R")

ERRORS = {
    "upstream_uncertain",
    "upstream_unavailable",
    "upstream_failed",
    "storage_unavailable",
    "conversation_busy",
}
"""What a turn may end with, when what it needed was broken at its moment."""

ASKERS = 4
SHOP = "staff"
"""Half of the askers ask in this shop, whose staff is told of their turns."""

STAFF_KNOWS = 10.0
"""Seconds after the last end, within which the staff knows of it."""

BUSY = ("queue", "queue", "interrupt")
"""What a question asks for if another turn runs in its conversation."""


@dataclass
class Told:
    """One turn: what was asked, and everyone who heard it. `joins`: in a conversation that there was already, with this
    `onBusy`. `interruptible`: a question that was asked at the same time may interrupt it."""

    message: str
    key: str
    reader: Reader
    listeners: list[Reader] = field(default_factory=list)
    joins: str = ""
    interruptible: bool = False
    shop: str = ""


class Crowd:
    """`door` gives the URL at which the next request is made. `calm` is set when the blows are over."""

    def __init__(self, seed: int, coze: Simulator, door: Callable[[random.Random], str]) -> None:
        self.seed = seed
        self.coze = coze
        self.told: list[Told] = []
        self.calm = asyncio.Event()
        self._door = door

    async def gather(self, session: aiohttp.ClientSession, strike: Callable[[], Awaitable[None]], rest: float) -> None:
        """Asks and listens while `strike` goes on. All turns must have ended so many seconds after it."""
        async with asyncio.TaskGroup() as askers:
            for number in range(ASKERS):
                askers.create_task(self._ask(session, random.Random(f"{self.seed} asker {number}"), f"asker-{number}"))
            await strike()
            self.calm.set()
            askers.create_task(self._rest(rest))

    async def _ask(self, session: aiohttp.ClientSession, chance: random.Random, name: str) -> None:
        """Asks again and again: one question in a new conversation, or up to three at once in the last one."""
        number, conversation = 0, ""
        shop = SHOP if random.Random(f"{self.seed} {name}'s shop").random() < 0.5 else ""
        while not self.calm.is_set():
            joins = [""]
            if conversation and chance.random() < 0.5:
                joins = [chance.choice(BUSY) for _ in range(chance.randrange(1, 4))]
            asked: list[Told] = []
            for one in joins:
                number += 1
                told = Told(question(chance, f"{name} {number}"), f"{self.seed}-{name}-{number}", Reader(), joins=one)
                told.interruptible = "interrupt" in joins
                told.shop = shop
                asked.append(told)
            self.told += asked
            telling = [self._tell(session, told, random.Random(chance.random()), conversation) for told in asked]
            await asyncio.gather(*telling)
            conversation = asked[-1].reader.conversation_id
            await asyncio.sleep(chance.uniform(0, 0.2))

    async def _tell(self, session: aiohttp.ClientSession, told: Told, chance: random.Random, conversation: str) -> None:
        """Asks one question, and reads the answer to its end, while others listen."""
        fields = {"conversationId": conversation, "onBusy": told.joins} if told.joins else {}
        if told.shop:
            fields["shopId"] = told.shop
        asking = self._follow(session, told.reader, told, random.Random(chance.random()), fields)
        listening = [self._overhear(session, told, random.Random(chance.random())) for _ in range(chance.randrange(3))]
        await asyncio.gather(asking, *listening)

    async def _follow(
        self, session: aiohttp.ClientSession, reader: Reader, told: Told, chance: random.Random, fields: dict[str, str]
    ) -> None:
        while not reader.turn_id:
            try:
                await reader.ask(session, self._door(chance), told.message, key=told.key, **fields)
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
                await reader.listen(session, self._door(chance), chance.choice(TRANSPORTS), pieces=pieces)
            except GONE:
                pass
            except Refused as refused:
                if refused.status != 503:
                    raise Broken(f"{reader.turn_id}: {refused}") from refused
            if not reader.over:
                await asyncio.sleep(0.03)

    def judge(self) -> None:
        """Checks everything that the crowd was given."""
        asked = len(self.told)
        if self.coze.chats_started > asked:
            raise Broken(f"{self.coze.chats_started} chats for {asked} messages")
        for told in self.told:
            reader = told.reader
            last = reader.last
            posts = self.coze.posts_of(told.message)
            if posts > (4 if told.joins else 1):  # Coze refuses a message while the conversation is busy there
                raise Broken(f"{told.message!r} was sent {posts} times")
            if last["event"] == "completed":
                if reader.text != whole_text(told.message):
                    raise Broken(f"{told.message!r} got {reader.text[-80:]!r}")
            elif last["event"] == "cancelled":
                if not told.interruptible:
                    raise Broken(f"{told.message!r} was interrupted by nobody")
            elif last["code"] not in ERRORS:
                raise Broken(f"{told.message!r} ended with {last}")
            for one in (reader, *told.listeners):
                if one.last != last or one.text != reader.text:
                    raise Broken(f"{told.message!r} ended in two ways: {last} and {one.last}")
                if one.resets:
                    raise Broken(f"{told.message!r}: a reset: {one.named('reset')}")

    async def judge_at(self, session: aiohttp.ClientSession, url: str) -> None:
        """Checks that this gateway's state of every turn is what the turn's readers were given."""
        for told in self.told:
            reader = told.reader
            async with session.get(f"{url}/api/coze/turns/{reader.turn_id}") as response:
                stands: dict[str, Any] = await response.json()
            if (stands["status"], stands["content"]) != (_outcome(reader), reader.text):
                raise Broken(f"{told.message!r} stands as {stands}, its last event was {reader.last}")

    async def judge_staff(self, session: aiohttp.ClientSession, url: str) -> None:
        """Checks that the shop's staff is told once of each turn's beginning and of its end."""
        wanted = {
            told.reader.turn_id: ["turn.started", f"turn.{_outcome(told.reader)}"] for told in self.told if told.shop
        }
        loop = asyncio.get_running_loop()
        until = loop.time() + patience(STAFF_KNOWS)
        while (heard := await _staff(session, url)) != wanted:
            if loop.time() > until:
                wrong = {turn: heard.get(turn) for turn, types in wanted.items() if heard.get(turn) != types}
                raise Broken(f"the staff at {url} was told {wrong or heard.keys() - wanted.keys()}")
            await asyncio.sleep(0.2)

    async def _rest(self, seconds: float) -> None:
        """Raises `Broken` if a reader still waits for an end long after the last blow."""
        for _ in range(round(patience(seconds) * 20)):
            if all(one.over for told in self.told for one in (told.reader, *told.listeners)):
                return
            await asyncio.sleep(0.05)
        waiting = [
            (told.message, one.turn_id, one.events[-3:])
            for told in self.told
            for one in (told.reader, *told.listeners)
            if not one.over
        ]
        raise Broken(f"not at rest {seconds} s after the last blow: {waiting}")

    def outcomes(self) -> Counter[str]:
        return Counter(str(t.reader.last.get("code") or t.reader.last["event"]) for t in self.told if t.reader.over)


def _outcome(reader: Reader) -> str:
    return "failed" if reader.last["event"] == "error" else str(reader.last["event"])


async def _staff(session: aiohttp.ClientSession, url: str) -> dict[str, list[str]]:
    """What the shop's staff was told of each turn, in order."""
    heard: dict[str, list[str]] = {}
    after, more = "0", True
    while more:
        async with session.get(f"{url}/api/coze/shops/{SHOP}/poll", params={"after": after, "wait": "0"}) as response:
            page = await response.json()
        after, more = page["next"], bool(page["events"])
        for event in page["events"]:
            heard.setdefault(event["turnId"], []).append(event["type"])
    return heard


async def balanced(session: aiohttp.ClientSession, url: str) -> None:
    """Raises `Broken` if a gateway still holds resources when no client is left."""
    held: dict[str, int] = {}
    for _ in range(100):
        held = {k: v for k, v in (await ledger(session, url)).items() if k in BASELINE_KINDS and v}
        if not held:
            return
        await asyncio.sleep(0.05)
    raise Broken(f"still held five seconds later: {held}")


def without_a_fault(logged: str) -> None:
    """Raises `Broken` for a gateway that logged a bug."""
    if "Traceback" in logged:
        raise Broken(logged[logged.index("Traceback") - 500 :][:3000])


async def side_by_side(seeds: Iterable[int], run: Callable[[int], Awaitable[R]]) -> list[R]:
    """Plays these seeds at once. An error names its seed."""

    async def one(seed: int) -> R:
        try:
            return await run(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(one(seed)) for seed in seeds]
    return [run.result() for run in runs]
