"""One HTTP exchange with Coze: a request that is sent at most once, and an answer's head or body.

aiohttp repeats a request by itself only if its method is idempotent, so never a POST, and nothing that is passed on.
Redirects are not followed.
Its exceptions are translated here into an `UpstreamError`, which says whether the request may have arrived.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from gateway.bounds import RECORD_BYTES
from gateway.errors import Code, TooMuch, UpstreamError
from gateway.upstream.aiohttp_parts import repeat_nothing
from gateway.upstream.json_text import write
from gateway.upstream.opening import ANSWER_SECONDS, LIMIT
from gateway.upstream.passed import PassedRequest
from gateway.upstream.passing import Bounded, headers_for
from gateway.upstream.pool import Pool
from gateway.upstream.refusal import log_id_of
from gateway.upstream.unpack import BadPacking, Overflow, Unpacker, packing
from gateway.upstream.uploads import Form

BODY_LIMIT = RECORD_BYTES
"""Bytes of a JSON answer; a message may be as large as one record of a stream."""


_READ_AHEAD = 16 * 1024
"""Bytes of a JSON answer that aiohttp reads ahead. Its default of 64 KiB takes a tenth of a second in tiny chunks."""

_BUSY = 429
_PROXY_WANTS_ANOTHER_USER = 407


class Exchanges:
    """Exchanges with one Coze over reused connections, perhaps through a `proxy` (`http://user:pass@host`).

    Make it inside the running loop.
    """

    def __init__(self, base_url: str, *, connect_timeout: float, idle_timeout: float, proxy: str | None = None) -> None:
        self.base = URL(base_url.rstrip("/"))
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        pool = Pool()

        def session(*, owns_pool: bool) -> aiohttp.ClientSession:
            return aiohttp.ClientSession(
                connector=pool,
                connector_owner=owns_pool,
                proxy=proxy,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_connect=connect_timeout),
                # aiohttp would decompress without a bound.
                auto_decompress=False,
                read_bufsize=_READ_AHEAD,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "coze-stream-gateway", "Accept-Encoding": "identity"},
                trace_configs=[_progress_trace()],
            )

        self._session = session(owns_pool=True)
        self._passing = session(owns_pool=False)
        repeat_nothing(self._passing)

    async def send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Any,
        token: str,
        *,
        accept: str,
        form: Form | None = None,
    ) -> aiohttp.ClientResponse:
        """The response, its head read; the caller closes it. Raises `UpstreamError`.

        `connect_timeout` covers DNS, TCP and TLS together. Before the first byte of the request may have been sent,
        Coze can't have accepted anything; from then on, `idle_timeout` applies until the head has arrived. While a
        `form` is sent, it applies to each of its pieces, and the wait for the next piece does not count.
        """
        headers = {"Authorization": f"Bearer {token}", "Accept": accept}
        progress = _Progress(self._idle_timeout)
        data: bytes | AsyncIterator[bytes] | None = None
        if form is not None:
            headers["Content-Type"] = form.content_type
            if form.length is not None:
                headers["Content-Length"] = str(form.length)
            data = progress.timed(form)
        elif body is not None:
            headers["Content-Type"] = "application/json"
            data = write(body)
        try:
            # aiohttp ends a slow connect itself; the extra second is needed because it rounds long time-outs up.
            async with asyncio.timeout(self._connect_timeout + 1.0) as progress.deadline:
                response = await self._session.request(
                    method,
                    (self.base / path.lstrip("/")).with_query(query),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=progress,
                )
            return _of_coze(response)
        except aiohttp.ClientHttpProxyError as error:
            raise _refused_by_proxy(error.status) from None
        except aiohttp.ClientProxyConnectionError as error:
            detail = f"the proxy (GATEWAY_UPSTREAM_PROXY) was not reached: {_kind(error)}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True) from None
        except aiohttp.ClientConnectorCertificateError as error:
            # Another attempt would get the same certificate.
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, f"Coze was not reached: {_kind(error)}") from None
        except aiohttp.ClientResponseError as error:
            kind = _kind(_innermost(error))
            if progress.sent:
                raise not_coze(f"Coze's answer is no HTTP: {kind}") from None
            detail = f"the answer of the proxy (GATEWAY_UPSTREAM_PROXY) is not HTTP: {kind}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if progress.sent:
                detail = f"the connection was lost before Coze answered: {_kind(error)}"
                if isinstance(error, TimeoutError):
                    detail = "nothing came from Coze within GATEWAY_UPSTREAM_IDLE_TIMEOUT"
                raise UpstreamError(Code.UPSTREAM_UNCERTAIN, detail, retryable=True, taken="unknown") from None
            detail = f"Coze was not reached: {_kind(error)}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True) from None
        finally:
            progress.deadline = None

    async def pass_on(self, request: PassedRequest, token: str) -> aiohttp.ClientResponse:
        """The response to a request that is sent as it came, its head read. The caller bounds the time, and closes it.
        Raises `UpstreamError`, and what the request's body raises."""
        target = URL(str(self.base) + request.target, encoded=True)
        try:
            response = await self._passing.request(
                request.method,
                target,
                data=request.body,
                headers=headers_for(request, token),
                skip_auto_headers=("Content-Type",),
                allow_redirects=False,
                trace_request_ctx=_Progress(self._idle_timeout),
            )
            return _of_coze(response)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(body := request.body, Bounded) and body.failure is not None:
                raise body.failure from None
            detail = f"Coze was not reached, or broke off: {_kind(error)}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True) from None

    async def body(self, response: aiohttp.ClientResponse) -> bytes:
        """A whole body of bounded size. Raises `UpstreamError`."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._idle_timeout), aclosing(_pieces(response)) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > BODY_LIMIT:
                        raise TooMuch("Coze's answer is too large", log_id=log_id_of(response.headers))
        except Overflow:
            raise TooMuch("Coze's answer is too large", log_id=log_id_of(response.headers)) from None
        except BadPacking:
            raise not_coze("Coze's answer cannot be unpacked", response) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            detail = f"Coze's answer broke off: {_kind(error)}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True) from None
        return bytes(body)

    async def close(self) -> None:
        await self._passing.close()
        await self._session.close()


async def excerpt(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of a body, whose content may be anything."""
    body = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS), aclosing(_pieces(response)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > LIMIT:
                    break
    except (TimeoutError, aiohttp.ClientError, OSError, BadPacking, Overflow):
        pass
    return body


async def _pieces(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """A body's bytes as they arrive, unpacked. Raises what reading raises, and BadPacking and Overflow."""
    unpacker = unpacker_of(response)
    while data := await response.content.readany():
        if unpacker is None:
            yield data
            continue
        unpacker.feed(data)
        while (piece := unpacker.step()) is not None:
            if piece:
                yield piece
            await asyncio.sleep(0)
    if unpacker is not None and not unpacker.whole:
        raise aiohttp.ClientPayloadError


def unpacker_of(response: aiohttp.ClientResponse) -> Unpacker | None:
    """The unpacker for a body, None for a plain one. Raises BadPacking for an unknown encoding."""
    match packing(response.headers.getall("Content-Encoding", ())):
        case "":
            return None
        case "unknown":
            raise BadPacking
        case kind:
            return Unpacker(gzip=kind == "gzip")


def not_coze(detail: str, response: aiohttp.ClientResponse | None = None) -> UpstreamError:
    """The error for an answer that Coze would not give. `taken` is `yes`, so that the message is never resent."""
    log_id = log_id_of(response.headers) if response is not None else None
    return UpstreamError(Code.UPSTREAM_FAILED, detail, retryable=True, taken="yes", log_id=log_id)


def _of_coze(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """The response, unless the proxy gave it, to a request that was not tunnelled: that is raised."""
    if response.status == _PROXY_WANTS_ANOTHER_USER:
        response.close()
        raise _refused_by_proxy(response.status)
    return response


def _refused_by_proxy(status: int) -> UpstreamError:
    """The error of a proxy's refusal. A retry is useless if the proxy wants other credentials, or forbids Coze."""
    detail = f"the proxy (GATEWAY_UPSTREAM_PROXY) answered {status}"
    return UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=status >= 500 or status == _BUSY)


class _Progress:
    """How far a request has got."""

    __slots__ = ("deadline", "idle_timeout", "sent")

    def __init__(self, idle_timeout: float) -> None:
        self.idle_timeout = idle_timeout
        self.deadline: asyncio.Timeout | None = None
        self.sent = False

    def expect(self, seconds: float | None) -> None:
        """Gives Coze this many seconds from now. With None, time runs for nobody: we don't wait for Coze."""
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    async def timed(self, form: Form) -> AsyncIterator[bytes]:
        """The form's pieces, each of which Coze has to take in time. The next one is asked for once it has."""
        self.expect(None)
        async for piece in form:
            self.expect(self.idle_timeout)
            yield piece
            self.expect(None)
        self.expect(self.idle_timeout)


def _progress_trace() -> aiohttp.TraceConfig:
    async def headers_sent(session: Any, context: SimpleNamespace, params: Any) -> None:
        progress: _Progress = context.trace_request_ctx
        progress.sent = True
        progress.expect(progress.idle_timeout)

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(headers_sent)
    return trace


def _innermost(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _kind(error: BaseException) -> str:
    """Only the error's type: its text may contain the address, headers or bytes."""
    kind = type(getattr(error, "os_error", None) or error)
    return "its host name was not found (gaierror)" if issubclass(kind, socket.gaierror) else kind.__name__
