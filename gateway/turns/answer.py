"""A turn's text: the answers that Coze streams, joined into the one text that readers build from pieces.

Invariant: joining the pieces handed out, starting over at each `replace`, gives `text`. Whatever Coze does (double,
lose, interleave or rewrite its deltas), text that was shown changes only by an explicit `replace`.
"""

from collections.abc import Iterable
from hashlib import blake2s
from typing import Final

from gateway.bounds import ID_LENGTH, size
from gateway.events import Message, Text
from gateway.turns.part import Part

SEPARATOR: Final = "\n\n"
"""Separates two answers of one turn; it is part of the text."""


def real_id(message_id: str) -> str:
    """Coze's message id, or "" if Coze gave none: it sends "0" when it saves nothing. An id that is too long to be
    Coze's is replaced by its digest."""
    if len(message_id) > ID_LENGTH:
        return f"#{blake2s(message_id.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return "" if message_id == "0" else message_id


def common(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> int:
    """The number of answers at the beginning that two lists, as `Answers.starts` returns them, have in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Answers:
    """The answers of one turn in the order in which they first appeared, and the text that they form together.

    Each method takes one fact and returns the event to append, or None if there is nothing new to show. Answers without
    an id count as the same answer until it is complete. `moved` becomes True when `starts()` has changed. `held_bytes`
    counts the bytes held back since the last replacement of the text; `rewritten` becomes True with each replacement.
    """

    __slots__ = ("_finished", "_holding", "_open", "_told", "held_bytes", "moved", "parts", "rewritten")

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self.parts = list(parts)
        self.moved = False
        self.held_bytes = 0
        self.rewritten = False
        self._holding = False
        self._open: dict[str, Part] = {}  # by id, those that may go on; the first where several have one id
        self._finished: set[str] = set()  # ids whose whole answer is known, so that repetitions are ignored
        self._told: set[int] = set()  # hashes of whole answers without an id, to recognize repetitions
        self._find_open()

    @property
    def ids(self) -> int:
        """The number of ids that are kept."""
        return len(self._finished) + len(self._told)

    @classmethod
    def restore(cls, text: str, starts: Iterable[tuple[str, int]]) -> "Answers":
        """The answers of a text that was shown, given that text and the `starts()` that were kept.

        The two may have been kept at different moments. A start that doesn't fit the text is left out, and its text
        counts as part of the answer before it. This loses an id for matching, but never a character.
        """
        if not text:
            return cls()
        found = [("", 0)]
        for message_id, at in sorted(starts, key=lambda start: start[1]):
            if at == 0:
                found = [(message_id, 0)]
            elif found[-1][1] + len(SEPARATOR) < at < len(text) and text.endswith(SEPARATOR, 0, at):
                found.append((message_id, at))
        ends = [at - len(SEPARATOR) for _, at in found[1:]] + [len(text)]
        return cls(Part(message_id, text[at:end]) for (message_id, at), end in zip(found, ends, strict=True))

    def compact(self) -> None:
        """Called now and then, to keep a long text in less memory."""
        if self.parts:
            self.parts[-1].compact()

    @property
    def length(self) -> int:
        """The number of code points of `text`."""
        return sum(part.length for part in self.parts) + len(SEPARATOR) * max(0, len(self.parts) - 1)

    @property
    def text(self) -> str:
        """The text that readers have been shown."""
        return SEPARATOR.join([part.text for part in self.parts])

    def beginning(self, length: int) -> str:
        """The first code points of `text`, without building all of it."""
        found = ""
        for part in self.parts:
            if found:
                found += SEPARATOR
            for piece in part.parts():
                found += piece[: length - len(found)]
                if len(found) >= length:
                    return found[:length]
        return found

    def begins_with(self, message_id: str) -> bool | None:
        """Whether the next piece of this answer would begin with a separator; None if it would not be shown."""
        key = real_id(message_id)
        if self.parts and (last := self.parts[-1]).id == key and not last.whole:
            return False
        return None if key in self._finished or key in self._open else bool(self.parts)

    def starts(self) -> list[tuple[str, int]]:
        """Each answer's id and where its own text begins in the turn's text, in code points."""
        starts, at = [], 0
        for part in self.parts:
            starts.append((part.id, at))
            at += part.length + len(SEPARATOR)
        return starts

    def delta(self, message_id: str, text: str) -> Text | None:
        """A piece of an answer. It is held back if another answer has started since, as nothing can be inserted before
        that."""
        if not text:
            return None
        key = "" if message_id == "0" else message_id
        if len(key) > ID_LENGTH:
            key = real_id(key)
        if self.parts and (last := self.parts[-1]).id == key and not last.whole:
            last.append(text)
            return Text("message", text)
        if key in self._finished:
            return None
        if (part := self._open.get(key)) is not None:
            part.hold(text)
            self.held_bytes += size(text)
            self._holding = True
            return None
        return self._begin(Part(key, text))

    def complete(self, message_id: str, text: str) -> Text | Message | None:
        """A whole answer. Gives the rest after the streamed part, or the turn's whole text again if the answer
        differs."""
        key = real_id(message_id)
        if key in self._finished:
            return None
        part = self._streamed_as(key, text)
        if part is None and not key and hash(text) in self._told:
            return None  # the same whole answer again, without an id to recognize it by
        if part is not None:
            self._open.pop(part.id, None)
            part.id = part.id or key
            self.moved = True
        if not (key or (part is not None and part.id)):
            self._told.add(hash(text))
        self._finished.update({key, part.id if part else ""} - {""})
        if part is None:
            return self._begin(Part(key, text, whole=True)) if text else None
        part.whole = True
        part.release()
        begins = part.begins(text)
        if begins and part.length == len(text):
            return None
        if begins and part is self.parts[-1]:
            rest = text[part.length :]
            part.append(rest)
            return Text("message", rest)
        return self._replace({part: text})

    def add(self, text: str) -> Text:
        """Adds an answer that has no message of its own, and so can't be one that was streamed."""
        return self._begin(Part("", text, whole=True))

    def withdraw(self, message_id: str) -> Message | None:
        """Something streamed as text turns out not to be text (but a card): removes it from the text, if it is
        there."""
        key = real_id(message_id)
        part = self._open.get(key) if key else None
        if key:
            self._finished.add(key)
        return None if part is None else self._replace({part: ""})

    def flush(self) -> Message | None:
        """Shows the text that was held back, because nothing more will come."""
        return self._replace({}) if self._holding and any(part.held for part in self.parts) else None

    def become(self, answers: Iterable[tuple[str, str]]) -> Text | Message | None:
        """Adopts the text of Coze's record. Gives the rest if it continues the shown text, otherwise all of it
        again."""
        shown = self.text
        self.parts = [Part(message_id, text, whole=True) for message_id, text in answers if text]
        self._told.update(hash(part.text) for part in self.parts if not part.id)
        self._find_open()
        self.moved = True
        text = self.text
        if text == shown:
            return None
        if text.startswith(shown):
            return Text("message", text[len(shown) :])
        return Message(text, replace=True)

    def _begin(self, part: Part) -> Text:
        text = (SEPARATOR if self.parts else "") + part.text
        self.parts.append(part)
        if not part.whole:
            self._open.setdefault(part.id, part)
        self.moved = True
        return Text("message", text)

    def _find_open(self) -> None:
        self._open = {part.id: part for part in reversed(self.parts) if not part.whole}

    def _streamed_as(self, key: str, text: str) -> Part | None:
        """The part that a whole answer belongs to. If only one of the two has an id, they may still be the same."""
        if (part := self._open.get(key)) is not None:
            return part
        if key:
            return self._open.get("")
        length = len(text)
        return next((p for p in self.parts if not p.whole and p.length <= length and p.begins(text)), None)

    def _replace(self, texts: dict[Part, str]) -> Message:
        """The whole text again, including everything that was held back: a reader has to start over anyway."""
        for part, text in texts.items():
            part.text = text
            part.release()
        if self._holding:
            for part in self.parts:
                if held := part.held:
                    part.append(held)
                    part.release()
        self._holding = False
        self.held_bytes = 0
        self.rewritten = True
        if not all(texts.values()):
            self.parts = [part for part in self.parts if part.length]
        self._find_open()
        self.moved = True
        return Message(self.text, replace=True)
