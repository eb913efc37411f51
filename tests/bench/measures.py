"""The measures: each loads a server in one way and returns figures. Times are in ms, processor time in µs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from tests.load.client import Load, run_load
from tests.load.own import Own, Usage
from tests.load.plan import Plan
from tests.load.reader import Event
from tests.load.spread import Spread
from tests.load.transports import Door, records, sse

Figures = dict[str, float]
Measure = Callable[[Own, float], Awaitable[Figures]]
"""Given a server and the share of the full load to put on it."""


class WrongError(Exception):
    """A server's answers were incomplete, so its figures are worthless."""


async def _load(own: Own, plan: Plan, figures: Figures) -> Load:
    load = await run_load(plan, own.url)
    if load.tally.wrong.total() or load.tally.outcomes["completed"] != plan.turns:
        raise WrongError(f"{dict(+load.tally.wrong)}, {dict(+load.tally.outcomes)}, {dict(load.tally.refusals)}")
    # The figures of a client that is the limit are its own: they are kept, and the table says so.
    figures["client_share"] = max(figures.get("client_share", 0.0), load.effort.peak)
    return load


async def warm(own: Own) -> None:
    """Some turns that are not measured, for imports, caches and the first connections."""
    await _load(own, Plan(simulated=True, turns=10, listeners=2, rate=100, pieces=20, pace=100, seconds=30), {})


async def relay(own: Own, share: float) -> Figures:
    """Many turns at once, one listener each: what a piece costs, starts and ends included."""
    figures: Figures = {}
    turns = max(10, int(200 * share))
    before = Usage.of(own.pid)
    load = await _load(
        own, Plan(simulated=True, turns=turns, listeners=1, rate=turns / 2, pieces=200, pace=50, seconds=60), figures
    )
    cpu = Usage.of(own.pid).cpu - before.cpu
    tally = load.tally
    return figures | {"cpu_us": cpu / tally.pieces * 1e6} | _delays(tally.delay)


async def fanout(own: Own, share: float) -> Figures:
    """One turn, many listeners: what a delivery costs."""
    figures: Figures = {}
    listeners = max(20, int(300 * share))
    before = Usage.of(own.pid)
    load = await _load(
        own, Plan(simulated=True, turns=1, listeners=listeners, pieces=200, pace=50, seconds=60), figures
    )
    cpu = Usage.of(own.pid).cpu - before.cpu
    return figures | {"cpu_us": cpu / load.tally.pieces * 1e6} | _delays(load.tally.delay)


async def first_byte(own: Own, share: float) -> Figures:
    """Turns one after the other on a quiet server: how soon each says `started`."""
    figures: Figures = {}
    turns = max(20, int(100 * share))
    load = await _load(
        own, Plan(simulated=True, turns=turns, listeners=1, rate=25, pieces=2, pace=100, seconds=60), figures
    )
    tally = load.tally
    quantiles = {"started_p50": tally.started.quantile(0.5), "started_p99": tally.started.quantile(0.99)}
    return figures | {name: seconds * 1000 for name, seconds in quantiles.items()} | _delays(tally.delay)


async def idle(own: Own, share: float) -> Figures:
    """Listeners of quiet conversations: the memory of each, and how fast they come."""
    listeners = max(200, int(2000 * share))
    async with session_of_its_own() as session, contextlib.AsyncExitStack() as stack:
        body = Plan(simulated=True, pieces=1, pace=100).body(0)

        async def begin() -> str:
            async with session.post(f"{own.url}/api/coze/chat/stream", json=body | {"userId": "idle"}) as response:
                await response.read()
                return response.headers["X-Conversation-Id"]

        conversations = await asyncio.gather(*(begin() for _ in range(20)))
        paths = [f"{own.url}/api/coze/conversations/{name}/events" for name in conversations]

        async def listen(number: int) -> None:
            await stack.enter_async_context(session.get(paths[number % len(paths)]))

        for number in range(20):
            await listen(number)
        before, begun = Usage.of(own.pid), time.perf_counter()
        for number in range(0, listeners, 50):
            await asyncio.gather(*(listen(n) for n in range(number, number + 50)))
        seconds = time.perf_counter() - begun
        async with session.get(f"{own.url}/healthz") as response:  # whoever answers has done with the last of them
            await response.read()
        now = Usage.of(own.pid)
        return {"kib": (now.resident - before.resident) * 1024 / listeners, "connects_per_s": listeners / seconds}


async def resume(own: Own, share: float) -> Figures:
    """Readers that come back one by one to a running turn, 10, 1,000 and 10,000 pieces behind."""
    pieces, readers = max(2000, int(10_100 * share)), 100
    # The last ones come slowly, so that the reader gets them one by one and knows the ids between them.
    question = f"/fault clock rate:{pieces / 4:g} pieces:{pieces} slowly:40 hold:60000 -- resume"
    async with session_of_its_own() as session:
        ids, text = await _places(session, own.url, question, pieces)
        turn, last = ids.pop(-1), ids[pieces]
        figures = {}
        for behind in (10, 1_000, 10_000):
            if behind >= pieces:
                continue
            nearest = min(ids.keys() - {pieces}, key=lambda count: abs(pieces - behind - count))
            spread, before = Spread(), Usage.of(own.pid).cpu
            for _ in range(readers):
                begun = time.perf_counter()
                got = await _caught_up(Door(session, own.url), turn, ids[nearest], last)
                spread.add(time.perf_counter() - begun)
                if not text.endswith(got) or got.count(" ") != pieces - nearest:
                    raise WrongError(f"resumed {behind} behind, the text is not what it should be")
            figures[f"behind_{behind}_ms"] = spread.quantile(0.5) * 1000
            figures[f"behind_{behind}_cpu_us"] = (Usage.of(own.pid).cpu - before) / readers * 1e6
        return figures


async def _places(session: aiohttp.ClientSession, url: str, question: str, pieces: int) -> tuple[dict[int, str], str]:
    """Starts a turn; what id a reader has after how many pieces (under -1: the turn's), and its text. It runs on."""
    ids: dict[int, str] = {}
    text: list[str] = []
    body = {"userId": "resume", "botId": "load", "message": question}
    async with session.post(f"{url}/api/coze/chat/stream", json=body) as response:
        ids[-1] = response.headers["X-Turn-Id"]
        count = 0
        async with asyncio.timeout(30), contextlib.aclosing(records(response)) as batches:
            async for event in _events(batches):
                if event.event == "message" and event.id is not None:
                    text.append(event.content or "")
                    count += text[-1].count(" ")
                    ids[count] = event.id
                    if count == pieces:
                        break
    return ids, "".join(text)


async def _caught_up(door: Door, turn: str, after: str, last: str) -> str:
    text = []
    async with asyncio.timeout(30), contextlib.aclosing(sse(door, turn, after)) as batches:
        async for event in _events(batches):
            text.append(event.content or "")
            if event.id == last:
                break
    return "".join(text)


async def _events(batches: AsyncIterator[list[Event]]) -> AsyncIterator[Event]:
    async for batch in batches:
        for event in batch:
            yield event


async def one_stream(own: Own, share: float) -> Figures:
    """One turn of 50 pieces a second: what is added between Coze's clock and the listener's."""
    figures: Figures = {}
    pieces = max(50, int(500 * share))
    load = await _load(own, Plan(simulated=True, turns=1, listeners=1, pieces=pieces, pace=50, seconds=60), figures)
    return figures | _delays(load.tally.delay)


def _delays(spread: Spread) -> Figures:
    return {"delay_p50": spread.quantile(0.5) * 1000, "delay_p99": spread.quantile(0.99) * 1000}


def session_of_its_own() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
