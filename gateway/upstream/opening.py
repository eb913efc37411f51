"""The opening of an answer: tells whether it is an event stream, whatever its content type says. No I/O.

Coze's refusals are JSON with status 200, and proxies may give either form the other's content type.
"""

import re
from typing import Final, Literal

LIMIT: Final = 64 * 1024
"""Bytes kept of an answer that is not, or not yet, known to be an event stream; Coze's refusals have a few hundred."""

ANSWER_SECONDS: Final = 0.8
"""How long an answer that is not an event stream may take to arrive, in seconds."""

Opened = Literal["stream", "answer"]

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"event:", b"data:", b"id:", b"retry:", b":")
_FIELD_LINE = re.compile(rb"[\r\n](?:event|data|id|retry):")
_BLANKS = b" \t\r\n"


def opened(text: bytes, *, labelled: bool) -> Opened | None:
    """What an answer is that begins with `text`; `labelled`: its content type is an event stream's. None: not clear
    yet."""
    if _BOM.startswith(text):
        return None
    begin = text.removeprefix(_BOM).lstrip(_BLANKS)
    if not begin:
        return None if len(text) <= LIMIT else _by(labelled)
    if begin.startswith(b"{"):
        # No line of JSON begins like this, so there was a stray line before an event stream.
        return "stream" if _FIELD_LINE.search(begin) else "answer"
    if labelled or begin.startswith(_FIELDS):
        return "stream"
    return None if any(field.startswith(begin) for field in _FIELDS) else "answer"


def _by(labelled: bool) -> Opened:
    return "stream" if labelled else "answer"
