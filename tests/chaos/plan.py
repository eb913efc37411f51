"""What happens in a chaos run, all of it from one seed: who asks what, and what breaks when."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Blow = Literal[
    "kill",
    "cut clients",
    "cut coze",
    "refuse coze",
    "crumble",
    "stall coze",
    "stop",
    "full disk",
    "pause",
    "cut off",
    "cut database",
    "restart all",
    "stop database",
    "crash database",
    "pause database",
    "silence database",
    "fail over",
    "cut off redis",
    "stop redis",
    "pause redis",
]
BLOWS: tuple[Blow, ...] = (
    "kill",
    "kill",
    "cut clients",
    "cut clients",
    "cut coze",
    "refuse coze",
    "crumble",
    "stall coze",
    "stop",
    "full disk",
)
"""Each as often as it is to come up."""

NODE_BLOWS: tuple[Blow, ...] = (
    "kill",
    "kill",
    "pause",
    "pause",
    "cut off",
    "cut off",
    "stop",
    "stop",
    "restart all",
    "cut database",
    "stop database",
    "crash database",
    "pause database",
    "silence database",
    "fail over",
    "cut coze",
    "stall coze",
)
"""The same where several nodes work on one PostgreSQL."""

REDIS_BLOWS: tuple[Blow, ...] = ("cut off redis", "stop redis", "pause redis")
"""More of them where Redis carries the nodes' news."""

_PLANS = (
    *("plain",) * 4,
    "reasoning",
    "multi",
    "rewrite",
    "drop-after:{n}",
    "reset-after:{n}",
    "eof-after:{n}",
    "cut-record-after:{n}",
    "cut-utf8-after:{n}",
    "cut-chunk-after:{n}",
    "stall-after:{n}",
    "no-completed",
    "no-deltas",
    "doubled malformed",
    "shuffled foreign",
    "lost unknown-events",
    "hostile crlf comments",
    "bytes bom",
    "drop-after:{n} retrieve-500:1",
    "drop-after:{n} list-empty:1",
)


@dataclass(frozen=True)
class Strike:
    """A blow, so many seconds after the one before, and how long it lasts if it lasts."""

    blow: Blow
    after: float
    lasts: float
    hard: bool


def has_redis(seed: int) -> bool:
    """Whether the nodes of this seed's run have Redis."""
    return seed % 2 == 1


def node_strikes(seed: int, seconds: float, planted: str = "") -> list[Strike]:
    """The blows of a run over nodes; with a planted fault, those that bring it to light."""
    if planted == "double-writer":
        return strikes(seed, seconds, ("pause",))[:2]  # they sleep until the others have taken them for dead
    if planted:
        return strikes(seed, seconds, ("kill",))
    return strikes(seed, seconds, NODE_BLOWS + REDIS_BLOWS if has_redis(seed) else NODE_BLOWS)


def strikes(seed: int, seconds: float, blows: Sequence[Blow]) -> list[Strike]:
    chance = random.Random(f"{seed} strikes")
    found: list[Strike] = []
    at = 0.0
    while True:
        strike = Strike(
            chance.choice(blows),
            chance.uniform(0.05, 0.9),
            chance.uniform(0.1, 0.8),
            chance.random() < 0.5,
        )
        at += strike.after
        if at > seconds:
            return found
        found.append(strike)


def question(chance: random.Random, name: str) -> str:
    """A message that gets a whole answer in the end, whatever its own faults."""
    pieces = chance.randrange(1, 60)
    faults = chance.choice(_PLANS).format(n=chance.randrange(pieces))
    return f"/fault {faults} pieces:{pieces} rate:{chance.choice((0, 30, 60, 200))} -- {name}"
