"""Masking: hides secrets, and whatever identifies or reaches a person, in Coze's raw bytes for a log."""

import re
from collections.abc import Callable

from gateway.telemetry.masking import mask as mask_secrets

# Telephone numbers: international form, mainland China's mobiles and land lines, 3-3-4 with separators. Bare runs of
# digits of other lengths are Coze's ids and times, which a reader of the log needs.
_PERSONAL = re.compile(
    r"""
    [\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}
  | (?<![0-9A-Za-z_])(?:\+?86[\ -]?)?1[3-9][0-9](?:[\ -]?[0-9]{4}){2}(?![0-9])
  | \+[0-9](?:[\ ().-]{0,2}[0-9]){7,14}
  | (?<![0-9A-Za-z_])0[0-9]{2,3}-[0-9]{7,8}(?![0-9])
  | (?<![0-9A-Za-z_])(?:\([0-9]{3}\)[ ]?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}(?![0-9])
    """,
    re.VERBOSE,
)
_LONGEST = 64 * 1024  # bytes of a line that has not ended; the rest of the line is not shown
_TAIL = 1024  # characters before the cut; no secret that can only be recognized by its end is longer


def mask(data: bytes) -> str:
    """`data` as text, bytes that are no UTF-8 as `\\xNN`; tokens, e-mail addresses, telephone numbers as `***`.

    A secret that Coze spreads over several records is not recognized.
    """
    return _PERSONAL.sub("***", mask_secrets(data.decode("utf-8", "backslashreplace")))


class MaskedLog:
    """Logs a stream's bytes by whole lines, so that a read that ends inside a secret does not spare it.

    A line that is too long to be held is shown up to a point before the cut, since a secret across the cut can't be
    recognized; only the length of the rest is shown.
    """

    __slots__ = ("_held", "_left_out", "_write")

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._held = bytearray()
        self._left_out = 0  # bytes of a line that was cut

    def received(self, data: bytes) -> None:
        if self._left_out:
            rest = data.find(b"\n")
            self._left_out += len(data) if rest < 0 else rest
            if rest < 0:
                return
            self._tell_left_out()
            data = data[rest + 1 :]
        self._held += data
        if end := self._held.rfind(b"\n") + 1:
            self._write(mask(bytes(self._held[:end])))
            del self._held[:end]
        if len(self._held) > _LONGEST:
            self._left_out = len(self._held) - _LONGEST
            self._write(mask(bytes(self._held[:_LONGEST]))[:-_TAIL])
            self._held.clear()

    def close(self) -> None:
        if self._left_out:
            self._tell_left_out()
        if self._held:
            self._write(mask(bytes(self._held)))
            self._held.clear()

    def _tell_left_out(self) -> None:
        self._write(f"({self._left_out} bytes and the {_TAIL} characters before them left out: the line is too long)\n")
        self._left_out = 0
