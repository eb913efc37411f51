"""The command line of the load test. Status 0: all was right; 1: something was wrong; 2: a mistake in the options."""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.load.client import Load, run_load
from tests.load.own import Own, Usage, end_on_sigterm, own_gateway
from tests.load.plan import TRANSPORTS, Plan, PlanError, allow_files
from tests.load.plot import Curves, draw
from tests.load.report import DELAYS, result, shown

_TOKEN = "LOAD_TOKEN"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    folder: Path = options.pop("out")
    try:
        plan = Plan(**options | {"simulated": options["simulated"] or not options["url"]})
        allow_files(plan.connections)
        folder.mkdir(parents=True, exist_ok=True)
    except (PlanError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    console = Console(stderr=True)
    if (host := plan.stranger()) is not None:
        console.print(
            f"[bold yellow]{host} is not this machine.[/] Up to {plan.connections} connections and {plan.turns} "
            "turns are on their way to it; behind it each may be a real question to Coze. Ctrl-C stops it."
        )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            load, used = runner.run(_run(plan, console))
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:
        return 143
    found = result(load, when=datetime.datetime.now(datetime.UTC), gateway=used)
    (folder / "load.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "load.svg").write_text(_plot(load), encoding="utf-8")
    Console().print(shown(found))
    console.print(f"{folder / 'load.json'} and {folder / 'load.svg'}", highlight=False)
    return 0 if found["ok"] else 1


async def _run(plan: Plan, console: Console) -> tuple[Load, dict[str, Any] | None]:
    end_on_sigterm()
    async with contextlib.AsyncExitStack() as stack:
        progress = stack.enter_context(_progress(console))
        own: Own | None = None
        if not plan.url:
            room = {"GATEWAY_MAX_CONNECTIONS": str(max(10_000, plan.connections + 100))}
            own = await stack.enter_async_context(own_gateway(**room))
        bar = progress.add_task("turns", total=plan.turns, now="")
        before = Usage.of(own.pid) if own else Usage()

        def watch(load: Load) -> None:
            tally = load.tally
            lately = tally.seconds[-2] if len(tally.seconds) > 1 else load.second()
            words = "the time is over, waiting for answers to end: " if load.ending else ""
            words += f"{tally.open} listen, {lately.pieces} pieces/s, client {load.effort.peak:.0%}"
            wrong = sum(tally.wrong.values())
            progress.update(bar, completed=tally.outcomes.total(), now=words + (f", {wrong} wrong" if wrong else ""))

        load = await run_load(plan, own.url if own else plan.url, token=os.environ.get(_TOKEN, ""), watch=watch)
        return load, own.used(before, load.tally.pieces) if own else None


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[now]}"), console=console, transient=True)


def _plot(load: Load) -> str:
    """How all delays are spread, and how the run went second by second."""
    tally = load.tally
    spreads = {DELAYS[name]: getattr(tally, name) for name in DELAYS} | {"the client's own loop": load.effort.late}
    curves = {
        name: [(s * 1000, y * 100) for s, y in spread.curve()] for name, spread in spreads.items() if spread.count
    }
    went = {"pieces a second": [(float(n), float(second.pieces)) for n, second in enumerate(tally.seconds[:-1])]}
    late = {"p99 from Coze, ms": [(float(n), s.delay.quantile(0.99) * 1000) for n, s in enumerate(tally.seconds)]}
    storms = [storm.at for storm in tally.storms]
    panels = [
        Curves("Delays: share below", "milliseconds", "%", curves, log=True),
        Curves("Pieces", "seconds", "a second", went, marks=storms),
    ]
    if tally.delay.count:
        panels.append(Curves("Delay of pieces", "seconds", "milliseconds", late, marks=storms))
    return draw(panels, columns=3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load",
        description="Starts turns at a gateway, listens to them, and checks what every listener got.",
        epilog=f"A bearer token is read from {_TOKEN}. Everything is bounded: the run ends by itself.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    plan = Plan()
    parser.add_argument("--url", default=plan.url, help="a deployment; without it one of its own is started")
    parser.add_argument("--transport", default=plan.transport, choices=TRANSPORTS, help="how listeners listen")
    parser.add_argument("--turns", type=int, default=plan.turns, help="turns in all")
    parser.add_argument("--listeners", type=int, default=plan.listeners, help="of each turn")
    parser.add_argument("--rate", type=float, default=plan.rate, help="turns started per second")
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="how long turns are started")
    parser.add_argument("--grace", type=float, default=plan.grace, help="seconds more for those that run by then")
    parser.add_argument("--storms", type=int, default=plan.storms, help="how often all are cut at once and come back")
    parser.add_argument("--simulated", action="store_true", help="the simulated Coze answers there, and tells the time")
    parser.add_argument("--pieces", type=int, default=plan.pieces, help="of each answer, by the simulated Coze")
    parser.add_argument("--pace", type=float, default=plan.pace, help="its pieces per second; 0: as fast as it can")
    parser.add_argument("--message", default=plan.message, help="what each turn asks")
    parser.add_argument("--user", default=plan.user, help="userId of all turns; without it each has its own")
    parser.add_argument("--bot", default=plan.bot, help="botId")
    parser.add_argument("--shop", default=plan.shop, help="shopId")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for load.json and load.svg")
    return parser


if __name__ == "__main__":
    sys.exit(main())
