"""Where the bearer token for Coze comes from."""

from typing import Protocol


class TokenSource(Protocol):
    async def __call__(self) -> str:
        """A token that is believed to be good. May fetch one, and raise `UpstreamError` when it cannot."""

    def invalidate(self, token: str) -> bool:
        """Coze refused `token`. Whether asking again will give another one, and the request is worth one repeat."""


class FixedToken:
    """One token for ever. Raises `ValueError` for what cannot be sent in a header."""

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
