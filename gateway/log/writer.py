"""A writer: the licence to write one stretch."""

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Protocol

from msgspec import structs

from gateway.events import Event, Last, Text, body
from gateway.log.journal import CUT, END, EPOCHS, MORE, STATE, JournalError, Record
from gateway.log.segments import LAST, MESSAGE, REASONING, WHOLE
from gateway.log.stretch import Stretch
from gateway.log.tail import SOMEBODY_ELSE, Tail

LONGEST_PIECE = 64 * 1024
"""Characters; what is said at once and is longer becomes several pieces."""

_LONG = 64 * 1024  # characters of a text that a last event doesn't repeat
_TEXT_KINDS = {"message": MESSAGE, "reasoning": REASONING}


class Owner(Protocol):
    """Whoever was given a writer."""

    @property
    def about(self) -> Mapping[str, object]:
        """What names the owner in a log line about the stretch: ids only."""

    def lost(self, writer: "Writer", error: JournalError) -> None:
        """What was appended and nobody has seen is gone. The owner may end the stretch with `owe`."""

    def fenced(self, writer: "Writer") -> None:
        """Somebody else goes on with the stretch. This writer adds nothing more, shows nothing and owes nothing."""


class Desk(Protocol):
    """Where writers put their records, to be committed in their order."""

    pending: list[Record]
    in_flight: list[Record]
    long: bool
    wake: asyncio.Event
    clock: Callable[[], float]

    def put(self, record: Record) -> None: ...

    def write_as_mine(self, tail: Tail) -> str:
        """The log's epochs, of which the newest is this process's from the next event on."""

    def is_newest(self, writer: "Writer") -> bool:
        """Whether no later stretch was begun in its log, as far as they are not saved yet."""

    def owe(self, records: list[Record]) -> None:
        """Shows these records at once, and writes them before all others when the journal heals."""


class Writer:
    """Whoever holds it appends to the stretch, takes notes with it, and ends it; nobody else does.

    It is taken away when somebody else takes the stretch over: from then on its methods do nothing. `foreign` says
    that a former process began the stretch and this one has added nothing yet.
    """

    __slots__ = ("_desk", "_noted", "fenced", "foreign", "owner", "stretch", "tail", "told")

    def __init__(
        self, desk: Desk, stretch: Stretch, tail: Tail, owner: Owner | None = None, *, foreign: bool = False
    ) -> None:
        self._desk = desk
        self.stretch = stretch
        self.tail = tail
        self.owner = owner
        self.foreign = foreign
        self.fenced = False
        self.told = False
        """Whether others know of the turn's end, for good."""
        self._noted = len(stretch.state)  # bytes of the note, with what is on its way

    def handed_to(self, owner: Owner) -> "Writer":
        """The writer by which another owner goes on with the stretch, after all that this one appended."""
        writer = Writer(self._desk, self.stretch, self.tail, owner, foreign=self.foreign)
        writer._noted = self._noted
        return writer

    @property
    def about(self) -> Mapping[str, object]:
        """What names the stretch in a log line: ids only."""
        return self.owner.about if self.owner is not None else {"turnId": self.stretch.turn}

    @property
    def active(self) -> bool:
        """Whether it may still append."""
        return self.tail.writer is self

    def append(self, event: Event) -> None:
        """Adds an event. It is seen once it is durable; nothing is awaited here."""
        tail, desk = self.tail, self._desk
        if tail.writer is not self:
            return self._refuse()
        if self.foreign:
            desk.put(self._go_on())
        sequence = tail.next
        pending = desk.pending
        if type(event) is Text:
            if len(event.content) > LONGEST_PIECE:
                return self._append_long(event)
            pending.append((self.stretch.number, _TEXT_KINDS[event.kind], sequence, event.content))
        else:
            pending.append(self._whole(sequence, event))
        tail.next = sequence + 1  # only now: an event that can't be encoded must not leave a gap
        if len(pending) == 1:
            desk.wake.set()
        return None

    def note(self, state: bytes) -> None:
        """Replaces the note that is kept with the stretch, in order with the events."""
        if not self.fenced:
            self._noted = len(state)
            self._desk.put((self.stretch.number, STATE, 0, state))

    def note_more(self, more: bytes) -> None:
        """Adds to the note, in order with the events."""
        if not self.fenced:
            self._desk.put((self.stretch.number, MORE, self._noted, more))
            self._noted += len(more)

    def end(self) -> None:
        """Ends the stretch after what was appended; its retention begins."""
        if self.tail.writer is not self:
            return self._refuse()
        self._desk.put((self.stretch.number, END, self.tail.next - 1, self._desk.clock()))
        self.tail.writer = None
        return None

    def owe(self, last: Event | None = None) -> None:
        """Ends a stretch that can't be written now, showing its last event if it has one; written before all else."""
        if self.fenced:
            return
        stretch, tail = self.stretch, self.tail
        sequence = stretch.last + 1
        if self._desk.is_newest(self):
            tail.next = sequence
            tail.writer = None
        # The journal may have taken what it said that it could not, and what was not shown must not be there later.
        records: list[Record] = [(stretch.number, CUT, stretch.last, None)]
        if last is not None:
            if self.foreign:
                records.append(self._go_on())
            records.append(self._whole(sequence, last))
            tail.next = max(tail.next, sequence + 1)
        records.append((stretch.number, END, stretch.last + (last is not None), self._desk.clock()))
        self._desk.owe(records)

    def fence(self) -> None:
        """Takes the licence away, and tells the owner."""
        if not self.fenced:
            self.fenced = True
            if self.tail.writer is self:
                self.tail.writer = SOMEBODY_ELSE
            if self.owner is not None:
                self.owner.fenced(self)

    def _refuse(self) -> None:
        if not self.fenced:
            raise RuntimeError(f"{self.stretch!r} was ended by its writer")

    def _append_long(self, text: Text) -> None:
        """Adds a text in several pieces, which need not all be in one batch."""
        for at in range(0, len(text.content), LONGEST_PIECE):
            self.append(Text(text.kind, text.content[at : at + LONGEST_PIECE]))
        self._desk.long = True

    def _whole(self, sequence: int, event: Event) -> Record:
        """The record of an event that is no piece of text. A last one doesn't repeat a long text that was shown."""
        number = self.stretch.number
        if isinstance(event, Last) and len(event.content) > _LONG:
            later = chain(self._desk.in_flight, self._desk.pending)
            if self.stretch.says(event.content, later):
                return number, LAST, sequence, body(structs.replace(event, content=""))
        return number, WHOLE, sequence, body(event)

    def _go_on(self) -> Record:
        """Says that what comes now in a stretch that a former process left running is this one's."""
        self.foreign = False
        return self.stretch.number, EPOCHS, self.tail.next, self._desk.write_as_mine(self.tail)

    def __repr__(self) -> str:
        return f"Writer({self.stretch!r}{', fenced' if self.fenced else ''})"
