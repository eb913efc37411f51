"""Readers, as the side that writes events sees them: who comes and goes, and who has to be led elsewhere."""

from typing import Protocol

from gateway.log.tail import Tail


class Readers(Protocol):
    """What turns ask of those who serve readers."""

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """The turn will never be in the log where it waited: its readers go on in the log that it is in."""

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: its readers get what there is, and are told to go."""
