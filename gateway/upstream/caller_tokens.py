"""Caller tokens: the Coze tokens of callers who bring their own, in memory only and only as long as they are needed."""

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable

from gateway.errors import Code, UpstreamError
from gateway.upstream.protocol import CozeRequest, Upstream, Upstreams

_MOST = 10_000
"""How many tokens are remembered, about 3 MB. Beyond that the one that was used least recently is forgotten."""


def hash_of(token: str) -> str:
    """What stands for a token wherever something is kept: in notes, in the database, in the log."""
    return hashlib.sha512(token.encode("utf-8", "surrogatepass")).hexdigest()


class CallerTokens:
    """Tokens by their hash. A token is forgotten `seconds` after its last request, when no turn can need it any more,
    or sooner if many others come; but not as long as a turn needs it.

    No token is written anywhere. So after a restart a turn that needs one waits until its caller comes again.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._needed: Counter[str] = Counter()
        self._kept: dict[str, str] = {}  # those of `_needed`, which no flood of made-up tokens pushes out
        self._awaited: dict[str, asyncio.Future[str]] = {}
        self._waiters: Counter[str] = Counter()

    def learn(self, token: str) -> str:
        """A request came with this token. Returns its hash."""
        name, now = hash_of(token), self._clock()
        self._known[name] = token, now
        self._known.move_to_end(name)
        if name in self._needed:
            self._kept[name] = token
        while len(self._known) > _MOST or next(iter(self._known.values()))[1] < now - self._seconds:
            self._known.popitem(last=False)
        if (awaited := self._awaited.pop(name, None)) is not None:
            awaited.set_result(token)
        return name

    def hold(self, name: str) -> None:
        """A turn begins that needs the token with this hash."""
        self._needed[name] += 1
        if (known := self._known.get(name)) is not None:
            self._kept[name] = known[0]

    def release(self, name: str) -> None:
        """Such a turn is over."""
        self._needed[name] -= 1
        if self._needed[name] <= 0:
            del self._needed[name]
            self._kept.pop(name, None)

    async def wait_for(self, name: str) -> str:
        """The token with this hash, once a request has brought it. The caller bounds the wait."""
        if (kept := self._kept.get(name)) is not None:
            return kept
        if (known := self._known.get(name)) is not None:
            return known[0]
        if name not in self._awaited:
            self._awaited[name] = asyncio.get_running_loop().create_future()
        awaited = self._awaited[name]
        self._waiters[name] += 1
        try:
            # Unlike awaiting it, this leaves it alone when one of its waiters is cancelled.
            await asyncio.wait([awaited])
        finally:
            self._waiters[name] -= 1
            if not self._waiters[name]:
                del self._waiters[name]
                if self._awaited.get(name) is awaited:
                    del self._awaited[name]
        return awaited.result()

    def __repr__(self) -> str:
        return f"CallerTokens({len(self._known)} known, {len(self._awaited)} awaited)"


class WithCallers:
    """Implements `Upstreams`: `callers` serves the callers that bring a token of their own, `own` all others, if it is
    there. Whoever made `callers` closes it."""

    def __init__(self, own: Upstreams | None, callers: Upstreams) -> None:
        self._own = own
        self._callers = callers

    def on_behalf_of(self, user_id: str, shop_id: str | None, coze: CozeRequest | None = None) -> Upstream:
        if coze is not None and coze.token:
            return self._callers.on_behalf_of(user_id, shop_id, coze)
        if self._own is None:
            raise UpstreamError(Code.UPSTREAM_UNAUTHORIZED, "the gateway has no credentials of its own")
        return self._own.on_behalf_of(user_id, shop_id, coze)

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close()


class CallerToken:
    """One of them, as a `TokenSource`."""

    __slots__ = ("_all", "_name")

    def __init__(self, every: CallerTokens, name: str) -> None:
        self._all = every
        self._name = name

    async def token(self, user_id: str) -> str:
        return await self._all.wait_for(self._name)

    def invalidate(self, token: str) -> bool:
        return False

    async def close(self) -> None:
        """Nothing is held."""
