"""An entry: one event as a reader gets it from a log."""

from typing import NamedTuple

from gateway.events import Event, Reset, Unknown, body, decode, name_of


class Entry(NamedTuple):
    """`sequence` is the position of a reader that has this entry, `name` the event's name.

    `body` is the event's JSON without `id` and braces, as the gateway's own transports send it. Front doors that send
    another form use `event`.
    """

    sequence: int
    name: str
    body: bytes

    @classmethod
    def of(cls, sequence: int, event: Event | Reset) -> "Entry":
        """The entry of an event that is not read from a log."""
        made = body(event)
        return cls(sequence, name_of(made), made)

    @property
    def event(self) -> Event | Reset | Unknown:
        """The event with its fields, made anew at each call. `Unknown` is an event that a newer version wrote."""
        return decode(self.body)
