"""The bench of several nodes beside the single one: `python -m tests.bench.nodes [--rounds R] [--share S]`.

Everything runs on this machine's own cores, so what counts is processor time per piece and per delivery, and delays
under a load that leaves the cores room; throughput of many machines can't be measured on one.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import uvloop

from tests.bench import measures
from tests.bench.measures import Figures, WrongError
from tests.bench.rounds import median
from tests.bench.servers import attentive, on_core, upstream
from tests.databases import PostgresServer, postgres_server
from tests.load.client import Load, run_load
from tests.load.own import Own, Usage, end_on_sigterm, own_gateway
from tests.load.plan import Plan, allow_files
from tests.load.transports import Door, sse
from tests.processes import ROOT
from tests.programs import program
from tests.redis_servers import redis_server

GOALS = (
    ("relay, PostgreSQL over SQLite: processor time per piece", "relay_ratio", 1.15, "×"),
    ("delay at the owner, 200 turns at 40/s, p50", "owner.delay_p50", 10, "ms"),
    ("the same, p99", "owner.delay_p99", 40, "ms"),
    ("delay at another node without Redis, p50", "other.delay_p50", 0, "ms"),
    ("the same, p99", "other.delay_p99", 100, "ms"),
    ("delay at another node with Redis, p50", "redis.delay_p50", 0, "ms"),
    ("the same, p99", "redis.delay_p99", 50, "ms"),
    ("a follower's processor time per delivered piece, over the owner's", "follower_ratio", 1.0, "×"),
    ("delay at the single node, p50", "single.delay_p50", 0, "ms"),
    ("the same, p99", "single.delay_p99", 0, "ms"),
    ("`started` at the single node, p50", "first.started_p50", 0, "ms"),
    ("the same, p99", "first.started_p99", 0, "ms"),
    ("`started` with PostgreSQL, p50", "started.started_p50", 10, "ms"),
    ("the same, p99", "started.started_p99", 50, "ms"),
    ("1,000 listeners of a dead node, 100 pieces behind, until all are at the top", "back.back_s", 3, "s"),
)
"""What it is called, the figure, its goal (0: none), its unit."""


async def _load(plan: Plan, url: str, *, listen_at: str = "") -> Load:
    load = await run_load(plan, url, listen_at=listen_at)
    if load.tally.wrong.total() or load.tally.outcomes["completed"] != plan.turns:
        raise WrongError(f"{dict(+load.tally.wrong)}, {dict(+load.tally.outcomes)}, {dict(load.tally.refusals)}")
    return load


async def relay(own: Own, share: float) -> Figures:
    """500 turns at once of 50 pieces a second: what a piece costs its gateway."""
    turns = max(10, int(500 * share))
    before = Usage.of(own.pid)
    plan = Plan(simulated=True, turns=turns, listeners=1, rate=turns / 3, pieces=250, pace=50, seconds=120)
    load = await _load(plan, own.url)
    return {"cpu_us": (Usage.of(own.pid).cpu - before.cpu) / load.tally.pieces * 1e6, "client": load.effort.peak}


async def delays(nodes: Sequence[Own], share: float, *, at: int) -> Figures:
    """200 turns of 40 pieces a second which the first node runs, with a listener each at node `at`."""
    turns = max(10, int(200 * share))
    plan = Plan(simulated=True, turns=turns, listeners=1, rate=turns / 5, pieces=400, pace=40, seconds=120)
    before = [Usage.of(node.pid).cpu for node in nodes]
    load = await _load(plan, nodes[0].url, listen_at=nodes[at].url if at else "")
    used = [Usage.of(node.pid).cpu - cpu for node, cpu in zip(nodes, before, strict=True)]
    delay = load.tally.delay
    return {
        "cpu_us": used[at] / load.tally.pieces * 1e6,
        "owner_cpu_us": used[0] / load.tally.pieces * 1e6,
        "delay_p50": delay.quantile(0.5) * 1000,
        "delay_p99": delay.quantile(0.99) * 1000,
        "client": load.effort.peak,
    }


async def back(nodes: Sequence[Own], share: float) -> Figures:
    """Listeners whose node has died come to the other one, which runs their turn, 100 pieces behind."""
    listeners = max(50, int(1000 * share))
    question = "/fault clock plain first:10 rate:40 pieces:400 -- back"
    async with measures.session_of_its_own() as session:
        body = {"userId": "back", "botId": "load", "message": question}
        headers = {"Prefer": "wait=0"}
        async with session.post(f"{nodes[0].url}/api/coze/chat", json=body, headers=headers) as response:
            turn = response.headers["X-Turn-Id"]
        door = Door(session, nodes[0].url)
        ids: list[str] = []
        async with asyncio.timeout(60), contextlib.aclosing(sse(door, turn, None)) as batches:
            async for batch in batches:
                ids.extend(event.id for event in batch if event.event == "message" and event.id)
                if len(ids) > 150:
                    break
        begun = time.perf_counter()
        top = ids[-1]

        async def come_back() -> None:
            async with contextlib.aclosing(sse(door, turn, ids[-101])) as batches:
                async for batch in batches:
                    if any(event.id is not None and _number(event.id) >= _number(top) for event in batch):
                        return

        async with asyncio.TaskGroup() as group:
            for _ in range(listeners):
                group.create_task(come_back())
        seconds = time.perf_counter() - begun
    return {"back_s": seconds}


def _number(position: str) -> int:
    return int(position.rpartition("-")[2])


@contextlib.asynccontextmanager
async def nodes_of(
    count: int, coze: str, server: PostgresServer, *, pinned: bool = True, **settings: str
) -> AsyncIterator[list[Own]]:
    """Warm nodes, all of them on one core where they are `pinned`."""
    url = await server.make()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            with on_core(1) if pinned else contextlib.nullcontext():
                own = await stack.enter_async_context(own_gateway(coze, GATEWAY_DATABASE_URL=url, **settings))
            found.append(own)
        for own in found:
            await measures.warm(own)
        yield found


async def run(programs: Path, *, rounds: int, share: float, redis: str) -> dict[str, Figures]:
    """The medians of each measure. Each round measures the single node, too. `redis` is the path of its server."""
    end_on_sigterm()
    found: dict[str, list[Figures]] = defaultdict(list)

    def note(name: str, figures: Figures) -> None:
        found[name].append(figures)
        sys.stderr.write(f"{name}: {', '.join(f'{k} {v:.3g}' for k, v in figures.items())}\n")

    with on_core(0), postgres_server(programs, durable=True) as server:
        for _ in range(rounds):
            async with upstream() as coze:
                async with contextlib.AsyncExitStack() as stack:
                    with on_core(1):
                        own = await stack.enter_async_context(own_gateway(coze))
                    await measures.warm(own)
                    note("first", await measures.first_byte(own, share))  # before the others leave work behind
                    note("sqlite", await relay(own, share))
                    note("single", await delays([own], share, at=0))
                async with nodes_of(1, coze, server) as nodes:
                    note("started", await measures.first_byte(nodes[0], share))
                    note("postgres", await relay(nodes[0], share))
                async with nodes_of(2, coze, server) as nodes:
                    note("owner", await delays(nodes, share, at=0))
                    note("other", await delays(nodes, share, at=1))
                    note("back", await back(nodes, share))
                if redis:
                    with redis_server(redis) as news:
                        async with nodes_of(2, coze, server, GATEWAY_BUS_URL=news.url) as nodes:
                            note("redis", await delays(nodes, share, at=1))
    medians = {name: median(figures) for name, figures in found.items()}
    medians["relay_ratio"] = {"": medians["postgres"]["cpu_us"] / medians["sqlite"]["cpu_us"]}
    medians["follower_ratio"] = {"": medians["other"]["cpu_us"] / medians["owner"]["cpu_us"]}
    return medians


def markdown(medians: dict[str, Figures]) -> str:
    lines = ["| several nodes | measured | goal |", "|---|---:|---:|"]
    for title, name, goal, unit in GOALS:
        measure, _, figure = name.partition(".")
        if measure in medians:
            value = medians[measure][figure]
            lines.append(f"| {title} | {value:.2f} {unit} | {f'≤ {goal:g} {unit}' if goal else ''} |")
    return "\n".join(lines) + "\n"


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; None, and a line that says so, without them."""
    if (found := program("postgres")) is None:
        sys.stderr.write("postgres is missing (Debian package postgresql)\n")
        return None
    return Path(found).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.nodes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="(2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the full load, for a quick look (1)")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder for nodes.md and .json (build)")
    options = parser.parse_args()
    if (programs := postgres_programs()) is None:
        return 2
    allow_files(3000)
    with attentive():
        redis = program("redis-server") or ""
        medians = uvloop.run(run(programs, rounds=options.rounds, share=options.share, redis=redis))
    text = markdown(medians)
    sys.stdout.write(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "nodes.md").write_text(text, encoding="utf-8")
    (options.out / "nodes.json").write_text(json.dumps(medians, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
