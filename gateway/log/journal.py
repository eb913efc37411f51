"""The seam under the log: where batches of records become durable, and where finished stretches are kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from gateway.log.stretch import Stretch

BEGIN, STATE, END, EPOCHS, MORE, CUT = 3, 4, 5, 6, 7, 8
"""Kinds of records beyond `segments.Kind`: a stretch begins, its writer's note is another, it ended, another process
goes on with it, its writer's note has more, what comes after a sequence was never seen and counts no more."""


Record = tuple[int, int, int, Any]
"""One thing that happened to a stretch: `(number, kind, sequence, payload)`. `number` is the stretch's; `payload` by
`kind`: str for text, bytes for an event or a note, `(key, epochs, turn, note, mark, home)` for a beginning (older files
lack `home`), seconds since 1970 for an end, `epochs` for another process. `sequence` is the event's position, for a
beginning its first, for an end its last (0 in older files), and for more of a note the length after which it comes (a
record may be read twice after a crash). A bare tuple: there is one per piece. `epochs` is `Epochs.text` of the log, and
`home` the log for which the stretch waits, or the one that it is in.
"""


class Place(NamedTuple):
    """Where a stretch lies in its log; `last` of a running one is what was last saved of it."""

    first: int
    last: int
    number: int
    turn: str


class Index(NamedTuple):
    """What is kept of one log: its epochs, the last position ever given in it, and its stretches in order."""

    epochs: str
    head: int
    places: list[Place]


class Recovered(NamedTuple):
    """What a new process finds: stretches not saved yet or not ended (in the order they began), the next free number,
    the mark that the journal was given when it was made (lower-case letters and digits), the last batch, and the last
    batch that holds something of an erased log (0 when none does)."""

    stretches: list[Stretch]
    next_number: int
    made: str
    last_batch: int = 0
    erased: int = 0


class JournalError(Exception):
    """It can't be written or read now; the message is one sentence for an operator."""


class Fenced(JournalError):
    """Another process has taken the journal over: this one must write nothing more to it."""


class Uncertain(JournalError):
    """Whether a batch is durable is not known: its journal must be asked (`holds`), or given it again."""


class Broken(JournalError):
    """Not the journal failed, but what it was given, or we: only one turn's data are concerned."""


class Journal(Protocol):
    """Durable storage below the log; every method raises `JournalError`, and anything else for records that are broken.

    One process at a time writes a journal: another one that takes it over has the writes of the one before refused
    (`Fenced`). Apart from `Uncertain`, a call that raises has changed nothing. A call that is cancelled may have taken
    effect all the same, so the log doesn't cancel them.

    `shared` says that other processes write it too, and go on with what this one leaves: nothing is then shown that is
    not durable, not even the end of a turn that can't be written.
    """

    shared: bool

    async def open(self) -> Recovered: ...

    async def commit(self, number: int, batch: list[Record]) -> None:
        """Makes a batch durable, all or nothing. Numbers ascend; one that is given again changes nothing."""

    async def holds(self, number: int) -> bool:
        """Whether a batch that was given is durable. Asked after `Uncertain`."""

    async def save(self, stretches: list[Stretch]) -> None:
        """Keeps whole stretches as they are now, ended or not, in place of what was kept of them before."""

    async def forget(self, *, before: int) -> None:
        """Drops the batches numbered below `before`: all that they hold is saved."""

    async def index(self, key: str) -> Index | None:
        """What is kept of a log; None for one that nothing is known of."""

    async def find(self, turn: str) -> str | None:
        """The key of the log that holds a turn's stretch: of the newest one, if there are several."""

    async def turns(self) -> list[str]:
        """The turns of saved stretches, oldest first."""

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        """The turn and the note of the newest saved stretch with that mark."""

    async def load(self, number: int) -> Stretch | None:
        """A saved stretch with its events; None when retention took it meanwhile."""

    async def trim(self, *, before: float, now: float) -> list[str]:
        """Drops stretches that ended before that time, a bounded number a call; the keys of their logs.

        What ended after `now` ended under a clock that was wrong, and counts as ended now.
        """

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        """Drops all that is kept of these logs. `unsaved` are stretches of them that only batches hold.

        They never come back, also not from batches that are kept for a while on account of other logs.
        """

    async def tidy(self) -> None:
        """Does what keeps the files small, aside from the writing as far as it can; called every second or two."""

    async def probe(self) -> None:
        """Writes something tiny, to learn whether writing works."""

    async def close(self) -> None: ...
