"""Where the bearer token for Coze comes from."""

from typing import Protocol

from gateway.errors import Code, UpstreamError


class TokenSource(Protocol):
    async def token(self, user_id: str) -> str:
        """A token that is believed to be valid, for a request on this user's behalf. May fetch one, and raises
        `UpstreamError` if it can't."""

    def invalidate(self, token: str) -> bool:
        """Coze refused `token`. Returns whether the next call gives another one, so that one retry makes sense."""

    async def close(self) -> None: ...


class FixedToken:
    """A token that never changes. Raises `ValueError` if it cannot be sent in a header."""

    __slots__ = ("_token",)

    def __init__(self, token: str) -> None:
        if not is_sendable(token):
            raise ValueError("a Coze token is visible ASCII, without spaces or line ends")
        self._token = token

    async def token(self, user_id: str) -> str:
        return self._token

    def invalidate(self, token: str) -> bool:
        return False

    async def close(self) -> None:
        """Nothing is held."""

    def __repr__(self) -> str:
        return "FixedToken(…)"


class NoToken:
    """The gateway has no credentials of its own: only callers who bring their own are served."""

    async def token(self, user_id: str) -> str:
        raise UpstreamError(Code.UPSTREAM_UNAUTHORIZED, "neither COZE_API_TOKEN nor COZE_JWT_APP_ID is set")

    def invalidate(self, token: str) -> bool:
        return False

    async def close(self) -> None:
        """Nothing is held."""


def is_sendable(token: str) -> bool:
    """Whether it can be sent in a header."""
    return bool(token) and all("!" <= character <= "~" for character in token)
