"""The closed set of problems: one code for each, and the exceptions that carry them."""

from enum import StrEnum
from typing import Literal

Language = Literal["zh", "en", "es"]


class Code(StrEnum):
    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    REQUEST_TIMEOUT = "request_timeout"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    MISDIRECTED = "misdirected"
    STREAMING_DISABLED = "streaming_disabled"
    CONVERSATION_BUSY = "conversation_busy"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    UPSTREAM_UNAUTHORIZED = "upstream_unauthorized"
    UPSTREAM_EMPTY = "upstream_empty"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_UNCERTAIN = "upstream_uncertain"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    INTERNAL = "internal"


class GatewayError(Exception):
    """A problem with a code of the contract. `adapters.edge.failures` turns it into a status or a close code.

    `detail` is an English sentence for logs and, where it names the caller's own mistake, for the answer; people see
    `sentence(code, language)`. Never put a secret or another user's text in it.
    """

    def __init__(self, code: Code, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail or code.value)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class UpstreamError(GatewayError):
    """Coze refused, failed or was not reached. `taken` says whether Coze may be working on the message.

    `no`: certainly not, so the request may be sent again if it is `retryable`; `unknown`: nobody knows, so it must not
    be sent again unless the operator allows it; `yes`: a chat exists. `coze_code` and `log_id` are Coze's own, where
    Coze gave them.
    """

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        retryable: bool = False,
        taken: Literal["no", "unknown", "yes"] = "no",
        coze_code: int | None = None,
        log_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, detail, retry_after=retry_after)
        self.retryable = retryable
        self.taken = taken
        self.coze_code = coze_code
        self.log_id = log_id


class TooMuch(UpstreamError):
    """Coze's answer exceeds `gateway.bounds`; another attempt would end the same way."""

    def __init__(self, detail: str, *, log_id: str | None = None) -> None:
        super().__init__(Code.UPSTREAM_FAILED, detail, retryable=True, taken="yes", log_id=log_id)


def no_such(found: object | None) -> GatewayError:
    """The caller can't tell what does not exist from what belongs to another user or shop. Only the log can."""
    return GatewayError(Code.NOT_FOUND, "it does not exist" if found is None else "it belongs to another user or shop")
