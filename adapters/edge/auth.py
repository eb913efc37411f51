"""Authentication: the caller that a request's bearer token stands for.

A token is an API key (`adapters/edge/api_keys.py`) or a JWT (`adapters/edge/jwts.py`).
"""

import codecs
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from adapters.edge.api_keys import KEY_PREFIX, read_api_keys
from adapters.edge.callers import ALL, ANYONE, Caller, Shops
from adapters.edge.failures import tell_of_key
from adapters.edge.unauthorized import UnauthorizedError
from gateway.clocks import steady_clock
from gateway.config.settings import Settings
from gateway.ids import LONGEST_NAME

if TYPE_CHECKING:
    from adapters.edge.jwts import Jwts, PublicKey

_SHORTEST_SECRET = 32  # bytes (RFC 7518, section 3.2)
_DOTS = 2  # between the three parts of a JWT


class Authenticator:
    """Knows every key. Files are read once, at the start; a mistake in one is a ValueError that names its setting."""

    def __init__(
        self,
        *,
        ways: tuple[str, ...] = (),
        api_keys: Mapping[str, tuple[str, Shops]] | None = None,
        secret: bytes | None = None,
        public_keys: "Mapping[str, PublicKey] | None" = None,
        audience: str | None = None,
        issuer: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._ways = ways
        self._api_keys = api_keys or {}
        self._jwts: Jwts | None = None
        if "jwt" in ways:
            from adapters.edge import jwts  # imported only where needed, because its libraries take 0.1 s to import

            self._jwts = jwts.Jwts(secret, public_keys or {}, audience=audience, issuer=issuer)
        self._clock = clock or steady_clock()

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Callable[[], float] | None = None) -> "Authenticator":
        ways = settings.auth
        if "api-key" in ways and settings.api_keys_file is None:
            raise ValueError("GATEWAY_API_KEYS_FILE: needed by GATEWAY_AUTH=api-key")
        if "jwt" in ways and (settings.jwt_secret_file is None) == (settings.jwks_file is None):
            raise ValueError("GATEWAY_JWT_SECRET_FILE, GATEWAY_JWKS_FILE: GATEWAY_AUTH=jwt needs exactly one of them")
        by_jwt = "jwt" in ways
        public_keys = None
        if by_jwt and settings.jwks_file:
            from adapters.edge.jwts import read_public_keys

            public_keys = read_public_keys(settings.jwks_file)
        return cls(
            ways=ways,
            api_keys=read_api_keys(settings.api_keys_file) if "api-key" in ways and settings.api_keys_file else None,
            secret=_read_secret(settings.jwt_secret_file) if by_jwt and settings.jwt_secret_file else None,
            public_keys=public_keys,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            clock=clock,
        )

    def authenticate(self, request: web.BaseRequest) -> Caller:
        """The caller. Raises UNAUTHORIZED. Without auth every caller is ANYONE, whatever token it sends."""
        if not self._ways:
            return ANYONE
        token = bearer_token(request)
        if token is None:
            raise UnauthorizedError("no token")
        caller = self.caller_of(token)
        if caller.kind == "api-key" and "Origin" in request.headers:
            tell_of_key(request, caller.key_name)
        return caller

    def caller_of(self, token: str) -> Caller:
        # Keys are looked up by their hash: timing may reveal a part of the hash, but nothing of the key.
        if found := self._api_keys.get(hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()):
            name, shops = found
            return Caller(kind="api-key", shops=shops, key_name=name)
        if self._jwts is None or ("api-key" in self._ways and token.count(".") != _DOTS):
            raise UnauthorizedError("unknown key")
        if token.startswith(KEY_PREFIX):
            raise UnauthorizedError("a key, not a JWT")
        return self._caller_of_jwt(self._jwts, token)

    def seconds_left(self, caller: Caller) -> float | None:
        """How long the caller's token still lasts, never negative. None means for ever."""
        return None if caller.expires_at is None else max(0.0, caller.expires_at - self._clock())

    def _caller_of_jwt(self, jwts: "Jwts", token: str) -> Caller:
        claims = jwts.claims(token)
        try:
            return self._caller_with(claims)
        except (ValueError, TypeError, OverflowError):
            raise UnauthorizedError("claims") from None

    def _caller_with(self, claims: Mapping[str, Any]) -> Caller:
        now = self._clock()
        user, shop = claims["sub"], claims.get("shop")
        try:
            expires = _time(claims["exp"])
        except (ValueError, TypeError, OverflowError):
            raise UnauthorizedError("claim exp") from None
        if not isinstance(user, str) or not 0 < len(user) <= LONGEST_NAME:
            raise UnauthorizedError("claim sub")
        user.encode()  # refuses a lone surrogate, which no real user id contains
        if now >= expires:
            raise UnauthorizedError("expired")
        if "nbf" in claims and now < _time(claims["nbf"]):
            raise UnauthorizedError("not yet valid")
        shops: Shops = ALL
        if shop is not None:
            names = [shop] if isinstance(shop, str) else shop
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UnauthorizedError("claim shop")
            shops = frozenset(names)
            "".join(names).encode()
        scope = claims.get("scope", "")
        scopes = scope.split() if isinstance(scope, str) else scope
        return Caller(
            kind="jwt",
            user_id=user,
            shops=shops,
            expires_at=expires,
            watches_shops=isinstance(scopes, list) and "shop" in scopes,
        )


def bearer_token(request: web.BaseRequest) -> str | None:
    """The token of `Authorization: Bearer`, else of the cookie `gateway_token`, else of the query's `access_token`."""
    headers = request.headers.getall("Authorization", ())
    if len(headers) > 1:
        raise UnauthorizedError("two headers")
    if headers:
        scheme, _, token = headers[0].partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    if "Cookie" in request.headers and (cookie := request.cookies.get("gateway_token")):
        return cookie
    return request.query.get("access_token")


def doubts(settings: Settings) -> list[tuple[str, str]]:
    """Valid settings that the operator probably did not mean, as pairs of a log event and a sentence."""
    if "jwt" not in settings.auth or settings.jwt_secret_file is None:
        return []
    secret = _read_secret(settings.jwt_secret_file)
    said = []
    if len(secret) < _SHORTEST_SECRET:
        said.append(f"GATEWAY_JWT_SECRET_FILE holds {len(secret)} bytes, which can be guessed: HS256 wants 32 or more")
    if secret[:1] == secret[-1:] and secret[:1] in (b'"', b"'"):
        said.append("GATEWAY_JWT_SECRET_FILE holds a secret in quotes, which count as part of it")
    if secret.startswith(codecs.BOM_UTF8):
        said.append("GATEWAY_JWT_SECRET_FILE begins with a byte order mark, which counts as part of the secret")
    return [("auth.doubtful_secret", sentence) for sentence in said]


def _read_secret(path: Path) -> bytes:
    if not (secret := path.read_bytes().strip()):
        raise ValueError("GATEWAY_JWT_SECRET_FILE: holds no secret")
    return secret


def _time(claim: Any) -> float:
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        raise ValueError("not a time")  # NaN is neither past nor future: a token with it would never expire
    return float(claim)
