"""The form of an upload: `multipart/form-data` with one file, which is read as it comes and never held as a whole.

The head of the file's part is read and written anew. From there on the client's own bytes are passed on, up to the end
of the form, so that the length is known whenever the client gave one. Meanwhile the end of the file is looked for,
because the form has to end there.
"""

import re
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from adapters.edge.body import in_time
from adapters.edge.failures import InvalidRequest, Mistake, TooLarge
from gateway.errors import Code, GatewayError
from gateway.upstream.uploads import Form

PIECE: Final = 64 * 1024
"""Bytes that are read at a time. A client has as long for each piece as for a whole JSON body."""

_HEAD: Final = 8 * 1024
"""Bytes of the head of the file's part, with the line before it. Browsers send 200 and the file's name."""

_ENDING: Final = 1024
"""Bytes from the file's end to the form's. Usually there is only the boundary, which has 72 at most."""

_PARAMETER = re.compile(r';[ \t]*([\w*-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^";\s]*))', re.ASCII)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
_KIND = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}", re.ASCII)
_QUOTED = re.compile(r'\\(["\\])')
_UTF8 = re.compile(r"utf-8'[\w-]*'(.*)", re.ASCII | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


async def read_form(request: web.Request, most: int) -> Form:
    """The form that a request carries, read as far as its file's first piece. Iterating the form reads the rest.

    `most` is how many bytes the file may have. Raises UNSUPPORTED_MEDIA_TYPE, TOO_LARGE, REQUEST_TIMEOUT and
    InvalidRequest; so does iterating the form.
    """
    boundary = _boundary_of(request)
    delimiter = f"\r\n--{boundary}".encode()
    length = request.content_length
    if length is not None and length > most + _HEAD + _ENDING:
        raise TooLarge(most)
    if not request.can_read_body:
        raise InvalidRequest([Mistake("file", "is required")])
    async with in_time(request):
        head = await request.content.readuntil(b"\r\n\r\n", max_size=_HEAD)
    written = _rewritten(head, boundary)
    left = None if length is None else length - len(head)
    if left is not None and left > most + len(delimiter) + len(b"--\r\n"):
        raise TooLarge(most)
    first = await _piece(request)
    if first.startswith(delimiter):
        raise InvalidRequest([Mistake("file", "is empty")])
    pieces = _pieces(request, written, first, delimiter, most)
    return Form(boundary, None if left is None else len(written) + left, pieces)


async def _pieces(
    request: web.Request, written: bytes, piece: bytes, delimiter: bytes, most: int
) -> AsyncIterator[bytes]:
    """The form: the head as it was `written`, the file from its first `piece` on, and what follows the file."""
    yield written
    window, size = piece, 0
    while (end := window.find(delimiter)) < 0:
        if not piece:
            raise InvalidRequest([Mistake("file", "is cut: the form does not end")])
        over = max(0, len(window) - len(delimiter) + 1)  # the rest may be the beginning of the delimiter
        size += over
        if size > most:
            raise TooLarge(most)
        if over:
            yield window[:over]
        piece = await _piece(request)
        window = window[over:] + piece
    if size + end > most:
        raise TooLarge(most)
    rest = len(window) - end
    while piece and rest <= _ENDING:
        piece = await _piece(request)
        window += piece
        rest += len(piece)
    if rest > _ENDING or not window.startswith(b"--", end + len(delimiter)):
        raise InvalidRequest([Mistake("", "has more than the one field that it may have, which is file")])
    yield window


async def _piece(request: web.Request) -> bytes:
    """The next bytes of the body: as many as a piece has, fewer only at the end, and then none."""
    piece = bytearray()
    async with in_time(request):
        while len(piece) < PIECE and (more := await request.content.read(PIECE - len(piece))):
            piece += more
    return bytes(piece)


def _boundary_of(request: web.Request) -> str:
    value = request.headers.get("Content-Type", "")
    kind = value.partition(";")[0].strip().lower()
    if kind != "multipart/form-data" or request.headers.get("Content-Encoding", "identity") != "identity":
        raise GatewayError(Code.UNSUPPORTED_MEDIA_TYPE)
    boundary = _parameters(value).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest([Mistake("Content-Type", "has no boundary that a form may have")])
    return boundary


def _rewritten(head: bytes, boundary: str) -> bytes:
    """The head of the file's part, as browsers write it. Raises InvalidRequest if it is no file's head."""
    opening, *lines = head.decode("utf-8", "replace").removeprefix("\r\n").split("\r\n")
    if opening.rstrip(" \t") != f"--{boundary}" or not head.endswith(b"\r\n\r\n"):
        raise InvalidRequest([Mistake("file", "is required: the form does not begin with it")])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    found = _parameters(headers.get("content-disposition", ""))
    if (field := found.get("name")) != "file":
        wrong = [Mistake("file", "is required, and comes first")]
        raise InvalidRequest([*wrong, Mistake(field[:64], "is not a known field", True)] if field else wrong)
    extended = _UTF8.fullmatch(found.get("filename*", ""))
    name = unquote(extended[1], errors="replace") if extended else found.get("filename", "")
    if not name:
        raise InvalidRequest([Mistake("file", "is not a file: it has no name")])
    kind = headers.get("content-type", "").partition(";")[0].strip()
    kind = kind if _KIND.fullmatch(kind) else "application/octet-stream"
    name = _CONTROL.sub("_", name).replace('"', "%22")
    disposition = f'form-data; name="file"; filename="{name}"'
    return f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n".encode()


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a header, as browsers and curl write them. The first of a name counts."""
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        found.setdefault(name.lower(), _QUOTED.sub(r"\1", quoted) or plain)
    return found
