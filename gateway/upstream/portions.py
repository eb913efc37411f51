"""A body's bytes in portions, each of which is read in a moment whatever it holds. No I/O."""

from typing import Final

PORTION: Final = 16 * 1024
"""Bytes that take 20 ms where they are nothing but records of garbage, and 0.2 ms of a chat's own."""


LONG: Final = 256 * 1024
"""Bytes of a record that takes some time to read, so that nothing else is read in the same portion."""


class Portions:
    """Takes bytes as they come, and gives them in portions, which end where a record does where that can be seen.

    The portion in which a long record ends has nothing after it.
    """

    __slots__ = ("_at", "_data", "_open", "taken")

    whole = True  # the body may end at any byte

    def __init__(self) -> None:
        self._data = b""
        self._at = 0  # what is before it was given
        self._open = 0  # bytes of the record that has not ended yet
        self.taken = 0

    @property
    def in_long_record(self) -> bool:
        """Whether what was given last is part of a long record."""
        return self._open > LONG

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data if self._data else data
        self._at = 0

    def step(self) -> bytes | None:
        """The next portion; None when there is none."""
        data, at = self._data, self._at
        if at == len(data):
            self._data, self._at = b"", 0
            return None
        end = min(at + PORTION, len(data))
        long = self.in_long_record
        blank = data.find(b"\n\n", at, end) if long else data.rfind(b"\n\n", at, end)
        if blank < 0:
            self._open += end - at
        else:
            if long or end < len(data):
                end = blank + 2
            self._open = end - blank - 2
        self._at = end
        self.taken += end - at
        return data[at:end]
