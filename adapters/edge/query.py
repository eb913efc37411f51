"""Parameters outside the body: headers, the query, and ids in the path. Every mistake in them is named."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from typing import NamedTuple

import msgspec
from aiohttp import web

from adapters.edge.callers import ALL, Caller
from adapters.edge.failures import InvalidRequest, Mistake
from gateway.errors import Code, GatewayError
from gateway.ids import LONGEST_NAME, ConversationId, ShopId, TurnId, is_id

_VISIBLE = re.compile(r"[!-~]{1,255}", re.ASCII)
_WAIT = re.compile(r"\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:;.*)?", re.ASCII | re.IGNORECASE)
_PREFER_LONGEST = 512
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?", re.ASCII)


def idempotency_key(request: web.BaseRequest) -> str | None:
    keys = request.headers.getall("Idempotency-Key", ())
    if len(keys) > 1:
        raise InvalidRequest([Mistake("Idempotency-Key", "comes twice")])
    return checked_key(keys[0], "Idempotency-Key") if keys else None


def checked_key(key: object, field: str = "idempotencyKey") -> str:
    """Returns `key` if it is a valid idempotency key. `field` names where it came from: a header or the shared
    socket's field."""
    if not isinstance(key, str) or not _VISIBLE.fullmatch(key):
        raise InvalidRequest([Mistake(field, "is not 1 to 255 visible ASCII characters")])
    return key


def prefer_wait(request: web.BaseRequest) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240; the first one counts). Other preferences are ignored."""
    for header in request.headers.getall("Prefer", ()):
        for preference in header[:_PREFER_LONGEST].split(","):
            if match := _WAIT.fullmatch(preference):
                return float(match[1])
    return None


def position_asked(request: web.BaseRequest) -> str | None:
    """The text of the position to continue from, not validated yet. An empty text means no position, as in
    EventSource."""
    if header := request.headers.get("Last-Event-ID"):
        return header
    return _last(request, "lastEventId") or _last(request, "after") or None


def _last(request: web.BaseRequest, name: str) -> str:
    """The last of a parameter's values: a client that resumes may have appended its position to an address that had
    one."""
    values = request.query.getall(name, ())
    return values[-1] if values else ""


class Poll(NamedTuple):
    wait: float
    """Seconds."""
    limit: int


def poll_query(request: web.BaseRequest) -> Poll:
    """`wait` and `limit` of a long-poll, clamped to their bounds. Anything but a number is a mistake."""
    wrong: list[Mistake] = []
    wait = _number(request, "wait", 25.0, 0, 60, wrong)
    limit = _number(request, "limit", 200, 1, 1000, wrong)
    if wrong:
        raise InvalidRequest(wrong)
    return Poll(wait, int(limit))


class Page(NamedTuple):
    before: str | None
    limit: int


def page_query(request: web.BaseRequest) -> Page:
    """`before` and `limit` of a conversation's messages."""
    wrong: list[Mistake] = []
    limit = _number(request, "limit", 50, 1, 200, wrong)
    before = request.query.get("before") or None
    if before is not None and len(before) > 128:
        wrong.append(Mistake("before", "is not a message's id"))
    if wrong:
        raise InvalidRequest(wrong)
    return Page(before, int(limit))


class ListQuery(NamedTuple):
    """Whose conversations are asked for. `shops` are those that they may belong to, None for any."""

    user_id: str
    shops: Collection[str] | None
    after: tuple[float, str] | None
    limit: int

    @staticmethod
    def cursor(created_at: float, name: str) -> str:
        """The cursor that leads to what comes after this conversation."""
        return urlsafe_b64encode(msgspec.json.encode((created_at, name))).decode().rstrip("=")


def list_query(request: web.BaseRequest, caller: Caller) -> ListQuery:
    """`userId`, `shopId`, `cursor` and `limit` of a list of conversations, as far as they are the caller's. Raises
    NOT_FOUND for a shop that is not the caller's."""
    wrong: list[Mistake] = []
    limit = _number(request, "limit", 20, 1, 100, wrong)
    user, shop = request.query.get("userId", ""), request.query.get("shopId", "")
    if caller.user_id is None and not 1 <= len(user) <= LONGEST_NAME:
        wrong.append(Mistake("userId", "is required: 1 to 128 characters"))
    if caller.user_id is not None and user not in ("", caller.user_id):
        wrong.append(Mistake("userId", "is not the token's user"))
    if len(shop) > LONGEST_NAME:
        wrong.append(Mistake("shopId", "has more than 128 characters"))
    cursor, after = request.query.get("cursor", ""), None
    if len(cursor) > 256 or (cursor and (after := _after(cursor)) is None):
        wrong.append(Mistake("cursor", "is not what a list of conversations gave as next"))
    if wrong:
        raise InvalidRequest(wrong)
    shops: Collection[str] | None = None if caller.shops == ALL else caller.shops
    if shop:
        caller.shop_for(shop)
        shops = (shop,)
    return ListQuery(caller.user_id or user, shops, after, int(limit))


_decode_cursor = msgspec.json.Decoder(tuple[float, str]).decode


def _after(cursor: str) -> tuple[float, str] | None:
    try:
        time, name = _decode_cursor(urlsafe_b64decode(cursor + "=="))
        return time, conversation_id(name)
    except (ValueError, msgspec.DecodeError, GatewayError):
        return None


def whose(request: web.BaseRequest, caller: Caller) -> tuple[str, str | None]:
    """The user ("" if none is named) and the shop for which a request without a JSON body is made: its `userId` and
    `shopId`. Raises NOT_FOUND for a shop that is not the caller's."""
    user, shop = request.query.get("userId", ""), request.query.get("shopId") or None
    asked = {"userId": user, "shopId": shop or ""}
    wrong = [Mistake(name, "has more than 128 characters") for name, text in asked.items() if len(text) > 128]
    if user and caller.user_id not in (None, user):
        wrong.append(Mistake("userId", "is not the token's user"))
    if wrong:
        raise InvalidRequest(wrong)
    return caller.user_id or user, caller.shop_for(shop)


def turn_id(text: str) -> TurnId:
    """`text` as a turn's id. Text that can't be one is NOT_FOUND, like the id of a turn that does not exist."""
    if not (text.startswith("turn_") and is_id(text)):
        raise GatewayError(Code.NOT_FOUND, "that is no turn's id")
    return TurnId(text)


def conversation_id(text: str) -> ConversationId:
    if not (text.startswith("conv_") and is_id(text)):
        raise GatewayError(Code.NOT_FOUND, "that is no conversation's id")
    return ConversationId(text)


def shop_id(text: str) -> ShopId:
    if not 0 < len(text) <= 128 or "\0" in text:  # PostgreSQL can't even look for that character
        raise GatewayError(Code.NOT_FOUND, "that is no shop's id")
    return ShopId(text)


def _number(
    request: web.BaseRequest, name: str, default: float, low: float, high: float, wrong: list[Mistake]
) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        wrong.append(Mistake(name, "is not a number"))
        return default
    return min(max(float(text), low), high)
