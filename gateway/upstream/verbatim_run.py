"""Verbatim, of a run: what Coze says of a workflow's run, in its own words beside the items that are made of it.

As in a chat, pieces of text are not kept twice: before the first text of a node stands its head, the fields of Coze's
`Message` without the text, and another one before its last text.
"""

from collections.abc import Iterable

from gateway.events import HEAD
from gateway.upstream.json_text import BadJson, read_object, write
from gateway.upstream.protocol import ActionRequired, ChatCompleted, ChatFailed, Delta, Item, Skipped, Verbatim
from gateway.upstream.runs import Node, RunBegun
from gateway.upstream.sse import SseEvent
from gateway.upstream.workflow_protocol import WorkflowReader

MESSAGE, INTERRUPT, ERROR, PING, DONE = "Message", "Interrupt", "Error", "PING", "done"
"""The records' names as Coze's own service spells them; `done` as in a chat. The self-hosted studio's have lower case,
which Coze's SDKs do not know."""

_NAMES = {name.lower().encode(): name for name in (INTERRUPT, ERROR, PING, DONE)}
_OF_A_PIECE = frozenset({"content", "node_seq_id"})
_BEFORE = ActionRequired | ChatCompleted | ChatFailed


class VerbatimRunReader(WorkflowReader):
    """Reads the items of one stream, and the records that they were made of. Of pings only one that is the first record
    is kept: it says that the run has begun."""

    __slots__ = ()

    def items(self, events: Iterable[SseEvent]) -> list[Item]:
        items: list[Item] = []
        for record in events:
            if self.done:
                break
            items += _in_words(record, super().items((record,)))
        return items


def _in_words(record: SseEvent, own: list[Item]) -> list[Item]:
    """The items of a record, with Coze's own words where they belong among them."""
    if len(own) == 1 and type(own[0]) is Delta:
        return own  # nearly all records are one more piece of a node's text
    if any(isinstance(item, Skipped) and item.reason != "missing" for item in own):
        return own  # it could not be read
    name, data = record
    kind = name.lower()
    if kind == b"message":
        changes = any(isinstance(item, Node) for item in own)
        return [*_told(data, own), *own] if changes else own
    if kind == b"ping" and not any(isinstance(item, RunBegun) for item in own):
        return own
    at = next((at for at, item in enumerate(own) if isinstance(item, _BEFORE)), len(own))
    return [*own[:at], *_record(_NAMES[kind], data, own), *own[at:]]


def _told(data: bytes, own: list[Item]) -> list[Item]:
    """What stands before a node's first or last text: its head, or the whole record if it has no text."""
    try:
        fields = read_object(data)
    except BadJson:  # something that nobody looks at is nested too deeply
        return [_head(_known(node)) for node in own if isinstance(node, Node)]
    if fields.get("node_is_finish") and not any(isinstance(item, Delta) for item in own):
        return [Verbatim(MESSAGE, write(fields | {"content": ""}))]
    return [_head(fields)]


def _known(node: Node) -> dict[str, object]:
    return {"node_title": node.title, "node_id": node.node_id, "node_is_finish": node.finished}


def _head(fields: dict[str, object]) -> Verbatim:
    return Verbatim(HEAD, write({name: value for name, value in fields.items() if name not in _OF_A_PIECE}))


def _record(name: str, data: bytes, own: list[Item]) -> list[Item]:
    try:
        return [Verbatim(name, write(read_object(data)))]
    except BadJson:  # something that nobody looks at is nested too deeply, or it is a bare `[DONE]`
        return [Verbatim(name, write(_asked(item))) for item in own if isinstance(item, ActionRequired)]


def _asked(asked: ActionRequired) -> dict[str, object]:
    """What is known of an interrupt, as Coze would say it."""
    [call] = asked.tool_calls
    said = {"event_id": call["id"], "type": call["interruptType"], "data": call["function"]["arguments"]}
    return {"interrupt_data": said, "node_title": call["function"]["name"]}
