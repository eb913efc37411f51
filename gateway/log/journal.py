"""The seam under the log: where batches of records become durable, and where finished stretches are kept."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.log.stretch import Stretch

BEGIN, STATE, END, EPOCHS, MORE, CUT = 3, 4, 5, 6, 7, 8
"""Kinds of records beyond `segments.Kind`: a stretch begins; its writer's note is replaced; it ended; another process
goes on with it; its writer's note grew; its events after a sequence are void, because nobody has seen them."""


Record = tuple[int, int, int, Any]
"""One thing that happened to a stretch: `(number, kind, sequence, payload)`. It is a bare tuple because there is one
per piece.

`number` is the stretch's. `payload` depends on `kind`: str for text, bytes for an event or a note, `(key, epochs, turn,
note, mark, home)` for a beginning (older files lack `home`), seconds since 1970 for an end, `epochs` for another
process. `sequence` is the event's sequence; for a beginning the stretch's first, for an end its last (0 in older
files), and for an addition to a note the length of the note before it, because a record may be read twice after a
crash. `epochs` is `Epochs.text` of the log, and `home` the log for which the stretch waits, or its own log.
"""


class Place(NamedTuple):
    """Where a stretch lies in its log. While the stretch runs, `last` is the last position that was saved."""

    first: int
    last: int
    number: int
    turn: str
    ended: bool = True
    """Whether the saved part includes the stretch's end. It is False only where several processes write the journal."""


class Index(NamedTuple):
    """What is kept of one log: its epochs, the last sequence that was ever given in it, and its stretches in order."""

    epochs: str
    head: int
    places: list[Place]


def indexes_of(rows: Iterable[Sequence[Any]]) -> dict[str, Index]:
    """Indexes from rows that a database gives in the order of `first`: the log's key, its epochs and head, and a place,
    which is NULL where nothing is kept."""
    found: dict[str, Index] = {}
    for key, epochs, head, *place in rows:
        index = found.setdefault(key, Index(epochs, head, []))
        if place[0] is not None:
            index.places.append(Place(*place))
    return found


class Recovered(NamedTuple):
    """What a new process finds: the stretches that are not saved yet or have not ended (in the order in which they
    began), the next free number of a stretch, the random text that the journal was given when it was made (lower-case
    letters and digits), the last batch, and the last batch that holds records of an erased log (0 if none does)."""

    stretches: list[Stretch]
    next_number: int
    made: str
    last_batch: int = 0
    erased: int = 0


class JournalError(Exception):
    """The journal can't be written or read now. The message is one sentence for an operator."""


class Fenced(JournalError):
    """Another process has taken the journal over: this one must write nothing more to it."""


class Uncertain(JournalError):
    """It is not known whether a batch is durable: ask the journal (`holds`), or send the batch again."""


class Broken(JournalError):
    """Our code failed, or one turn's data are broken. The journal itself works, and only that turn is lost."""


class Journal(Protocol):
    """Durable storage below the log. Every method raises `JournalError`, or any other exception if records are broken.

    One process at a time writes a journal. When another process takes it over, writes of the one before are refused
    (`Fenced`). A commit that raises anything but `Uncertain` has changed nothing. Any other call that raises may have
    taken effect, and can be made again. A call that is cancelled may still take effect, so the log cancels none.

    `shared` says that other processes write the journal too, and go on with what this process leaves. Then nothing is
    shown that is not durable, not even the end of a turn that can't be written.
    """

    shared: bool

    async def open(self) -> Recovered: ...

    async def commit(self, number: int, batch: list[Record]) -> None:
        """Makes a batch durable, all of it or nothing. Numbers ascend. A batch that is sent again changes nothing."""

    async def holds(self, number: int) -> bool:
        """Whether a batch that was sent is durable. Called after `Uncertain`."""

    async def save(self, stretches: list[Stretch]) -> None:
        """Saves whole stretches as they are now, ended or not, and replaces what was saved of them before."""

    async def forget(self, *, before: int) -> None:
        """Drops the batches with numbers below `before`, because everything in them is saved."""

    async def indexes(self, keys: Sequence[str]) -> dict[str, Index]:
        """What is kept of these logs, by key. A log of which nothing is known is left out."""

    async def find(self, turn: str) -> str | None:
        """The key of the log that holds a turn's stretch; if there are several stretches, that of the newest."""

    async def turns(self) -> list[str]:
        """The turns of saved stretches, oldest first."""

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        """The turn and the note of the newest saved stretch with this mark."""

    async def load(self, number: int) -> Stretch | None:
        """A saved stretch with its events; None if retention has removed it meanwhile."""

    async def trim(self, *, before: float, now: float) -> list[str]:
        """Drops a bounded number of stretches that ended before `before`. Returns the keys of their logs.

        A stretch whose end is later than `now` was ended by a wrong clock, and counts as ended now.
        """

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        """Drops everything that is kept of these logs. `unsaved` are those of their stretches that are only in batches.

        They never come back, not even from batches that are kept for a while because of other logs.
        """

    async def tidy(self) -> None:
        """Keeps the files small, beside the writing as far as possible. Called every second or two."""

    async def probe(self) -> None:
        """Writes something tiny, to find out whether writing works."""

    async def close(self) -> None: ...
