"""`python -m tests.chaos [--nodes] [--seed N] [--runs R] [--seconds S]`, or `--soak [--seconds S]`. A failing seed is
printed."""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.chaos.nodes import Nodes, run_nodes
from tests.chaos.servers import Programs
from tests.chaos.soak import soak
from tests.chaos.world import World, run
from tests.programs import program


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; the next ones count up")
    parser.add_argument("--runs", type=int, help="how many; one if a seed is given, else 300")
    parser.add_argument("--seconds", type=float, help="of blows in each run (8), or of the soak (1800)")
    parser.add_argument("--nodes", action="store_true", help="three nodes on PostgreSQL instead of one gateway")
    parser.add_argument("--plant", choices=("double-writer", "lost-batch"), help="with --nodes: a fault to be found")
    parser.add_argument("--soak", action="store_true", help="fifty turns per minute, a hundred listeners, and blows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            return asyncio.run(soak(Path(folder), seconds=options.seconds or 1800, seed=options.seed))
        one = any(argument.startswith("--seed") for argument in sys.argv[1:])
        runs = options.runs or (1 if one else 300)
        seconds = options.seconds or 8.0
        postgres, redis = program("postgres") or "postgres", program("redis-server") or "redis-server"
        programs = Programs(Path(postgres).resolve().parent, redis)

        async def one_run(seed: int, say: Callable[[str], None]) -> World | Nodes:
            if options.nodes:
                return await run_nodes(seed, seconds, programs, planted=options.plant or "", say=say)
            return await run(seed, seconds, Path(folder) / str(seed), say=say)

        return asyncio.run(_runs(one_run, options.seed, runs))


async def _runs(
    one_run: Callable[[int, Callable[[str], None]], Awaitable[World | Nodes]], first: int, runs: int
) -> int:
    failed = []
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + runs):
        began = time.monotonic()
        blows: list[str] = []
        try:
            here = await one_run(seed, blows.append)
            outcomes += here.crowd.outcomes()
            said = f"{len(here.crowd.told)} turns, {sum(here.blows.values())} blows, {dict(here.crowd.outcomes())}"
        except Exception as error:
            failed.append(seed)
            said = f"FAILED after {blows}:\n{_all_of(error)}\n  again: make chaos ARGS='--seed {seed}'"
        sys.stdout.write(f"seed {seed}: {said}, {time.monotonic() - began:.1f} s\n")
        sys.stdout.flush()
    sys.stdout.write(f"{runs} runs, {len(failed)} failed {failed or ''}: {dict(outcomes)}\n")
    return 1 if failed else 0


def _all_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(_all_of(one) for one in error.exceptions)
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" in frame.filename]
    return f"  {type(error).__name__}: {error} (in {', '.join(frame.name for frame in ours[-3:])})"


if __name__ == "__main__":
    sys.exit(main())
