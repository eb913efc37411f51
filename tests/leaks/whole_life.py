"""One whole life of the core in a fresh process, as strict as Python can be. Prints what is left of it as JSON.

Started by the tests with asyncio's debug mode on and every warning an error.
"""

import asyncio
import gc
import itertools
import json
import logging
import os
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import aiohttp

from adapters.composition import gateway
from adapters.serving import listening
from gateway.config.settings import Settings
from gateway.simulator import start_simulator
from tests.faults.reading import TRANSPORTS, Reader, client
from tests.processes import ROOT

PLANS = (
    "plain pieces:12",
    "plain pieces:12 drop-after:4",
    "plain pieces:12 stall-after:4",
    "reset-after:3 reasoning",
    "status:429 retry-after:0 times:1 pieces:3",
    "silent",
    "multi pieces:6",
    "failed pieces:6",
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def ours() -> int:
    """Bytes that the gateway's own code holds; the simulated Coze keeps its chats."""
    gc.collect()
    sizes = {found.traceback[0].filename: found.size for found in tracemalloc.take_snapshot().statistics("filename")}
    ours, simulator = (f"{ROOT}/gateway/", f"{ROOT}/adapters/"), f"{ROOT}/gateway/simulator/"
    return sum(size for file, size in sizes.items() if file.startswith(ours) and not file.startswith(simulator))


async def use(url: str, round_: int) -> None:
    async with client() as session:
        await asyncio.gather(*(_turn(session, url, f"/fault {plan} -- {round_} {plan}") for plan in PLANS))
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/api/coze/turns/none", "/debug/ledger"):
            async with session.get(url + path) as response:
                await response.read()
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, url, f"/fault plain pieces:300 rate:50 -- {round_} stop"))
        await reader.until(lambda r: r.text)
        async with session.post(f"{url}/api/coze/turns/{reader.turn_id}/cancel") as response:
            await response.read()
        await asking


async def _turn(session: aiohttp.ClientSession, url: str, message: str) -> None:
    reader = Reader()
    await reader.ask(session, url, message)
    for transport in TRANSPORTS:
        again = Reader(reader.book)
        again.turn_id = reader.turn_id
        await again.listen(session, url, transport, pieces=1)
        await again.listen(session, url, transport)
        assert again.last == reader.last


async def life(folder: Path, rounds: int) -> dict[str, Any]:
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context)[:500]))
    coze = await start_simulator(first_ms=5, rate=500)
    settings = Settings(
        data_dir=folder,
        coze_api_token="a-token-for-tests",
        coze_api_base=coze.url,
        upstream_idle_timeout=1,
        turns_per_minute=1_000_000,
        max_connections_per_user=1000,
        retention_seconds=2,
        port=0,
    )
    grown = []
    async with gateway(settings) as services, listening(settings, services) as (url, *_):
        for number in range(rounds):
            await use(url, number)
            await asyncio.sleep(3)  # what ended is saved, and taken by retention
            grown.append(ours())
        held = {kind: account["open"] for kind, account in services.ledger.totals().items() if account["open"]}
        tails = len(services.log.shelf.tails())
    after = {kind: account["open"] for kind, account in services.ledger.totals().items() if account["open"]}
    await coze.close()
    await asyncio.sleep(0.1)  # sockets that were closed are gone a moment later
    gc.collect()
    others = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return {
        "held": held,
        "after": after,
        "tails": tails,
        "tasks": others,
        "complaints": complaints,
        "grown": [later - earlier for earlier, later in itertools.pairwise(grown)],
    }


def main() -> None:
    unraisable: list[str] = []
    sys.unraisablehook = lambda given: unraisable.append(f"{given.exc_value!r} in {given.object!r}"[:500])
    warnings.simplefilter("error")
    slow: list[str] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            slow.append(record.getMessage()[:300])

    logging.getLogger("asyncio").addHandler(Slow(logging.ERROR))
    tracemalloc.start()
    before = descriptors()
    found = asyncio.run(life(Path(sys.argv[1]), int(sys.argv[2])), debug=True)
    gc.collect()
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    found |= {"threads": threads, "unraisable": unraisable, "slow": slow, "descriptors": descriptors() - before}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
