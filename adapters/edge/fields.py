"""The fields of a body: those of a message, a run, tool outputs and others, as far as they can be checked alone."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from adapters.edge.body import NUL, read_body, strict_json
from adapters.edge.callers import ANYONE, Caller
from adapters.edge.failures import InvalidRequest, Mistake
from adapters.edge.mistakes import MOST, mistakes_in
from adapters.edge.query import conversation_id
from gateway.bounds import ID_LENGTH
from gateway.config.settings import Settings
from gateway.ids import LONGEST_NAME

S = TypeVar("S", bound=Struct)

B = TypeVar("B", "ChatBody", "RunBody")
_DEPTH: Final = 64
"""The deepest nesting of a start node's values."""

Id64 = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH)]
Id128 = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
_MetaData = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(min_length=1, max_length=512)]],
    Meta(max_length=16),
]
_EARLIER_OF_CHATFLOW: Final = 49
"""The most earlier messages that a chatflow takes; a bot takes 99. Coze counts the message itself, too."""

_BLANK = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")


class Attachment(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A file of the user. Coze has it already (`file_id`), or fetches it (`url`); the gateway fetches nothing."""

    type: Literal["image", "file", "audio"]
    url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None
    file_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.file_id is None):
            raise ValueError("needs exactly one of url and fileId")
        if self.url is not None and not _is_web_url(self.url):
            raise ValueError("url is not an http:// or https:// URL")


class Earlier(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A message that was said before, in whatever conversation."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Meta(min_length=1)]


class Shortcut(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A command that the bot offers beside its input, with the values of its fields as Coze wants them."""

    command_id: Id64
    parameters: dict[str, str] | None = None


class ChatBody(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A message, as in section 2 of the contract. `read_chat` fills in `user_id` and `shop_id` from the caller."""

    message: Annotated[str, Meta(min_length=1)]
    bot_id: Id64 = ""
    workflow_id: Id64 = ""
    app_id: Id64 = ""
    parameters: dict[str, Any] | None = None
    user_id: Id128 = ""
    shop_id: Id128 | None = None
    conversation_id: str | None = None
    attachments: Annotated[tuple[Attachment, ...], Meta(max_length=10)] | None = None
    context: Annotated[tuple[Earlier, ...], Meta(max_length=99)] | None = None
    custom_variables: dict[str, str] | None = None
    meta_data: _MetaData | None = None
    shortcut_command: Shortcut | None = None
    enable_card: bool | None = None
    auto_save_history: bool = True
    on_busy: Literal["reject", "queue", "interrupt"] = "reject"
    on_disconnect: Literal["continue", "cancel"] = "continue"


class RunBody(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A run of the workflow that the address names."""

    user_id: Id128 = ""
    parameters: dict[str, Any] | None = None
    bot_id: Id64 = ""
    app_id: Id64 = ""
    shop_id: Id128 | None = None
    conversation_id: str | None = None
    on_busy: Literal["reject", "queue", "interrupt"] = "reject"
    on_disconnect: Literal["continue", "cancel"] = "continue"


class ToolOutput(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    tool_call_id: Annotated[str, Meta(min_length=1, max_length=256)]
    output: str


class ToolOutputs(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    tool_outputs: Annotated[list[ToolOutput], Meta(min_length=1, max_length=100)]


class FeedbackBody(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    feedback: Literal["like", "unlike", "none"]
    comment: Annotated[str, Meta(max_length=1000)] = ""


class Renaming(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """With null the first message is the title again."""

    title: Annotated[str, Meta(max_length=200, pattern=r"\S")] | None


async def read_chat(request: web.Request, settings: Settings, caller: Caller = ANYONE) -> ChatBody:
    """The message that `caller` sends, with the user and the shop filled in.

    Raises InvalidRequest with all mistakes at once, UNSUPPORTED_MEDIA_TYPE, TOO_LARGE, REQUEST_TIMEOUT, and NOT_FOUND
    for a shop that is not the caller's or text that can't be a conversation's id.
    """
    raw = await read_body(request, settings)
    if NUL not in raw:
        try:
            return _complete(_CHAT.decode(raw), settings, caller)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # the slow way below finds out what is wrong, or mends it
    return chat_from(strict_json(raw), settings, caller)


def chat_from(fields: object, settings: Settings, caller: Caller = ANYONE) -> ChatBody:
    """The same for JSON that is parsed already: a message on the shared socket, without the socket's own fields."""
    try:
        body = msgspec.convert(fields, ChatBody)
    except msgspec.ValidationError:
        wrong = mistakes_in(fields, ChatBody)
        if isinstance(fields, Mapping):
            named = {mistake.field for mistake in wrong}
            beyond = _beyond_types(fields.get("userId", ""), fields.get("message"), settings, caller)
            beyond += _too_long(fields.get("context"), settings)
            beyond += _target(fields.get("botId"), fields.get("workflowId"), fields.get("appId"))
            wrong += [mistake for mistake in beyond if mistake.field not in named]
        raise InvalidRequest(wrong[:MOST]) from None
    return _complete(body, settings, caller)


async def read_run(request: web.Request, workflow_id: str, settings: Settings, caller: Caller = ANYONE) -> RunBody:
    """The run of a workflow that `caller` asks for; the same, with `read_chat`'s errors."""
    return run_from(strict_json(await read_body(request, settings)), workflow_id, settings, caller)


def run_from(fields: object, workflow_id: str, settings: Settings, caller: Caller = ANYONE) -> RunBody:
    """The same for JSON that is parsed already."""
    try:
        body = msgspec.convert(fields, RunBody)
        wrong = _beyond_types(body.user_id, None, settings, caller) + _unfit(body.parameters)
        wrong += _target(body.bot_id, workflow_id, body.app_id)
    except msgspec.ValidationError:
        wrong = mistakes_in(fields, RunBody)
    if not 0 < len(workflow_id) <= ID_LENGTH:
        wrong.append(Mistake("workflowId", f"has 1 to {ID_LENGTH} characters"))
    if wrong:
        raise InvalidRequest(wrong[:MOST])
    return _placed(body, caller)


async def read_tool_outputs(request: web.Request, settings: Settings) -> ToolOutputs:
    return await read_fields(request, settings, ToolOutputs)


async def read_fields(request: web.Request, settings: Settings, kind: type[S]) -> S:
    """A body of this kind. Raises as `read_chat` does."""
    fields = strict_json(await read_body(request, settings))
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError:
        raise InvalidRequest(mistakes_in(fields, kind)[:MOST]) from None


_CHAT = msgspec.json.Decoder(ChatBody)


def _is_web_url(url: str) -> bool:
    """Whether it is http or https, has a host, and only visible characters. The gateway never fetches it; Coze decides
    whether to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not _BLANK.search(url) and parts.port != 0
    except ValueError:
        return False


def _complete(body: ChatBody, settings: Settings, caller: Caller) -> ChatBody:
    wrong = _beyond_types(body.user_id, body.message, settings, caller)
    if body.context:
        wrong += _too_long(body.context, settings)
    wrong += _target(body.bot_id, body.workflow_id, body.app_id)
    if body.workflow_id:
        wrong += _not_for_chatflows(body)
    wrong += _unfit(body.parameters)
    if wrong:
        raise InvalidRequest(wrong)
    return _placed(body, caller)


def _placed(body: B, caller: Caller) -> B:
    """The body with its user and its shop."""
    user = body.user_id or caller.user_id
    shop = caller.shop_for(body.shop_id)
    if body.conversation_id:  # "" means a new conversation
        conversation_id(body.conversation_id)
    if user == body.user_id and shop == body.shop_id:
        return body
    return msgspec.structs.replace(body, user_id=user, shop_id=shop)


def _beyond_types(user: object, message: object, settings: Settings, caller: Caller) -> list[Mistake]:
    """The mistakes that depend on the settings and on the caller. Values of a wrong type have been named already."""
    wrong = []
    if user == "" and caller.user_id is None:
        wrong.append(Mistake("userId", "is required"))
    elif isinstance(user, str) and user and caller.user_id not in (None, user):
        wrong.append(Mistake("userId", "is not the token's user"))
    if isinstance(message, str) and len(message) > settings.max_message_chars:
        wrong.append(Mistake("message", f"is longer than {settings.max_message_chars} characters"))
    return wrong


def _target(bot: object, workflow: object, app: object) -> list[Mistake]:
    """The mistakes in whom a message is for: a bot, or a chatflow, which a bot or an app may have."""
    if workflow:
        return [Mistake("appId", "can't go together with botId")] if bot and app else []
    wrong = [] if bot else [Mistake("botId", "is required, or a workflowId")]
    return [*wrong, Mistake("appId", "needs a workflowId")] if app else wrong


def _not_for_chatflows(body: ChatBody) -> list[Mistake]:
    others = {"customVariables": body.custom_variables, "metaData": body.meta_data}
    wrong = [Mistake(name, "a chatflow takes parameters instead") for name, value in others.items() if value]
    bots = {"shortcutCommand": body.shortcut_command is not None, "enableCard": body.enable_card is not None}
    bots["autoSaveHistory"] = not body.auto_save_history
    wrong += (Mistake(name, "is for bots, not for chatflows") for name, given in bots.items() if given)
    if len(body.context or ()) > _EARLIER_OF_CHATFLOW:
        wrong.append(Mistake("context", f"has more than {_EARLIER_OF_CHATFLOW} messages, which no chatflow takes"))
    return wrong


def _too_long(context: object, settings: Settings) -> list[Mistake]:
    """The mistakes in earlier messages' length. Values of a wrong type have been named already."""
    most = settings.max_message_chars
    contents = [
        one.content if isinstance(one, Earlier) else one.get("content") if isinstance(one, Mapping) else None
        for one in (context if isinstance(context, list | tuple) else ())
    ]
    wrong = (number for number, content in enumerate(contents) if isinstance(content, str) and len(content) > most)
    told = f"is longer than {most} characters"
    return [Mistake(f"context[{number}].content", told) for number in islice(wrong, MOST)]


def _unfit(parameters: dict[str, Any] | None) -> list[Mistake]:
    """The mistake in values that can't be kept and passed on exactly."""
    wrong = _unfit_value(parameters, 0)
    return [Mistake("parameters", wrong)] if wrong else []


def _unfit_value(value: Any, depth: int) -> str:
    if depth > _DEPTH:
        return f"is nested more than {_DEPTH} deep"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "has a number beyond 64 bits"
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((wrong for one in inner if (wrong := _unfit_value(one, depth + 1))), "")
