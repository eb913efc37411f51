"""A workflow's stream: events of the event stream in, items out, no I/O.

Its records are Coze's `Message`, `Interrupt`, `PING`, `Error` and `Done`, which the self-hosted studio writes in lower
case. They name no chat: nothing that was missed can be asked for later.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from gateway.bounds import STATE_BYTES, STATE_PARTS
from gateway.errors import Code
from gateway.upstream.codes import classify, is_refusal
from gateway.upstream.coze_objects import Chat, coze_code, failure_of, usage_of
from gateway.upstream.json_text import BadJson, parts, plain, read
from gateway.upstream.protocol import ActionRequired, ChatCompleted, ChatFailed, Delta, Done, Item, Skipped
from gateway.upstream.runs import Node, RunBegun
from gateway.upstream.sse import SseDecoder, SseEvent
from gateway.upstream.surrogates import REPLACEMENT, Halves

_PIECES = frozenset({"content"})
_KNOWN = frozenset({b"message", b"interrupt", b"ping", b"done"})


class _Said(Struct, gc=False):
    """A node's text. One node may run several times, even at once; each run has a `node_execute_uuid`."""

    content: str | None = None
    node_title: str | None = None
    node_id: str | None = None
    node_execute_uuid: str | None = None
    node_is_finish: bool | None = None


class _Question(Struct):
    """What the workflow waits for. `type` is 2 for a question, 5 for an input, 6 for a local plug-in, 7 for OAuth."""

    event_id: str
    type: int = 0
    data: str | None = None
    required_parameters: Any = None


class _Interrupted(Struct):
    interrupt_data: _Question
    node_title: str | None = None


class _Failed(Struct):
    """A failure in either of its forms."""

    error_code: Any = None
    error_message: Any = None
    code: Any = None
    msg: Any = None
    detail: Any = None


_decode_said = msgspec.json.Decoder(_Said).decode
_decode_interrupted = msgspec.json.Decoder(_Interrupted).decode
_decode_failed = msgspec.json.Decoder(_Failed).decode
_decode_chat = msgspec.json.Decoder(Chat).decode


class WorkflowReader:
    """Reads the items of one stream. After `done` there are no more.

    A workflow repeats nothing at its end. So if a piece of its text could not be read, it ends as failed.
    """

    __slots__ = ("_begun", "_decoder", "_halves", "_lost", "_missing", "_node", "_seen", "_usage", "done")

    def __init__(self, decoder: SseDecoder) -> None:
        self._decoder = decoder
        self._begun = False
        self._halves = Halves()
        self._node: tuple[str, str, str] | None = None  # the one that speaks
        self._usage: dict[str, Any] | None = None
        self._lost = False
        self._seen = 0
        self._missing = 0
        self.done = False

    def items(self, events: Iterable[SseEvent]) -> list[Item]:
        items: list[Item] = []
        for name, data in events:
            if self.done:
                break
            self._seen += 1
            kind = name.lower()
            try:
                self._read(kind, data, items)
            except BadJson as bad:
                items.append(Skipped(bad.fault))
                self._lost |= kind == b"message"
        self._count_missing(items)
        return items

    def last_items(self, record: SseEvent) -> list[Item] | None:
        """The items of a last record without its blank line, after a clean end of the body; None if the record is
        cut."""
        items = self.items([record])
        return None if any(isinstance(item, Skipped) for item in items) else items

    @staticmethod
    def tells_of_failure(name: bytes) -> bool:
        """Whether a record of this type reports a failure, whatever its data are."""
        return name.lower() == b"error"

    def _read(self, kind: bytes, data: bytes, items: list[Item]) -> None:
        if kind in _KNOWN and not self._begun:
            self._begun = True
            items.append(RunBegun())
        match kind:
            case b"message":
                self._message(data, items)
            case b"interrupt":
                self._interrupt(data, items)
            case b"ping":
                pass
            case b"error":
                self._fail(data, items)
            case b"done":
                self._end(items)
            case _:
                items.append(Skipped("unknown_event"))

    def _message(self, data: bytes, items: list[Item]) -> None:
        said = read(data, _decode_said, _Said, _PIECES)
        title, node_id, finished = said.node_title or "", said.node_id or "", bool(said.node_is_finish)
        node = (title, node_id, said.node_execute_uuid or "")
        key = "/".join(node)
        if finished or node != self._node:
            items.append(Node(title, node_id, finished))
        self._node = None if finished else node
        text = self._halves.join(Delta, key, said.content or "")
        if finished and self._halves.held.pop((Delta, key), ""):
            text += REPLACEMENT
        if text:
            items.append(Delta("", text))
        if b'"usage"' in data and parts(data) <= STATE_PARTS:
            with suppress(BadJson):
                self._usage = usage_of(read(data, _decode_chat, Chat)) or self._usage

    def _interrupt(self, data: bytes, items: list[Item]) -> None:
        """The run waits. Its stream ends here; another one brings the rest once the run is resumed."""
        if len(data) > STATE_BYTES or parts(data) > STATE_PARTS:
            raise BadJson("malformed")
        found = read(data, _decode_interrupted, _Interrupted)
        asked = found.interrupt_data
        call: dict[str, Any] = {
            "id": asked.event_id,
            "type": "interrupt",
            "function": {"name": found.node_title or "", "arguments": asked.data or ""},
            "interruptType": asked.type,
        }
        if asked.required_parameters:
            call["requiredParameters"] = plain(asked.required_parameters)
        self._said(items)
        items.append(ActionRequired([call]))
        self.done = True

    def _fail(self, data: bytes, items: list[Item]) -> None:
        """Reads a failure. It counts as one even if its details can't be read.

        Even as the first record it says nothing about what the workflow has done by then, unless its code means that
        Coze has refused the request.
        """
        failed, log_id = ChatFailed(None, ""), None
        try:
            if len(data) > STATE_BYTES or parts(data) > STATE_PARTS:
                raise BadJson("malformed")
            said = read(data, _decode_failed, _Failed)
            failed = failure_of(None, coze_code(said.error_code) or said.code, said.error_message or said.msg)
            log_id = said.detail.get("logid") if isinstance(said.detail, dict) else None
        except BadJson as bad:
            items.append(Skipped(bad.fault))
        code = failed.coze_code
        refused = is_refusal(code) or classify(code)[0] is Code.UPSTREAM_UNAUTHORIZED
        self._said(items)
        named = log_id if isinstance(log_id, str) else None
        items.append(ChatFailed(code, failed.message, exists=not refused, log_id=named))

    def _end(self, items: list[Item]) -> None:
        self._said(items)
        items.append(ChatFailed(None, "", exists=True) if self._lost else ChatCompleted(self._usage))
        items.append(Done())
        self.done = True

    def _said(self, items: list[Item]) -> None:
        """No more text will come: halves that still wait have no partner."""
        items += (Delta("", REPLACEMENT) for _ in self._halves.left())

    def _count_missing(self, items: list[Item]) -> None:
        """Coze numbers its records from 0, without gaps. A gap is counted and changes nothing: the records that did
        arrive are right, and nobody can tell whether the missing ones had any text."""
        last = self._decoder.last_event_id
        if last.isdigit() and len(last) < 10 and (missing := int(last) + 1 - self._seen - self._missing) > 0:
            self._missing += missing
            items.append(Skipped("missing"))
