"""What a cluster needs, by simulation: `python -m tests.bench.growth`. Prints the table of docs/scaling.md.

Turns and listeners are placed on nodes at random, or each listener at its turn's node; then the costs that were
measured on one to three nodes are added up for every node. The busiest node decides.
"""

import argparse
import random
import sys
from collections.abc import Sequence

from msgspec import Struct

PACE = 20.0
"""Pieces per second of a turn, as chat models speak."""

BUSY = 0.7
"""The share of a core up to which a node is loaded."""


class Costs(Struct, frozen=True):
    """Microseconds of processor time, as measured under load; `passed` is an estimate."""

    piece: float = 115.0
    """Of the owner, for a piece that Coze sends: parsed, committed, shown."""
    delivery: float = 23.0
    """For one piece to one listener."""
    foreign: float = 45.0
    """For a piece of another node's turn that has listeners here, besides their deliveries."""
    passed: float = 6.0
    """For a piece of another node's turn without a listener here, if its node is followed."""
    commit: float = 600.0
    """Of PostgreSQL, for one commit."""
    read: float = 1000.0
    """Of PostgreSQL, for one read of another node's newest batches, where Redis does not bring them."""


COMMITS = 100.0
"""Per second, of a busy node."""
READS = 40.0
"""Per second, of a node that follows another one: at most one for each ring."""


class Load(Struct, frozen=True):
    """Cores: of the busiest node, of the average one, and of PostgreSQL with Redis and without."""

    busiest: float
    average: float
    postgres_with_redis: float
    postgres_alone: float


def simulate(
    nodes: int, turns: int, listeners: int, *, together: bool, costs: Costs, seed: int = 1, sample: int = 4_000
) -> Load:
    """`together`: listeners are balanced to the node that runs their turn. Large crowds are sampled."""
    chance = random.Random(seed)
    scale = max(1.0, turns / sample)
    placed = min(turns, sample)
    each = listeners / turns
    owned = [0] * nodes
    heard: list[int] = [0] * nodes  # turns of other nodes with listeners here
    delivered = [0.0] * nodes
    follows = [set[int]() for _ in range(nodes)]
    for _ in range(placed):
        owner = chance.randrange(nodes)
        owned[owner] += 1
        count = int(each) + (chance.random() < each % 1)
        places = [owner] * count if together else [chance.randrange(nodes) for _ in range(count)]
        for place in places:
            delivered[place] += 1
        for place in set(places) - {owner}:
            heard[place] += 1
            follows[place].add(owner)
    used = []
    for node in range(nodes):
        passed = sum(owned[other] for other in follows[node]) - heard[node]
        micros = (
            owned[node] * costs.piece
            + delivered[node] * costs.delivery
            + heard[node] * costs.foreign
            + max(0, passed) * costs.passed
        )
        used.append(micros * scale * PACE / 1e6)
    commits = nodes * COMMITS * costs.commit / 1e6
    reads = sum(map(len, follows)) * READS * costs.read / 1e6
    return Load(max(used), sum(used) / nodes, commits, commits + reads)


def needed(turns: int, listeners: int, *, together: bool, costs: Costs, most: int = 512) -> tuple[int, Load] | None:
    """The smallest cluster whose busiest node stays below `BUSY`; None if no cluster up to `most` nodes does."""

    def at(nodes: int) -> Load:
        return simulate(nodes, turns, listeners, together=together, costs=costs)

    enough = 1
    while at(enough).busiest > BUSY:
        enough *= 2
        if enough > most:
            return None
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if at(middle).busiest > BUSY:
            too_few = middle
        else:
            enough = middle
    return enough, at(enough)


CROWDS = ((500, 2_000), (1_000, 5_000), (5_000, 25_000), (10_000, 100_000))


def markdown(crowds: Sequence[tuple[int, int]], costs: Costs) -> str:
    lines = [
        "| turns | listeners | listeners at any node | PostgreSQL with Redis, without | listeners at their turn's node"
        " | PostgreSQL |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for turns, listeners in crowds:
        row = [f"{turns:,}", f"{listeners:,}"]
        spread = needed(turns, listeners, together=False, costs=costs)
        row += (
            ["no number of nodes is enough", "—"]
            if spread is None
            else [
                f"{spread[0]} nodes",
                f"{spread[1].postgres_with_redis:.1f} cores, {spread[1].postgres_alone:.1f} cores",
            ]
        )
        near = needed(turns, listeners, together=True, costs=costs)
        row += ["—", "—"] if near is None else [f"{near[0]} nodes", f"{near[1].postgres_with_redis:.1f} cores"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    for name in Costs.__struct_fields__:
        parser.add_argument(f"--{name}", type=float, default=getattr(Costs(), name), help="µs (%(default)g)")
    options = vars(parser.parse_args())
    sys.stdout.write(markdown(CROWDS, Costs(**options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
