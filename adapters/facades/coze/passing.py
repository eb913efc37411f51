"""Passing: everything of Coze's API that no other route answers goes to Coze as it came, once, bounded in size and
time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aiohttp import web

from adapters.edge.aiohttp_parts import has_begun
from adapters.edge.callers import ALL, Caller
from adapters.edge.failures import TooLarge
from adapters.facades.coze.asking import RAW
from adapters.facades.coze.callers import caller_of
from adapters.facades.coze.failures import LOG_ID, in_coze_s_form
from adapters.services import SERVICES, Services
from gateway.errors import Code, GatewayError
from gateway.upstream.passed import PassedAnswer, PassedRequest
from gateway.upstream.passing import Bounded, of_connection, passes
from gateway.upstream.protocol import CozeRequest

PLACES: Final = ("/v1/", "/v3/", "/open_api/")
_OF_OTHER_DOORS: Final = ("/v1/chat/completions", "/v1/models", "/v1/responses")
_OF_CONNECTIONS: Final = ("CONNECT", "TRACE")
"""Methods that ask for a tunnel, or for what was sent to Coze with the credentials in it."""

_IDLE = 30.0
"""Seconds within which each piece of a body has to come, as for the gateway's own routes."""


async def anything(request: web.Request) -> web.StreamResponse:
    """The route of whatever nobody else answers."""
    path = request.path
    if any(path == one or path.startswith(f"{one}/") for one in _OF_OTHER_DOORS) or "/../" in f"{path}/":
        raise web.HTTPNotFound  # not in Coze's form, as it is none of Coze's paths
    return await pass_on(request, caller_of(request))


def may_pass(services: Services, caller: Caller) -> bool:
    """Whether the caller may ask Coze for anything at all: with a token of its own, or as a trusted backend.

    With the gateway's credentials one reads what belongs to all users, so a single user may not. Nor may a key of some
    shops, unless it is of one shop that has credentials of its own and no list of bots: what is passed on may name any.
    """
    if caller.kind != "api-key" or caller.shops == ALL:
        return caller.kind in ("coze-token", "none", "api-key")
    if len(caller.shops) > 1 or services.shops is None:
        return False
    shop = services.shops.tenants.table.get(next(iter(caller.shops), ""))
    return shop is not None and shop.bots is None


async def pass_on(request: web.Request, caller: Caller) -> web.StreamResponse:
    """Hands the request to Coze, and the answer back."""
    services = request.app[SERVICES]
    if request.method in _OF_CONNECTIONS:
        raise GatewayError(Code.METHOD_NOT_ALLOWED)
    if not may_pass(services, caller):
        raise GatewayError(Code.NOT_FOUND, "only a backend may use what the gateway passes on")
    if services.turns.draining:
        raise GatewayError(Code.DRAINING)
    sent = _request(request, services)
    credentials = CozeRequest("", token=caller.token_hash)
    shop = None if caller.kind != "api-key" else caller.shop_for(None)
    upstream = services.upstreams.on_behalf_of("", shop, credentials)
    with services.connections.acquire(caller.listener_account), services.ledger.open("passed"):
        try:
            async with asyncio.timeout(services.settings.turn_timeout):
                answer = await upstream.pass_on(sent)
                try:
                    return await _answer(request, services, answer)
                finally:
                    answer.close()
        except TimeoutError:
            if has_begun(request):
                raise ConnectionResetError("it took longer than GATEWAY_TURN_TIMEOUT") from None
            raise GatewayError(Code.UPSTREAM_TIMEOUT) from None


def _request(request: web.Request, services: Services) -> PassedRequest:
    most = services.settings.max_upload_bytes
    length = request.content_length
    if (length or 0) > most:
        raise TooLarge(most)
    listed = of_connection(request.headers.getall("Connection", ()))
    headers = [(name, value) for name, value in request.headers.items() if passes(name) and name.lower() not in listed]
    target = request.raw_path
    if not target.startswith("/") or "access_token" in request.query:
        target = request.rel_url.without_query_params("access_token").raw_path_qs
    if (raw := request.get(RAW)) is not None:
        return PassedRequest(request.method, target, headers, raw, len(raw))
    if not request.can_read_body:
        return PassedRequest(request.method, target, headers)
    return PassedRequest(request.method, target, headers, Bounded(_pieces(request), most), length)


async def _pieces(request: web.Request) -> AsyncGenerator[bytes, None]:
    content = request.content
    while True:
        try:
            async with asyncio.timeout(_IDLE):
                piece = await content.readany()
        except TimeoutError:
            raise GatewayError(Code.REQUEST_TIMEOUT) from None
        if not piece:
            return
        yield piece


async def _answer(request: web.Request, services: Services, answer: PassedAnswer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status)
    for name, value in answer.headers:
        response.headers.add(name, value)
    if answer.log_id:
        response.headers[LOG_ID] = answer.log_id
    if answer.length is not None:
        response.content_length = answer.length
    await response.prepare(request)
    try:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in Bounded(pieces, services.settings.max_upload_bytes):
                async with asyncio.timeout(services.settings.send_timeout):
                    await response.write(piece)
        await response.write_eof()
    except (GatewayError, TimeoutError) as error:
        raise ConnectionResetError("the answer had begun") from error  # all that is left is to cut it
    return response


def add_routes(app: web.Application) -> None:
    """Call it last: aiohttp tries routes in the order in which they were added."""
    for place in PLACES:
        app.router.add_route("*", place + "{rest:.*}", in_coze_s_form(anything))
