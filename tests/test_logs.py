"""Logs: one line per event, no secret in it, nobody's text, and none that a client can forge."""

import asyncio
import io
import json
import logging
import sqlite3
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog

from gateway.errors import Code, GatewayError
from gateway.telemetry import logs
from gateway.telemetry.seldom import Seldom


class Sink(io.BytesIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.root.handlers[:], logging.root.level = handlers, level


def configured(form: Literal["json", "console"] = "json", level: str = "info", **options: Any) -> Sink:
    sink = Sink()
    logs.configure(form, level, stream=sink, **options)
    return sink


def test_a_line_is_one_json_object_with_time_level_and_event_first() -> None:
    sink = configured()
    logs.get_logger().info("Starting SSE chat stream", botId="1", messageLength=2)
    assert list(sink.line()) == ["time", "level", "event", "botId", "messageLength"]
    assert sink.line()["time"].endswith("Z")
    assert sink.line()["level"] == "info"


def test_lines_below_the_level_are_left_out() -> None:
    sink = configured(level="warning")
    logs.get_logger().info("no")
    logging.getLogger("library").info("no")
    logs.get_logger().warning("yes")
    assert sink.line()["event"] == "yes"


FORGED = 'a\r\n{"event":"forged"}\x00\u2028\u2029\u0085\x1b[31m\u202e\ud800'


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_value_and_no_key_can_break_a_line_or_move_the_cursor(form: Literal["json", "console"]) -> None:
    sink = configured(form)
    logs.get_logger().info("event", value=FORGED, nested={FORGED: [FORGED]}, **{FORGED: 1})
    text = sink.getvalue().decode("utf-8")
    assert len(text.splitlines()) == 1
    for character in "\r\x00\u2028\u2029\u0085\u202e" if form == "console" else "\r\x00\u2028\u2029\u0085\x1b":
        assert character not in text
    assert "\x1b[31m\\u202e" not in text


def test_json_gives_a_hostile_value_back_as_it_was() -> None:
    sink = configured()
    hostile = FORGED.replace("\ud800", "")
    logs.get_logger().info("event", value=hostile)
    assert sink.line()["value"] == hostile


@pytest.mark.parametrize(
    "secret",
    [
        "Bearer abc.def",
        "authorization: bearer x1y2z3",
        "/api/coze/ws?access_token=s3cr3t&after=1",
        "gateway_token=s3cr3t",
        '{"access_token": "s3cr3t"}',
        "pat_AbCdEf123456",
        "sat_AbCdEf123456",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl",
        "postgresql://user:s3cr3t@db/x",
        "our-own-configured-token",
        "authorization=Basic s3cr3t",
        "{'clientSecret': 's3cr3t'}",
        '{"password": "a, \\"s3cr3t"}',
        '{"token": ["s3cr3t"]}',
        "x-api-key: s3cr3t",
        "some_refresh_token=s3cr3t",
        "/x?next=%2Fy%3Faccess_token%3Ds3cr3t",
        "%22access_token%22%3A%22s3cr3t%22",
        r"\u0022access_token\u0022:\u0022a\\u0022s3cr3t\u0022",
    ],
)
def test_secrets_are_masked_wherever_they_stand(secret: str) -> None:
    sink = configured(secrets=["our-own-configured-token"])
    logs.get_logger().info(f"event {secret}", text=secret, raw=secret.encode(), deep={"a": [secret], secret: 1})
    logging.getLogger("aiohttp.server").warning("Error at %s", secret)
    text = sink.getvalue().decode()
    for part in ("abc.def", "x1y2z3", "s3cr3t", "AbCdEf", "eyJ", "our-own"):
        assert part not in text
    assert "after=1" in text or "after=1" not in secret


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("value", ["s3cr3t", "a s3cr3t", 'a"s3cr3t', "a\\s3cr3t", "a'}, s3cr3t", '"s3cr3t'])
def test_a_secret_in_json_within_json_is_masked_at_any_depth_and_its_neighbours_are_not(depth: int, value: str) -> None:
    text = json.dumps({"access_token": value, "expires_in": 5})
    for _ in range(depth):
        text = json.dumps({"body": text, "n": 1})
    sink = configured()
    logs.get_logger().info("event", text=text)
    masked: Any = sink.line()["text"]
    assert "s3cr3t" not in masked
    for _ in range(depth + 1):
        masked = json.loads(masked)
        masked = masked.get("body", masked)
    assert masked["expires_in"] == 5


def test_a_configured_secret_is_masked_however_it_is_written() -> None:
    sink = configured(secrets=['s3/"cr3t', "s3", "abcd", "abcdefgh"])
    logs.get_logger().info("event", text=[json.dumps('s3/"cr3t'), "s3%2F%22cr3t", "abcdefgh"])
    text = sink.getvalue().decode()
    assert "cr3t" not in text
    assert "efgh" not in text


def test_what_a_field_named_as_a_secret_holds_is_masked_whole() -> None:
    sink = configured()
    logs.get_logger().info("event", cookies={"session": "plain"}, tokens=[{"a": "plain"}])
    assert "plain" not in sink.getvalue().decode()


def test_a_field_named_as_a_secret_is_masked_whatever_it_holds() -> None:
    sink = configured()
    logs.get_logger().info("event", accessToken="plain", password="plain", Authorization="plain", tokens_used=5)
    assert "plain" not in sink.getvalue().decode()
    assert sink.line()["tokens_used"] == 5


def raise_chain() -> None:
    try:
        raise ValueError("somebody's message")
    except ValueError as error:
        raise RuntimeError("somebody's message again") from error


def test_an_exception_is_one_field_with_types_and_frames_and_nobodys_words() -> None:
    sink = configured()
    try:
        raise_chain()
    except RuntimeError:
        logs.get_logger().exception("failed")
    trace = sink.line()["exception"]
    assert "somebody" not in trace
    assert trace.startswith("ValueError\n")
    assert "led to\nRuntimeError\n" in trace
    assert " raise_chain" in trace


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatewayError(Code.INTERNAL, "the log is full"), "GatewayError: the log is full"),
        (sqlite3.OperationalError("disk I/O error"), "OperationalError: disk I/O error"),
        (OSError(28, "No space left on device", "/data/x"), "OSError: No space left on device"),
        (KeyError("somebody's message"), "KeyError"),
        (ExceptionGroup("somebody's message", [ValueError("somebody's message")]), "ExceptionGroup\nholds\nValueError"),
    ],
)
def test_an_exceptions_words_are_shown_only_where_they_are_the_programs_own(error: Exception, words: str) -> None:
    assert logs.render_exception(error) == words
    sink = configured()
    logs.get_logger().warning("failed", error=error)
    assert sink.line()["error"] == words


def test_exceptions_that_lead_to_each_other_are_rendered_once() -> None:
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    assert logs.render_exception(first).count("ValueError") == 2


async def test_exceptions_that_asyncio_cannot_deliver_are_logged_without_their_texts() -> None:
    sink = configured()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.log_loop_problem)
    loop.call_soon(raise_chain)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    line = sink.lines()[-1]
    assert (line["event"], line["level"]) == ("loop.problem", "error")
    assert "somebody" not in line["error"]
    assert "raise_chain" in line["error"]


def test_libraries_lines_come_out_like_ours_and_a_level_of_their_own_does_no_harm() -> None:
    sink = configured()
    logging.getLogger("some.library").log(35, "half %s", "said")
    line = sink.line()
    assert (line["event"], line["what"], line["level"]) == ("some.library", "half said", "warning")


@pytest.mark.parametrize("value", [2**70, float("nan"), {1, 2}, object(), "\ud800", {"\udfff": "\ud800"}, b"\xff"])
def test_no_value_makes_logging_fail(value: object) -> None:
    sink = configured()
    logs.get_logger().info("event", value=value)
    assert sink.line()["event"] == "event"


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    sink = configured()
    sink.close()
    logs.get_logger().info("event")


def test_the_console_shows_traces_on_lines_of_their_own() -> None:
    sink = configured("console")
    try:
        raise_chain()
    except RuntimeError:
        logs.get_logger().exception("failed")
    first, *trace = sink.getvalue().decode().splitlines()
    assert "failed" in first
    assert trace[0] == "    ValueError"


def test_a_line_costs_little() -> None:
    """Not the figure (about 15 µs) but a deadline far above it: masking must not grow with a value's shape."""
    import time

    configured()
    log = logs.get_logger()
    hostile = "pat" * 20_000 + "://" * 5_000 + "eyJ" * 20_000 + "bearer " * 1_000
    begun = time.process_time()
    log.info("event", value=hostile)
    assert time.process_time() - begun < 0.5


def test_a_trouble_that_lasts_is_told_once_a_minute() -> None:
    sink = configured()
    now = [100.0]
    seldom = Seldom(lambda: now[0])
    for _ in range(120):
        seldom.warning("nodes.no_beat", reason="PostgreSQL does not answer")
        now[0] += 1
    seldom.warning("nodes.no_beat", reason="PostgreSQL's disk is full")
    lines = [(line["reason"], line.get("times")) for line in sink.lines()]
    asleep = "PostgreSQL does not answer"
    assert lines == [(asleep, None), (asleep, 60), ("PostgreSQL's disk is full", None)]


def test_what_the_database_driver_says_to_its_developers_is_no_line() -> None:
    sink = configured()
    logging.getLogger("psycopg").warning("error ignored terminating <psycopg.AsyncPipeline [BAD]>")
    assert sink.lines() == []
