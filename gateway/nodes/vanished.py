"""Vanished stretches: readers here wait for their next events, and the database does not have them any more."""

from collections.abc import Collection, Iterable, Mapping
from time import monotonic
from weakref import WeakKeyDictionary

from gateway.ids import LogKey
from gateway.log.epochs import Epochs, no_epochs
from gateway.log.rows import beginner_of
from gateway.log.shelf import Shelf
from gateway.log.tail import Span, Tail
from gateway.nodes.database import Database
from gateway.waiting import PATIENCE

_KNOWN = "SELECT number FROM log_stretches WHERE number = ANY(%s)"
_LIVING = "SELECT id FROM log_nodes WHERE id = ANY(%s)"
_LOGS = "SELECT key, epochs, head, node FROM log_heads WHERE key = ANY(%s)"


class Vanished:
    """Tells the readers of a turn that does not come back.

    The database has lost the turn, at a failover; or retention has taken it, which this node was away for too long to
    follow; or its conversation was deleted, which this node did not hear of because it was taken for dead. Only the
    node that began a stretch can write it again, as long as it has its licence.
    """

    def __init__(self, database: Database, shelf: Shelf) -> None:
        self._database = database
        self._shelf = shelf
        self._missing: WeakKeyDictionary[Tail, float] = WeakKeyDictionary()  # logs that are not there, and since when

    async def look(self, tails: Iterable[Tail], there: Collection[int]) -> None:
        """Looks at these logs, which other nodes write. `there` are stretches that are known to be in the database.
        Raises `JournalError`."""
        missed = {
            span.number: (tail, span) for tail in tails for span in self.awaited(tail) if span.number not in there
        }
        if not missed:
            return
        for (number,) in await self._database.ask(_KNOWN, list(missed)):
            del missed[number]
        beginners = {beginner_of(number) for number in missed}
        living = {node for (node,) in await self._database.ask(_LIVING, list(beginners))} if missed else set()
        logs = {key: row for key, *row in await self._database.ask(_LOGS, [tail.key for tail, _ in missed.values()])}
        for number, (tail, span) in missed.items():
            if span not in self.awaited(tail):
                continue  # something came meanwhile
            epochs, head, claimed_by = logs.get(tail.key, ("", 0, None))
            if head >= span.first:
                tail.trimmed(span)
            elif tail.key not in logs:
                if beginner_of(number) not in living:
                    self._shelf.erase(tail.key)
            elif beginner_of(number) not in living and (epochs or claimed_by is None):
                known = Epochs.parse(epochs) if epochs else no_epochs(tail.key, self._shelf.made)
                self._shelf.forks.lost(tail, min(head, span.first - 1), known)

    def awaited(self, tail: Tail) -> list[Span]:
        """The spans of which readers here wait for more, and which this node does not write itself."""
        ours = self._shelf.unsaved.is_ours
        return [] if tail.is_ours else [span for span in tail.unfinished() if not ours(span.number)]

    def give_up(self, tails: Mapping[LogKey, Tail], there: Collection[LogKey]) -> None:
        """Sends away the readers of a log that was there, and that the database has not had for so long that no node
        writes it again. `there` are the logs that it has."""
        now = monotonic()
        for key, tail in tails.items():
            if key in there or not tail.head:
                self._missing.pop(tail, None)
            elif now - self._missing.setdefault(tail, now) > PATIENCE:
                self._shelf.erase(key)
