"""Passed requests and answers, which go through the gateway as they are."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from msgspec import Struct


class PassedRequest(Struct, frozen=True):
    """`target` is the path with its query, as it is sent. `length` is that of the body, None if nobody knows it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes] | bytes | None = None
    length: int | None = None


class PassedAnswer(Protocol):
    """Coze's answer, whose body flows. It must be closed."""

    status: int
    headers: list[tuple[str, str]]
    length: int | None
    log_id: str | None

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, packed as Coze packed it. Raises `upstream_unavailable` when it breaks off."""

    def close(self) -> None: ...
