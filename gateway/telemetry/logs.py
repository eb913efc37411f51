"""Logs: one JSON object per line on stderr, or coloured text on a terminal. No secret, nobody's text, no forged line.

Every line has `time` (ISO 8601, UTC), `level` and `event`; lengths are in code points. Libraries' `logging` goes to the
same stream. Log `error=exception` or `exc_info=True`; an exception's own text appears only if it is known to contain
nobody's words (`_HARMLESS`).
"""

import asyncio
import json
import logging
import re
import sqlite3
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Literal, cast
from urllib.parse import quote

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from gateway.errors import GatewayError
from gateway.telemetry.masking import mask, mask_field
from gateway.telemetry.sink import Sink, sink

_HARMLESS = (GatewayError, OSError, sqlite3.Error, AttributeError, ImportError, NameError, TypeError, TimeoutError)
_QUIET = ("aiosqlite", "alembic", "sqlalchemy", "asyncio", "aiohttp.access")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Fields = EventDict
_sinks: list[Sink] = []  # this process's, once it is set up
_terminal: list[Sink] = []  # the same, where a person watches
_masker: "list[_Masker]" = []


def get_logger() -> FilteringBoundLogger:
    return cast(FilteringBoundLogger, structlog.get_logger())


def announce(event: str, **fields: object) -> None:
    """Logs a line that others wait for, such as `gateway.ready`, whatever the level."""
    _announcer().info(event, **fields)


def say(text: str) -> None:
    """Writes plain text for the person at the terminal. Does nothing if stderr is not a terminal."""
    for out in _terminal:
        for line in text.split("\n"):
            out.msg(line.encode("utf-8", "replace"))


def configure(
    form: Literal["json", "console"] | None = None,
    level: str = "info",
    *,
    secrets: Iterable[str] = (),
    stream: BinaryIO | None = None,
) -> None:
    """Sets up this process's logs, once. `secrets` are masked wherever they appear. `stream` is stderr's bytes."""
    out = sink(stream or sys.stderr.buffer, _report_dropped)
    _sinks[:] = [out]
    console = form == "console" or (form is None and stream is None and sys.stderr.isatty())
    _terminal[:] = [out] if console and (stream or sys.stderr).isatty() else []
    masker = _Masker(secrets)
    _masker[:] = [masker]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _exceptions,
            masker,
            _ConsoleLine() if console else _json_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=True,
    )
    logging.root.handlers[:] = [_Bridge()]
    logging.root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns when it can't say farewell on a broken connection
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)  # it warns with what the client sent, tokens too


def hide(secrets: Iterable[str]) -> None:
    """Masks these too, from now on, wherever they appear."""
    for masker in _masker:
        masker.add(secrets)


def dropped() -> int:
    """The number of lines that were dropped because nobody read them, or because their reader ended."""
    return sum(out.dropped for out in _sinks)


def flush(within: float) -> None:
    """Waits for lines that are on their way. For exits of the process that skip all other clean-up."""
    for out in _sinks:
        out.flush(within)


def _report_dropped(lines: int) -> None:
    _announcer().warning("log.lines_dropped", lines=lines, why="nobody read them, and there was no more room")


def _announcer() -> FilteringBoundLogger:
    wrapper = structlog.make_filtering_bound_logger(logging.NOTSET)
    return cast(FilteringBoundLogger, structlog.wrap_logger(None, wrapper_class=wrapper))


def log_loop_problem(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """asyncio's exception handler. The default one writes the exception's `repr`, which may hold someone's text."""
    task = context.get("task") or context.get("future")
    work = getattr(task.get_coro(), "__qualname__", None) if isinstance(task, asyncio.Task) else None
    get_logger().error("loop.problem", what=context.get("message"), work=work, error=context.get("exception"))


def render_exception(error: BaseException) -> str:
    """The types, frames and harmless texts of `error` and its causes. Never a line of source or a local variable."""
    return "\n".join(_trace(error, set()))


def _trace(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    led = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if led is not None and id(led) not in seen:
        yield from _trace(led, seen)
        yield "led to"
    yield _words(error)
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} {frame.name}"
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(part) not in seen:
            yield "holds"
            yield from _trace(part, seen)


def _words(error: BaseException) -> str:
    name = type(error).__qualname__
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or error.args[:1]}" if error.args else name
    return f"{name}: {error}" if isinstance(error, _HARMLESS) and str(error) else name


def _exceptions(_: WrappedLogger, __: str, fields: Fields) -> Fields:
    given = fields.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()[1]
    elif isinstance(given, tuple):
        given = given[1]
    if isinstance(given, BaseException):
        fields["exception"] = render_exception(given)
    return fields


class _Masker:
    """Turns every value into plain ones without secrets: text, numbers, lists and objects of them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= 4}
        written = {form for secret in known for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
        self._secrets = sorted(written.union(self._secrets), key=len, reverse=True)  # one may be a prefix of another

    def __call__(self, _: WrappedLogger, __: str, fields: Fields) -> Fields:
        for key, value in fields.items():
            if key not in ("time", "level"):
                fields[key] = self._plain(key, value)
        return fields

    def _plain(self, key: str, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping | list | tuple | set | frozenset) and (hidden := mask_field(key)):
            return hidden
        if isinstance(value, Mapping):
            return {self._text(str(k)): self._plain(str(k), v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._plain(key, v) for v in value]
        if isinstance(value, BaseException):
            return self._text(render_exception(value))
        if isinstance(value, bytes | bytearray | memoryview):
            value = bytes(value).decode("utf-8", "backslashreplace")
        return mask_field(key) or self._text(str(value))

    def _text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return mask(text)


def _json_line(_: WrappedLogger, __: str, fields: Fields) -> bytes:
    """Also escapes line separators that JSON leaves alone: some readers of logs split lines there."""
    line = {"time": fields.pop("time"), "level": fields.pop("level"), "event": fields.pop("event"), **fields}
    try:
        data = msgspec.json.encode(line)
    except (UnicodeEncodeError, ValueError, TypeError):  # a lone surrogate, an integer beyond 64 bits
        data = json.dumps(line, ensure_ascii=False, default=repr).encode("utf-8", "replace")
    for raw, escaped in ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085")):
        data = data.replace(raw, escaped)
    return data


class _ConsoleLine:
    """Coloured text. Escapes whatever could move the cursor, reverse the text or break the line. Traces keep lines."""

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=True, timestamp_key="time", sort_keys=False)

    def __call__(self, logger: WrappedLogger, name: str, fields: Fields) -> bytes:
        trace = fields.pop("exception", None)
        safe = {_escaped(key): _escaped(value) if isinstance(value, str) else value for key, value in fields.items()}
        line = str(self._render(logger, name, safe))
        if trace is not None:
            line += "".join(f"\n    {_escaped(part)}" for part in str(trace).split("\n"))
        return line.encode("utf-8", "replace")


def _escaped(text: str) -> str:
    return _BREAKS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


class _Bridge(logging.Handler):
    """Turns what libraries log through `logging` into ordinary lines; `event` is the logger's name."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        get_logger().log(level, record.name, what=record.getMessage(), exc_info=record.exc_info)
