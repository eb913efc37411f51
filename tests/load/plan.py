"""The plan of a load test: what is asked for, checked, and bounded."""

import ipaddress
import json
import resource
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

TRANSPORTS = ("sse", "websocket", "longpoll")
MOST_CONNECTIONS = 50_000
LONGEST = 3600.0
_SPARE_FILES = 100


class PlanError(ValueError):
    """A sentence for the operator that names the option, its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything of a run but the token. `url` empty: a gateway of its own."""

    url: str = ""
    transport: str = "sse"
    turns: int = 20
    listeners: int = 5
    """Of each turn."""
    rate: float = 10.0
    """Turns started a second."""
    seconds: float = 60.0
    """How long turns are started."""
    grace: float = 60.0
    """Seconds more in which those that run by then may end; what still runs after that is unfinished, and not wrong."""
    storms: int = 0
    """How often all connections are cut at once while turns run."""
    simulated: bool = False
    """Whether a simulated Coze answers: then each piece says when it was due."""
    pieces: int = 200
    pace: float = 50.0
    """Pieces a second of one turn, by the simulated Coze."""
    message: str = "Where is my parcel, and how do I send it back?"
    user: str = ""
    bot: str = "load"
    shop: str = ""

    def __post_init__(self) -> None:
        _among("transport", self.transport, TRANSPORTS)
        _within("turns", self.turns, 1, 100_000)
        _within("listeners", self.listeners, 1, MOST_CONNECTIONS)
        _within("rate", self.rate, 0.01, 10_000)
        _within("seconds", self.seconds, 1, LONGEST)
        _within("grace", self.grace, 0, LONGEST)
        _within("storms", self.storms, 0, 1000)
        _within("pieces", self.pieces, 1, 100_000)
        _within("pace", self.pace, 0, 100_000)
        parts = urlsplit(self.url)
        if self.url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise PlanError(f"url: {self.url!r} is no http:// or https:// URL of a gateway")
        if self.connections > MOST_CONNECTIONS:
            raise PlanError(
                f"turns × listeners: {self.connections} connections at once; at most {MOST_CONNECTIONS} are allowed"
            )

    @property
    def connections(self) -> int:
        """The most that can be open at once: turns end after `pieces / pace` where that is known."""
        if not self.simulated or not self.pace:
            return self.turns * self.listeners
        return min(self.turns, int(self.rate * (self.pieces / self.pace + 5)) + 1) * self.listeners

    @property
    def question(self) -> str:
        """The message of each turn. `/fault clock` is the simulator's word for pieces that tell their own time."""
        if not self.simulated:
            return self.message
        return f"/fault clock plain first:300 rate:{self.pace:g} pieces:{self.pieces} -- {self.message}"

    def body(self, number: int) -> dict[str, str]:
        """The request of turn `number`. Without a user of the operator's each turn has one of its own, so that
        limits by user are not what is measured."""
        found = {"userId": self.user or f"load-{number}", "botId": self.bot, "message": self.question}
        return found | {"shopId": self.shop} if self.shop else found

    def stranger(self) -> str | None:
        """The host, when it is not this machine."""
        host = urlsplit(self.url).hostname
        if not host or host == "localhost":
            return None
        try:
            return None if ipaddress.ip_address(host).is_loopback else host
        except ValueError:
            return host

    def described(self) -> dict[str, Any]:
        return asdict(self) | {"message": self.question}


def allow_files(connections: int) -> None:
    """Raises this process's limit of open files to what the plan needs, or says that it can't be."""
    needed = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise PlanError(f"turns × listeners: {connections} connections need more open files than `ulimit -Hn`, {hard}")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # a NaN is nowhere
        raise PlanError(f"{name}: {value:g} is not between {least:g} and {most:g}")


def _among(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PlanError(f"{name}: {json.dumps(value)} is none of {', '.join(allowed)}")
