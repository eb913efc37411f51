"""A run of a workflow: what it is asked for with, and the items that its stream has and a chat's has not."""

from typing import Any

from msgspec import Struct


class RunRequest(Struct, frozen=True):
    """A run of a workflow, for the bot or the app that is named, if any. It has no record at Coze, and can't be
    cancelled. With a `body`, that is its caller's own, in Coze's form, and the other fields are not looked at."""

    workflow_id: str
    parameters: dict[str, Any] | None = None
    bot_id: str = ""
    app_id: str = ""
    body: str = ""


class Resumption(Struct, frozen=True):
    """The answer to an interrupt of a run."""

    workflow_id: str
    event_id: str
    interrupt_type: int
    resume_data: str


class RunBegun(Struct, frozen=True):
    """The workflow runs: whoever asked for it again would run it twice. There is no handle for recovery."""


class Node(Struct, frozen=True):
    """The text from here on comes from this node of the workflow. `finished`: nothing follows from it after that."""

    title: str
    node_id: str
    finished: bool
