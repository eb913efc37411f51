"""The seam to Coze: the calls that it understands, and the closed set of items that its stream consists of."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Literal, Protocol

from msgspec import Struct

from gateway.telemetry.words import Unusable
from gateway.upstream.breaker import Breaker
from gateway.upstream.passed import PassedAnswer, PassedRequest
from gateway.upstream.runs import Node, Resumption, RunBegun, RunRequest
from gateway.upstream.uploads import Form, StoredFile


class Opened(Struct, frozen=True):
    """Coze answered with an event stream, and gave a `log_id`, its name for the request. It comes first, if at all."""

    log_id: str


class Created(Struct, frozen=True):
    """Coze has the message: the only handle for recovery. From `chat.created`, or `in_progress` if that came first."""

    chat_id: str
    conversation_id: str


class Delta(Struct, frozen=True):
    """A piece of an answer's text. `message_id` groups the pieces of one answer; "" or "0" when Coze gave none."""

    message_id: str
    text: str


class Reasoning(Struct, frozen=True):
    message_id: str
    text: str


class Audio(Struct, frozen=True):
    """A piece of audio, base64 as Coze sent it."""

    content: str


class Answer(Struct, frozen=True):
    """A whole answer as Coze keeps it: repeats its deltas, differs from them, or has had none (cards)."""

    message_id: str
    content: str
    content_type: str


class Tool(Struct, frozen=True):
    """The bot used a plug-in. `name` is taken from the content if possible, else it is ""."""

    message_id: str
    phase: Literal["call", "output"]
    name: str
    content: str


class Suggestion(Struct, frozen=True):
    message_id: str
    content: str


class ActionRequired(Struct, frozen=True):
    """The chat waits for tool outputs, or else for the user's reply to a question of the bot.

    `tool_calls` are the calls that tool outputs answer, as Coze gave them (ids are opaque strings). `question` is None
    if no call asks for a reply; otherwise the words that are inside of that call, mostly none.
    """

    tool_calls: list[dict[str, Any]]
    question: str | None = None
    usage: dict[str, Any] | None = None


class ChatCompleted(Struct, frozen=True):
    """The chat has ended successfully; late audio and `Done` may follow. `usage` is None if Coze gave none."""

    usage: dict[str, Any] | None


class ChatFailed(Struct, frozen=True):
    """The chat has failed: `chat.failed` in either form, the `error` event, or v2's error.

    `exists`: the failure is that of a chat, not of the request. `log_id` is set if the failure itself names the
    request.
    """

    coze_code: int | None
    message: str
    exists: bool = False
    log_id: str | None = None


class ChatCanceled(Struct, frozen=True):
    """Coze says that the chat was cancelled."""


class Done(Struct, frozen=True):
    """The end of the stream as Coze marks it, in any of its forms."""


class Skipped(Struct, frozen=True):
    """A record that could not be used, or that is missing; `reason` is counted, never its content."""

    reason: Unusable


class Verbatim(Struct, frozen=True):
    """A record in Coze's own words, as JSON, only for requests in Coze's own form. `name` is its event's.

    `message_id` is set if it is a whole message. A head (named `gateway.events.HEAD`) has the fields of the message
    to which the following pieces belong.
    """

    name: str
    data: bytes
    message_id: str = ""


Item = (
    Opened
    | Created
    | RunBegun
    | Node
    | Delta
    | Reasoning
    | Audio
    | Answer
    | Tool
    | Suggestion
    | ActionRequired
    | ChatCompleted
    | ChatFailed
    | ChatCanceled
    | Done
    | Skipped
    | Verbatim
)

OnItems = Callable[[list[Item]], None]
"""Called synchronously as bytes arrive, in order, with every item of one read at once; never after the end is known."""


class StreamEnd(StrEnum):
    """How a chat's stream ended. Only `FINISHED` is an end that Coze meant."""

    FINISHED = "finished"  # Done came
    EOF = "eof"  # the body ended without Done
    BROKEN = "broken"  # reset, cut chunk, cut record, cut UTF-8
    FAILING = "failing"  # as broken, but inside the record by which Coze says that something has failed
    IDLE = "idle"  # no byte for the idle time-out
    TOO_LARGE = "too_large"  # one record over `bounds.RECORD_BYTES`


class ChatRef(Struct, frozen=True):
    """Coze's two ids of a chat."""

    chat_id: str
    conversation_id: str


class CozeRequest(Struct, frozen=True, omit_defaults=True):
    """A request as its caller made it, in Coze's own protocol: it is sent as it is, but for the fields that the turn
    needs. `body` is its JSON. `token` is the hash of the caller's own token for Coze; "": the gateway's goes with it.
    `conversation` is the conversation of Coze's that the caller named.
    """

    body: str
    path: str = "/v3/chat"
    token: str = ""
    conversation: str = ""

    @property
    def in_body(self) -> bool:
        """Whether the conversation is named in the body, not in the query."""
        return self.path != "/v3/chat"


class ChatRequest(Struct, frozen=True):
    """What a turn sends. `coze_conversation_id` is Coze's own, "" for the first turn of a conversation.

    With a `workflow_id` the message goes to that chatflow, for the bot or the app that is named, if any.
    With `coze` the body is the caller's own, and the fields of ours are not looked at.
    """

    bot_id: str
    user_id: str
    message: str
    coze_conversation_id: str = ""
    attachments: tuple[dict[str, str], ...] = ()
    custom_variables: dict[str, str] | None = None
    meta_data: dict[str, str] | None = None
    workflow_id: str = ""
    app_id: str = ""
    parameters: dict[str, Any] | None = None
    coze: CozeRequest | None = None
    context: tuple[dict[str, str], ...] = ()
    shortcut_command: dict[str, Any] | None = None
    enable_card: bool | None = None
    auto_save_history: bool = True


class ChatState(Struct, frozen=True):
    """What Coze's `retrieve` says about a chat. `failure` is set if `status` is failed; `tool_calls` and `question`,
    as in `ActionRequired`, if it is requires_action. `verbatim` says the same as Coze's stream would have ended with,
    only for requests in Coze's own form."""

    status: Literal["created", "in_progress", "completed", "failed", "requires_action", "canceled"]
    usage: dict[str, Any] | None = None
    failure: ChatFailed | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    question: str | None = None
    verbatim: Verbatim | None = None


class ChatStream(Protocol):
    """An accepted chat's stream, which pushes items to its `OnItems`. Its owner must `close` it, whatever happens."""

    log_id: str | None

    async def ended(self) -> StreamEnd:
        """Waits for the end of the stream, including its idle time-out. May be awaited again. Never raises, except when
        it is cancelled, which leaves the stream open."""

    def pause(self) -> None:
        """Stops reading from Coze's socket (the log is behind); time paused does not count as idle."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Closes the response at once; no item is pushed after it. Idempotent. Coze goes on with the chat."""


class Upstream(Protocol):
    """Coze. Each call is one attempt; `UpstreamError` says what went wrong and whether it may be repeated."""

    @property
    def address(self) -> str:
        """Its base URL, for log lines."""

    @property
    def breaker(self) -> Breaker:
        """Whether Coze is worth asking at that address: callers report to it."""

    async def chat(self, request: ChatRequest, on_items: OnItems) -> ChatStream:
        """Sends the message. Returns when Coze has started to answer, or when its stream has ended without any item.

        A refusal as the stream's first record is raised, like any other. Items may have been pushed by then.
        """

    async def submit_tool_outputs(
        self, ref: ChatRef, outputs: Sequence[tuple[str, str]], on_items: OnItems
    ) -> ChatStream: ...

    async def run_workflow(self, request: RunRequest, on_items: OnItems) -> ChatStream: ...

    async def resume_workflow(self, answer: Resumption, on_items: OnItems) -> ChatStream:
        """Answers an interrupt; the run goes on in a new stream. Coze accepts three answers in one run."""

    async def retrieve(self, ref: ChatRef) -> ChatState: ...

    async def messages(self, ref: ChatRef) -> list[Item]:
        """The chat's messages as Coze keeps them, in its order, as Answer, Tool and Suggestion items. For requests in
        Coze's own form a `Verbatim` follows each of them, and a head stands before each answer."""

    async def cancel(self, ref: ChatRef) -> None:
        """Changes the chat's status at Coze; returns normally if the chat is already over (4104)."""

    async def feedback(
        self, conversation_id: str, message_id: str, kind: Literal["like", "unlike", "none"], comment: str
    ) -> None:
        """Says what the user thinks of a message, or with `none` takes back what was said. Both ids are Coze's."""

    async def upload(self, form: Form) -> StoredFile:
        """Sends a file, no faster than Coze takes it. The form can't be sent a second time, so nothing is repeated.

        Raises the form's failure if that is the reason why Coze did not get it. When cancelled, Coze gets no more.
        """

    async def pass_on(self, request: PassedRequest) -> PassedAnswer:
        """Sends a request as it came, once. Returns once the answer's head is there, whatever it says."""


class Upstreams(Protocol):
    """Coze, as it is asked on behalf of different users and shops."""

    def on_behalf_of(self, user_id: str, shop_id: str | None, coze: CozeRequest | None = None) -> Upstream:
        """The only place where credentials are chosen: a request in Coze's own form may bring its caller's.

        Asked anew for each call: credentials may have changed since. What it returns works until its caller next
        waits for something else, and through a call that has begun. Raises `UpstreamError` if there are no
        credentials (any more)."""

    async def close(self) -> None: ...
