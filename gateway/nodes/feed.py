"""A feed: another node's batches, as far as they are read here, and an inbox for those that Redis brings."""

from time import monotonic

from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.nodes.message import Message

_MOST = 1000
_MOST_BYTES = 8 * 1024 * 1024  # beyond, all are dropped, and read in PostgreSQL


class Inbox:
    """Holds batches that come in any order, or repeatedly, until they are read in theirs.

    `told` is the newest batch that its node has told of.
    """

    def __init__(self) -> None:
        self._messages: dict[int, tuple[Message, float]] = {}
        self._size = 0
        self.told = 0

    def put(self, message: Message) -> None:
        """A message came. One without a batch only tells that there is one."""
        self.told = max(self.told, message.number)
        if message.body and message.number not in self._messages:
            if len(self._messages) >= _MOST or self._size > _MOST_BYTES:
                self.clear()
            self._messages[message.number] = message, monotonic()
            self._size += len(message.body)

    def next(self, last: int) -> tuple[Message, float] | None:
        """The batch after the last one that was read, and when it came."""
        found = self._messages.pop(last + 1, None)
        if found is not None:
            self._size -= len(found[0].body)
        return found

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    def read(self, last: int) -> None:
        """All batches up to this one were read elsewhere."""
        for number in [number for number in self._messages if number <= last]:
            self._size -= len(self._messages.pop(number)[0].body)

    def clear(self) -> None:
        """Forgets what can't be read in its order."""
        self._messages.clear()
        self._size = self.told = 0


class Feed:
    """Another node's batches, which are read up to number `last` for those of its stretches that are followed."""

    def __init__(self, node: int, last: int) -> None:
        self.node = node
        self.last = last
        self.stretches: dict[int, tuple[Stretch, Tail]] = {}
        self.inbox = Inbox()
        self.begun: set[str] = set()
        """Logs with readers here in which a stretch began, by the newest batches."""
