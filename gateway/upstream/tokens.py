"""Where the bearer token for Coze comes from."""

from typing import Protocol


class TokenSource(Protocol):
    async def __call__(self) -> str:
        """A token that is believed to be good. May fetch one, and raise `UpstreamError` when it cannot."""

    def invalidate(self, token: str) -> bool:
        """Coze refused `token`. Whether asking again will give another one, and the request is worth one repeat."""


class FixedToken:
    """One token for ever."""

    __slots__ = ("_token",)

    def __init__(self, token: str) -> None:
        self._token = token

    async def __call__(self) -> str:
        return self._token

    def invalidate(self, token: str) -> bool:
        return False

    def __repr__(self) -> str:
        return "FixedToken(…)"
