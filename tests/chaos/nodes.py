"""One chaos run over three nodes on a PostgreSQL of their own, each of which breaks by itself."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import aiohttp
import psycopg

from tests.chaos.crowd import Crowd, balanced, without_a_fault
from tests.chaos.plan import Strike, has_redis, node_strikes
from tests.chaos.servers import Programs, Servers, servers_of
from tests.faults.coze import SWIFT, simulated
from tests.faults.proxy import Proxy, proxied
from tests.faults.reading import Broken, client
from tests.processes import ROOT, GatewayProcess
from tests.waiting import until

LIVENESS = 15.0
NODES = 3
LASTS = (0.3, 1.0, 2.5, 5.0, 8.0)
"""Seconds of a pause or a cut: also longer than a node's lease."""

_AWAY = 1
"""The exit status of a node that finds no PostgreSQL."""

SETTINGS = SWIFT | {"GATEWAY_RETENTION_SECONDS": "600", "GATEWAY_SEND_TIMEOUT": "5"}


class Node:
    """One position in the cluster: its processes, one after the other, and its lines to PostgreSQL and to Redis."""

    def __init__(self, line: Proxy, to_redis: Proxy | None, settings: dict[str, str], planted: str) -> None:
        self.line = line
        self.to_redis = to_redis
        self._settings = settings
        self._planted = planted
        self.lives: list[GatewayProcess] = []
        self.hurt = asyncio.Lock()
        """Held while something befalls it."""

    async def start(self) -> None:
        """Starts it, again and again while PostgreSQL is away, as a supervisor does."""
        while True:
            module, planted = ("tests.chaos.planted", [self._planted]) if self._planted else ("gateway", [])
            life = await GatewayProcess.hatch(
                *planted, "serve", "--port", "0", environment=self._settings, module=module
            )
            self.lives.append(life)
            try:
                await life.ready(within=60)
                return
            except AssertionError:
                if await life.ended() != _AWAY:
                    raise

    @property
    def life(self) -> GatewayProcess:
        return self.lives[-1]

    @property
    def url(self) -> str:
        return self.life.url or "http://127.0.0.1:9"

    async def stop(self) -> None:
        if (status := await self.life.terminate(within=30)) != 0:
            raise Broken(f"a stop ended with status {status}:\n" + "\n".join(self.life.text[-5:]))


class Nodes:
    """The parts of a run."""

    def __init__(self, crowd: Crowd, to_coze: Proxy, nodes: list[Node], servers: Servers) -> None:
        self.crowd = crowd
        self.nodes = nodes
        self.servers = servers
        self.blows: Counter[str] = Counter()
        self._to_coze = to_coze
        self._lasting: set[asyncio.Task[None]] = set()

    async def strike(self, strike: Strike, chance: random.Random, seconds: float) -> None:
        """Begins a blow; the next one may come before this one is over. A pause or a cut takes so many seconds."""
        await asyncio.sleep(strike.after)
        self.blows[strike.blow] += 1
        task = asyncio.create_task(self._befall(strike, chance.choice(self.nodes), seconds))
        self._lasting.add(task)

    async def over(self) -> None:
        """Waits until every blow is over."""
        await asyncio.gather(*self._lasting)

    async def _befall(self, strike: Strike, node: Node, seconds: float) -> None:
        match strike.blow:
            case "kill" | "stop" | "pause" | "cut off" | "cut off redis" | "cut database":
                async with node.hurt:
                    await self._befall_node(strike, node, seconds)
            case "restart all":
                for one in self.nodes:
                    async with one.hurt:
                        await one.stop()
                        await one.start()
            case "stop database" | "crash database" | "pause database" | "silence database" | "fail over":
                if await self.servers.befall(strike):
                    for one in self.nodes:
                        one.line.target(self.servers.primary.socket)
                        one.line.cut_all()
            case "stop redis" | "pause redis":
                await self.servers.befall_redis(strike)
            case "cut coze":
                self._to_coze.cut_all("reset" if strike.hard else "close")
            case _:
                self._to_coze.freeze()
                await asyncio.sleep(strike.lasts)
                self._to_coze.thaw()

    async def _befall_node(self, strike: Strike, node: Node, seconds: float) -> None:
        match strike.blow:
            case "kill":
                await node.life.kill()
                await asyncio.sleep(strike.lasts)
                await node.start()
            case "stop":
                await node.stop()
                await node.start()
            case "pause":
                node.life.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                node.life.send_signal(signal.SIGCONT)
            case "cut off" | "cut off redis":
                if (line := node.line if strike.blow == "cut off" else node.to_redis) is not None:
                    await _cut_off(line, strike, seconds)
            case _:
                node.line.cut_all("reset" if strike.hard else "close")


async def _cut_off(line: Proxy, strike: Strike, seconds: float) -> None:
    """Nothing passes any more; `hard`: and nobody is told so."""
    if strike.hard:
        line.freeze()
        await asyncio.sleep(seconds)
        line.thaw()
    else:
        line.refuse()
        line.cut_all("close")
        await asyncio.sleep(seconds)
        await line.listen()


@contextlib.asynccontextmanager
async def nodes_of(seed: int, servers: Servers, planted: str) -> AsyncIterator[Nodes]:
    async with contextlib.AsyncExitStack() as stack:
        coze = await stack.enter_async_context(simulated(first_ms=80, rate=60))
        to_coze = await stack.enter_async_context(proxied(coze.url))
        nodes = []
        for _ in range(NODES):
            line = await stack.enter_async_context(proxied(servers.primary.socket))
            reached = servers.url_by(urlsplit(line.url).netloc)
            settings = SETTINGS | {"COZE_API_BASE": to_coze.url, "GATEWAY_DATABASE_URL": reached}
            to_redis = None
            if servers.redis is not None:
                to_redis = await stack.enter_async_context(proxied(servers.redis.url))
                settings["GATEWAY_BUS_URL"] = f"redis://{urlsplit(to_redis.url).netloc}/0"
            nodes.append(Node(line, to_redis, settings, planted))
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            crowd = Crowd(seed, coze, lambda chance: chance.choice(nodes).url)
            yield Nodes(crowd, to_coze, nodes, servers)
        finally:
            for node in nodes:
                for life in node.lives:
                    life.send_signal(signal.SIGCONT)
                    await life.kill()


async def run_nodes(
    seed: int,
    seconds: float,
    programs: Programs,
    *,
    planted: str = "",
    rest: float = LIVENESS,
    say: Callable[[str], None] = lambda _: None,
) -> Nodes:
    """One whole run. Raises an exception group that holds `Broken` when a promise is, or the nodes find no rest."""
    plan = node_strikes(seed, seconds, planted)
    with servers_of(programs, with_redis=has_redis(seed)) as servers:
        await servers.make(fails_over=any(one.blow == "fail over" for one in plan))
        async with nodes_of(seed, servers, planted) as here, _kept(here, seed), client() as session:
            chance = random.Random(f"{seed} nodes")

            async def strike() -> None:
                for one in plan:
                    await here.strike(one, chance, LASTS[-1] if planted else chance.choice(LASTS))
                    say(f"{one.blow} after {one.after:.2f}")
                await here.over()

            await here.crowd.gather(session, strike, rest)
            here.crowd.judge()
            await _dead_nodes_are_buried(servers.url)
            await _judge_nodes(here, session)
            await _sound(servers.url)
            return here


@contextlib.asynccontextmanager
async def _kept(here: Nodes, seed: int) -> AsyncIterator[None]:
    """Keeps what the nodes of a failed run logged."""
    try:
        yield
    except Exception as error:
        folder = ROOT / "build" / f"chaos-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, node in enumerate(here.nodes):
            for life, process in enumerate(node.lives):
                (folder / f"node-{number}-{life}.log").write_text("\n".join(process.text))
        error.add_note(f"the nodes' logs are in {folder.relative_to(ROOT)}")
        raise


async def _dead_nodes_are_buried(url: str) -> None:
    """A node that died when all its turns were over is buried, too, and what it had not saved is saved by others."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def are_buried() -> bool:
            found = await (await connection.execute("SELECT count(*) FROM log_nodes")).fetchone()
            unsaved = await (
                await connection.execute("SELECT 1 FROM log_stretches WHERE NOT kept AND turn <> ''")
            ).fetchall()
            return found == (NODES,) and not unsaved

        try:
            await until(are_buried, within=LIVENESS)
        except TimeoutError:
            raise Broken(f"{LIVENESS:g} s later, dead nodes are not buried, or turns not saved") from None


async def _judge_nodes(here: Nodes, session: aiohttp.ClientSession) -> None:
    for node in here.nodes:
        await here.crowd.judge_at(session, node.url)
        await here.crowd.judge_staff(session, node.url)
        await balanced(session, node.url)
    for node in here.nodes:
        await node.stop()
        for life in node.lives:
            without_a_fault("\n".join(life.text))


async def _sound(url: str) -> None:
    """Every turn's stretch has ended and is kept, and no position was given twice. A shop's newest one is open."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        left = await (
            await connection.execute("SELECT number, turn FROM log_stretches WHERE NOT kept AND turn <> ''")
        ).fetchall()
        if left:
            raise Broken(f"left unsaved: {left}")
        twice = await (
            await connection.execute(
                "SELECT a.turn, b.turn FROM log_stretches a JOIN log_stretches b ON a.key = b.key"
                " AND a.number < b.number AND a.first <= b.last AND b.first <= a.last AND a.first <= a.last"
                " AND b.first <= b.last"
            )
        ).fetchall()
        if twice:
            raise Broken(f"two stretches have the same positions: {twice}")
