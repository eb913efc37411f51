"""The book: all readers of one turn enter the events that they were given, which have to agree."""

import re

from tests.transports.readers import LAST, Event

_POSITION = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Broken(AssertionError):
    """A promise that every turn's readers have was broken."""


class Book:
    """The text at every position, and every event that is never merged, of one turn."""

    def __init__(self) -> None:
        self.texts: dict[str, tuple[str, str]] = {}
        self.wholes: dict[str, Event] = {}
        self.order: list[str] | None = None
        """Positions of those, as the first reader that came to the end had them."""

    def enter(self, position: str, text: str, reasoning: str) -> None:
        if self.texts.setdefault(position, (text, reasoning)) != (text, reasoning):
            raise Broken(f"at {position} one has {self.texts[position]!r}, another {(text, reasoning)!r}")

    def enter_whole(self, event: Event) -> None:
        if self.wholes.setdefault(event["id"], event) != event:
            raise Broken(f"at {event['id']} one has {self.wholes[event['id']]}, another {event}")


class Reader:
    """A reader of one turn, in one go or in several, which checks everything that it is given."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.position: str | None = None
        self.text = ""
        self.reasoning = ""
        self.wholes: list[str] = []
        self.names: list[str] = []
        self.seen: set[str] = set()
        self.last: Event | None = None

    def twin(self) -> "Reader":
        """A second reader that has been given the same so far."""
        twin = Reader(self.book)
        twin.__dict__.update(self.__dict__)
        twin.wholes, twin.names, twin.seen = list(self.wholes), list(self.names), set(self.seen)
        return twin

    def take(self, event: Event) -> None:
        name = event["event"]
        if self.last is not None:
            raise Broken(f"{name} after {self.last['event']}")
        self.names.append(name)
        if name == "reset":
            raise Broken(f"a reset: {event}")
        if "id" not in event:
            if event != {"event": "notice", "code": "queued"}:
                raise Broken(f"no id: {event}")
            return
        position = event["id"]
        if not _POSITION.fullmatch(position):
            raise Broken(f"not a position: {position!r}")
        if position in self.seen:
            raise Broken(f"{position} was given twice")
        self.seen.add(position)
        self.position = position
        if name == "message" and not event.keys() - {"event", "content", "id"}:
            self.text += event["content"]
        elif name == "reasoning":
            self.reasoning += event["content"]
        else:
            if name == "message" and event.get("replace"):
                self.text = event["content"]
            self.wholes.append(position)
            self.book.enter_whole(event)
        self.book.enter(position, self.text, self.reasoning)
        if name in LAST:
            self.last = event
            self._end(event)

    def _end(self, last: Event) -> None:
        if last["content"] != self.text:
            raise Broken(f"the pieces make {self.text!r}, the last event says {last['content']!r}")
        missed = self.book.wholes.keys() - set(self.wholes)
        if missed:
            raise Broken(f"never given: {[self.book.wholes[position] for position in missed]}")
        if self.book.order is None:
            self.book.order = self.wholes
        elif self.book.order != self.wholes:
            raise Broken(f"one has the order {self.book.order}, another {self.wholes}")
