"""Coze's error codes, mapped to the contract's problems as in the second table of section 7.

The same numbers come in a JSON body, in `chat.failed`, in the stream's `error` event and in `retrieve`'s
`last_error`; all are read here and nowhere else. What an HTTP status means is the client's business.
"""

from typing import Final

from gateway.errors import Code

_UNAVAILABLE: Final = (Code.UPSTREAM_UNAVAILABLE, True)
_RATE_LIMITED: Final = (Code.UPSTREAM_RATE_LIMITED, True)
_UNAUTHORIZED: Final = (Code.UPSTREAM_UNAUTHORIZED, False)

_KNOWN: Final[dict[int, tuple[Code, bool]]] = {
    4009: _RATE_LIMITED,  # the system is at its request limit
    4013: _RATE_LIMITED,  # the documents say "model service error"; in practice a rate limit
    4020: _RATE_LIMITED,  # requests a minute over the purchased peak
    4016: (Code.CONVERSATION_BUSY, True),  # a chat is already running in Coze's conversation
    5000: _UNAVAILABLE,
    4100: _UNAUTHORIZED,
    4101: _UNAUTHORIZED,
    700012006: _UNAUTHORIZED,  # the access token is invalid
}


def classify(coze_code: int | None) -> tuple[Code, bool]:
    """The contract's code for one of Coze's codes, and whether the same request may succeed later.

    None and 0 are not codes: such a failure says nothing about its cause, so trying again is reasonable. An unknown
    code is taken as a refusal of this request.
    """
    if not coze_code:
        return Code.UPSTREAM_FAILED, True
    return _KNOWN.get(coze_code, (Code.UPSTREAM_REJECTED, False))


def is_refusal(coze_code: int | None) -> bool:
    """Whether a chat that fails at once with this code never existed, because Coze had no capacity for it."""
    return classify(coze_code)[0] in (Code.UPSTREAM_RATE_LIMITED, Code.CONVERSATION_BUSY)
