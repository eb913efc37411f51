"""Coze's API: one attempt per call; failures get the codes of the contract's section 7.

There is one exception: if Coze refuses a token, it is renewed once, if its source can do that.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import aiohttp

from gateway.bounds import STATE_BYTES, STATE_PARTS
from gateway.errors import Code, TooMuch, UpstreamError
from gateway.telemetry.ledger import Held, Ledger
from gateway.telemetry.observer import UNHEARD, Observer
from gateway.telemetry.words import Operation
from gateway.upstream import verbatim
from gateway.upstream.bodies import message_call, outputs_call, query_of, resume_call, run_call
from gateway.upstream.breaker import Breaker
from gateway.upstream.caller_tokens import CallerToken, CallerTokens
from gateway.upstream.calls import Calls
from gateway.upstream.chat_state import state_of
from gateway.upstream.coze_objects import message_items
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.exchange import Exchanges, excerpt, not_coze, unpacker_of
from gateway.upstream.json_text import BadJson, parts
from gateway.upstream.listing import entries_of, messages_of
from gateway.upstream.mask import MaskedLog
from gateway.upstream.passed import PassedRequest
from gateway.upstream.passing import Passed
from gateway.upstream.protocol import ChatRef, ChatRequest, ChatState, ChatStream, CozeRequest, Item, OnItems, Skipped
from gateway.upstream.refusal import OVER_ALREADY, data_of, log_id_of, refused
from gateway.upstream.runs import Resumption, RunRequest
from gateway.upstream.sse import SseDecoder
from gateway.upstream.stream import CozeStream, Reader
from gateway.upstream.tokens import TokenSource
from gateway.upstream.unpack import BadPacking
from gateway.upstream.uploads import Form, FormBroke, StoredFile, stored_file
from gateway.upstream.verbatim import VerbatimReader, with_entry
from gateway.upstream.verbatim_run import VerbatimRunReader
from gateway.upstream.workflow_protocol import WorkflowReader

T = TypeVar("T")
_REFUSED = 401


def _data_of(status: int, headers: Mapping[str, str], body: bytes) -> Any:
    if len(body) > STATE_BYTES or parts(body) > STATE_PARTS:
        raise TooMuch("Coze's answer is too large", log_id=log_id_of(headers))
    return data_of(status, headers, body)


class CozeUpstream:
    """Implements `Upstream` and `Upstreams`. Make it inside the running loop; `close` it there.

    Time-outs are in seconds. `log_bytes` gets the bytes that Coze sends, masked. `breaker` is shared by all who ask the
    same `base_url`. `callers` knows the tokens of callers who bring their own.
    """

    def __init__(
        self,
        base_url: str,
        token_source: TokenSource,
        *,
        connect_timeout: float = 10.0,
        idle_timeout: float = 60.0,
        proxy: str | None = None,
        ledger: Ledger,
        observer: Observer = UNHEARD,
        log_bytes: Callable[[str], None] | None = None,
        breaker: Breaker | None = None,
        callers: CallerTokens | None = None,
    ) -> None:
        self.address = base_url
        self.breaker = breaker or Breaker(asyncio.get_running_loop().time)
        self._exchanges = Exchanges(base_url, connect_timeout=connect_timeout, idle_timeout=idle_timeout, proxy=proxy)
        self._tokens = token_source
        self._callers = callers
        self._user_id = ""
        self._verbatim = False
        self._idle_timeout = idle_timeout
        self._ledger = ledger
        self._log_bytes = log_bytes
        self._streams: set[CozeStream] = set()
        self._calls = Calls(observer)  # shared with the copies for other users

    @property
    def busy(self) -> bool:
        """Whether a call is under way, or a stream is open."""
        return bool(self._streams) or self._calls.under_way > 0

    def on_behalf_of(self, user_id: str, shop_id: str | None, coze: CozeRequest | None = None) -> "CozeUpstream":
        """The same Coze, asked with the caller's own token, or with this user's token where each user has one."""
        other = copy.copy(self)
        other._user_id = user_id
        other._verbatim = coze is not None
        if coze is not None and coze.token:
            assert self._callers is not None
            other._tokens = CallerToken(self._callers, coze.token)
        return other

    async def chat(self, request: ChatRequest, on_items: OnItems) -> ChatStream:
        return await self._stream("chat", *message_call(request), self._reader(), on_items)

    async def submit_tool_outputs(
        self, ref: ChatRef, outputs: Sequence[tuple[str, str]], on_items: OnItems
    ) -> ChatStream:
        call, read = outputs_call(ref, outputs), self._reader(ref.chat_id)
        return await self._stream("submit_tool_outputs", *call, read, on_items, began=True)

    async def run_workflow(self, request: RunRequest, on_items: OnItems) -> ChatStream:
        return await self._stream("run_workflow", *run_call(request), self._run_reader, on_items)

    async def resume_workflow(self, answer: Resumption, on_items: OnItems) -> ChatStream:
        return await self._stream("resume_workflow", *resume_call(answer), self._run_reader, on_items)

    async def retrieve(self, ref: ChatRef) -> ChatState:
        data = await self._ask("retrieve", "GET", "/v3/chat/retrieve", query=query_of(ref))
        said = verbatim.state_of(data) if self._verbatim else None
        if (state := state_of(data, said)) is None:
            raise not_coze("Coze's record of the chat cannot be read")
        return state

    async def messages(self, ref: ChatRef) -> list[Item]:
        entries = await self._ask("messages", "GET", "/v3/chat/message/list", query=query_of(ref), read=entries_of)
        items: list[Item] = []
        async for message, entry in messages_of(entries):
            if message.chat_id in (ref.chat_id, "0", "", None):
                own: list[Item] = [item for item in message_items(message) if not isinstance(item, Skipped)]
                items += with_entry(entry, own) if self._verbatim else own
        return items

    async def cancel(self, ref: ChatRef) -> None:
        body = {"conversation_id": ref.conversation_id, "chat_id": ref.chat_id}
        try:
            await self._ask("cancel", "POST", "/v3/chat/cancel", body=body)
        except UpstreamError as error:
            if error.coze_code != OVER_ALREADY:
                raise

    async def feedback(
        self, conversation_id: str, message_id: str, kind: Literal["like", "unlike", "none"], comment: str
    ) -> None:
        if not (conversation_id.isalnum() and message_id.isalnum()):
            raise not_coze("Coze's ids do not fit into a path")
        path = f"/v1/conversations/{conversation_id}/messages/{message_id}/feedback"
        if kind == "none":
            await self._ask("feedback", "DELETE", path)
            return
        body = {"feedback_type": kind} | ({"comment": comment} if comment else {})
        await self._ask("feedback", "POST", path, body=body)

    async def upload(self, form: Form) -> StoredFile:
        try:
            return stored_file(await self._ask("upload", "POST", "/v1/files/upload", form=form))
        except FormBroke as broke:
            raise broke.failure from None
        except BadJson:
            raise not_coze("Coze's answer about the file cannot be read") from None

    async def pass_on(self, request: PassedRequest) -> Passed:
        with self._calls.counted("pass_on"):
            held = self._ledger.open("upstream", f"{__name__}:pass_on")
            try:
                token = await self._tokens.token(self._user_id)
                response = await self._exchanges.pass_on(request, token)
                if response.status == _REFUSED:
                    self._tokens.invalidate(token)  # the next request gets another; this one is sent once
                return Passed(response, held, self._calls)
            except BaseException:
                held.close()
                raise

    async def close(self) -> None:
        for stream in list(self._streams):
            stream.abandon()
        await self._tokens.close()
        await self._exchanges.close()

    def _reader(self, chat_id: str = "") -> Callable[[SseDecoder], Reader]:
        kind = VerbatimReader if self._verbatim else ChatReader
        return lambda _: kind(chat_id)

    def _run_reader(self, decoder: SseDecoder) -> Reader:
        return VerbatimRunReader(decoder) if self._verbatim else WorkflowReader(decoder)

    async def _stream(
        self,
        operation: Operation,
        path: str,
        query: dict[str, str],
        body: Any,
        read: Callable[[SseDecoder], Reader],
        on_items: OnItems,
        *,
        began: bool = False,
    ) -> ChatStream:
        async def once(token: str) -> CozeStream:
            held = self._ledger.open("upstream", f"{__name__}:{operation}")
            try:
                response = await self._exchanges.send("POST", path, query, body, token, accept="text/event-stream")
                try:
                    return await self._accept(response, read, on_items, held, began=began)
                except BaseException:
                    response.close()
                    raise
            except BaseException:
                held.close()
                raise

        with self._calls.counted(operation):
            return await self._renewing(once)

    async def _accept(
        self,
        response: aiohttp.ClientResponse,
        read: Callable[[SseDecoder], Reader],
        on_items: OnItems,
        held: Held,
        *,
        began: bool,
    ) -> CozeStream:
        """The response's event stream. If the response is no event stream, raises what it means instead."""
        if response.status != 200:
            raise refused(response.status, response.headers, await excerpt(response))
        try:
            unpacker = unpacker_of(response)
        except BadPacking:
            raise not_coze("Coze answered in a content encoding that it was not asked for", response) from None
        stream = CozeStream(
            response,
            unpacker,
            read,
            on_items,
            began=began,
            idle_timeout=self._idle_timeout,
            held=held,
            log=MaskedLog(self._log_bytes) if self._log_bytes else None,
            on_gone=self._streams.discard,
        )
        self._streams.add(stream)
        try:
            stream.start()
            await stream.opened()
        except BaseException:
            stream.abandon()
            raise
        return stream

    async def _ask(
        self,
        operation: Operation,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        form: Form | None = None,
        read: Callable[[int, Mapping[str, str], bytes], Any] = _data_of,
    ) -> Any:
        """The result of `read` for the answer. These calls may be repeated without harm, so none of them is
        uncertain. Raises FormBroke if the form is the reason why there is no answer."""

        async def once(token: str) -> Any:
            try:
                response = await self._exchanges.send(
                    method, path, query or {}, body, token, accept="application/json", form=form
                )
                try:
                    answer = await self._exchanges.body(response)
                finally:
                    response.close()
                if self._log_bytes is not None:
                    log = MaskedLog(self._log_bytes)
                    log.received(answer)
                    log.close()
                return read(response.status, response.headers, answer)
            except UpstreamError as error:
                if form is not None and form.failure is not None:
                    raise FormBroke(form.failure) from None
                if error.code is Code.UPSTREAM_UNCERTAIN:
                    error.code, error.taken = Code.UPSTREAM_UNAVAILABLE, "no"
                raise

        with self._ledger.open("upstream", f"{__name__}:{operation}"), self._calls.counted(operation):
            return await self._renewing(once, again=form is None)

    async def _renewing(self, once: Callable[[str], Awaitable[T]], *, again: bool = True) -> T:
        token = await self._tokens.token(self._user_id)
        try:
            return await once(token)
        except UpstreamError as error:
            refused = error.code is Code.UPSTREAM_UNAUTHORIZED and self._tokens.invalidate(token)
            if not (refused and again):
                raise
        return await once(await self._tokens.token(self._user_id))

    def __repr__(self) -> str:
        return f"CozeUpstream({self._exchanges.base.host}, {len(self._streams)} streams)"
