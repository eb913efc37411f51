"""Portions of a body's bytes, each of which is quickly read, whatever it contains. No I/O."""

from typing import Final

PORTION: Final = 16 * 1024
"""Bytes that take 20 ms if they are nothing but garbage records, and 0.2 ms if they are a chat's ordinary records."""


LONG: Final = 256 * 1024
"""Bytes from which on a record takes so long to read that nothing else is read in the same portion."""


class Portions:
    """Takes bytes as they arrive, and gives them in portions, which end at the end of a record if that can be seen.

    In a portion in which a long record ends, nothing follows it.
    """

    __slots__ = ("_at", "_data", "_open", "taken")

    whole = True  # the body may end at any byte

    def __init__(self) -> None:
        self._data = b""
        self._at = 0  # the bytes before this offset were given
        self._open = 0  # bytes of the record that has not ended yet
        self.taken = 0

    @property
    def in_long_record(self) -> bool:
        """Whether the last portion is part of a long record."""
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
