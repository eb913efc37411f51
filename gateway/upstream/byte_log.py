"""Coze's raw bytes for a log, masked."""

from collections.abc import Callable

from gateway.masking import mask

_HELD_LIMIT = 64 * 1024


def masked(data: bytes) -> str:
    """`data` as text, bytes that are no UTF-8 as `\\xNN`, without secrets, e-mail addresses and telephone numbers.

    What Coze spreads over several records is not recognised.
    """
    return mask(data.decode("utf-8", "backslashreplace"), personal=True)


class ByteLog:
    """Logs a stream's bytes by whole lines, so that a read that ends inside a secret does not spare it."""

    __slots__ = ("_held", "_write")

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._held = bytearray()

    def received(self, data: bytes) -> None:
        self._held += data
        end = self._held.rfind(b"\n") + 1
        if end or len(self._held) > _HELD_LIMIT:
            end = end or len(self._held)
            self._write(masked(bytes(self._held[:end])))
            del self._held[:end]

    def close(self) -> None:
        if self._held:
            self._write(masked(bytes(self._held)))
            self._held.clear()
