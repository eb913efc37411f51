"""Others: the other nodes that write the same log, as far as turns need to know of them."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from gateway.ids import LogKey


class Others(Protocol):
    """Which node runs the turns of a conversation. Methods that wait raise `storage_unavailable`.

    `any` says whether there can be other nodes at all, and `live` whether there are some now.
    """

    any: bool

    @property
    def live(self) -> bool: ...

    @property
    def term(self) -> int:
        """Another one each time that this node was taken for dead: what it claimed before is not its own any more."""

    async def claim(self, key: LogKey) -> int | None:
        """Makes this node the one that runs a conversation's turns, until as many `release`s; else the node that is."""

    def hold(self, key: LogKey) -> None:
        """A conversation that this node has already, because it is new or was adopted: as `claim`."""

    def release(self, key: LogKey) -> None:
        """Takes one claim back. With the last one another node may claim the conversation."""

    def lose_all(self) -> None:
        """This node was taken for dead: it has no conversation any more."""

    def alone_with(self, mark: str) -> AbstractAsyncContextManager[None]:
        """Nobody else is between looking for a mark and keeping it meanwhile."""

    async def runner_of(self, turn: str) -> int | None:
        """The node that runs a turn, None when none does now."""

    async def all(self) -> list[int]:
        """The nodes that live, without this one."""

    async def ask(self, node: int, question: bytes) -> bytes | None:
        """Another node's answer; None when it gives none in time, and may be dead."""


class Nobody:
    """One process has the log for itself."""

    any = False
    live = False
    term = 0

    async def claim(self, key: LogKey) -> int | None:
        return None

    def hold(self, key: LogKey) -> None:
        pass

    def release(self, key: LogKey) -> None:
        pass

    def lose_all(self) -> None:
        pass

    def alone_with(self, mark: str) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def runner_of(self, turn: str) -> int | None:
        return None

    async def all(self) -> list[int]:
        return []

    async def ask(self, node: int, question: bytes) -> bytes | None:
        return None
