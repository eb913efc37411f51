"""Bounds: what one turn may hold of what Coze sends, each with the reason for its size.

All bytes are UTF-8, as they are stored and sent. A turn that would hold more ends with `error`. A text of 8,000,000
bytes costs less than 64 MiB of memory: it is there about five times at its end (the log, the frame of the last event,
and what the store writes, which is there three times while it is), everything else about twice.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.events import ActionNeeded, Cancelled, Completed, Event, Failed, Message, Notice, Text

MIB: Final = 1024 * 1024

RECORD_BYTES: Final = 8 * MIB
"""One record of Coze's stream, and one JSON answer. A record repeats a whole answer, so it may be as large as a text,
and Chinese as it is; escaped, a Chinese character has six bytes. Coze's largest (cards, audio) are under 1 MiB."""

STATE_BYTES: Final = 1 * MIB
"""A JSON answer about a chat and not of its messages: its status, its usage, the calls that it waits for. It is read
as free JSON, which takes some thirty times its size. Coze's have a few KiB."""

STATE_PARTS: Final = 20_000
"""Values in it, each of which is looked at: 40 ms of the event loop."""

USAGE_PARTS: Final = 64
"""Counts that are passed on of what a chat has used, and characters of the name of each; Coze has three."""

TEXT_BYTES: Final = 8 * MIB
"""A turn's text, with what is held back of it. The longest that a model says at once today has about 0.5 MiB; answers
of 8,000,000 bytes are promised to callers."""

SAID_BYTES: Final = 9 * MIB
"""A turn's text and its reasoning together: each is a whole where it is stored. A long chain of thought has 0.2 MiB."""

HELD_BYTES: Final = 2 * MIB
"""What is held back of a turn's answers while another one is shown: all of it is said anew at once, with the text."""

TURN_BYTES: Final = 24 * MIB
"""All that a turn's events hold: text, reasoning, tools, cards, suggestions, rewrites, and audio, of which this is
six minutes as uncompressed speech (24 kHz). It leaves room to say the longest text anew once."""

UNWRITTEN_BYTES: Final = 1 * MIB
"""What a turn may have appended to the log that is not durable yet, above which Coze is not read: it is in memory
three times while it is written."""

TURN_PARTS: Final = 10_000
"""Events of a turn that can't be merged with the one before, and ids that are kept to know a repetition by. Each is an
entry that every late reader is given; a long agent's run has some hundreds."""

ANSWERS: Final = 1_000
"""Answers in one turn; a bot with several has a handful. Each rewriting looks at all of them."""

ID_LENGTH: Final = 64
"""Characters of an id of Coze's that is kept as it is; Coze's have 19."""

NOTE_BYTES: Final = 48
"""What an answer costs each time that its place in the text is written anew."""

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
        self._run = ""  # the kind of text that the newest event can still be merged with

    def restore(self, text: int, reasoning: int, others: Iterable[int]) -> None:
        """Counts what a turn that lost its process had shown."""
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
            used = size(getattr(event, "content", ""))
            self.bytes += used
            if isinstance(event, Message) and event.replace:
                self._said += used - self._text
                self._text = used
        if self._text > TEXT_BYTES or self._said > SAID_BYTES or self.bytes > TURN_BYTES or self._parts > TURN_PARTS:
            self.exceeded = True

    def charge(self, used: int) -> None:
        """Counts bytes that are no event's."""
        self.bytes += used
        if self.bytes > TURN_BYTES:
            self.exceeded = True

    def keep(self, *, held: int = 0, answers: int, ids: int) -> None:
        """Looks at what is kept besides the events: bytes held back, answers, ids."""
        if held > HELD_BYTES or self._text + held > TEXT_BYTES or answers > ANSWERS or ids > TURN_PARTS:
            self.exceeded = True
