"""How much: connections in all and of one user, turns a minute of one user."""

import time
from bisect import bisect_right
from collections.abc import Callable

from gateway.errors import Code, GatewayError

_COME_AGAIN_SECONDS = 5.0
_MINUTE = 60.0
_USERS = 10_000
"""Users whose turns of the last minute are remembered: some 3 MB. Beyond, the one who has been quiet longest goes."""


class Seat:
    """One connection's place. `close` gives it back once; closing again does nothing."""

    __slots__ = ("_account", "_connections")

    def __init__(self, connections: "Connections", account: str | None) -> None:
        self._connections: Connections | None = connections
        self._account = account

    def close(self) -> None:
        if (connections := self._connections) is not None:
            self._connections = None
            connections._leave(self._account)

    def __enter__(self) -> "Seat":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connections:
    """Open connections, in all and by account. Holds an entry only for accounts that have one open."""

    __slots__ = ("_by_account", "_most", "_most_each", "open")

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self.open = 0
        self._by_account: dict[str, int] = {}

    def acquire(self, account: str | None = None) -> Seat:
        """A place for one connection, counted for `account` too where there is one. Its holder must close it.

        Raises OVERLOADED when all places are taken, TOO_MANY_CONNECTIONS when the account's are.
        """
        if self.open >= self._most:
            raise GatewayError(Code.OVERLOADED, "all connections are in use", retry_after=_COME_AGAIN_SECONDS)
        if account is not None:
            held = self._by_account.get(account, 0)
            if held >= self._most_each:
                raise GatewayError(
                    Code.TOO_MANY_CONNECTIONS, "GATEWAY_MAX_CONNECTIONS_PER_USER", retry_after=_COME_AGAIN_SECONDS
                )
            self._by_account[account] = held + 1
        self.open += 1
        return Seat(self, account)

    def _leave(self, account: str | None) -> None:
        self.open -= 1
        if account is not None:
            held = self._by_account[account] - 1
            if held:
                self._by_account[account] = held
            else:
                del self._by_account[account]

    def __repr__(self) -> str:
        return f"Connections(open={self.open}, accounts={len(self._by_account)})"


class TurnRate:
    """Turns of the last minute, by account: a sliding window, so that no minute ever holds more than allowed."""

    __slots__ = ("_accounts", "_clock", "_most", "_started")

    def __init__(self, most: int, *, accounts: int = _USERS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._accounts = accounts
        self._clock = clock
        self._started: dict[str, list[float]] = {}
        """Times of the starts, oldest first; accounts in the order of their last start."""

    def take(self, account: str) -> None:
        """Counts one turn. RATE_LIMITED says how long until the next one is allowed; a refused one counts not."""
        now = self._clock()
        times = self._started.pop(account, [])
        del times[: bisect_right(times, now - _MINUTE)]
        if len(times) >= self._most:
            self._started[account] = times
            raise GatewayError(Code.RATE_LIMITED, "GATEWAY_TURNS_PER_MINUTE", retry_after=times[0] + _MINUTE - now)
        times.append(now)
        self._started[account] = times  # at the end: the one that was active last
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Lets go of who was quiet for a minute, at most two a call, and of whoever is beyond the bound."""
        for _ in range(2):
            quiet = next(iter(self._started))
            if self._started[quiet][-1] > now - _MINUTE and len(self._started) <= self._accounts:
                return
            del self._started[quiet]

    def __repr__(self) -> str:
        return f"TurnRate(accounts={len(self._started)})"
