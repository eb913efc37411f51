"""Words: the closed sets that observers and metrics use. `docs/metrics.md` and the contract explain each word."""

from enum import StrEnum
from typing import Literal, get_args

from gateway.errors import Code

EVENTS = (
    "started",
    "message",
    "reasoning",
    "tool",
    "audio",
    "suggestion",
    "notice",
    "node",
    "action_required",
    "completed",
    "cancelled",
    "error",
    "notification",
    "coze",
)

Operation = Literal[
    "chat",
    "retrieve",
    "messages",
    "cancel",
    "submit_tool_outputs",
    "run_workflow",
    "resume_workflow",
    "feedback",
    "pass_on",
    "token",
    "upload",
]
"""A kind of request to Coze."""

Unusable = Literal["malformed", "encoding", "not_finite", "too_deep", "foreign_chat", "unknown_event", "missing"]
"""Why a record of Coze's stream could not be used."""

Part = Literal["turn", "commit", "show", "fold", "deliver", "heartbeat", "keep", "store", "notify", "nodes", "tenants"]
PARTS: tuple[Part, ...] = get_args(Part)
"""The parts of the gateway whose faults are counted."""

Trouble = Literal["conversation_gone_at_coze", "record_not_readable", "cancel_not_heard", "feedback_not_heard"]
"""What may fail without ending a turn."""


class Closing(StrEnum):
    """Why a client's connection ended."""

    FINISHED = "finished"
    CLIENT_LEFT = "client_left"
    SLOW = "slow"
    HALF_OPEN = "half_open"
    UNAUTHORIZED = "unauthorized"
    PROTOCOL = "protocol"
    DRAINING = "draining"
    ERROR = "error"


class Recovery(StrEnum):
    """How the work on a broken answer ended."""

    COMPLETED = "completed"
    REPLACED = "replaced"
    ACTION_REQUIRED = "action_required"
    CANCELLED = "cancelled"
    FAILED = "failed"


RETRY_REASONS = (
    Code.UPSTREAM_UNAVAILABLE,
    Code.UPSTREAM_RATE_LIMITED,
    Code.UPSTREAM_UNCERTAIN,
    Code.UPSTREAM_FAILED,
    Code.CONVERSATION_BUSY,
)
"""Why a request to Coze was tried again: the problem that the request would otherwise have ended with."""
