"""Listening: the way from a request to a cursor, which all transports share."""

from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from adapters.edge import query
from adapters.edge.callers import NOT_ITS_SHOP, Caller
from adapters.edge.limits import Seat
from adapters.services import SERVICES, Services
from adapters.transports import wire
from gateway.errors import Code, GatewayError
from gateway.events import Reset
from gateway.ids import LogKey, Position, parse_position, shop_log
from gateway.log.entry import Entry
from gateway.log.epochs import epoch_mark, is_of
from gateway.log.journal import JournalError
from gateway.reading.frames import LARGE
from gateway.reading.resets import ResetReason
from gateway.reading.subscription import Subscription
from gateway.status import ENDED
from gateway.store.rows import TurnRow
from gateway.turns.projection import last_event
from gateway.turns.turns import Running

Kind = Literal["turns", "conversations", "shops"]
KINDS: tuple[Kind, ...] = ("turns", "conversations", "shops")


@dataclass(frozen=True, slots=True)
class Topic:
    """A reader's subject: a turn, a conversation, or a shop."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def topic_of(request: web.Request, kind: Kind) -> Topic:
    return topic_from(kind, request.match_info["id"])


def topic_from(kind: str, name: str) -> Topic:
    """Raises `not_found` if there is no such kind, or if the name can't be an id of that kind."""
    match kind:
        case "turns":
            return Topic(kind, query.turn_id(name))
        case "conversations":
            return Topic(kind, query.conversation_id(name))
        case "shops":
            return Topic(kind, query.shop_id(name))
    raise GatewayError(Code.NOT_FOUND, "no such topic")


async def subscribe(services: Services, caller: Caller, topic: Topic, asked: str | None, *, label: str) -> Subscription:
    """A cursor for the caller.

    Raises `not_found`, also for a topic that belongs to somebody else; `storage_unavailable`; and `overloaded` when the
    reader would begin with a large `reset` or last event for which there is no room.
    """
    try:
        if topic.kind == "turns":
            subscription, exact = await _to_turn(services, caller, topic.name, asked)
        elif topic.kind == "conversations":
            await services.turns.finding.conversation_of(topic.name, owns=caller.may_read)
            subscription, exact = await services.hub.subscribe(LogKey(topic.name), asked=asked)
            if not exact and not subscription.tail.spans:
                await _tell_last_turn(services, topic.name, subscription)
        else:
            if not caller.may_watch_shop(topic.name):
                missing = NOT_ITS_SHOP if caller.watches_shops else "the token's scope does not hold `shop`"
                raise GatewayError(Code.NOT_FOUND, missing)
            subscription, exact = await services.hub.subscribe(shop_log(topic.name), asked=asked)
    except JournalError as error:
        raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
    if subscription.lost:
        subscription.close()
        raise GatewayError(Code.NOT_FOUND)
    if (size := sum(len(entry.body) for entry in subscription.preface)) > LARGE:
        try:
            subscription.room = services.hub.unsent.reserve(size)
        except GatewayError:
            subscription.close()
            raise
    if asked is not None:
        services.observer.reader_resumed(label, "exact" if exact else "reset")
    return subscription


async def take_place(
    request: web.Request, services: Services, caller: Caller, kind: Kind, *, label: str
) -> tuple[Subscription, Seat]:
    """A cursor and a seat for a connection that stays. Raises what `subscribe` raises, `draining`, `overloaded` and
    `too_many_connections`."""
    topic = topic_of(request, kind)
    if services.hub.draining:
        raise GatewayError(Code.DRAINING)
    seat = services.connections.acquire(caller.listener_account)
    try:
        return await subscribe(services, caller, topic, query.position_asked(request), label=label), seat
    except BaseException:
        seat.close()
        raise


async def _to_turn(services: Services, caller: Caller, turn: str, asked: str | None) -> tuple[Subscription, bool]:
    hub = services.hub
    found = await services.turns.find(turn, owns=caller.may_read)
    home = LogKey(found.conversation_id)
    if isinstance(found, Running):
        asked = _in_its_log(asked, found.key, home)
        subscription, exact = await hub.subscribe(found.key, asked=asked, turn=turn)
        if found.status == "queued" and asked is None:  # only once: a long-poll that has a position was told before
            subscription.preface.append(wire.queued())
        return subscription, exact
    tail = await services.log.shelf.find(turn)
    if tail is not None:
        subscription, exact = await hub.subscribe(tail.key, asked=_in_its_log(asked, tail.key, home), turn=turn)
        if subscription.lost or (subscription.reading is not None and not subscription.gone):
            return subscription, exact
        subscription.close()  # retention has removed the events meanwhile: the store has the rest
    if (row := await services.store.turn(turn)) is None:
        raise GatewayError(Code.NOT_FOUND)
    if row.status not in ENDED:  # another process has its events, and goes on with it
        raise GatewayError(Code.STORAGE_UNAVAILABLE, retry_after=1)
    key = LogKey(row.conversation_id)
    last = parse_position(row.position) or _place_of_the_lost(row)
    subscription = hub.apart(key, turn, last)
    seen = parse_position(asked or "")
    if seen == last:
        return subscription, True
    sequence = last.sequence
    known = seen is not None and is_of(key, seen.epoch)
    reason: ResetReason = "expired" if known or asked in (None, "0") else "unknown"
    subscription.preface = [
        Entry.of(sequence - 1, Reset(reason, row.turn_id, row.status, row.content)),
        Entry.of(sequence, last_event(row)),
    ]
    return subscription, False


def _in_its_log(asked: str | None, key: LogKey, home: LogKey) -> str | None:
    """The position that is meant in the log `key`. A turn that waited, and never began, has a log of its own: all of it
    comes after every position in the log of its conversation, `home`."""
    seen = None if key == home else parse_position(asked or "")
    return "0" if seen is not None and is_of(home, seen.epoch) else asked


def _place_of_the_lost(row: TurnRow) -> Position:
    """The end of a turn that was lost with its log: a position in an epoch of its own, which no other turn's events
    share."""
    return Position(f"{epoch_mark(row.conversation_id)}lost{epoch_mark(row.turn_id)}", 1)


async def _tell_last_turn(services: Services, conversation: str, subscription: Subscription) -> None:
    """Completes a conversation's `reset` with the store's copy of its last turn, whose events retention has removed."""
    found, _ = await services.store.messages(conversation, before=None, limit=1)
    row = await services.store.turn(found[0].turn_id) if found else None
    reason = subscription.reason
    if row is not None and reason is not None and not subscription.tail.spans:
        head = subscription.tail.head
        subscription.preface = [Entry.of(head, Reset(reason, row.turn_id, row.status, row.content))]


def caller_of(request: web.Request) -> Caller:
    """The caller of a request. Raises `unauthorized`."""
    return request.app[SERVICES].authenticator.authenticate(request)
