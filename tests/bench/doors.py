"""What the door for Coze's clients costs beside our own event stream: `python -m tests.bench.doors [--rounds R]`.

The same turns, with one listener each, are read through both, in interleaved rounds at one gateway. Measured is the
gateway's processor time per piece that Coze sends, starts and ends included.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable
from statistics import median

import aiohttp
import uvloop

from tests.bench import measures
from tests.bench.measures import WrongError
from tests.bench.servers import on_core, upstream
from tests.load.own import Own, Usage, end_on_sigterm, own_gateway
from tests.load.plan import allow_files

PIECES = 200
PACE = 25
GOAL = 1.3

Asked = tuple[str, dict[str, object]]
Way = Callable[[int, str], Asked]


def native(number: int, message: str) -> Asked:
    return "/api/coze/chat/stream", {"userId": f"native-{number}", "botId": "load", "message": message}


def door(number: int, message: str) -> Asked:
    question = {"role": "user", "type": "question", "content": message, "content_type": "text"}
    body = {"bot_id": "load", "user_id": f"door-{number}", "stream": True, "additional_messages": [question]}
    return "/v3/chat", body


async def _read(session: aiohttp.ClientSession, url: str, asked: Asked, end: bytes) -> None:
    path, body = asked
    async with session.post(url + path, json=body, headers={"Authorization": "Bearer load"}) as response:
        said = await response.read()
        if response.status != 200 or end not in said:
            raise WrongError(f"{path}: {response.status} {said[-300:]!r}")


async def cost(own: Own, turns: int, way: Way, end: bytes, round_: int) -> float:
    """Microseconds per piece."""
    message = f"/fault plain first:300 rate:{PACE} pieces:{PIECES} -- which door?"
    used = Usage.of(own.pid).cpu
    async with measures.session_of_its_own() as session, asyncio.TaskGroup() as group:
        for number in range(turns):
            group.create_task(_read(session, own.url, way(round_ * turns + number, message), end))
            await asyncio.sleep(2 / turns)
    return (Usage.of(own.pid).cpu - used) / (turns * PIECES) * 1e6


async def run(rounds: int, turns: int) -> tuple[float, float]:
    """The medians of our own stream and of the door."""
    end_on_sigterm()
    ours: list[float] = []
    doors: list[float] = []
    with on_core(0):
        async with upstream() as coze:
            with on_core(1):
                served = own_gateway(coze, GATEWAY_DOOR_TOKEN="caller")
            async with served as own:
                await measures.warm(own)
                await cost(own, 5, door, b"event:done", rounds)
                for number in range(rounds):
                    ours.append(await cost(own, turns, native, b'"event":"completed"', number))
                    doors.append(await cost(own, turns, door, b"event:done", number))
                    sys.stderr.write(f"round {number + 1}: ours {ours[-1]:.1f}, the door {doors[-1]:.1f}\n")
    return median(ours), median(doors)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.doors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--turns", type=int, default=60, help="at once (60)")
    options = parser.parse_args()
    allow_files(1000)
    ours, doors = uvloop.run(run(options.rounds, options.turns))
    sys.stdout.write(
        "| | µs of processor time per piece | × our own |\n|---|---:|---:|\n"
        f"| our own event stream | {ours:.1f} | 1.00 |\n"
        f"| the door for Coze's clients (goal ≤ {GOAL}) | {doors:.1f} | {doors / ours:.2f} |\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
