"""Ids: conversations, turns, and positions in a log."""

import os
import re
import uuid
from collections.abc import Iterator
from typing import NamedTuple, NewType

ConversationId = NewType("ConversationId", str)
TurnId = NewType("TurnId", str)
UserId = NewType("UserId", str)
ShopId = NewType("ShopId", str)
LogKey = NewType("LogKey", str)
"""Names one log: a conversation's id, or `shop:` and a shop's id."""

_ID = re.compile(r"(?:conv|turn)_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_POSITION = re.compile(r"([0-9a-z]{1,40})-(0|[1-9][0-9]{0,17})", re.ASCII)
POSITION_LIMIT = 64
LONGEST_NAME = 128
"""Characters of a user's or a shop's id, which callers choose."""


def new_conversation_id() -> ConversationId:
    return ConversationId(f"conv_{new_uuid()}")


def new_turn_id() -> TurnId:
    return TurnId(f"turn_{new_uuid()}")


def new_uuid() -> uuid.UUID:
    """A random UUID (RFC 9562, version 4). Reads 4 KiB of randomness at a time, because each read is a system call."""
    return uuid.UUID(bytes=next(_random), version=4)


def new_token() -> str:
    """128 random bits in hexadecimal, for ids that need not be UUIDs."""
    return next(_random).hex()


def new_number() -> int:
    """31 random bits, never 0."""
    return int.from_bytes(next(_random)[:4]) >> 1 or 1


def _randomness() -> Iterator[bytes]:
    while True:
        page = os.urandom(4096)
        for at in range(0, len(page), 16):
            yield page[at : at + 16]


_random = _randomness()


def is_id(text: str) -> bool:
    """Whether `text` has the form of a conversation's or a turn's id. It says nothing about whether that exists."""
    return _ID.fullmatch(text) is not None


def shop_log(shop: str) -> LogKey:
    return LogKey(f"shop:{shop}")


_OWNER = re.compile(r"token:([0-9a-f]{128}):(.*)", re.ASCII | re.DOTALL)


def token_owner(token_hash: str, user: str) -> UserId:
    """The owner of what a caller started with a Coze token of its own. It is longer than any user's id may be, so that
    no other caller can take it for its own."""
    return UserId(f"token:{token_hash}:{user}")


def owned_by_token(owner: str) -> str:
    """The hash of the token in a `token_owner`; "" for every other owner."""
    return match[1] if len(owner) > 128 and (match := _OWNER.fullmatch(owner)) is not None else ""


def user_in(owner: str) -> str:
    """The user in an owner, for log lines."""
    found = _OWNER.fullmatch(owner)
    return owner if found is None else found[2]


class Position(NamedTuple):
    """A reader's position in a log, opaque to clients: the last event that it has, by epoch and sequence (from 1)."""

    epoch: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


def parse_position(text: str) -> Position | None:
    """The position that `text` names, or None if it names none. Never raises, whatever the input."""
    if len(text) > POSITION_LIMIT or (match := _POSITION.fullmatch(text)) is None:
        return None
    return Position(match[1], int(match[2]))
