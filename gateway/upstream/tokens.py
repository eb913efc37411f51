"""Where the bearer token for Coze comes from."""

from typing import Protocol


class TokenSource(Protocol):
    async def __call__(self) -> str:
        """A token that is believed to be valid. May fetch one, and raises `UpstreamError` if it can't."""

    def invalidate(self, token: str) -> bool:
        """Coze refused `token`. Returns whether the next call gives another one, so that one retry makes sense."""


class FixedToken:
    """A token that never changes. Raises `ValueError` if it cannot be sent in a header."""

    __slots__ = ("_token",)

    def __init__(self, token: str) -> None:
        if not token or not all("!" <= character <= "~" for character in token):
            raise ValueError("a Coze token is visible ASCII, without spaces or line ends")
        self._token = token

    async def __call__(self) -> str:
        return self._token

    def invalidate(self, token: str) -> bool:
        return False

    def __repr__(self) -> str:
        return "FixedToken(…)"
