"""Asking: commands and questions about turns that another node runs, sent to that node, and its answers."""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from gateway.errors import Code, GatewayError
from gateway.events import Notification
from gateway.ids import LogKey
from gateway.turns.orders import Order
from gateway.turns.others import Others
from gateway.turns.patience import is_outage

_UNTIL_TAKEN_OVER = 10.0
"""Seconds within which another node has adopted a dead node's turns, and for which the database may be away."""

_LOOK_AGAIN = 0.3


class StartAsked(msgspec.Struct, tag="start"):
    """Start a turn, at most once for each `mark`."""

    order: Order
    mark: str
    position: str


class CancelAsked(msgspec.Struct, tag="cancel"):
    turn: str


class OutputsAsked(msgspec.Struct, tag="outputs"):
    turn: str
    outputs: list[tuple[str, str]]
    once: bool = False


class EraseAsked(msgspec.Struct, tag="erase"):
    conversation: str


class HeardAsked(msgspec.Struct, tag="heard"):
    """How many seconds ago did the turn last have a listener? Answered by `Abandonment.heard`."""

    key: LogKey
    turn: str


class GoneAsked(msgspec.Struct, tag="gone"):
    """These logs were erased: send their readers away."""

    keys: list[LogKey]


class InterruptAsked(msgspec.Struct, tag="interrupt"):
    """Which turns' workflows have asked this question? Answered by `Interrupts.here`."""

    event_id: str


class NotifyAsked(msgspec.Struct, tag="notify", eq=False):
    """Notify a shop's staff. `again` says that they may have been told already, at the time `at` or later."""

    shop: str
    notification: Notification
    again: bool = False
    at: float = 0.0


class LearntAsked(msgspec.Struct, tag="learnt"):
    """What became of a message, by the name of the attempt to send it? Answered by `Learnt.here`."""

    attempt: str


Question = (
    StartAsked
    | CancelAsked
    | OutputsAsked
    | EraseAsked
    | GoneAsked
    | HeardAsked
    | InterruptAsked
    | NotifyAsked
    | LearntAsked
)


class Reply(msgspec.Struct, omit_defaults=True):
    """What the method returned, or the error that it raised."""

    value: Any = None
    code: Code | None = None
    detail: str = ""
    retry_after: float | None = None


encode = msgspec.msgpack.Encoder().encode
decode_question: Callable[[bytes], Question] = msgspec.msgpack.Decoder(Question).decode
_decode_answer = msgspec.msgpack.Decoder(Reply).decode
T = TypeVar("T")


def new_mark() -> str:
    """A mark for an order without a key, so that another node starts it only once, however often it is asked."""
    return f"asked-{secrets.token_hex(16)}"


async def answer(work: Awaitable[Any]) -> bytes:
    """The answer to a question: the result of `work`, or its error."""
    try:
        return encode(Reply(await work))
    except GatewayError as error:
        return encode(Reply(None, error.code, error.detail, error.retry_after))


async def ask(others: Others, node: int, question: Question) -> Reply | None:
    """The node's answer; None if it gave none in time. Raises the error in the answer."""
    said = await others.ask(node, encode(question))
    if said is None:
        return None
    found = _decode_answer(said)
    if found.code is not None:
        raise GatewayError(found.code, found.detail, retry_after=found.retry_after)
    return found


async def ask_all(others: Others, question: Question) -> list[Reply | None]:
    """The answers of all other nodes; None for a node that gave none in time. Raises as `ask` does."""
    return await asyncio.gather(*(ask(others, node, question) for node in await others.all()))


async def heard_elsewhere(others: Others, key: LogKey, turn: str) -> float | None:
    """How many seconds ago the turn last had a listener at another node. A node that does not answer counts as having
    listeners, until it is buried."""
    try:
        answers = await ask_all(others, HeardAsked(key, turn))
    except GatewayError:
        return 0.0
    found = [0.0 if answer is None else answer.value for answer in answers]
    return min((float(ago) for ago in found if ago is not None), default=None)


async def until_taken_over(
    attempt: Callable[[], Awaitable[T | None]], *, until: float = math.inf, within: float = _UNTIL_TAKEN_OVER
) -> T:
    """The result of `attempt`, which is tried again while it returns None or the database is away. After `within`
    seconds, in which a dead node is buried, or after `until`, raises `storage_unavailable`."""
    deadline = min(until, asyncio.get_running_loop().time() + within)
    while True:
        late = GatewayError(Code.STORAGE_UNAVAILABLE, "the turn's node does not answer", retry_after=1)
        try:
            if (found := await attempt()) is not None:
                return found
        except GatewayError as error:
            if not is_outage(error):
                raise
            late = error
        if asyncio.get_running_loop().time() >= deadline:
            raise late
        await asyncio.sleep(_LOOK_AGAIN)
