"""The slope over one, two and three nodes: `python -m tests.bench.scaling [--turns T] [--seconds S] [--redis]`.

The same turns are spread evenly over the nodes, with one listener each at any node, as a balancer that knows nothing
spreads them. What is measured is processor time, which adds up over nodes even where they share a core: of all
gateways, of PostgreSQL, and of Redis, per piece.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import uvloop

from tests.bench.measures import Figures, WrongError
from tests.bench.nodes import nodes_of, postgres_programs
from tests.bench.servers import attentive, upstream
from tests.databases import PostgresServer, postgres_server
from tests.load.client import run_load
from tests.load.own import Own, Usage, end_on_sigterm
from tests.load.plan import Plan, allow_files
from tests.processes import ROOT
from tests.programs import program
from tests.redis_servers import redis_server

MOST_NODES = 3
PACE = 40


async def spread(nodes: list[Own], server: PostgresServer, turns: int, seconds: float, redis: int) -> Figures:
    """Microseconds per piece. `redis` is the process id of Redis, 0 without one."""
    pairs = list(product(range(len(nodes)), repeat=2))
    each = max(1, round(turns / len(pairs)))
    plan = Plan(simulated=True, turns=each, listeners=1, rate=each, pieces=int(PACE * seconds), pace=PACE, seconds=120)
    gateways = [Usage.of(node.pid).cpu for node in nodes]
    database, news = server.cpu(), Usage.of(redis).cpu if redis else 0.0
    loads = await asyncio.gather(
        *(
            run_load(plan, nodes[begins].url, listen_at="" if begins == listens else nodes[listens].url)
            for begins, listens in pairs
        )
    )
    for load in loads:
        if load.tally.wrong.total() or load.tally.outcomes["completed"] != each:
            raise WrongError(f"{dict(+load.tally.wrong)}, {dict(+load.tally.outcomes)}, {dict(load.tally.refusals)}")
    pieces = sum(load.tally.pieces for load in loads)
    used = sum(Usage.of(node.pid).cpu for node in nodes) - sum(gateways)
    return {
        "gateways_us": used / pieces * 1e6,
        "postgres_us": (server.cpu() - database) / pieces * 1e6,
        "redis_us": ((Usage.of(redis).cpu - news) / pieces * 1e6) if redis else 0.0,
    }


async def bystander(nodes: list[Own], turns: int, seconds: float) -> float:
    """What it costs a node, per piece that another one writes, to follow that node for the sake of one listener."""
    many = Plan(simulated=True, turns=turns, listeners=1, rate=turns, pieces=int(PACE * seconds), pace=PACE)
    one = Plan(simulated=True, turns=1, listeners=1, rate=1, pieces=int(PACE * (seconds + 1)), pace=PACE)
    used = Usage.of(nodes[1].pid).cpu
    load, own = await asyncio.gather(run_load(many, nodes[0].url), run_load(one, nodes[0].url, listen_at=nodes[1].url))
    return (Usage.of(nodes[1].pid).cpu - used) / (load.tally.pieces + own.tally.pieces) * 1e6


async def run(programs: Path, turns: int, seconds: float, *, with_redis: bool) -> dict[str, Figures]:
    end_on_sigterm()
    found: dict[str, Figures] = {}
    with postgres_server(programs, durable=True) as server, _news(with_redis) as (settings, redis):
        async with upstream() as coze:
            for count in range(1, MOST_NODES + 1):
                async with nodes_of(count, coze, server, pinned=False, **settings) as nodes:
                    figures = await spread(nodes, server, turns, seconds, redis)
                    sys.stderr.write(f"{count}: {', '.join(f'{k} {v:.3g}' for k, v in figures.items())}\n")
                    found[f"{count}"] = figures
                    if count > 1:
                        figures["bystander_us"] = await bystander(nodes, turns, seconds)
    return found


@contextlib.contextmanager
def _news(with_redis: bool) -> Iterator[tuple[dict[str, str], int]]:
    if not with_redis:
        yield {}, 0
        return
    with redis_server(program("redis-server") or "redis-server") as server:
        yield {"GATEWAY_BUS_URL": server.url}, server.pid


def markdown(found: dict[str, Figures]) -> str:
    lines = [
        "| nodes | gateways together, µs per piece | × one node | PostgreSQL, µs per piece | Redis, µs per piece"
        " | a node that follows for one listener, µs per piece of the other |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    one = found["1"]["gateways_us"]
    for count, figures in found.items():
        lines.append(
            f"| {count} | {figures['gateways_us']:.0f} | {figures['gateways_us'] / one:.2f}"
            f" | {figures['postgres_us']:.1f} | {figures['redis_us']:.1f} | {figures.get('bystander_us', 0):.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--turns", type=int, default=36, help="at once, over all nodes (36)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each turn speaks (10)")
    parser.add_argument("--redis", action="store_true", help="news goes over Redis")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder for scaling.json (build)")
    options = parser.parse_args()
    if (programs := postgres_programs()) is None:
        return 2
    allow_files(3000)
    with attentive():
        figures = uvloop.run(run(programs, options.turns, options.seconds, with_redis=options.redis))
    sys.stdout.write(markdown(figures))
    options.out.mkdir(parents=True, exist_ok=True)
    name = "scaling-redis.json" if options.redis else "scaling.json"
    (options.out / name).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
