"""The tokens that the simulated Coze gives to JWT apps, and those that it takes.

Without keys any bearer token is taken, as a personal one would be. With an app's public key the app's JWTs are
exchanged, each once; the tokens that come of it expire, and can be revoked.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import jwt

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
PREFIX = "czs_"
_CLOCK_LEEWAY = 60
_LONGEST = 86_399


class OAuthProblem(Exception):
    """A refusal in the form of Coze's OAuth API."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Tokens:
    """`life` is how long tokens live, in seconds, whatever is asked for; None: as long as is asked."""

    def __init__(self, clock: Callable[[], float], *, keys: Mapping[str, str], life: float | None) -> None:
        self._clock = clock
        self._keys = keys
        self._life = life
        self._used: set[str] = set()
        self.given: dict[str, float] = {}
        """When each token expires."""
        self.sessions: dict[str, str] = {}
        """The `session_name` for which each token was given; "" for none."""

    def exchange(self, signed: str, body: Mapping[str, Any]) -> tuple[str, int]:
        """A new token and when it expires, in seconds since 1970. Raises `OAuthProblem`."""
        if body.get("grant_type") != GRANT:
            raise OAuthProblem("unsupported_grant_type", "grant_type is not that of a JWT bearer")
        try:
            key = self._keys[jwt.get_unverified_header(signed)["kid"]]
            options = {"verify_iat": False, "verify_exp": False, "verify_aud": False}
            claims = jwt.decode(signed, key, algorithms=["RS256"], options=options)  # type: ignore[arg-type]
        except (jwt.PyJWTError, KeyError):
            raise OAuthProblem("invalid_client", "the JWT is not signed by this app", 401) from None
        now = self._clock()
        if claims.get("iat", 0) > now + _CLOCK_LEEWAY or claims.get("exp", 0) < now:
            raise OAuthProblem("invalid_request", "the JWT is not valid now")
        if claims.get("jti", "") in self._used or not claims.get("jti"):
            raise OAuthProblem("invalid_request", "the JWT was used before")
        self._used.add(claims["jti"])
        life = min(float(body.get("duration_seconds") or 900), _LONGEST) if self._life is None else self._life
        token = PREFIX + secrets.token_hex(16)
        self.given[token] = now + life
        self.sessions[token] = str(claims.get("session_name", ""))
        return token, int(now + life)

    def revoke(self) -> None:
        """Takes back every token that was given until now."""
        self.given.clear()

    def takes(self, token: str) -> bool:
        """Whether a request with this bearer token is let in."""
        if not self._keys:
            return token not in ("", "invalid")
        return self.given.get(token, 0.0) > self._clock()


def read_bearer(header: str) -> str:
    """The token in an Authorization header; "" if it holds none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
