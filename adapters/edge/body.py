"""The body of a JSON request, bounded in size and in time.

Bodies are strict JSON (RFC 8259). Characters that some programs can't store (a lone surrogate, NUL) become U+FFFD. Of
a name that comes twice in an object the last value counts, as in browsers.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import web

from adapters.edge.failures import InvalidRequest, Mistake, TooLarge
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError

BODY_DEADLINE: Final = web.AppKey("body_deadline", float)
"""Seconds for a whole body, or for each piece of an upload: aiohttp itself has no such deadline. The default is 30."""

NUL: Final = b"\\u0000"
"""How JSON writes the characters that have to be replaced. A body without this needs no mending."""

_BODY_SECONDS: Final = 30.0
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\u0000)"  # half of one, or NUL
    rb"|(?:\\[^u])+"  # other escapes, many at once, so that the second backslash of \\\\ud800 starts no escape
    rb"|\\.",
    re.DOTALL,
)


async def read_body(request: web.Request, settings: Settings) -> bytes:
    """The whole body of a JSON request, bounded in size and in time."""
    headers = request.headers
    if not _is_json(headers.getall("Content-Type", ())) or headers.get("Content-Encoding", "identity") != "identity":
        # Compressed bodies are refused: 256 KiB can unpack to a gigabyte.
        raise GatewayError(Code.UNSUPPORTED_MEDIA_TYPE)
    most = settings.max_body_bytes
    if (request.content_length or 0) > most:
        raise TooLarge(most)
    content = request.content
    if content.is_eof():
        body = content.read_nowait(-1)
        if len(body) > most:
            raise TooLarge(most)
        return body
    parts = bytearray()
    async with in_time(request):
        while part := await content.readany():
            parts += part
            if len(parts) > most:
                raise TooLarge(most)
    return bytes(parts)


@contextlib.asynccontextmanager
async def in_time(request: web.Request) -> AsyncIterator[None]:
    """Raises REQUEST_TIMEOUT if a body, or a piece of an upload, does not come in time."""
    try:
        async with asyncio.timeout(request.config_dict.get(BODY_DEADLINE, _BODY_SECONDS)):
            yield
    except TimeoutError:
        raise GatewayError(Code.REQUEST_TIMEOUT) from None


def strict_json(raw: bytes) -> object:
    """The value of `raw`. Refuses NaN, a second value, comments and a BOM; replaces surrogates, escaped or in UTF-8."""
    if NUL in raw:
        return _json(_mended(raw), mended=True)
    return _json(raw, mended=False)


def _json(raw: bytes, *, mended: bool) -> object:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequest([Mistake("", "holds a number out of range")]) from None
    except UnicodeDecodeError:
        raise InvalidRequest([Mistake("", "is not UTF-8")], status=400) from None
    except RecursionError:
        raise InvalidRequest([Mistake("", "is nested too deeply")], status=400) from None
    except msgspec.DecodeError as error:
        if not mended and (better := _mended(raw)) != raw:
            return _json(better, mended=True)
        raise InvalidRequest([Mistake("", f"is not JSON: {error}")], status=400) from None


def _mended(raw: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: b"\\ufffd" if match[1] else match[0], raw)


def _is_json(content_types: tuple[str, ...] | list[str]) -> bool:
    if len(content_types) != 1:
        return False
    if content_types[0] == "application/json":
        return True
    kind, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    charsets = [p.removeprefix("charset=").strip('"') for p in parameters if p.startswith("charset=")]
    return kind == "application/json" and all(charset in ("utf-8", "utf8") for charset in charsets)
