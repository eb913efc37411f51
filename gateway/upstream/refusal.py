"""Refusals: turns Coze's refusals, in whatever form they come, into an `UpstreamError`. No I/O.

They come as an HTTP answer that is not an event stream, or as the first record of one.
"""

import email.utils
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from gateway.errors import Code, UpstreamError
from gateway.upstream.codes import classify
from gateway.upstream.coze_objects import coze_code
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.json_text import BadJson, read
from gateway.upstream.protocol import ChatFailed
from gateway.upstream.sse import SseDecoder

LOG_ID_LIMIT = 128
OVER_ALREADY = 4104
"""A chat that is over cannot be cancelled."""

_RETRY_AFTER_DIGITS = 12
_RECORDS_LIMIT = 8 * 1024
"""Bytes that are searched for a record that tells of a refusal; Coze's have a few hundred."""


Taken = Literal["no", "unknown", "yes"]


class _Meaning(NamedTuple):
    code: Code
    retryable: bool
    taken: Taken = "no"


_UNCERTAIN = _Meaning(Code.UPSTREAM_UNCERTAIN, True, "unknown")
# A server that gives such an answer does not speak Coze's protocol, so the answer does not tell whether a chat exists.
# A person may try again; the gateway never does so by itself, even if the operator lets it repeat uncertain requests.
_NOT_COZE = _Meaning(Code.UPSTREAM_FAILED, True, "yes")

# These statuses say more than a code in the body, which some proxy may have made up.
_BY_STATUS = {
    401: _Meaning(Code.UPSTREAM_UNAUTHORIZED, False),
    429: _Meaning(Code.UPSTREAM_RATE_LIMITED, True),
    504: _UNCERTAIN,
    524: _UNCERTAIN,  # the time-out status of a well-known proxy
}


class _Envelope(Struct):
    """The frame of every JSON answer of Coze; `detail.logid` names the request in Coze's logs."""

    code: Any = None
    msg: Any = None
    data: Any = None
    detail: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def data_of(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime | None = None) -> Any:
    """The `data` of a successful JSON answer. Any other answer raises the matching `UpstreamError`."""
    envelope = _envelope(body)
    if 200 <= status < 300 and envelope is not None and coze_code(envelope.code) == 0:
        return envelope.data
    raise _refused_with(envelope, status, headers, body, now)


def refused(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime | None = None) -> UpstreamError:
    """The error for an answer that should have been an event stream."""
    return _refused_with(_envelope(body), status, headers, body, now)


def _refused_with(
    envelope: _Envelope | None, status: int, headers: Mapping[str, str], body: bytes, now: datetime | None
) -> UpstreamError:
    said = f"Coze answered {status}"
    if envelope is not None:
        return _refused(status, headers, coze_code(envelope.code), envelope.detail, said, now)
    items = ChatReader().items(SseDecoder().feed(body[:_RECORDS_LIMIT] + b"\n\n"))
    failed = next((item for item in items if isinstance(item, ChatFailed)), None)
    if failed is not None:
        return _refused(status, headers, failed.coze_code, {"logid": failed.log_id}, said, now)
    return _refused(status, headers, None, None, said, now)


def refused_in_stream(headers: Mapping[str, str], failed: ChatFailed, *, now: datetime | None = None) -> UpstreamError:
    """The error for a failure that is the first record of an event stream."""
    said = "Coze's stream began with a failure"
    return _refused(200, headers, failed.coze_code, {"logid": failed.log_id}, said, now, is_coze=True)


def _refused(
    status: int,
    headers: Mapping[str, str],
    code: int | None,
    detail: Any,
    said: str,
    now: datetime | None,
    *,
    is_coze: bool = False,
) -> UpstreamError:
    meaning = _meaning(status, code)
    if code is not None:
        said += f" with code {code}"
    if meaning is _NOT_COZE and not is_coze:
        said += ", which is neither an event stream nor an error of Coze's own"
    return UpstreamError(
        meaning.code,
        said,
        retryable=meaning.retryable,
        taken=meaning.taken,
        coze_code=code or None,
        log_id=log_id_of(headers, detail),
        retry_after=retry_after(headers.get("Retry-After"), now or datetime.now(UTC)),
    )


def _meaning(status: int, coze_code: int | None) -> _Meaning:
    if meaning := _BY_STATUS.get(status):
        return meaning
    code, retryable = classify(coze_code)
    if coze_code and code is not Code.UPSTREAM_REJECTED:
        return _Meaning(code, retryable)
    if status >= 500:
        return _Meaning(Code.UPSTREAM_UNAVAILABLE, True)
    if status >= 400 or (coze_code and 200 <= status < 300):
        return _Meaning(Code.UPSTREAM_REJECTED, False)
    return _NOT_COZE


def retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After asks to wait (RFC 9110, 10.2.3), however many; None if it is missing or
    invalid."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) <= _RETRY_AFTER_DIGITS:
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    try:
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def log_id_of(headers: Mapping[str, str], detail: Any = None) -> str | None:
    """Coze's log id of the request (the self-hosted studio has its own header). Visible ASCII, of bounded length."""
    inner = detail.get("logid") if isinstance(detail, dict) else None
    for value in (headers.get("X-Tt-Logid"), headers.get("X-Log-ID"), inner):
        if isinstance(value, str) and (kept := "".join(c for c in value[:LOG_ID_LIMIT] if "!" <= c <= "~")):
            return kept
    return None


def _envelope(body: bytes) -> _Envelope | None:
    try:
        return read(body.removeprefix(b"\xef\xbb\xbf"), _decode_envelope, _Envelope)
    except BadJson:
        return None
