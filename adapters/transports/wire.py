"""The wire: turns entries of a log into each transport's bytes. It is pure, so that all readers at a position share a
result."""

import json
from collections.abc import Callable

from gateway.events import HIDDEN, Notice
from gateway.log.entry import Entry
from gateway.log.tail import Tail
from gateway.reading.frames import LARGE

NO_ID = -1
"""The sequence of an entry that has no position: the notice `queued`."""

HEARTBEAT = b":\n\n"
"""An SSE comment that carries nothing."""

PING = b"\x89\x00"
"""An empty WebSocket ping, as a server sends it (RFC 6455, 5.5.2)."""

TEXT, CLOSE, PONG = 0x1, 0x8, 0xA


def queued() -> Entry:
    """The notice for readers of a turn that waits for another turn."""
    return Entry.of(NO_ID, Notice("queued"))


def event(tail: Tail, entry: Entry) -> bytes:
    """One event as the JSON object that all transports carry."""
    if entry.sequence == NO_ID:
        return b"{" + entry.body + b"}"
    return b'{%b,"id":"%b"}' % (entry.body, _position(tail, entry))


def sse(tail: Tail, entries: list[Entry]) -> bytes:
    """Server-sent events: `id`, `data`, a blank line (WHATWG HTML, 9.2). The JSON holds no line break."""
    if len(entries) == 1:
        return _sse(tail, *entries[0])
    return b"".join([_sse(tail, *entry) for entry in entries])


def _sse(tail: Tail, sequence: int, name: str, body: bytes) -> bytes:
    if name == HIDDEN:
        return b""
    if sequence == NO_ID:
        return b"data: {%b}\n\n" % body
    position = tail.epochs.position(sequence).encode()
    if len(body) > LARGE:  # `%`, which is quicker, takes half as much memory again
        return b"".join((b"id: ", position, b"\ndata: {", body, b',"id":"', position, b'"}\n\n'))
    return b'id: %b\ndata: {%b,"id":"%b"}\n\n' % (position, body, position)


def retry(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds


def websocket(tail: Tail, entries: list[Entry]) -> bytes:
    """One text message per event."""
    return b"".join([frame(TEXT, event(tail, entry)) for entry in entries if entry.name != HIDDEN])


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A whole WebSocket frame from a server, unmasked (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def close(code: int, reason: str = "") -> bytes:
    """A WebSocket close frame. `reason` is cut to the 123 bytes that are allowed."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:123])


def poll(tail: Tail, entries: list[Entry], *, after: str, ended: bool) -> bytes:
    """A long-poll's body. `after` is its position when none of its events has one."""
    last = next((e for e in reversed(entries) if e.sequence != NO_ID), None)
    following = _position(tail, last).decode() if last is not None else after
    events = b",".join([event(tail, entry) for entry in entries])
    state = b"true" if ended else b"false"
    return b'{"events":[' + events + b'],"next":' + json.dumps(following).encode() + b',"ended":' + state + b"}"


def shared(topic: str) -> Callable[[Tail, list[Entry]], bytes]:
    """The encoder of one topic on the shared socket: `{"topic","events":[…]}` as one text message."""
    head = b'{"topic":' + json.dumps(topic).encode() + b',"events":['

    def encode(tail: Tail, entries: list[Entry]) -> bytes:
        events = [event(tail, entry) for entry in entries if entry.name != HIDDEN]
        return frame(TEXT, head + b",".join(events) + b"]}") if events or not entries else b""

    return encode


def _position(tail: Tail, entry: Entry) -> bytes:
    return tail.epochs.position(entry.sequence).encode()
