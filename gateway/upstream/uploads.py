"""An upload: a form that holds one file, on its way to Coze piece by piece, and what Coze says of the file."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.upstream.json_text import BadJson, converted

_TOKEN: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


class Form:
    """A `multipart/form-data` body whose one field, `file`, is a file. Its bytes are given once, as they come.

    `length` is the number of the bytes, None if it is not known yet. If the form breaks off, or turns out to be none,
    iterating raises the reason, which is also kept in `failure`: whoever sends the form only sees that it could not.
    """

    def __init__(self, boundary: str, length: int | None, pieces: AsyncIterator[bytes]) -> None:
        self.boundary = boundary
        self.length = length
        self.failure: Exception | None = None
        self._pieces = pieces

    @property
    def content_type(self) -> str:
        """The header's value. The boundary is quoted only if it must be, as by browsers (RFC 2046, 5.1.1)."""
        boundary = self.boundary if _TOKEN.fullmatch(self.boundary) else f'"{self.boundary}"'
        return f"multipart/form-data; boundary={boundary}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                yield piece
        except Exception as error:
            self.failure = error
            raise

    def __repr__(self) -> str:
        return f"Form({self.length} bytes, failure={self.failure!r})"


class FormBroke(Exception):
    """Coze did not get the whole form, for a reason that is not Coze's: the form's `failure`."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(type(failure).__name__)
        self.failure = failure


class StoredFile(Struct, frozen=True):
    """A file that Coze keeps. `created_at` is in seconds since 1970; what Coze has not said is "" or 0."""

    file_id: str
    name: str
    size: int
    created_at: int


class _File(Struct):
    id: str
    file_name: str | None = None
    bytes: Any = None
    created_at: Any = None


def stored_file(data: Any) -> StoredFile:
    """The file that Coze's answer tells of. Raises BadJson."""
    try:
        file = converted(data, _File)
    except msgspec.ValidationError:
        raise BadJson("malformed") from None
    if not file.id:
        raise BadJson("malformed")
    return StoredFile(file.id, file.file_name or "", _count(file.bytes), _count(file.created_at))


def _count(value: Any) -> int:
    """A number that may come as a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if type(value) is int and 0 <= value < 2**63 else 0
