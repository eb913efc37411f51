"""Bounds: how much of what Coze sends one turn may hold, each with the reason for its size.

All sizes are in bytes of UTF-8, as the text is stored and sent. A turn that would hold more ends with `error`. A text
of 8,000,000 bytes takes less than 64 MiB of memory: at its end there are about five copies of it (in the log, in the
frame of the last event, and three while the store writes it), and two copies of everything else.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.events import (
    ActionNeeded,
    Cancelled,
    Completed,
    CozeRecord,
    Event,
    Failed,
    Message,
    NodeChange,
    Notice,
    Text,
)

MIB: Final = 1024 * 1024

RECORD_BYTES: Final = 8 * MIB
"""One record of Coze's stream, or one JSON answer. A record repeats a whole answer, so it may be as large as a text of
unescaped Chinese; escaped, a Chinese character takes six bytes. Coze's largest records (cards, audio) are under 1
MiB."""

STATE_BYTES: Final = 1 * MIB
"""A JSON answer about a chat, without its messages: its status, its usage, the calls that it waits for. It is read as
free-form JSON, which takes some thirty times its size. Coze's have a few KiB."""

STATE_PARTS: Final = 20_000
"""The number of values in such an answer. To look at each of them takes the event loop 40 ms."""

USAGE_PARTS: Final = 64
"""How many counts of a chat's usage are passed on, and how many characters each name may have; Coze sends three."""

TEXT_BYTES: Final = 8 * MIB
"""A turn's text, including the part that is held back. The longest answers of today's models have about 0.5 MiB; the
contract promises answers of 8,000,000 bytes."""

SAID_BYTES: Final = 9 * MIB
"""A turn's text and its reasoning together, each of which is stored in one piece. A long chain of thought has 0.2
MiB."""

HELD_BYTES: Final = 2 * MIB
"""The part of a turn's answers that is held back while another one is shown: it is later sent at once, with the
text."""

TURN_BYTES: Final = 24 * MIB
"""Everything that a turn's events hold: text, reasoning, tools, cards, suggestions, rewrites and audio. It is enough
for six minutes of uncompressed speech (24 kHz), or to send the longest text again once."""

UNWRITTEN_BYTES: Final = 1 * MIB
"""If a turn has appended more than this to the log that is not durable yet, we stop reading from Coze: there are three
copies of it in memory while it is written."""

TURN_PARTS: Final = 10_000
"""Events of a turn that can't be merged with the previous one, and ids that are kept to recognize repetitions. Every
late reader gets each of these events; a long run of an agent has some hundreds."""

ANSWERS: Final = 1_000
"""Answers in one turn; most bots have one, others a handful. Each rewriting looks at all of them."""

ID_LENGTH: Final = 64
"""Characters of an id of Coze's that is kept as it is; Coze's have 19."""

NOTE_BYTES: Final = 48
"""The bytes that an answer costs each time that its offset in the text is written again."""

MATCHES: Final = 100_000
"""Comparisons of the answers that were streamed without an id with those of Coze's record: 20 ms."""


def size(text: str) -> int:
    """The bytes that `text` has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Allowance:
    """What one turn has used of its bounds: `bytes` in all. `exceeded` stays True once it is."""

    __slots__ = ("_parts", "_run", "_said", "_text", "bytes", "exceeded")

    def __init__(self) -> None:
        self.exceeded = False
        self._text = 0
        self._said = 0  # text and reasoning
        self.bytes = 0
        self._parts = 0
        self._run = ""  # the kind of text that can still be merged with the newest event

    def restore(self, text: int, reasoning: int, others: Iterable[int]) -> None:
        """Counts the events that a turn had shown before it lost its process."""
        self._text = text
        self._said = text + reasoning
        self.bytes = self._said + sum(others)

    def spend(self, events: Sequence[Event], start: int = 0) -> None:
        """Counts events from number `start` on. The last event of a turn costs nothing: it can always be said."""
        for event in events[start:] if start else events:
            if type(event) is Text:
                used = size(event.content)
                self.bytes += used
                self._said += used
                if event.kind == "message":
                    self._text += used
                if event.kind != self._run:
                    self._run = event.kind
                    self._parts += 1
                continue
            if isinstance(event, Completed | Cancelled | Failed | Notice):
                continue
            self._run = ""
            self._parts += 1
            if isinstance(event, ActionNeeded):
                self.bytes += len(msgspec.json.encode(event.tool_calls))
                continue
            if isinstance(event, NodeChange):
                self.bytes += size(event.title) + size(event.node_id)
                continue
            used = len(event.data) if isinstance(event, CozeRecord) else size(getattr(event, "content", ""))
            self.bytes += used
            if isinstance(event, Message) and event.replace:
                self._said += used - self._text
                self._text = used
        if self._text > TEXT_BYTES or self._said > SAID_BYTES or self.bytes > TURN_BYTES or self._parts > TURN_PARTS:
            self.exceeded = True

    def charge(self, used: int) -> None:
        """Counts bytes that belong to no event."""
        self.bytes += used
        if self.bytes > TURN_BYTES:
            self.exceeded = True

    def keep(self, *, held: int = 0, answers: int, ids: int) -> None:
        """Checks what is kept besides the events: bytes held back, answers, ids."""
        if held > HELD_BYTES or self._text + held > TEXT_BYTES or answers > ANSWERS or ids > TURN_PARTS:
            self.exceeded = True
