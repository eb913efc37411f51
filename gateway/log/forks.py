"""Forks: a database has lost the end of a log that was shown here, and a node has gone on from an earlier position."""

from collections.abc import Callable

import structlog

from gateway.log.epochs import Epochs
from gateway.log.tail import Tail

logger = structlog.get_logger()


class Forks:
    """Takes a tail back to where its events and the database's begin to differ. Epochs show where that is, because a
    node that goes on after a loss opens a new one.

    `told` is called once per tail that is taken back.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told

    def compare(self, tail: Tail, epochs: str, last: int) -> None:
        """The database has the log at least up to `last`, under these epochs; what the tail has beyond may come."""
        if epochs != tail.epochs.text and not tail.is_ours:
            known = Epochs.parse(epochs)
            if (after := known.parts(tail.epochs, min(last, tail.head))) is not None:
                self._take_back(tail, after, known)

    def take_back(self, tail: Tail, epochs: str, head: int) -> None:
        """The database has the log up to `head`, and what the tail has beyond will not come."""
        self.compare(tail, epochs, head)
        if head < tail.head and not tail.is_ours:
            self._take_back(tail, head, Epochs.parse(epochs))

    def lost(self, tail: Tail, after: int, epochs: Epochs) -> None:
        """The database has lost what comes after a position, and nobody will write it again."""
        self._take_back(tail, after, epochs)

    def _take_back(self, tail: Tail, after: int, epochs: Epochs) -> None:
        logger.warning("log.taken_back", log=tail.key, after=after, had=tail.head)
        self._told()
        tail.take_back(after, epochs)
