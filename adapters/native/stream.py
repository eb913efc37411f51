"""Chat with streaming: the answer to the request that starts a turn is the turn's event stream."""

from aiohttp import web

from adapters.edge.failures import refusal
from adapters.edge.query import position_asked
from adapters.native.starting import named, read_order, seat_for, start
from adapters.services import SERVICES
from adapters.transports.listening import Topic, caller_of, subscribe
from adapters.transports.sse import stream
from gateway.errors import Code, GatewayError


async def chat_stream(request: web.Request) -> web.StreamResponse:
    """Starts a turn and answers with its event stream."""
    services = request.app[SERVICES]
    if not services.settings.use_sse_streaming:
        raise GatewayError(Code.STREAMING_DISABLED)
    caller = caller_of(request)
    order = await read_order(request, services, caller, streamed=True)
    seat = seat_for(services, caller, order)
    accepted = None
    try:
        position = position_asked(request)
        accepted = await start(services, caller, order, position=position)
        asked = position if accepted.again else None
        subscription = await subscribe(services, caller, Topic("turns", accepted.turn_id), asked, label="sse")
    except BaseException as error:
        seat.close()
        if accepted is not None and isinstance(error, GatewayError):
            return named(refusal(error, request), accepted)  # the turn goes on
        raise
    headers = {"X-Conversation-Id": accepted.conversation_id, "X-Turn-Id": accepted.turn_id}
    await stream(request, subscription, seat, services.authenticator.seconds_left(caller), headers)


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/coze/chat/stream", chat_stream)
