"""Others: the other nodes that write the same log, as far as turns deal with them."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from gateway.ids import LogKey


class Others(Protocol):
    """Knows which node runs a conversation's turns. Methods that wait raise `storage_unavailable`.

    `any` says whether there can be other nodes at all.
    """

    any: bool

    async def leave(self) -> bool:
        """Tells the others that this node is about to leave. Returns whether another node stays, which can go on with
        its turns. Never raises: if the database does not answer, what was known last counts."""

    @property
    def term(self) -> int:
        """Changes each time that this node was taken for dead: then it has lost everything that it claimed before."""

    @property
    def breaks(self) -> int:
        """Changes when the connection to the log broke: the database may have lost what was claimed before that."""

    async def claim(self, key: LogKey) -> int | None:
        """Claims a conversation, so that this node runs its turns until as many calls of `release`. If another node has
        claimed it, returns that node and changes nothing."""

    def hold(self, key: LogKey) -> None:
        """Counts as a claim of a conversation that this node has already, because it is new or was adopted."""

    def release(self, key: LogKey, term: int | None = None) -> None:
        """Takes one claim back, unless it belongs to a former term. After the last one another node may claim the
        conversation."""

    def lose_all(self) -> None:
        """This node was taken for dead and has lost all its claims."""

    def alone_with(self, mark: str) -> AbstractAsyncContextManager[None]:
        """A lock over all nodes: only its holder looks for the mark and then keeps a turn under it."""

    async def runner_of(self, turn: str) -> int | None:
        """The node that runs a turn; None if no node does now."""

    async def all(self) -> list[int]:
        """All living nodes except this one."""

    async def ask(self, node: int, question: bytes) -> bytes | None:
        """Another node's answer; None if it gives none in time: it may be dead."""


class Nobody:
    """There are no other nodes: one process has the log to itself."""

    any = False
    term = 0
    breaks = 0

    async def leave(self) -> bool:
        return False

    async def claim(self, key: LogKey) -> int | None:
        return None

    def hold(self, key: LogKey) -> None:
        pass

    def release(self, key: LogKey, term: int | None = None) -> None:
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
