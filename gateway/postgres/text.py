"""Text in the form in which PostgreSQL can store it."""

from typing import Any


def storable(value: Any) -> Any:
    """The value with U+FFFD for each NUL, as in callers' texts. Coze may send NUL, and PostgreSQL can't store it."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
