"""A failure: the last event of a turn that failed, as readers get it and as the store keeps it."""

from typing import Any, Final

from msgspec import UNSET

from gateway.errors import Code, Language
from gateway.events import Failed
from gateway.sentences import sentence
from gateway.store.rows import TurnRow, TurnUpdate

RETRYABLE: Final = frozenset(
    {
        Code.CONVERSATION_BUSY,
        Code.RATE_LIMITED,
        Code.TOO_MANY_CONNECTIONS,
        Code.OVERLOADED,
        Code.DRAINING,
        Code.UPSTREAM_UNAVAILABLE,
        Code.UPSTREAM_RATE_LIMITED,
        Code.UPSTREAM_EMPTY,
        Code.UPSTREAM_FAILED,
        Code.UPSTREAM_UNCERTAIN,
        Code.UPSTREAM_TIMEOUT,
        Code.STORAGE_UNAVAILABLE,
        Code.INTERNAL,
    }
)
"""Problems after which a person may reasonably send the same message again. The gateway's own retries don't use it."""


def failed(
    code: Code,
    language: Language,
    *,
    conversation_id: str,
    turn_id: str,
    content: str,
    words: str = "",
    coze_code: int | None = None,
    log_id: str | None = None,
) -> Failed:
    """The event that ends a turn as failed. `words` replace the sentence of the code.

    `log_id` is Coze's. It is included if Coze gave a code, or if the code is about Coze.
    """
    upstream: dict[str, Any] = {}
    if coze_code:
        upstream["code"] = coze_code
    if log_id and (coze_code or code.startswith("upstream_")):
        upstream["logId"] = log_id
    return Failed(
        error=words or sentence(code, language),
        code=code.value,
        retryable=code in RETRYABLE,
        conversation_id=conversation_id,
        turn_id=turn_id,
        content=content,
        upstream=upstream or UNSET,
    )


def kept(failure: Failed) -> dict[str, Any]:
    """The fields of a failure that the store keeps as the turn's `error`."""
    fields = {"error": failure.error, "code": failure.code, "retryable": failure.retryable}
    return fields if failure.upstream is UNSET else {**fields, "upstream": failure.upstream}


def told_again(state: TurnRow | TurnUpdate) -> Failed:
    """The failure of a turn as the store keeps it."""
    turn_id, conversation_id, content = state.turn_id, state.conversation_id, state.content
    if (fields := state.error) is None:
        return failed(Code.INTERNAL, "en", conversation_id=conversation_id, turn_id=turn_id, content=content)
    return Failed(
        error=fields["error"],
        code=fields["code"],
        retryable=fields["retryable"],
        conversation_id=conversation_id,
        turn_id=turn_id,
        content=content,
        upstream=fields.get("upstream") or UNSET,
    )
