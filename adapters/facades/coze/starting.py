"""Starting: makes a turn of an order in Coze's own form, or finds the one that a request continues."""

from contextlib import suppress

from aiohttp import web
from msgspec.structs import replace

from adapters.edge.callers import Caller
from adapters.facades.coze.failures import Refusal
from adapters.facades.coze.finding import KNOWN
from adapters.facades.coze.passing import may_pass
from adapters.facades.coze.reading import ChatBegun
from adapters.native import starting as native
from adapters.services import Services
from gateway.errors import Code, GatewayError
from gateway.turns.orders import Order
from gateway.turns.starting import Accepted


async def start(request: web.Request, services: Services, caller: Caller, order: Order) -> Accepted:
    """Starts the turn in the gateway's conversation that goes by the caller's name for it, or in a new one.

    Raises `Refusal` for a conversation in which the caller has no turn, unless the caller may ask Coze for anything:
    the gateway's credentials would open anybody's.
    """
    coze = order.coze
    assert coze is not None
    known = request.app[KNOWN]
    name = coze.conversation
    owner = order.user_id, order.shop_id
    conversation = await known.conversation(name, *owner, caller.may_read) if name else None
    free = not name or may_pass(services, caller)
    if conversation is None and not free:
        raise _no_conversation()

    try:
        return await native.start(services, caller, replace(order, conversation_id=conversation or ""))
    except GatewayError as error:
        if error.code is not Code.NOT_FOUND or conversation is None:
            raise
        known.forget(name, *owner)  # it was deleted here, but Coze still has it
        if not free:
            raise _no_conversation() from error
        return await native.start(services, caller, order)


def _no_conversation() -> Refusal:
    return Refusal(4200, "No such conversation.", Code.NOT_FOUND)


async def learn(request: web.Request, services: Services, order: Order, accepted: Accepted, begun: ChatBegun) -> None:
    """Makes the turn findable by Coze's ids, also at other nodes and after a restart."""
    ids = str(begun.chat.get("conversation_id", "")), str(begun.chat.get("id", ""))
    if not all(ids):
        return
    owner = order.user_id, order.shop_id
    request.app[KNOWN].learn(ids, accepted.turn_id, accepted.conversation_id, *owner)
    services.turns.tell(accepted.turn_id)
    if services.settings.on_postgresql:
        with suppress(GatewayError):  # it is written as soon as that is possible
            await services.store.settled()
