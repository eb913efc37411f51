"""A message: what a node sends over Redis, and how others know that it comes from there."""

from hashlib import blake2b
from hmac import compare_digest

from msgspec import MsgspecError, Struct, msgpack

_PREFIX = "coze-gateway"
_SIGNATURE = 16  # bytes

SILENT = _PREFIX
"""A channel that carries no messages. Every node that listens is subscribed to it."""


class BatchMessage(Struct, array_like=True, frozen=True):
    """A node's batch, or just its number: without a `body` it only says that the node is there."""

    node: int
    number: int
    waited: float
    """Seconds from its commit until it was sent."""
    body: bytes = b""


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(BatchMessage).decode


def channel(node: int, key: bytes) -> str:
    """No other deployment has a channel of this name, since none has the key."""
    return f"{_PREFIX}:{node}:{blake2b(key, digest_size=8).hexdigest()}"


def signed(message: BatchMessage, key: bytes) -> bytes:
    """The message as it is sent. It begins with a signature that nobody can make without the key."""
    payload = _encode(message)
    return _signature(payload, key) + payload


def read(data: bytes, node: int, key: bytes) -> BatchMessage | None:
    """The message of a node with this key; None for what it didn't send."""
    payload = data[_SIGNATURE:]
    if not compare_digest(_signature(payload, key), data[:_SIGNATURE]):
        return None
    try:
        message = _decode(payload)
    except MsgspecError:
        return None
    return message if message.node == node else None


def _signature(payload: bytes, key: bytes) -> bytes:
    return blake2b(payload, key=key, digest_size=_SIGNATURE).digest()
