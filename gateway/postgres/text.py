"""Text, as PostgreSQL can hold it."""

from typing import Any


def storable(value: Any) -> Any:
    """The value. PostgreSQL has no NUL, which Coze may send: U+FFFD takes its place, as in what callers send."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
