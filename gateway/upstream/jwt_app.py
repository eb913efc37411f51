"""A JWT app: one of Coze's OAuth apps, whose private key signs JWTs that Coze exchanges for access tokens.

A JWT serves once. `expires_in` is the time at which a token expires, in seconds since 1970. Source: Coze's own page on
OAuth JWT, and what its SDKs send.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from gateway.errors import Code, UpstreamError
from gateway.telemetry.observer import Observer
from gateway.upstream.exchange import Exchanges, not_coze
from gateway.upstream.json_text import BadJson, read
from gateway.upstream.refusal import log_id_of, refused
from gateway.upstream.tokens import is_sendable
from gateway.waiting import outlived

logger = structlog.get_logger()

PATH = "/api/permission/oauth2/token"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFE = 3600
"""The life of a token that we ask for, in seconds. Coze's default is 900, its limit 86,399."""

_JWT_LIFE = 600  # seconds, although the JWT is used at once
_SHARE_LEFT = 0.2  # a token is renewed when this share of its life is left
_MOST_LEFT = 300.0  # but never with more seconds left than this
_AGAIN = 0.05  # after a failed renewal, the next attempt waits for this share of the old token's life
_SESSIONS = 10_000
_CLOCK_OFF = 60.0  # a clock that is off by more seconds than this is reported
_AN_AGE = 1_000_000_000  # an `expires_in` below this is a lifetime, not a time


class _Answer(msgspec.Struct):
    access_token: str = ""
    expires_in: float = 0
    error_code: str = ""
    error: str = ""


_decode = msgspec.json.Decoder(_Answer, strict=False).decode


class _Token(msgspec.Struct):
    text: str
    expires: float  # by this process's own steady clock
    renew: float


class _Session:
    """One user's token, or everybody's. At most one renewal of it runs."""

    def __init__(self) -> None:
        self.token: _Token | None = None
        self.renewal: asyncio.Task[str] | None = None


class JwtApp:
    """A `TokenSource`. One token serves all users; with `per_user` each has one of their own, under a `session_name`.

    A token is renewed ahead of its end while it still serves. Make it inside the running loop.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        *,
        app_id: str,
        key_id: str,
        key: RSAPrivateKey,
        observer: Observer,
        per_user: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._exchanges = exchanges
        self._app_id = app_id
        self._key_id = key_id
        self._key = key
        self._observer = observer
        self._per_user = per_user
        self._wall = wall
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._renewals: set[asyncio.Task[str]] = set()
        self._said_off = False

    async def token(self, user_id: str) -> str:
        name = user_id if self._per_user else ""
        session = self._session(name)
        now = asyncio.get_running_loop().time()
        token = session.token
        if token is not None and now < token.renew:
            return token.text
        renewal = session.renewal
        if renewal is None:
            renewal = session.renewal = asyncio.create_task(self._renewed(session, name))
            self._renewals.add(renewal)
            renewal.add_done_callback(self._over)
        if token is not None and now < token.expires:
            return token.text  # it is still valid while it is being renewed
        return await outlived(renewal, expected=UpstreamError)

    def invalidate(self, token: str) -> bool:
        for session in self._sessions.values():
            if session.token is not None and session.token.text == token:
                session.token = None
        return True

    def _session(self, name: str) -> _Session:
        session = self._sessions.setdefault(name, _Session())
        self._sessions.move_to_end(name)
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def _over(self, renewal: "asyncio.Task[str]") -> None:
        self._renewals.discard(renewal)
        if not renewal.cancelled():
            renewal.exception()  # it was logged; perhaps nobody waits for it

    async def _renewed(self, session: _Session, name: str) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            token = session.token = await self._fetched(name)
        except UpstreamError as error:
            self._observer.upstream_requested("token", error.code, loop.time() - began)
            logger.warning("coze.no_token", reason=error.detail, cozeLogId=error.log_id)
            if (old := session.token) is not None:
                old.renew = loop.time() + max(1.0, (old.expires - loop.time()) * _AGAIN)
            raise
        finally:
            session.renewal = None
        self._observer.upstream_requested("token", "ok", loop.time() - began)
        return token.text

    async def _fetched(self, name: str) -> _Token:
        body = {"grant_type": GRANT, "duration_seconds": LIFE}
        signed = self._signed(name)
        response = await self._exchanges.send("POST", PATH, {}, body, signed, accept="application/json")
        try:
            answer = await self._exchanges.body(response)
        finally:
            response.close()
        off = self._clock_off(response.headers)
        if off is not None and abs(off) > _CLOCK_OFF and not self._said_off:
            self._said_off = True
            logger.warning("coze.clock_off", reason=_apart(off))
        try:
            found = read(answer, _decode, _Answer)
        except BadJson:
            found = _Answer()
        if response.status != 200 or found.error_code or not found.access_token:
            raise self._refused(response.status, response.headers, answer, found, off)
        if not is_sendable(found.access_token):
            raise not_coze("Coze gave an access token that cannot be sent", response)
        life = found.expires_in if found.expires_in < _AN_AGE else found.expires_in - self._wall() - (off or 0.0)
        now = asyncio.get_running_loop().time()
        return _Token(found.access_token, now + life, now + life - min(life * _SHARE_LEFT, _MOST_LEFT))

    def _signed(self, name: str) -> str:
        now = int(self._wall())
        claims: dict[str, Any] = {
            "iss": self._app_id,
            "aud": self._exchanges.base.host,
            "iat": now,
            "exp": now + _JWT_LIFE,
            "jti": secrets.token_hex(32),
        }
        if name:
            claims["session_name"] = name
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._key_id})

    def _clock_off(self, headers: Mapping[str, str]) -> float | None:
        """How many seconds Coze's clock is ahead of this machine's; None if Coze does not say its time."""
        try:
            at = parsedate_to_datetime(headers.get("Date", ""))
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - self._wall()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None

    def _refused(
        self, status: int, headers: Mapping[str, str], body: bytes, found: _Answer, off: float | None
    ) -> UpstreamError:
        """The error for an answer without a token. Coze's OAuth errors have a shape of their own."""
        if not found.error_code and not found.error:
            error = refused(status, headers, body)
            if error.code is not Code.UPSTREAM_UNAUTHORIZED:
                return error
            said = error.detail
        else:
            word = _word(found.error_code or found.error)
            said = f"Coze gave the JWT app no token: it answered {status} with {word}"
        if off is not None and abs(off) > _CLOCK_OFF:
            said += f"; {_apart(off)}"
        temporary = status >= 500 or status == 429 or found.error_code == "internal_error"
        code = Code.UPSTREAM_UNAVAILABLE if temporary else Code.UPSTREAM_UNAUTHORIZED
        return UpstreamError(code, said, retryable=temporary, taken="no", log_id=log_id_of(headers))

    async def close(self) -> None:
        for renewal in self._renewals:
            renewal.cancel()
        await asyncio.gather(*self._renewals, return_exceptions=True)
        await self._exchanges.close()

    def __repr__(self) -> str:
        return f"JwtApp({self._app_id}, {len(self._sessions)} sessions)"


def _apart(off: float) -> str:
    return f"this machine's clock is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} Coze's"


def _word(text: str) -> str:
    """Coze's word for an error, as far as it is one."""
    kept = "".join(c for c in text[:64] if c.isascii() and (c.isalnum() or c in "_-. "))
    return kept or "an error"
