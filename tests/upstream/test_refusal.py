from datetime import UTC, datetime

import pytest

from gateway.errors import Code, UpstreamError
from gateway.upstream.refusal import data_of, log_id_of, refused, retry_after
from tests.upstream.servers import sample

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def test_the_samples_of_refusals() -> None:
    busy = refused(200, {}, sample("error-body.json"))
    assert (busy.code, busy.coze_code, busy.taken) == (Code.CONVERSATION_BUSY, 4016, "no")
    assert busy.log_id == "20251106104001A7C3E95B1D20F486BA71"
    token = refused(200, {}, sample("error-auth.json"))
    assert (token.code, token.coze_code, token.retryable) == (Code.UPSTREAM_UNAUTHORIZED, 4101, False)


def test_an_answer_that_is_well_gives_its_data() -> None:
    assert data_of(200, {}, sample("retrieve.json"))["status"] == "completed"
    assert len(data_of(200, {}, sample("message-list.json"))) == 6
    assert data_of(200, {}, b'{"code":0,"msg":""}') is None
    assert data_of(200, {}, b'{"code":0,"data":"\\ud800"}') == "\ufffd"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[]", b'"x"', b'{"data":{}}', b'{"code":null}', b'{"code":0', b"\xff", b"[" * 99_999],
)
def test_an_answer_of_another_shape_is_a_failure(body: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        data_of(200, {}, body)
    assert (caught.value.code, caught.value.taken) == (Code.UPSTREAM_FAILED, "yes")


@pytest.mark.parametrize("status", [301, 400, 401, 404, 429, 500, 504])
def test_a_status_is_believed_over_a_body_that_says_all_is_well(status: int) -> None:
    with pytest.raises(UpstreamError):
        data_of(status, {}, b'{"code":0,"data":{}}')


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        (" 2 ", 2.0),
        ("0", 0.0),
        ("9999", 9999.0),
        ("999999999999", 999999999999.0),
        ("9" * 5000, None),
        ("-1", None),
        ("+2", None),
        ("1_0", None),
        ("１２", None),
        ("2.5", None),
        ("soon", None),
        ("", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 12:00:30", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_606_865_599.0),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
        ("Mon, 23 Nov 99999999999999999999 12:00:30 GMT", None),
        ("Mon, 23 Nov 2026 12:00:30 +999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_retry_after_comes_with_the_refusal() -> None:
    error = refused(429, {"Retry-After": "Mon, 23 Nov 2026 12:00:02 GMT"}, b"", now=NOW)
    assert (error.code, error.retry_after) == (Code.UPSTREAM_RATE_LIMITED, 2.0)


@pytest.mark.parametrize(
    ("headers", "detail", "log_id"),
    [
        ({}, None, None),
        ({"X-Tt-Logid": "abc"}, {"logid": "inner"}, "abc"),
        ({"X-Log-ID": "studio"}, None, "studio"),
        ({"X-Tt-Logid": ""}, {"logid": "inner"}, "inner"),
        ({}, {"logid": 7}, None),
        ({}, "x", None),
        ({"X-Tt-Logid": "a\x00b c\r\n\u2028é"}, None, "abc"),
        ({"X-Tt-Logid": "a" * 1000}, None, "a" * 128),
    ],
)
def test_a_log_id_is_visible_ascii_and_short(headers: dict[str, str], detail: object, log_id: str | None) -> None:
    assert log_id_of(headers, detail) == log_id


def test_a_refusal_never_repeats_what_coze_wrote() -> None:
    error = refused(400, {}, b'{"code":4000,"msg":"the user said: secret"}')
    assert "secret" not in f"{error} {error.detail}"
