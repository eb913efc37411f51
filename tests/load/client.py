"""The client: starts turns, listens to them, cuts and comes back, and counts."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.load.effort import Effort
from tests.load.plan import Plan
from tests.load.reader import LAST, Book, Event, Reader
from tests.load.spread import Spread
from tests.load.transports import LISTEN, Batches, Door, FarewellError, RefusedError, records, refused

_AGAIN = 0.25
"""Seconds, spread by half, between two tries to come back after a connection was lost by itself."""


@dataclass
class Storm:
    """One moment in which all were cut. `back`: seconds until each was connected again."""

    at: float
    cut: int
    back: Spread = field(default_factory=Spread)


@dataclass
class Second:
    """What one second of the run brought."""

    pieces: int = 0
    delay: Spread = field(default_factory=Spread)


@dataclass
class Tally:
    """Everything that a run finds out. Times are in seconds from its beginning."""

    started: Spread = field(default_factory=Spread)
    """From the request that starts a turn to `started`, for its first listener."""
    first_content: Spread = field(default_factory=Spread)
    gap: Spread = field(default_factory=Spread)
    """Between two moments in which a listener got pieces."""
    delay: Spread = field(default_factory=Spread)
    """From the moment when Coze had a piece due, where its text tells, to the listener."""
    turn: Spread = field(default_factory=Spread)
    wrong: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of turns: `completed`, `cancelled`, `error`, `unended` (cut off by the time), `not_started` (refused), and
    `left_out` (there was no time to start them)."""
    refusals: Counter[str] = field(default_factory=Counter)
    """By the problem's code."""
    reconnects: int = 0
    pieces: int = 0
    """Pieces that listeners got; several merged ones count as many where their text tells."""
    events: int = 0
    unfinished: int = 0
    """Listeners that were still waiting for their turn's end when the time was over."""
    open: int = 0
    seconds: list[Second] = field(default_factory=list)
    storms: list[Storm] = field(default_factory=list)


class Load:
    """One run of a plan. `tally` may be read while it runs."""

    def __init__(self, plan: Plan, url: str, *, token: str = "", listen_at: str = "") -> None:
        """`listen_at` is another node's URL, at which all of them listen; without it they listen at `url`."""
        self.plan = plan
        self.tally = Tally()
        self.effort = Effort()
        self.elapsed = 0.0
        self._url = url
        self._listen_at = listen_at
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._listeners: set[Listener] = set()
        self._begun = 0.0

    async def run(self) -> None:
        """Starts turns until the time is over, then lets those that run end, for as long as the plan's grace."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        connector = aiohttp.TCPConnector(limit=0)
        self._begun = time.perf_counter()
        self.effort.start()
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session:
                door = Door(session, self._url)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.plan.seconds + self.plan.grace), asyncio.TaskGroup() as group:
                        storms = group.create_task(self._storms())
                        await self._turns(door)
                        storms.cancel()
        finally:
            self.effort.stop()
            self.elapsed = time.perf_counter() - self._begun
            self.tally.outcomes["left_out"] += self.plan.turns - self.tally.outcomes.total()

    async def _turns(self, door: Door) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.plan.turns):
                if max(number / self.plan.rate, self.now()) > self.plan.seconds:
                    break
                wait = self._begun + number / self.plan.rate - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._turn(door, number))

    async def _turn(self, door: Door, number: int) -> None:
        """Starts a turn, then its listeners. Over SSE the first one reads the answer that started it."""
        body, book = self.plan.body(number), Book(self.plan.pieces if self.plan.simulated else 0)
        begun = time.perf_counter()
        outcome = "unended"
        try:
            async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
                batches: Batches | None = None
                if self.plan.transport == "sse" and not self._listen_at:
                    call = door.session.post(f"{door.url}/api/coze/chat/stream", json=body)
                    response = await stack.enter_async_context(call)
                    if response.status != 200:
                        raise await refused(response)
                    turn = response.headers["X-Turn-Id"]
                    batches = await stack.enter_async_context(contextlib.aclosing(records(response)))
                else:
                    call = door.session.post(f"{door.url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"})
                    async with call as response:
                        if response.status not in (200, 202):
                            raise await refused(response)
                        turn = response.headers["X-Turn-Id"]
                there = Door(door.session, self._listen_at or door.url)
                first = Listener(self, there, turn, book, begun, first=True)
                for listener in (
                    first,
                    *(Listener(self, there, turn, book, begun) for _ in range(1, self.plan.listeners)),
                ):
                    group.create_task(listener.run(batches if listener is first else None))
            outcome = first.reader.ended or outcome
        except* RefusedError as errors:
            self.tally.refusals.update(str(error) for error in errors.exceptions)
            outcome = "not_started"
        except* (aiohttp.ClientError, OSError) as errors:
            self.tally.refusals.update(type(error).__name__ for error in errors.exceptions)
            outcome = "not_started"
        finally:
            self.tally.outcomes[outcome] += 1

    async def _storms(self) -> None:
        """Spreads the storms over the time in which turns run."""
        answer = self.plan.pieces / self.plan.pace if self.plan.simulated and self.plan.pace else 5.0
        lasts = min(self.plan.seconds, self.plan.turns / self.plan.rate + answer)
        for number in range(self.plan.storms):
            await asyncio.sleep(
                max(0.0, self._begun + lasts * (number + 1) / (self.plan.storms + 1) - time.perf_counter())
            )
            storm = Storm(self.now(), 0)
            self.tally.storms.append(storm)
            for listener in list(self._listeners):
                storm.cut += listener.cut(storm)

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._begun

    @property
    def ending(self) -> bool:
        """Whether no turn is started any more, and those that run are waited for."""
        return self.now() > self.plan.seconds

    def second(self) -> Second:
        """The second of the run that it is now."""
        seconds, number = self.tally.seconds, int(self.now())
        while len(seconds) <= number:
            seconds.append(Second())
        return seconds[number]

    def joined(self, listener: "Listener") -> None:
        self._listeners.add(listener)
        self.tally.open = len(self._listeners)

    def left(self, listener: "Listener") -> None:
        self._listeners.discard(listener)
        self.tally.open = len(self._listeners)


class Listener:
    """One listener of a turn, through all of its connections, to the turn's last event."""

    def __init__(self, load: Load, door: Door, turn: str, book: Book, begun: float, *, first: bool = False) -> None:
        self._load = load
        self._door = door
        self._turn = turn
        self._begun = begun
        self._first = first
        self._storm: Storm | None = None
        self._cut_at = 0.0
        self._last = 0.0
        self._connection: asyncio.Task[None] | None = None
        self.reader = Reader(book, load.tally.wrong)

    def cut(self, storm: Storm) -> bool:
        """Ends its connection, if it has one, with no word to the gateway."""
        if self._connection is None or self._connection.done() or self._storm is not None or self.reader.ended:
            return False
        self._storm, self._cut_at = storm, time.perf_counter()
        self._connection.cancel()
        return True

    async def run(self, batches: Batches | None = None) -> None:
        """Listens to the end. `batches`: a connection that stands already."""
        load = self._load
        listen = LISTEN[load.plan.transport]
        load.joined(self)
        try:
            while not self.reader.ended:
                wait = 0.0
                batches = batches or listen(self._door, self._turn, self.reader.position)
                self._connection = asyncio.create_task(self._read(batches))
                try:
                    await asyncio.wait([self._connection])
                finally:
                    self._connection.cancel()
                batches = None
                if self._connection.cancelled():
                    continue  # a storm: back at once
                match self._connection.exception():
                    case None:
                        return  # with its last event, or after a 204 that should not have been
                    case FarewellError() as farewell:
                        wait = farewell.seconds
                        load.tally.refusals.update([farewell.code] if farewell.code else [])
                    case RefusedError() as error:
                        load.tally.refusals[error.code] += 1
                        wait = error.retry_after
                    case aiohttp.ClientError() | OSError():
                        pass
                    case error:
                        raise error
                load.tally.reconnects += 1
                await asyncio.sleep(max(wait, _AGAIN) * random.uniform(0.5, 1.5))
        finally:
            load.left(self)
            if not self.reader.ended:
                if load.now() >= load.plan.seconds + load.plan.grace:
                    load.tally.unfinished += 1
                else:
                    load.tally.wrong["unended"] += 1

    async def _read(self, batches: Batches) -> None:
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if batch:
                    self._take(batch)
                elif self._storm is not None:
                    self._storm.back.add(time.perf_counter() - self._cut_at)
                    self._storm = None
                if self.reader.ended:
                    return

    def _take(self, batch: list[Event]) -> None:
        tally, now, clock = self._load.tally, time.perf_counter(), time.time()
        second = self._load.second()
        pieces = 0
        for event in batch:
            tally.events += 1
            due = self.reader.take(event)
            if event.event == "message":
                pieces += len(due) or 1
                for moment in due:
                    tally.delay.add(clock - moment)
                    second.delay.add(clock - moment)
            elif event.event == "started" and self._first:
                tally.started.add(now - self._begun)
            elif event.event in LAST:
                tally.turn.add(now - self._begun)
                if event.event == "error":
                    tally.refusals[event.code or "error"] += self._first
        if pieces:
            tally.pieces += pieces
            second.pieces += pieces
            if self._last:
                tally.gap.add(now - self._last)
            elif self._first:
                tally.first_content.add(now - self._begun)
            self._last = now


Watch = Callable[[Load], Any]


async def run_load(
    plan: Plan,
    url: str,
    *,
    token: str = "",
    listen_at: str = "",
    watch: Watch | None = None,
    every: float = 0.25,
) -> Load:
    """Runs a plan against the gateway at `url`; `watch` is called now and then, to show how it goes."""
    load = Load(plan, url.rstrip("/"), token=token, listen_at=listen_at.rstrip("/"))
    running = asyncio.create_task(load.run())
    try:
        while watch is not None and not running.done():
            await asyncio.wait([running], timeout=every)
            watch(load)
        await running
    finally:
        running.cancel()
        await asyncio.wait([running])
    return load
