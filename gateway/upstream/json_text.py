"""JSON to and from Coze, which may be hostile: read strictly, saying in one word what is wrong with it.

msgspec reads nearly everything. If it refuses a text, the standard library's parser tries again: it accepts lone
surrogates, which then become U+FFFD, and distinguishes NaN and excessive depth from plain nonsense. A whole number in
place of a string (some proxies turn Coze's ids into numbers) is read as its digits.
"""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar, cast, get_type_hints

import msgspec

from gateway.upstream.surrogates import mend, mend_inside

T = TypeVar("T")

Fault = Literal["malformed", "encoding", "not_finite", "too_deep"]

DEPTH_LIMIT = 64
"""The deepest nesting of a value that is passed on; Coze's own values have 6 levels."""

_DIGITS_LIMIT = 400
# Each of these bounds limits what is read in one go to 50 ms, since this runs in the event loop.
_SLOW_PARTS = 50_000
"""Values in a text that the slow parser reads, with fields of any form. Coze's have a few hundred."""
_PARTS = 120_000
"""Values (counted by commas, including those inside strings) in any other text that is read again or in free form."""
_MENDABLE = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity|[0-9]{19}|[eE]\+?[0-9]{3}")
"""What makes msgspec refuse a sensible text: surrogates, numbers that are not finite, numbers beyond 64 bits."""
_LOOKED_AT = 4 * 1024
"""Characters of a text that is searched for those; a longer text is parsed faster than searched."""
_SURROGATES = 100_000
"""Halves of surrogate pairs in a text that the slow parser reads."""
_INT64 = range(-(2**63), 2**63)
EXACT = range(-(2**53) + 1, 2**53)
"""Whole numbers that every reader of JSON reads exactly: JavaScript's have 53 bits. Coze's ids have more."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The exceptions that msgspec raises for bytes that it refuses."""


class BadJson(Exception):
    """`fault` says what is wrong. It never contains the text itself."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault: Fault = fault


class _NotFinite(ValueError):
    pass


def read(data: bytes, decode: Callable[[bytes], T], kind: type[T], pieces: frozenset[str] = frozenset()) -> T:
    """`data` as a `kind`; `decode` is msgspec's decoder for it. Raises BadJson.

    `pieces` names the fields that may hold a part of a text: there half of a surrogate pair stays at either edge.
    """
    if len(data) > _PARTS and parts(data) > _PARTS and _has_free_fields(cast("Any", kind)):
        raise BadJson("malformed")
    try:
        value = decode(data)
        if not data.isascii():
            data.decode()  # msgspec does not look into strings that it skips
    except UNREADABLE:
        return read_again(data, kind, pieces)
    return value


def read_again(data: bytes, kind: type[T], pieces: frozenset[str] = frozenset()) -> T:
    """The same for a text for which msgspec has raised one of UNREADABLE."""
    if parts(data) > _PARTS:
        raise BadJson("malformed")
    try:
        value = converted(msgspec.json.decode(data), kind)
        data.decode()
    except RecursionError:
        raise BadJson("too_deep") from None
    except UNREADABLE:
        return _read_slowly(data, kind, pieces)
    return value


def read_object(data: bytes) -> dict[str, Any]:
    """`data` as a JSON object that is fit to be passed on. Raises BadJson."""
    if parts(data) > _SLOW_PARTS:
        raise BadJson("malformed")
    try:
        value = msgspec.json.decode(data)
        data.decode()
    except RecursionError:
        raise BadJson("too_deep") from None
    except UNREADABLE:
        try:
            value = _mended(_decode_again(data.decode()), 0)
        except RecursionError:
            raise BadJson("too_deep") from None
        except ValueError:
            raise BadJson("malformed") from None
    if not isinstance(value, dict):
        raise BadJson("malformed")
    found: dict[str, Any] = plain(value)
    return found


def parts(data: bytes) -> int:
    """The largest number of values that a text can contain."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def converted(value: Any, kind: type[T]) -> T:
    """A decoded `value` as a `kind`, a struct. Raises msgspec.ValidationError."""
    return msgspec.convert(_with_digits(value, kind), kind)


def _with_digits(value: Any, kind: Any) -> Any:
    if not isinstance(value, dict):
        return value
    strings, structs = _fields(kind)
    wrong = {key: str(value[key]) for key in strings if type(value.get(key)) is int}
    wrong |= {key: _with_digits(value[key], inner) for key, inner in structs if key in value}
    return value | wrong if wrong else value


@cache
def _has_free_fields(kind: Any) -> bool:
    return any(hint is Any for hint in get_type_hints(kind).values())


@cache
def _fields(kind: Any) -> tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]:
    """The fields of a struct that are strings, and those that are structs."""
    types = [
        (name, inner) for name, hint in get_type_hints(kind).items() for inner in getattr(hint, "__args__", (hint,))
    ]
    strings = tuple(name for name, inner in types if inner is str)
    return strings, tuple((name, i) for name, i in types if isinstance(i, type) and issubclass(i, msgspec.Struct))


def _read_slowly(data: bytes, kind: type[T], pieces: frozenset[str]) -> T:
    halves = data.count(b"\\ud") + data.count(b"\\uD")
    if (
        not data[:_LOOKED_AT].lstrip(b" \t\n\r").startswith(b"{")
        or halves > _SURROGATES
        or (_has_free_fields(cast("Any", kind)) and parts(data) > _SLOW_PARTS)
    ):
        raise BadJson("malformed")
    try:
        text = data.decode()
        if len(text) <= _LOOKED_AT and not _MENDABLE.search(text):
            raise BadJson("malformed")
        value = _decode_again(text)
        if not isinstance(value, dict):
            raise BadJson("malformed")
        return converted(_mended(_known(value, kind), 0, pieces), kind)
    except UnicodeDecodeError:
        raise BadJson("encoding") from None
    except _NotFinite:
        raise BadJson("not_finite") from None
    except RecursionError:
        raise BadJson("too_deep") from None
    except (ValueError, msgspec.ValidationError):
        raise BadJson("malformed") from None


def _known(value: dict[Any, Any], kind: Any) -> dict[Any, Any]:
    """Only the fields that the struct has; the same for the structs inside it."""
    inner = dict(_fields(kind)[1])
    return {
        name: _known(field, inner[name]) if name in inner and isinstance(field, dict) else field
        for name in kind.__struct_fields__
        if (field := value.get(name, value)) is not value
    }


def write(value: Any) -> bytes:
    """`value` as JSON, with lone surrogates as U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_mended(value, 0))


def plain(value: Any, depth: int = 0, *, numbers: range = _INT64) -> Any:
    """`value` fit to be written as JSON: whole numbers outside of `numbers` as strings, none that is not finite.

    Raises BadJson when it is nested too deeply to be passed on.
    """
    if depth > DEPTH_LIMIT:
        raise BadJson("too_deep")
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1, numbers=numbers) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1, numbers=numbers) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value not in numbers:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _mended(value: Any, depth: int, pieces: frozenset[str] = frozenset()) -> Any:
    if depth > DEPTH_LIMIT:
        raise BadJson("too_deep")
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, dict):
        return {
            mend(key): mend_inside(item)
            if key in pieces and isinstance(item, str)
            else _mended(item, depth + 1, pieces)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mended(item, depth + 1, pieces) for item in value]
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFinite(name)


def _int(digits: str) -> int | str:
    """Reads an integer. CPython refuses ints of over 4,300 digits, and is slow for fewer."""
    return int(digits) if len(digits) <= _DIGITS_LIMIT else digits


_decode_again = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_int).decode
