"""Surrogates: joins surrogate pairs that Coze sent in two pieces.

Upstreams that cut text by UTF-16 units end one piece with `"\\ud83d"` and begin the next with `"\\ude00"`.
"""

import re
from typing import Final

REPLACEMENT: Final = "\ufffd"

HALVES_LIMIT: Final = 64
"""Texts that may wait for a second half at once; Coze streams one or two texts at a time."""

_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_REPLACEMENT_BYTES = REPLACEMENT.encode()


def mend(text: str) -> str:
    """`text` with its pairs joined, and each half without a partner as U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        # Searched for in bytes, because a surrogate's first byte is found four times as fast there.
        data = text.encode("utf-8", "surrogatepass")
        return _SURROGATE.sub(_REPLACEMENT_BYTES, _PAIR.sub(_joined, data)).decode()


def mend_inside(text: str) -> str:
    """The same, but a half at an edge stays, because its partner may be in the piece before or after."""
    first = text[:1] if "\udc00" <= text[:1] <= "\udfff" else ""
    last = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    return first + mend(text[len(first) : len(text) - len(last)]) + last


class Halves:
    """First halves that are held back until their text goes on. A text is known by its kind and its message's id."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: dict[tuple[type, str], str] = {}

    def join(self, kind: type, message_id: str, text: str) -> str:
        """The part of a piece that can be shown, preceded by the half that was held back before it."""
        text = self.held.pop((kind, message_id), "") + text
        if "\ud800" <= text[-1:] <= "\udbff" and len(self.held) < HALVES_LIMIT:
            self.held[kind, message_id] = text[-1]
            text = text[:-1]
        return mend(text)

    def drop(self, kind: type, message_id: str) -> None:
        """The text has arrived complete. If one of the two has no id, they may be the same text."""
        for key in [key for key in self.held if key[0] is kind and (not message_id or key[1] in ("", message_id))]:
            del self.held[key]

    def left(self) -> list[tuple[type, str]]:
        """The texts whose held half will find no partner. After the call, no half is held."""
        left = list(self.held)
        self.held.clear()
        return left


def _joined(pair: re.Match[bytes]) -> bytes:
    halves = pair[0].decode("utf-8", "surrogatepass")
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()
