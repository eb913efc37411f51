"""Text in the form in which PostgreSQL can store it: it has no NUL, which Coze may send.

In texts of turns a NUL is kept as two characters, so that what is read is what was written. All else gets U+FFFD for
it, as callers' texts do.
"""

from typing import Any, Final

EXACT: Final = frozenset({"message", "content", "reasoning"})
"""The columns whose text is given back as it was."""

_MARK: Final = "\ufdd0"  # no character, so texts hardly have it; one that does gets it back
_NUL, _SELF = _MARK + _MARK, _MARK + "\ufdd1"


def storable(column: str, value: Any) -> Any:
    """The value as it is stored."""
    if not isinstance(value, str):
        return value
    if column not in EXACT:
        return value.replace("\0", "\ufffd") if "\0" in value else value
    if "\0" in value or _MARK in value:
        return value.replace(_MARK, _SELF).replace("\0", _NUL)
    return value


def original(value: Any) -> Any:
    """The value of a column of `EXACT` as it was before it was stored."""
    if isinstance(value, str) and _MARK in value:
        return value.replace(_NUL, "\0").replace(_SELF, _MARK)
    return value
