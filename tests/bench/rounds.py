"""The rounds: all servers, then all again, so that a noisy minute hits each of them; medians of the rounds."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tests.bench import measures
from tests.bench.measures import Figures, Measure
from tests.bench.servers import GATEWAY, on_core, serving, upstream
from tests.load.own import end_on_sigterm
from tests.processes import GatewayProcess

COMPARED: dict[str, Measure] = {
    "idle": measures.idle,  # first: on a fresh server memory is not yet there to be used again
    "first_byte": measures.first_byte,
    "relay": measures.relay,
    "fanout": measures.fanout,
}
"""What every server can do."""
ALONE: dict[str, Measure] = {"resume": measures.resume}
"""What only the gateway can do."""

Medians = dict[str, dict[str, Figures]]
"""By measure, then by server."""
Say = Callable[[str], None]


async def run(servers: Sequence[str], *, rounds: int, share: float, say: Say) -> Medians:
    """Runs it all; the client and Coze's stand-in on one core, the server on the other."""
    end_on_sigterm()
    found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    with on_core(0):
        for number in range(rounds):
            for name in servers:
                async with upstream() as coze, serving(name, coze) as own:
                    await measures.warm(own)
                    for measure, take in (COMPARED | (ALONE if name == GATEWAY else {})).items():
                        found[measure, name].append(await take(own, share))
                        say(f"round {number + 1}: {name}, {measure}: {_brief(found[measure, name][-1])}")
            if GATEWAY in servers:
                found["one_stream", GATEWAY].append(await simulated(share))
                say(f"round {number + 1}: one stream: {_brief(found['one_stream', GATEWAY][-1])}")
    medians: Medians = defaultdict(dict)
    for (measure, name), all_rounds in found.items():
        medians[measure][name] = median(all_rounds)
    return dict(medians)


async def simulated(share: float) -> Figures:
    """The delay that the gateway adds to a piece, by the clock of a simulated Coze in a process of its own."""
    simulator = await GatewayProcess.start("simulate")
    try:
        async with serving(GATEWAY, await simulator.ready()) as own:
            await measures.warm(own)
            return await measures.one_stream(own, share)
    finally:
        await simulator.kill()


def median(rounds: Iterable[Figures]) -> Figures:
    """The median of each figure, but the largest of the client's own share."""
    columns: dict[str, list[float]] = defaultdict(list)
    for figures in rounds:
        for name, value in figures.items():
            columns[name].append(value)
    return {n: max(values) if n == "client_share" else statistics.median(values) for n, values in columns.items()}


def _brief(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
