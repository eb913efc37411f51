"""Framing of a run: turns the entries of a turn's log into the event stream of one of Coze's workflows.

Its records have a space after each colon, and an id: they are numbered from 0 in each stream.
"""

from bisect import bisect_right

import msgspec
from msgspec import Struct

from adapters.facades.coze.failures import INTERNAL, code_of
from adapters.facades.coze.framing import LOST, Head, head_at, records
from gateway.events import HEAD, LOG_ID, Cancelled, Failed, one_line, record_of, text_json, text_of
from gateway.log.entry import Entry
from gateway.log.segments import Run
from gateway.log.stretch import Stretch

_CANCELED = "The run was canceled."
_NOT_TOLD = (HEAD.encode(), LOG_ID.encode(), b"done")


class _Node(Struct):
    """The part of a head that says which node speaks."""

    node_id: str = ""
    node_execute_uuid: str = ""
    node_title: str = ""
    node_is_finish: bool = False


_decode_node = msgspec.json.Decoder(_Node).decode


class RunFramer:
    """Makes the records of one stream. The same entries may be asked for again: they get the same numbers."""

    __slots__ = ("_after", "_before", "_head", "_node", "_number", "_piece", "_stretch")

    def __init__(self, stretch: Stretch) -> None:
        self._stretch = stretch
        self._number = 0  # of the next record
        self._piece = 0  # the number of the next text within its node
        self._head: Head | None = None
        self._node: _Node | None = None
        self._after = -1
        self._before: tuple[int, int, Head | None, _Node | None] = (0, 0, None, None)

    def frames(self, after: int, entries: list[Entry]) -> tuple[bytes, bool]:
        """The records for entries that follow the position `after`, and whether the stream ends with them."""
        if after == self._after:
            self._number, self._piece, self._head, self._node = self._before
        self._after, self._before = after, (self._number, self._piece, self._head, self._node)
        parts: list[bytes] = []
        for entry in entries:
            match entry.name:
                case "message":
                    parts.append(self._text(entry.sequence, text_of(entry.name, entry.body) or b'""'))
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
        head = self._head
        if head is None:
            head = self._head = head_at(self._stretch, sequence)
        if self._node is None:
            self._speaks(head.fields)
        fields = head.fields
        if self._node is not None and self._node.node_is_finish and self._goes_on(sequence):
            fields = fields.replace(b'"node_is_finish":true', b'"node_is_finish":false')
        number, self._piece = self._piece, self._piece + 1
        said = b'%b,"node_seq_id":"%d","content":%b}' % (fields[:-1], number, content)
        return self._framed(b"Message", said)

    def _goes_on(self, sequence: int) -> bool:
        """Whether more of the same text follows, which was too long for one piece."""
        segments, at = self._stretch.segments, bisect_right(self._stretch.starts, sequence) - 1
        run = segments[at] if at >= 0 else None
        return isinstance(run, Run) and sequence < run.first + len(run.ends) - 1

    def _record(self, entry: Entry) -> bytes:
        name, begins, data = record_of(entry.body)
        if name == HEAD.encode():
            self._head = Head(entry.sequence, data, begins)
            self._speaks(data)
        if name in _NOT_TOLD:
            return b""
        if name == b"Message":  # a node's end without text
            self._speaks(data)
            data = one_line(msgspec.json.encode(msgspec.json.decode(data) | {"node_seq_id": str(self._piece)}))
            self._node = None
        return self._framed(name, data)

    def _speaks(self, fields: bytes) -> None:
        """The next text is of the node that these fields name. The texts of each of its runs are counted."""
        before, node = self._node, _decode_node(fields)
        if before is None or before.node_is_finish or _speaker(before) != _speaker(node):
            self._piece = 0
        self._node = node

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


def _speaker(node: _Node) -> tuple[str, str, str]:
    return node.node_id, node.node_execute_uuid, node.node_title
