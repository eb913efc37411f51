"""Starting a turn: the way from an untrusted body to an accepted turn, which all routes that start one share."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.failures import InvalidRequest, Mistake, request_id
from adapters.edge.fields import ChatBody, RunBody, read_chat, read_run
from adapters.edge.languages import language
from adapters.edge.limits import Seat
from adapters.edge.query import idempotency_key
from adapters.services import Services
from gateway.errors import Code, GatewayError
from gateway.ids import user_in
from gateway.turns.orders import Order
from gateway.turns.starting import Accepted
from gateway.upstream.tenants import BotNotAllowed, NoCredentials, Tenants

logger = structlog.get_logger()


async def read_order(request: web.Request, services: Services, caller: Caller, *, streamed: bool = False) -> Order:
    """The order that a request makes. Raises a GatewayError that says what is wrong with the request."""
    body = await read_chat(request, services.settings, caller)
    order = order_from(body, caller, key=idempotency_key(request) or "", request=request)
    return msgspec.structs.replace(order, streamed=streamed)


async def read_run_order(request: web.Request, services: Services, caller: Caller, *, streamed: bool) -> Order:
    """The same for a run of the workflow that the address names."""
    workflow_id = request.match_info["id"]
    body = await read_run(request, workflow_id, services.settings, caller)
    order = run_order_from(body, workflow_id, caller, key=idempotency_key(request) or "", request=request)
    return msgspec.structs.replace(order, streamed=streamed)


def run_order_from(body: RunBody, workflow_id: str, caller: Caller, *, key: str, request: web.BaseRequest) -> Order:
    """Makes the caller's order of a run's checked body."""
    return Order(
        kind="run",
        user_id=body.user_id or caller.user_id or "",
        bot_id=body.bot_id,
        message="",
        shop_id=body.shop_id,
        conversation_id=body.conversation_id or "",
        workflow_id=workflow_id,
        app_id=body.app_id,
        parameters=body.parameters,
        on_busy=body.on_busy,
        on_disconnect=body.on_disconnect,
        language=language(request),
        idempotency_key=key,
        request_id=request_id(request),
    )


def order_from(body: ChatBody, caller: Caller, *, key: str, request: web.BaseRequest) -> Order:
    """Makes the caller's order of a checked body."""
    return Order(
        user_id=body.user_id or caller.user_id or "",
        bot_id=body.bot_id,
        message=body.message,
        shop_id=body.shop_id,
        conversation_id=body.conversation_id or "",
        attachments=tuple(msgspec.to_builtins(attachment) for attachment in body.attachments or ()),
        context=tuple(msgspec.to_builtins(message) for message in body.context or ()),
        custom_variables=body.custom_variables,
        meta_data=body.meta_data,
        workflow_id=body.workflow_id,
        app_id=body.app_id,
        parameters=body.parameters,
        shortcut_command=msgspec.to_builtins(body.shortcut_command),
        enable_card=body.enable_card,
        auto_save_history=body.auto_save_history,
        on_busy=body.on_busy,
        on_disconnect=body.on_disconnect,
        language=language(request),
        idempotency_key=key,
        request_id=request_id(request),
    )


def seat_for(services: Services, caller: Caller, order: Order) -> Seat:
    """A seat for the connection that waits for the turn. Raises `overloaded` or `too_many_connections`."""
    return services.connections.acquire(caller.account(order.user_id))


def count(services: Services, account: str, shop_id: str | None, bot_id: str | None) -> Awaitable[None] | None:
    """Counts a turn, or something for which no bot is asked, as `TurnRate.take` does. Raises `rate_limited`, and what
    is wrong with the shop or the bot."""
    if services.shops is None:
        return services.turn_rate.take(account)
    most = _allowed(services.shops.tenants, shop_id, bot_id)
    return services.turn_rate.take(account if most is None else f"{account}\0{shop_id}", most)


def _allowed(tenants: Tenants, shop_id: str | None, bot_id: str | None) -> int | None:
    """How many turns per minute the shop allows its user, None for as many as the settings say. Raises if the bot may
    not be asked for the shop."""
    try:
        tenants.require(shop_id, bot_id)
    except NoCredentials as error:
        raise InvalidRequest([Mistake("shopId", f"is required: {error.detail}")]) from error
    except BotNotAllowed as error:
        raise InvalidRequest([Mistake("botId", f"is not allowed: {error.detail}")]) from error
    return tenants.turns_per_minute(shop_id)


async def start(
    services: Services,
    caller: Caller,
    order: Order,
    *,
    key_field: str = "Idempotency-Key",
    check_room: Callable[[], None] = lambda: None,
    position: str | None = None,
) -> Accepted:
    """Starts the turn and logs it, or finds the turn that was started before: by its key, or by a position in it.

    Also raises `rate_limited`, and what is wrong with the shop or the bot. `key_field` is this transport's name for the
    key. `check_room` raises when the transport has no room for one more turn.
    """

    def admit(order: Order) -> Awaitable[None] | None:
        check_room()
        account = caller.account(order.user_id)
        if order.coze is not None and order.coze.token:
            return services.turn_rate.take(account)
        return count(services, account, order.shop_id, order.bot_id)

    try:
        accepted = await services.turns.start(order, owns=caller.may_read, admit=admit, position=position or "")
    except GatewayError as error:
        if error.code is Code.INVALID_REQUEST and not isinstance(error, InvalidRequest):
            raise InvalidRequest([Mistake(key_field, "was used with another body")]) from error
        raise
    if not accepted.again:
        logger.info(
            "Starting SSE chat stream" if order.streamed else "Starting chat",
            botId=order.bot_id,
            userId=user_in(order.user_id),
            conversationId=accepted.conversation_id,
            turnId=accepted.turn_id,
            messageLength=len(order.message),
            requestId=order.request_id,
            **({"workflowId": order.workflow_id} if order.workflow_id else {}),
        )
    return accepted


def named(answer: web.Response, accepted: Accepted) -> web.Response:
    """Adds the headers that name the turn, which was accepted and goes on even if the answer is an error."""
    answer.headers["X-Conversation-Id"] = accepted.conversation_id
    answer.headers["X-Turn-Id"] = accepted.turn_id
    return answer
