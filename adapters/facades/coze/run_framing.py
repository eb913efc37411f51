"""Framing of a run: turns the entries of a turn's log into the event stream of one of Coze's workflows.

Its records have a space after each colon, and an id: they are numbered from 0 in each stream.
"""

from bisect import bisect_right

import msgspec
from msgspec import Struct

from adapters.facades.coze.failures import INTERNAL, code_of
from adapters.facades.coze.framing import LOST, head_at, opening, records
from gateway.events import HEAD, LOG_ID, Cancelled, Failed, one_line, record_of, text_json, text_of
from gateway.log.entry import Entry
from gateway.log.segments import Run
from gateway.log.stretch import Stretch
from gateway.upstream.json_text import read

Node = tuple[str, str, str]
"""A node's id, the id of this run of it, and its title."""

_CANCELED = "The run was canceled."
_NUMBER = b'"node_seq_id":"'
_NOT_TOLD = (HEAD.encode(), LOG_ID.encode(), b"done")


class _Node(Struct, frozen=True):
    """The part of a head that says which node speaks."""

    node_id: str | None = None
    node_execute_uuid: str | None = None
    node_title: str | None = None
    node_is_finish: bool | None = None


_decode_node = msgspec.json.Decoder(_Node).decode


class _Speaks(Struct, frozen=True):
    """A head, and how the records of the text under it begin, up to the text's number within its node: `before` others
    of the same text, and `last`."""

    node: Node
    finishes: bool
    before: bytes
    last: bytes


def _speaks(fields: bytes) -> _Speaks:
    node = read(fields, _decode_node, _Node)
    last = before = opening(fields) + _NUMBER
    if node.node_is_finish:
        going_on = msgspec.json.decode(fields) | {"node_is_finish": False}
        before = opening(one_line(msgspec.json.encode(going_on))) + _NUMBER
    names = node.node_id or "", node.node_execute_uuid or "", node.node_title or ""
    return _Speaks(names, bool(node.node_is_finish), before, last)


class RunFramer:
    """Makes the records of one stream. The same entries may be asked for again: they get the same numbers."""

    __slots__ = ("_after", "_before", "_count", "_number", "_others", "_speaks", "_stretch")

    def __init__(self, stretch: Stretch) -> None:
        self._stretch = stretch
        self._number = 0  # of the next record
        self._speaks: _Speaks | None = None
        self._count = 0  # the texts so far of the node that speaks
        self._others: dict[Node, int] = {}  # those of other nodes that have not finished; replaced, never changed
        self._after = -1
        self._before: tuple[int, _Speaks | None, int, dict[Node, int]] = (0, None, 0, {})

    def frames(self, after: int, entries: list[Entry]) -> tuple[bytes, bool]:
        """The records for entries that follow the position `after`, and whether the stream ends with them."""
        if after == self._after:
            self._number, self._speaks, self._count, self._others = self._before
        else:
            self._after, self._before = after, (self._number, self._speaks, self._count, self._others)
        if len(entries) == 1 and (entry := entries[0]).name == "message":  # nearly all calls
            return self._text(entry.sequence, text_of("message", entry.body) or b'""'), False
        parts: list[bytes] = []
        for entry in entries:
            match entry.name:
                case "message":
                    parts.append(self._text(entry.sequence, text_of("message", entry.body) or b'""'))
                case "coze":
                    parts.append(self._record(entry))
                case "action_required":
                    return b"".join(parts), True
                case "reset":  # the database has lost what the reader was given, and Coze's form can't say so
                    return b"".join((*parts, self.failed(INTERNAL, LOST))), True
                case "completed" | "cancelled" | "error":
                    return b"".join((*parts, self._last(entry))), True
                case _:
                    pass
        return b"".join(parts), False

    def rest(self, sequence: int, text: str) -> bytes:
        """A record with text that belongs after the position `sequence`."""
        return self._text(sequence, text_json(text))

    def failed(self, code: int, text: str) -> bytes:
        """The record of a failure."""
        return self._framed(b"Error", one_line(msgspec.json.encode({"error_code": code, "error_message": text})))

    def _text(self, sequence: int, content: bytes) -> bytes:
        if (speaks := self._speaks) is None:
            speaks = self._stands(head_at(self._stretch, sequence).fields)
        number, said = self._count, speaks.before
        self._count += 1
        if speaks.finishes and not self._goes_on(sequence):
            self._count, said = 0, speaks.last
        return self._framed(b"Message", b'%b%d","content":%b}' % (said, number, content))

    def _stands(self, fields: bytes) -> _Speaks:
        """From now on text stands under the head with these fields. The texts of each node are counted up to its
        end."""
        before, self._speaks = self._speaks, _speaks(fields)
        node = self._speaks.node
        if before is None or before.node != node:
            others = dict(self._others)
            if before is not None and self._count:
                others[before.node] = self._count
            self._count = others.pop(node, 0)
            self._others = others
        return self._speaks

    def _ends(self, node: Node) -> int:
        """A node ends without a text: how many it had."""
        if self._speaks is not None and self._speaks.node == node:
            number, self._count = self._count, 0
            return number
        others = dict(self._others)
        number = others.pop(node, 0)
        self._others = others
        return number

    def _goes_on(self, sequence: int) -> bool:
        """Whether more of the same text follows, which was too long for one piece."""
        segments, at = self._stretch.segments, bisect_right(self._stretch.starts, sequence) - 1
        run = segments[at] if at >= 0 else None
        return isinstance(run, Run) and sequence < run.first + len(run.ends) - 1

    def _record(self, entry: Entry) -> bytes:
        name, _, data = record_of(entry.body)
        if name == HEAD.encode():
            self._stands(data)
        if name in _NOT_TOLD:
            return b""
        if name == b"Message":
            number = self._ends(_speaks(data).node)
            data = one_line(msgspec.json.encode(msgspec.json.decode(data) | {"node_seq_id": str(number)}))
        return self._framed(name, data)

    def _last(self, entry: Entry) -> bytes:
        """The end of the stream: Coze's own record of it, or ours where there is none."""
        last = entry.event
        known = records(self._stretch, entry.sequence)
        if isinstance(last, Cancelled):
            return self.failed(INTERNAL, _CANCELED)
        if isinstance(last, Failed):
            told = any(name == b"Error" for name, _ in known)
            return b"" if told else self.failed(code_of(last), last.error)
        return self._framed(b"Done", next((data for name, data in known if name == b"done"), b"{}"))

    def _framed(self, name: bytes, data: bytes) -> bytes:
        number, self._number = self._number, self._number + 1
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name, data)
