"""A writer: the right to write one stretch."""

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
"""Characters that a piece may have. A longer text becomes several pieces."""

_LONG = 64 * 1024  # characters: a last event does not repeat a longer text
_TEXT_KINDS = {"message": MESSAGE, "reasoning": REASONING}


class Owner(Protocol):
    """The part of the gateway that was given a writer."""

    @property
    def about(self) -> Mapping[str, object]:
        """The fields that name the owner in log lines about the stretch: only ids."""

    def lost(self, writer: "Writer", error: JournalError) -> None:
        """The events that were appended and that nobody has seen are gone. The owner may end the stretch with `owe`."""

    def fenced(self, writer: "Writer") -> None:
        """Somebody else goes on with the stretch. The writer adds nothing more, shows nothing and owes nothing."""


class Desk(Protocol):
    """Where writers put their records, which are committed in that order."""

    pending: list[Record]
    in_flight: list[Record]
    long: bool
    wake: asyncio.Event
    clock: Callable[[], float]

    def put(self, record: Record) -> None: ...

    def write_as_mine(self, tail: Tail) -> str:
        """Makes an epoch of this process the log's newest, from the next event on. Returns the log's epochs as text."""

    def is_newest(self, writer: "Writer") -> bool:
        """Whether its log has no later stretch that is not saved yet."""

    def owe(self, records: list[Record]) -> None:
        """Shows these records at once, and writes them before all others when the journal works again."""


class Writer:
    """Only its holder appends to the stretch, keeps notes with it, and ends it.

    When somebody else takes the stretch over, the writer is fenced: from then on its methods do nothing. `foreign` says
    that another process began the stretch and this one has added nothing yet.
    """

    __slots__ = ("_desk", "_noted", "announcing", "fenced", "foreign", "owner", "stretch", "tail", "told")

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
        """Whether the turn's end is stored elsewhere too."""
        self.announcing = False
        """Whether somebody else still has to be told of the turn's end: until then another process may have to do it,
        and finds the stretch only while it is not saved."""
        self._noted = len(stretch.state)  # bytes of the note, including what is not durable yet

    def handed_to(self, owner: Owner) -> "Writer":
        """A writer with which another owner goes on with the stretch, after everything that this one appended."""
        writer = Writer(self._desk, self.stretch, self.tail, owner, foreign=self.foreign)
        writer._noted = self._noted
        return writer

    @property
    def about(self) -> Mapping[str, object]:
        """The fields that name the stretch in log lines: only ids."""
        return self.owner.about if self.owner is not None else {"turnId": self.stretch.turn}

    @property
    def active(self) -> bool:
        """Whether it may still append."""
        return self.tail.writer is self

    def append(self, event: Event) -> None:
        """Adds an event, without waiting. Readers see it once it is durable."""
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
        tail.next = sequence + 1  # only here: an event that can't be encoded must leave no gap
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

    def lost(self) -> None:
        """Records that are not durable are lost."""
        self._noted = len(self.stretch.state)

    def end(self) -> None:
        """Ends the stretch after what was appended; its retention begins."""
        if self.tail.writer is not self:
            return self._refuse()
        self._desk.put((self.stretch.number, END, self.tail.next - 1, self._desk.clock()))
        self.tail.writer = None
        return None

    def owe(self, last: Event | None = None) -> None:
        """Ends a stretch that can't be written now. `last`, its last event, is shown at once, and is written before
        everything else when the journal works again."""
        if self.fenced:
            return
        stretch, tail = self.stretch, self.tail
        sequence = stretch.last + 1
        if self._desk.is_newest(self):
            tail.next = sequence
            tail.writer = None
        # The journal may have kept records although it reported a failure: what nobody saw must not appear later.
        records: list[Record] = [(stretch.number, CUT, stretch.last, None)]
        if last is not None:
            if self.foreign:
                records.append(self._go_on())
            records.append(self._whole(sequence, last))
            tail.next = max(tail.next, sequence + 1)
        records.append((stretch.number, END, stretch.last + (last is not None), self._desk.clock()))
        self._desk.owe(records)

    def fence(self) -> None:
        """Takes the right to write away, and tells the owner."""
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
        """Adds a text in several pieces, which may be in different batches."""
        for at in range(0, len(text.content), LONGEST_PIECE):
            self.append(Text(text.kind, text.content[at : at + LONGEST_PIECE]))
        self._desk.long = True

    def _whole(self, sequence: int, event: Event) -> Record:
        """The record of an event that is no piece of text. A last event does not repeat a long text that was shown."""
        number = self.stretch.number
        if isinstance(event, Last) and len(event.content) > _LONG:
            later = chain(self._desk.in_flight, self._desk.pending)
            if self.stretch.says(event.content, later):
                return number, LAST, sequence, body(structs.replace(event, content=""))
        return number, WHOLE, sequence, body(event)

    def _go_on(self) -> Record:
        """The record that begins this process's epoch in a stretch that another process began."""
        self.foreign = False
        return self.stretch.number, EPOCHS, self.tail.next, self._desk.write_as_mine(self.tail)

    def __repr__(self) -> str:
        return f"Writer({self.stretch!r}{', fenced' if self.fenced else ''})"
