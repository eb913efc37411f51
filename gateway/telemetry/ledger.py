"""The ledger: what is open, where it was opened, and since when. Gauges and `/debug/ledger` read it, nothing else
counts."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any


class Held:
    """One open resource. `close` gives it back once; closing again does nothing."""

    __slots__ = ("_account", "since", "where")

    def __init__(self, account: "_Account", since: float, where: str) -> None:
        self._account: _Account | None = account
        self.since = since
        self.where = where

    def close(self) -> bool:
        """Whether it was still open."""
        if (account := self._account) is None:
            return False
        self._account = None
        account.held.discard(self)
        return True

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Account:
    __slots__ = ("held", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.held: set[Held] = set()


class Ledger:
    """Counts what is opened and closed, by kind. `opened - closed == open` holds by construction."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def open(self, kind: str, where: str = "") -> Held:
        """Opens a resource of `kind`. `where` says where in the code; by default it is the caller's file and line."""
        account = self._accounts.get(kind)
        if account is None:
            account = self._accounts[kind] = _Account()
        if not where:
            frame = sys._getframe(1)
            where = sys.intern(f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}")
        held = Held(account, self._clock(), where)
        account.opened += 1
        account.held.add(held)
        return held

    def count(self, kind: str) -> int:
        account = self._accounts.get(kind)
        return len(account.held) if account else 0

    def places(self, kind: str) -> Counter[str]:
        """The number of open resources of a kind, by where they were opened."""
        account = self._accounts.get(kind)
        return Counter(held.where for held in account.held) if account else Counter()

    def totals(self) -> dict[str, dict[str, float]]:
        """For each kind: `opened`, `closed`, `open`, and `oldestSeconds` (0 if none is open)."""
        now = self._clock()
        return {
            kind: {
                "opened": a.opened,
                "closed": a.opened - len(a.held),
                "open": len(a.held),
                "oldestSeconds": round(now - min((h.since for h in a.held), default=now), 3),
            }
            for kind, a in sorted(self._accounts.items())
        }

    def list(self, kind: str, limit: int = 1000) -> list[dict[str, Any]]:
        """The `limit` oldest open resources of a kind, with where they were opened."""
        account = self._accounts.get(kind)
        now = self._clock()
        oldest = sorted(account.held, key=lambda h: h.since)[:limit] if account else []
        return [{"where": h.where, "seconds": round(now - h.since, 3)} for h in oldest]

    def __repr__(self) -> str:
        return f"Ledger({ {k: len(a.held) for k, a in self._accounts.items() if a.held} })"
