"""Masking Coze's raw bytes for a log: no secrets, and nothing that names or reaches a person."""

import re
from collections.abc import Callable

from gateway.masking import mask as mask_secrets

# Telephone numbers: international form, mainland China's mobiles and land lines, 3-3-4 with marks between. Bare runs
# of digits of other lengths are Coze's ids and times, which a log is read for.
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
_HELD_LIMIT = 64 * 1024


def mask(data: bytes) -> str:
    """`data` as text, bytes that are no UTF-8 as `\\xNN`; tokens, e-mail addresses, telephone numbers as `***`.

    What Coze spreads over several records is not recognised.
    """
    return _PERSONAL.sub("***", mask_secrets(data.decode("utf-8", "backslashreplace")))


class MaskedLog:
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
            self._write(mask(bytes(self._held[:end])))
            del self._held[:end]

    def close(self) -> None:
        if self._held:
            self._write(mask(bytes(self._held)))
            self._held.clear()
