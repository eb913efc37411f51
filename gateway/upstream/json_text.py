"""JSON to and from Coze, which may be hostile: read strictly, saying in one word what is wrong with it.

msgspec reads nearly everything. Where it refuses, the standard library's reader looks again: it takes lone surrogates,
which then become U+FFFD, and it tells NaN and depth from plain nonsense.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

T = TypeVar("T")

Fault = Literal["malformed", "encoding", "not_finite", "too_deep"]

DEPTH_LIMIT = 64
"""Levels of nesting that a value is passed on with; Coze's own have 6."""

_DIGITS_LIMIT = 400
_MENDABLE = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity|[0-9]{19}|[eE]\+?[0-9]{3}")
"""What makes msgspec refuse a text that is no nonsense: surrogates, no finite numbers, numbers beyond a machine's."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)


class BadJson(Exception):
    """`fault` says what is wrong. Never holds the text itself."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault: Fault = fault


class _NotFinite(ValueError):
    pass


def read(data: bytes, decode: Callable[[bytes], T], kind: type[T]) -> T:
    """`data` as a `kind`; `decode` is msgspec's decoder for it. Raises BadJson."""
    try:
        value = decode(data)
        data.decode()  # msgspec does not look into strings that it skips
    except RecursionError:
        raise BadJson("too_deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_again(data, kind)
    return value


def _read_again(data: bytes, kind: type[T]) -> T:
    try:
        text = data.decode()
        # The slow reader is asked only where it may know better: nonsense by the thousand must not hold the loop up.
        if not text.lstrip(" \t\n\r").startswith("{") or not _MENDABLE.search(text):
            raise BadJson("malformed")
        return msgspec.convert(_mended(_decode_again(text), 0), kind)
    except UnicodeDecodeError:
        raise BadJson("encoding") from None
    except _NotFinite:
        raise BadJson("not_finite") from None
    except RecursionError:
        raise BadJson("too_deep") from None
    except (ValueError, msgspec.ValidationError):
        raise BadJson("malformed") from None


def write(value: Any) -> bytes:
    """`value` as JSON, a lone surrogate in it as U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_mended(value, 0))


def plain(value: Any, depth: int = 0) -> Any:
    """`value` fit to be written as JSON by anyone: numbers beyond 64 bits as strings, no number that is not finite.

    Raises BadJson when it is nested too deeply to be passed on.
    """
    if depth > DEPTH_LIMIT:
        raise BadJson("too_deep")
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT64:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _mended(value: Any, depth: int) -> Any:
    if depth > DEPTH_LIMIT:
        raise BadJson("too_deep")
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", key): _mended(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item, depth + 1) for item in value]
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFinite(name)


def _int(digits: str) -> int | str:
    """CPython refuses ints of over 4,300 digits, and takes its time for less."""
    return int(digits) if len(digits) <= _DIGITS_LIMIT else digits


_decode_again = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_int).decode
