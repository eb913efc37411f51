"""Ids in Coze's form: decimal strings of 19 digits, the unix second in the upper 32 bits."""

import hashlib
import secrets
import time


class IdMint:
    """Makes ids. One mint never gives an id twice; two mints do so with a chance of 2^-32 within the same second.

    The lower half is random, so that a restarted process does not repeat ids from before its end.
    """

    __slots__ = ("_given", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._given: set[int] = set()

    def new(self, now: float) -> str:
        """An id for the unix time `now`, in seconds."""
        if int(now) != self._second:
            self._second = int(now)
            self._given.clear()
        while (low := secrets.randbits(32)) in self._given:
            pass
        self._given.add(low)
        return str(self._second << 32 | low)


def message_id(chat_id: str, part: int, now: float) -> str:
    """The id of a chat's message number `part`: the same in every process, and without order, as Coze's are."""
    digest = hashlib.blake2b(f"{chat_id}/{part}".encode(), digest_size=4).digest()
    return str(int(now) << 32 | int.from_bytes(digest))


def second_of(decimal_id: str) -> int:
    """The unix second in which an id was made."""
    return int(decimal_id) >> 32


def new_log_id(now: float) -> str:
    """A log id as in `X-Tt-Logid`: 14 digits of time and 20 of upper-case hexadecimal."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(now)) + secrets.token_hex(10).upper()
