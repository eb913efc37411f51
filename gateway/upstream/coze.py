"""Coze over HTTP: one try a call, each failure named as the contract's section 7 names it.

Sent at most once: aiohttp repeats a request by itself only where its method is idempotent, so no POST; redirects are
not followed. One exception is ours: a token that Coze refuses is renewed once, where its source can.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from gateway.errors import Code, UpstreamError
from gateway.ledger import Ledger
from gateway.upstream.coze_protocol import Chat, ChatReader, Message, failure_of, message_items, tool_calls_of, usage_of
from gateway.upstream.json_text import BadJson, without_surrogates
from gateway.upstream.mask import MaskedLog
from gateway.upstream.protocol import ChatRef, ChatRequest, ChatState, ChatStream, Item, OnItems, Skipped
from gateway.upstream.refusal import OVER_ALREADY, data_of, log_id_of, refused
from gateway.upstream.stream import CozeStream
from gateway.upstream.tokens import TokenSource

T = TypeVar("T")

REFUSAL_LIMIT = 64 * 1024
"""Bytes read of an answer that is no event stream; Coze's own have a few hundred."""

RECORD_LIMIT = 16 * 1024 * 1024
"""Bytes of a JSON answer to retrieve and messages; a message may be as large as one record of the stream."""

_REFUSAL_SECONDS = 0.8
_KEEPALIVE_SECONDS = 10.0
"""Idle connections are kept for less than any server keeps them (nginx: 75 s): one that the server closes in the same
moment in which we send a message leaves nobody knowing whether the message arrived (`upstream_uncertain`)."""

_SSE_BEGINNINGS = (b"event:", b"data:", b"id:", b"retry:", b":")
_STATUSES = {"created", "in_progress", "completed", "failed", "requires_action", "canceled"}
_STATUS_SPELLINGS = {"cancelled": "canceled", "required_action": "requires_action"}


class CozeUpstream:
    """Implements `Upstream`. Make it inside the running loop; `close` it there.

    `connect_timeout` bounds DNS, TCP and TLS together, `idle_timeout` the wait for the response's head and each
    silence after it; both in seconds. `on_request` is told each call's operation and outcome (`ok` or a problem's
    code), `log_bytes` gets what Coze sends, masked.
    """

    def __init__(
        self,
        base_url: str,
        token_source: TokenSource,
        *,
        connect_timeout: float = 10.0,
        idle_timeout: float = 60.0,
        ledger: Ledger,
        on_request: Callable[[str, str], None] | None = None,
        log_bytes: Callable[[str], None] | None = None,
    ) -> None:
        self._base = URL(base_url.rstrip("/"))
        self._token = token_source
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._ledger = ledger
        self._on_request = on_request
        self._log_bytes = log_bytes
        self._streams: set[CozeStream] = set()
        self._session = aiohttp.ClientSession(
            # No limit: each running turn holds one. The resolver's thread keeps a slow DNS off the loop.
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, resolver=aiohttp.ThreadedResolver()
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_connect=connect_timeout),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
            headers={"User-Agent": "coze-stream-gateway", "Accept-Encoding": "identity"},
            trace_configs=[_progress_trace()],
        )

    async def chat(self, request: ChatRequest, on_items: OnItems) -> ChatStream:
        query = {"conversation_id": request.coze_conversation_id} if request.coze_conversation_id else {}
        return await self._stream("chat", "/v3/chat", query, _chat_body(request), ChatReader(), on_items)

    async def submit_tool_outputs(
        self, ref: ChatRef, outputs: Sequence[tuple[str, str]], on_items: OnItems
    ) -> ChatStream:
        body = {
            "stream": True,
            "tool_outputs": [{"tool_call_id": call, "output": without_surrogates(output)} for call, output in outputs],
        }
        path = "/v3/chat/submit_tool_outputs"
        return await self._stream("submit_tool_outputs", path, _query(ref), body, ChatReader(ref.chat_id), on_items)

    async def retrieve(self, ref: ChatRef) -> ChatState:
        data = await self._json("retrieve", "GET", "/v3/chat/retrieve", query=_query(ref))
        try:
            chat = msgspec.convert(data, Chat)
            status = _STATUS_SPELLINGS.get(chat.status or "", chat.status)
            if status not in _STATUSES:
                raise BadJson("malformed")
            calls = tuple(tool_calls_of(chat)) if status == "requires_action" else ()
            failure = failure_of(chat.last_error, chat.code, chat.msg) if status == "failed" else None
            return ChatState(status, usage_of(chat), failure, calls)  # type: ignore[arg-type]
        except (msgspec.ValidationError, BadJson):
            raise _not_coze("Coze's record of the chat cannot be read") from None

    async def messages(self, ref: ChatRef) -> list[Item]:
        data = await self._json("messages", "GET", "/v3/chat/message/list", query=_query(ref))
        if data is not None and not isinstance(data, list):
            raise _not_coze("Coze's list of messages cannot be read")
        items: list[Item] = []
        for entry in data or ():
            try:
                message = msgspec.convert(entry, Message)
            except msgspec.ValidationError:
                continue
            if message.chat_id in (ref.chat_id, "0", "", None):
                items += (item for item in message_items(message) if not isinstance(item, Skipped))
        return items

    async def cancel(self, ref: ChatRef) -> None:
        body = {"conversation_id": ref.conversation_id, "chat_id": ref.chat_id}
        try:
            await self._json("cancel", "POST", "/v3/chat/cancel", body=body)
        except UpstreamError as error:
            if error.coze_code != OVER_ALREADY:
                raise

    async def close(self) -> None:
        for stream in list(self._streams):
            stream.abandon()
        await self._session.close()

    async def _stream(
        self, operation: str, path: str, query: dict[str, str], body: Any, reader: ChatReader, on_items: OnItems
    ) -> ChatStream:
        async def once(token: str) -> CozeStream:
            held = self._ledger.open("upstream", f"gateway.upstream.coze:{operation}")
            try:
                response = await self._send("POST", path, query, body, token, accept="text/event-stream")
                try:
                    return await self._accept(response, reader, on_items, held)
                except BaseException:
                    response.close()
                    raise
            except BaseException:
                held.close()
                raise

        with self._counted(operation):
            return await self._renewing(once)

    async def _accept(
        self, response: aiohttp.ClientResponse, reader: ChatReader, on_items: OnItems, held: Any
    ) -> CozeStream:
        """The stream of a response that is one. Else what the response means instead is raised."""
        kind = response.headers.get("Content-Type", "").lower()
        first = b""
        if _encoded(response):
            raise _not_coze("Coze answered in a content encoding that it was not asked for", response)
        if response.status != 200 or "event-stream" not in kind:
            first, whole = await _excerpt(response, peek=response.status == 200 and "json" not in kind)
            if whole or not first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_SSE_BEGINNINGS):
                raise refused(response.status, response.headers, first)
        stream = CozeStream(
            response,
            reader,
            on_items,
            idle_timeout=self._idle_timeout,
            held=held,
            log=MaskedLog(self._log_bytes) if self._log_bytes else None,
            log_id=log_id_of(response.headers),
            on_gone=self._streams.discard,
        )
        self._streams.add(stream)
        try:
            stream.start(first)
        except BaseException:
            stream.abandon()
            raise
        return stream

    async def _json(
        self, operation: str, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None
    ) -> Any:
        """The answer's `data`. These calls change nothing, or nothing more when repeated: no failure is uncertain."""

        async def once(token: str) -> Any:
            try:
                response = await self._send(method, path, query or {}, body, token, accept="application/json")
                try:
                    answer = b"" if _encoded(response) else await self._whole(response)
                finally:
                    response.close()
                return data_of(response.status, response.headers, answer)
            except UpstreamError as error:
                if error.code is Code.UPSTREAM_UNCERTAIN:
                    error.code, error.taken = Code.UPSTREAM_UNAVAILABLE, "no"
                raise

        with self._ledger.open("upstream", f"gateway.upstream.coze:{operation}"), self._counted(operation):
            return await self._renewing(once)

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._idle_timeout):
                while data := await response.content.readany():
                    body += data
                    if len(body) > RECORD_LIMIT:
                        raise _not_coze("Coze's answer is too large", response)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UpstreamError(
                Code.UPSTREAM_UNAVAILABLE, f"Coze's answer broke off: {_named(error)}", retryable=True
            ) from None
        if self._log_bytes is not None:
            log = MaskedLog(self._log_bytes)
            log.received(bytes(body))
            log.close()
        return bytes(body)

    async def _renewing(self, once: Callable[[str], Awaitable[T]]) -> T:
        token = await self._token()
        try:
            return await once(token)
        except UpstreamError as error:
            if error.code is not Code.UPSTREAM_UNAUTHORIZED or not self._token.invalidate(token):
                raise
        return await once(await self._token())

    async def _send(
        self, method: str, path: str, query: dict[str, str], body: Any, token: str, *, accept: str
    ) -> aiohttp.ClientResponse:
        """The response, its head read. Until the request's first byte may have left, nothing was taken."""
        headers = {"Authorization": f"Bearer {token}", "Accept": accept}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        progress = _Progress(self._idle_timeout)
        try:
            # aiohttp ends a slow connect itself; the second is for its rounding up of long time-outs.
            async with asyncio.timeout(self._connect_timeout + 1.0) as progress.deadline:
                return await self._session.request(
                    method,
                    (self._base / path.lstrip("/")).with_query(query),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=progress,
                )
        except aiohttp.ClientConnectorCertificateError as error:
            # Another try would meet the same certificate.
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, f"Coze was not reached: {_named(error)}") from None
        except aiohttp.ClientResponseError as error:
            raise _not_coze(f"Coze's answer is no HTTP: {_named(error)}") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if progress.sent:
                raise UpstreamError(
                    Code.UPSTREAM_UNCERTAIN,
                    f"the connection was lost before Coze answered: {_named(error)}",
                    retryable=True,
                    taken="unknown",
                ) from None
            raise UpstreamError(
                Code.UPSTREAM_UNAVAILABLE, f"Coze was not reached: {_named(error)}", retryable=True
            ) from None

    @contextmanager
    def _counted(self, operation: str) -> Iterator[None]:
        outcome = "ok"
        try:
            yield
        except UpstreamError as error:
            outcome = error.code.value
            raise
        except asyncio.CancelledError:
            outcome = ""
            raise
        finally:
            if self._on_request is not None and outcome:
                self._on_request(operation, outcome)

    def __repr__(self) -> str:
        return f"CozeUpstream({self._base.host}, {len(self._streams)} streams)"


class _Progress:
    """How far a request has come. From its first byte on it is the answer that is waited for."""

    __slots__ = ("deadline", "idle_timeout", "sent")

    def __init__(self, idle_timeout: float) -> None:
        self.idle_timeout = idle_timeout
        self.deadline: asyncio.Timeout | None = None
        self.sent = False


def _progress_trace() -> aiohttp.TraceConfig:
    async def headers_sent(session: Any, context: SimpleNamespace, params: Any) -> None:
        progress: _Progress = context.trace_request_ctx
        progress.sent = True
        if progress.deadline is not None:
            progress.deadline.reschedule(asyncio.get_running_loop().time() + progress.idle_timeout)

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(headers_sent)
    return trace


async def _excerpt(response: aiohttp.ClientResponse, *, peek: bool) -> tuple[bytes, bool]:
    """The body's beginning, and whether it is to be taken as a whole: no more of it will be read.

    With `peek` it may be an event stream under a wrong name, so a first read that looks like one is not.
    """
    body = b""
    try:
        async with asyncio.timeout(_REFUSAL_SECONDS):
            while data := await response.content.readany():
                body += data
                if peek and len(body) >= 8 and body.removeprefix(b"\xef\xbb\xbf").startswith(_SSE_BEGINNINGS):
                    return body, False
                if len(body) > REFUSAL_LIMIT:
                    break
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    return body, True


def _chat_body(request: ChatRequest) -> dict[str, Any]:
    """POST /v3/chat. `auto_save_history` is what recovery lives on: without it Coze keeps no record of the chat."""
    content, kind = without_surrogates(request.message), "text"
    if request.attachments:
        parts: list[dict[str, str]] = [{"type": "text", "text": content}] if content else []
        for attachment in request.attachments:
            given = "fileId" if "fileId" in attachment else "url"
            parts.append(
                {"type": attachment["type"], "file_id" if given == "fileId" else "file_url": attachment[given]}
            )
        content, kind = msgspec.json.encode(parts).decode(), "object_string"
    body: dict[str, Any] = {
        "bot_id": request.bot_id,
        "user_id": request.user_id,
        "stream": True,
        "auto_save_history": True,
        "additional_messages": [{"role": "user", "type": "question", "content": content, "content_type": kind}],
    }
    if request.custom_variables:
        body["custom_variables"] = request.custom_variables
    if request.meta_data:
        body["meta_data"] = request.meta_data
    return body


def _query(ref: ChatRef) -> dict[str, str]:
    return {"conversation_id": ref.conversation_id, "chat_id": ref.chat_id}


def _encoded(response: aiohttp.ClientResponse) -> bool:
    return any(
        value.strip().lower() not in ("", "identity") for value in response.headers.getall("Content-Encoding", ())
    )


def _not_coze(detail: str, response: aiohttp.ClientResponse | None = None) -> UpstreamError:
    """An answer that Coze would not give. `taken` is `yes` so that the message is never sent again by itself."""
    log_id = log_id_of(response.headers) if response is not None else None
    return UpstreamError(Code.UPSTREAM_FAILED, detail, retryable=True, taken="yes", log_id=log_id)


def _named(error: BaseException) -> str:
    """The error's kind alone: its text may hold the address, headers or bytes."""
    cause = getattr(error, "os_error", None) or error
    return type(cause).__name__
