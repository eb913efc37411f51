"""Refusals: logs and counts the requests that were refused, and why."""

import re
import time
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from adapters.edge.failures import InvalidRequest, request_id, status_of
from gateway.errors import Code, GatewayError
from gateway.telemetry.observer import Observer

_LINES: Final = 10
"""Log lines per second for each code. Lines beyond that are left out, and the next line says how many."""

_HOUR: Final = 3600.0
_ORIGINS: Final = 100
"""How many refused origins are logged per hour: anyone can make up any number of them."""

_LONGEST_ORIGIN: Final = 300

logger = structlog.get_logger()


class Refusals:
    """Is told of every refused request. A log line repeats nothing that a client sent, except a well-formed origin."""

    def __init__(self, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._said: dict[Code, tuple[float, int]] = {}  # when a second began, and how many refusals came in it
        self._origins: dict[str, float] = {}  # when each was last logged, the oldest first
        self._many = -_HOUR
        self._keys: dict[str, float] = {}  # when each key's name was last logged

    def refused(self, request: web.Request, error: GatewayError) -> None:
        code = error.code
        self._observer.request_refused(code)
        if code is Code.INTERNAL or (left_out := self._left_out(code)) is None:  # which has its own line
            return
        resource = request.match_info.route.resource
        logger.info(
            "request.refused",
            code=code.value,
            reason=_fields(error) if isinstance(error, InvalidRequest) else error.detail,
            status=error.status if isinstance(error, InvalidRequest) else status_of(code),
            method=request.method,
            route=resource.canonical if resource is not None else None,
            requestId=request_id(request),
            leftOut=left_out,
        )

    def unshared(self, origin: str) -> None:
        """The browser gives answers to no page of this origin, because no setting names it. Logged once per hour."""
        now = self._clock()
        if now - self._origins.get(origin, -_HOUR) < _HOUR or len(origin) > _LONGEST_ORIGIN:
            return
        while self._origins and now - next(iter(self._origins.values())) >= _HOUR:
            del self._origins[next(iter(self._origins))]
        if len(self._origins) >= _ORIGINS:
            if now - self._many >= _HOUR:
                self._many = now
                logger.warning("origins.refused", why=f"more than {_ORIGINS} in an hour: others are not logged")
            return
        self._origins[origin] = now
        if origin == "null":
            why = "a page from a file or in a sandboxed frame has no origin that could be allowed: serve it over HTTP"
            logger.warning("origin.refused", origin=origin, why=why)
        else:
            why = "pages of this origin can read no answer, because GATEWAY_ALLOWED_ORIGINS does not name it"
            logger.warning("origin.refused", origin=origin, why=why, setting="GATEWAY_ALLOWED_ORIGINS", add=origin)

    def key_in_page(self, name: str) -> None:
        """A page holds this API key, so anyone who opens the page can read the key. Logged once per hour and key."""
        now = self._clock()
        if now - self._keys.get(name, -_HOUR) >= _HOUR:
            self._keys[name] = now
            why = "a page sent this key: anyone who opens that page can speak for every user of the key's shops"
            logger.warning("auth.key_in_page", keyName=name, why=why)

    def _left_out(self, code: Code) -> int | None:
        """How many lines of this code were left out before this one; None if this one is left out, too."""
        now = self._clock()
        since, said = self._said.get(code, (-1.0, 0))
        if now - since < 1.0:
            self._said[code] = since, said + 1
            return 0 if said < _LINES else None
        self._said[code] = now, 1
        return max(0, said - _LINES)


def _fields(error: InvalidRequest) -> str:
    """Names the wrong fields. Names that the client made up are only counted."""
    names = {re.split(r"[.\[]", mistake.field)[0] for mistake in error.errors if not mistake.named_by_client}
    said = [", ".join(sorted(names - {""}))] if names - {""} else []
    if unknown := sum(mistake.named_by_client for mistake in error.errors):
        said.append(f"{unknown} unknown")
    return f"fields: {' and '.join(said)}" if said else "not in the expected form"
