"""A chat's messages as Coze lists them: bounded in number, and read one by one, so that a bad one affects no other."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.bounds import TURN_PARTS
from gateway.errors import TooMuch
from gateway.upstream.coze_objects import Message
from gateway.upstream.exchange import not_coze
from gateway.upstream.json_text import UNREADABLE, BadJson, converted, read
from gateway.upstream.refusal import data_of, log_id_of

_READ_SECONDS = 0.01
"""How long the event loop may be blocked at a time, in seconds."""

_OBJECTS, _VALUES = 20, 50
"""Braces and commas for each message that may be listed: Coze's have 2 and 15, and their texts may have more."""


class _Listing(Struct):
    code: Raw = Raw(b"")
    data: Raw = Raw(b"null")


_decode_listing = msgspec.json.Decoder(_Listing).decode
_decode_entries = msgspec.json.Decoder(list[Raw] | None).decode
_decode_message = msgspec.json.Decoder(Message).decode


async def messages_of(entries: Sequence[Any]) -> AsyncGenerator[tuple[Message, Any], None]:
    """The readable messages, each with its entry, in Coze's order; other tasks get their turn between them."""
    time = asyncio.get_running_loop().time
    until = 0.0
    for entry in entries:
        if time() >= until:
            await asyncio.sleep(0)
            until = time() + _READ_SECONDS
        if (message := _message(entry)) is not None:
            yield message, entry


def entries_of(status: int, headers: Mapping[str, str], body: bytes) -> Sequence[Any]:
    """The list's entries, not decoded yet. Any other answer raises the matching `UpstreamError`."""
    if body.count(b"{") > _OBJECTS * TURN_PARTS or body.count(b",") > _VALUES * TURN_PARTS:
        raise _too_many(headers)
    try:
        listing = _decode_listing(body)
        well = 200 <= status < 300 and bytes(listing.code) in (b"0", b'"0"')
        entries = _decode_entries(listing.data) if well else None
    except UNREADABLE:
        entries = None
    if entries is None:
        entries = data_of(status, headers, body) or []  # the slow reader knows more spellings
        if not isinstance(entries, list):
            raise not_coze("Coze's list of messages cannot be read")
    if len(entries) > TURN_PARTS:
        raise _too_many(headers)
    return entries


def _message(entry: Any) -> Message | None:
    try:
        if isinstance(entry, Raw):
            return read(bytes(entry), _decode_message, Message)
        return converted(entry, Message)
    except (BadJson, msgspec.ValidationError):
        return None


def _too_many(headers: Mapping[str, str]) -> TooMuch:
    return TooMuch("Coze's list of the chat's messages is too long", log_id=log_id_of(headers))
