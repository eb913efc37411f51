"""Limits: connections in total and per user, and turns per minute and user."""

import time
from bisect import bisect_right
from collections.abc import Callable

from gateway.errors import Code, GatewayError

_COME_AGAIN_SECONDS = 5.0
_MINUTE = 60.0
_USERS = 10_000
"""How many users' turns of the last minute are remembered (about 3 MB). Beyond that the least recently active user is
forgotten."""


class Seat:
    """One connection's share of the limits. `close` gives it back; closing it again does nothing."""

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
    """Counts open connections, in total and by account. Only accounts with an open connection have an entry."""

    __slots__ = ("_by_account", "_most", "_most_each", "open")

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self.open = 0
        self._by_account: dict[str, int] = {}

    def acquire(self, account: str | None = None) -> Seat:
        """A seat for one connection, which also counts for `account` if there is one. Its holder must close it.

        Raises OVERLOADED if all seats are taken, TOO_MANY_CONNECTIONS if the account's are.
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
    """Counts turns by account over a sliding minute, so that no minute ever holds more turns than allowed."""

    __slots__ = ("_accounts", "_clock", "_most", "_started")

    def __init__(self, most: int, *, accounts: int = _USERS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._accounts = accounts
        self._clock = clock
        self._started: dict[str, list[float]] = {}
        """The times of the starts, oldest first. Accounts are in the order of their last start."""

    def take(self, account: str, most: int | None = None) -> None:
        """Counts one turn. RATE_LIMITED says how long until the next turn is allowed. Refused turns are not counted.

        `most` is this account's limit, if it has one of its own.
        """
        now = self._clock()
        times = self._started.pop(account, [])
        del times[: bisect_right(times, now - _MINUTE)]
        allowed = self._most if most is None else most
        if len(times) >= allowed:
            self._started[account] = times
            setting = "GATEWAY_TURNS_PER_MINUTE" if most is None else "the shop's turns_per_minute"
            raise GatewayError(Code.RATE_LIMITED, setting, retry_after=times[-allowed] + _MINUTE - now)
        times.append(now)
        self._started[account] = times  # at the end, as the most recently active account
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Forgets accounts without a turn in the last minute, at most two per call, and accounts beyond the bound."""
        for _ in range(2):
            quiet = next(iter(self._started))
            if self._started[quiet][-1] > now - _MINUTE and len(self._started) <= self._accounts:
                return
            del self._started[quiet]

    def __repr__(self) -> str:
        return f"TurnRate(accounts={len(self._started)})"
