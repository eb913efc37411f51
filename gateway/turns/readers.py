"""Readers, as the writing side sees them: they come and go, and sometimes have to be moved to another log."""

from typing import Protocol

from gateway.log.tail import Tail


class Readers(Protocol):
    """What turns need from the reading side."""

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """The turn will never appear in `old`, for which its readers waited: they continue in `new`."""

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: its readers get what is left of it, and are told to go."""
