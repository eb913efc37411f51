"""Untrusted requests into values: bodies, headers, query, path. What is wrong is refused, naming each mistake.

Bodies are strict JSON (RFC 8259). What no text may hold everywhere (a lone surrogate, NUL) becomes U+FFFD. A name that
comes twice in an object counts with its last value, as in browsers.
"""

import asyncio
import re
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Final, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from adapters.edge.auth import ANYONE, Caller
from adapters.edge.failures import InvalidRequest, Mistake, TooLarge
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, ShopId, TurnId, is_id

BODY_DEADLINE: Final = web.AppKey("body_deadline", float)
"""Seconds for a whole body; aiohttp itself has no such deadline. 30 where the application does not say."""

_BODY_SECONDS: Final = 30.0
_MISTAKES: Final = 20
"""Mistakes named in one answer: a body of 10,000 unknown fields must not be answered with 10,000 entries."""

_SUGGESTIONS: Final = 3
"""Unknown fields of one body for which a known name is suggested: each is compared with every known one."""

_SHOWN: Final = 64
"""Characters of a client's own field name that are repeated to it."""

Id128 = Annotated[str, Meta(min_length=1, max_length=128)]
_MetaData = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]
T = TypeVar("T", bound=Struct)


class Attachment(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A file of the user: Coze's own (`file_id`), or one that Coze fetches (`url`); the gateway fetches nothing."""

    type: Literal["image", "file", "audio"]
    url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None
    file_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.file_id is None):
            raise ValueError("needs exactly one of url and fileId")
        if self.url is not None and not _is_web_url(self.url):
            raise ValueError("url is not an http:// or https:// URL")


class ChatBody(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A message, as contract section 2 has it. From `read_chat`, `user_id` is set and `shop_id` is the caller's."""

    message: Annotated[str, Meta(min_length=1)]
    bot_id: Annotated[str, Meta(min_length=1, max_length=64)]
    user_id: Id128 = ""
    shop_id: Id128 | None = None
    conversation_id: str | None = None
    attachments: Annotated[tuple[Attachment, ...], Meta(max_length=10)] | None = None
    custom_variables: dict[str, str] | None = None
    meta_data: _MetaData | None = None
    on_busy: Literal["reject", "queue", "interrupt"] = "reject"
    on_disconnect: Literal["continue", "cancel"] = "continue"


class ToolOutput(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    tool_call_id: Annotated[str, Meta(min_length=1, max_length=256)]
    output: str


class ToolOutputs(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    tool_outputs: Annotated[list[ToolOutput], Meta(min_length=1, max_length=100)]


async def read_chat(request: web.Request, settings: Settings, caller: Caller = ANYONE) -> ChatBody:
    """The message that `caller` sends, complete: its user and shop are the caller's.

    Raises InvalidRequest with all mistakes at once, UNSUPPORTED_MEDIA_TYPE, TOO_LARGE, REQUEST_TIMEOUT, and NOT_FOUND
    for a shop that is not the caller's or what can't be a conversation's id.
    """
    raw = await read_body(request, settings)
    if _NUL not in raw:
        try:
            return _complete(_CHAT.decode(raw), settings, caller)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # the slow way says what is wrong, or mends it
    return chat_from(strict_json(raw), settings, caller)


def chat_from(fields: object, settings: Settings, caller: Caller = ANYONE) -> ChatBody:
    """The same from JSON that has been parsed already: a message on the shared socket, without the socket's fields."""
    try:
        body = msgspec.convert(fields, ChatBody)
    except msgspec.ValidationError:
        wrong = _mistakes(fields, ChatBody)
        if isinstance(fields, Mapping):
            named = {mistake.field for mistake in wrong}
            beyond = _beyond_types(fields.get("userId", ""), fields.get("message"), settings, caller)
            wrong += [mistake for mistake in beyond if mistake.field not in named]
        raise InvalidRequest(wrong[:_MISTAKES]) from None
    return _complete(body, settings, caller)


async def read_tool_outputs(request: web.Request, settings: Settings) -> ToolOutputs:
    fields = strict_json(await read_body(request, settings))
    try:
        return msgspec.convert(fields, ToolOutputs)
    except msgspec.ValidationError:
        raise InvalidRequest(_mistakes(fields, ToolOutputs)[:_MISTAKES]) from None


async def read_body(request: web.Request, settings: Settings) -> bytes:
    """The whole body of a JSON request, bounded in size and in time."""
    headers = request.headers
    if not _is_json(headers.getall("Content-Type", ())) or headers.get("Content-Encoding", "identity") != "identity":
        # Compressed bodies are not taken at all: 256 KiB can unpack to a gigabyte.
        raise GatewayError(Code.UNSUPPORTED_MEDIA_TYPE)
    most = settings.max_body_bytes
    if (request.content_length or 0) > most:
        raise TooLarge(most)
    content = request.content
    if content.is_eof():
        body = content.read_nowait(-1)
        if len(body) > most:
            raise TooLarge(most)
        return body
    parts = bytearray()
    try:
        async with asyncio.timeout(request.config_dict.get(BODY_DEADLINE, _BODY_SECONDS)):
            while part := await content.readany():
                parts += part
                if len(parts) > most:
                    raise TooLarge(most)
    except TimeoutError:
        raise GatewayError(Code.REQUEST_TIMEOUT) from None
    return bytes(parts)


def strict_json(raw: bytes) -> object:
    """What `raw` says. No NaN, no second value, no comments, no BOM; UTF-8 without surrogates, or they are mended."""
    if _NUL in raw:
        return _json(_mended(raw), mended=True)
    return _json(raw, mended=False)


def _json(raw: bytes, *, mended: bool) -> object:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequest([Mistake("", "holds a number out of range")]) from None
    except UnicodeDecodeError:
        raise InvalidRequest([Mistake("", "is not UTF-8")], status=400) from None
    except RecursionError:
        raise InvalidRequest([Mistake("", "is nested too deeply")], status=400) from None
    except msgspec.DecodeError as error:
        if not mended and (better := _mended(raw)) != raw:
            return _json(better, mended=True)
        raise InvalidRequest([Mistake("", f"is not JSON: {error}")], status=400) from None


def idempotency_key(request: web.BaseRequest) -> str | None:
    keys = request.headers.getall("Idempotency-Key", ())
    if len(keys) > 1:
        raise InvalidRequest([Mistake("Idempotency-Key", "comes twice")])
    return checked_key(keys[0], "Idempotency-Key") if keys else None


def checked_key(key: object, field: str = "idempotencyKey") -> str:
    """`key` if it can be an idempotency key; `field` is where it stood: a header, or the shared socket's field."""
    if not isinstance(key, str) or not _VISIBLE.fullmatch(key):
        raise InvalidRequest([Mistake(field, "is not 1 to 255 visible ASCII characters")])
    return key


def prefer_wait(request: web.BaseRequest) -> float | None:
    """Seconds of `Prefer: wait=N` (RFC 7240; the first one counts). What is no such preference is ignored."""
    for header in request.headers.getall("Prefer", ()):
        for preference in header[:_PREFER_LONGEST].split(","):
            if match := _WAIT.fullmatch(preference):
                return float(match[1])
    return None


def position_asked(request: web.BaseRequest) -> str | None:
    """The text of the position to go on from, not yet judged. An empty one is none, as in EventSource."""
    if header := request.headers.get("Last-Event-ID"):
        return header
    return _last(request, "lastEventId") or _last(request, "after") or None


def _last(request: web.BaseRequest, name: str) -> str:
    """The last one of a query's values: whoever resumes may have added its position to an address that had one."""
    values = request.query.getall(name, ())
    return values[-1] if values else ""


class Poll(NamedTuple):
    wait: float
    """Seconds."""
    limit: int


def poll_query(request: web.BaseRequest) -> Poll:
    """`wait` and `limit` of a long-poll, clamped; what is no number is a mistake."""
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


def turn_id(text: str) -> TurnId:
    """`text` as a turn's id; what can't be one is NOT_FOUND, as one that does not exist."""
    if not (text.startswith("turn_") and is_id(text)):
        raise GatewayError(Code.NOT_FOUND, "that is no turn's id")
    return TurnId(text)


def conversation_id(text: str) -> ConversationId:
    if not (text.startswith("conv_") and is_id(text)):
        raise GatewayError(Code.NOT_FOUND, "that is no conversation's id")
    return ConversationId(text)


def shop_id(text: str) -> ShopId:
    if not 0 < len(text) <= 128:
        raise GatewayError(Code.NOT_FOUND)
    return ShopId(text)


_CHAT = msgspec.json.Decoder(ChatBody)
_UNKNOWN = "is not a known field"
_NUL = b"\\u0000"
_VISIBLE = re.compile(r"[!-~]{1,255}", re.ASCII)
_WAIT = re.compile(r"\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:;.*)?", re.ASCII | re.IGNORECASE)
_PREFER_LONGEST = 512
_BLANK = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?", re.ASCII)
_PATH = re.compile(r" - at `\$(.*)`", re.DOTALL)
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\u0000)"  # half of one, or NUL
    rb"|(?:\\[^u])+"  # other escapes, many at once, so that the backslash of \\\\ud800 begins none
    rb"|\\.",
    re.DOTALL,
)


def _is_web_url(url: str) -> bool:
    """http or https, with a host, in visible characters. Coze judges where it leads: the gateway never fetches."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not _BLANK.search(url) and parts.port != 0
    except ValueError:
        return False


def _mended(raw: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: b"\\ufffd" if match[1] else match[0], raw)


def _is_json(content_types: tuple[str, ...] | list[str]) -> bool:
    if len(content_types) != 1:
        return False
    if content_types[0] == "application/json":
        return True
    kind, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    charsets = [p.removeprefix("charset=").strip('"') for p in parameters if p.startswith("charset=")]
    return kind == "application/json" and all(charset in ("utf-8", "utf8") for charset in charsets)


def _complete(body: ChatBody, settings: Settings, caller: Caller) -> ChatBody:
    if wrong := _beyond_types(body.user_id, body.message, settings, caller):
        raise InvalidRequest(wrong)
    user = body.user_id or caller.user_id
    shop = caller.shop_for(body.shop_id)
    if body.conversation_id:  # "" is none
        conversation_id(body.conversation_id)
    if user == body.user_id and shop == body.shop_id:
        return body
    return msgspec.structs.replace(body, user_id=user, shop_id=shop)


def _beyond_types(user: object, message: object, settings: Settings, caller: Caller) -> list[Mistake]:
    """The mistakes that depend on the settings and on who asks. Values of a wrong type have been named already."""
    wrong = []
    if user == "" and caller.user_id is None:
        wrong.append(Mistake("userId", "is required"))
    elif isinstance(user, str) and user and caller.user_id not in (None, user):
        wrong.append(Mistake("userId", "is not the token's user"))
    if isinstance(message, str) and len(message) > settings.max_message_chars:
        wrong.append(Mistake("message", f"is longer than {settings.max_message_chars} characters"))
    return wrong


def _mistakes(fields: object, kind: type[Struct]) -> list[Mistake]:
    """Every field's mistake, where decoding as a whole names the first one only."""
    if not isinstance(fields, Mapping):
        return [Mistake("", "is not a JSON object")]
    wrong = []
    known = set()
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        known.add(name)
        if name not in fields:
            if field.required:
                wrong.append(Mistake(name, "is required"))
            continue
        try:
            msgspec.convert(fields[name], field.type)
        except msgspec.ValidationError as error:
            text = str(error)
            path = _PATH.search(text)
            wrong.append(Mistake(name + (path[1] if path else ""), _PATH.sub("", text)))
    strange = (str(name)[:_SHOWN] for name in fields if name not in known)
    for number, name in enumerate(islice(strange, _MISTAKES)):
        wrong.append(Mistake(name, _unknown(name, known) if number < _SUGGESTIONS else _UNKNOWN, True))
    return wrong


def _unknown(name: str, known: set[str]) -> str:
    """Names what was probably meant, as the settings do."""
    near = get_close_matches(name.lower(), [field.lower() for field in known], n=1)
    meant = next((field for field in known if near and field.lower() == near[0]), None)
    return f"{_UNKNOWN}; did you mean {meant}?" if meant else _UNKNOWN


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
