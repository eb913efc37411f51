"""Chat with streaming: the answer to the request that starts a turn is the turn's event stream."""

from aiohttp import web

from adapters.native.replying import require_streaming, streamed
from adapters.native.starting import read_order
from adapters.services import SERVICES
from adapters.transports.listening import caller_of


async def chat_stream(request: web.Request) -> web.StreamResponse:
    """Starts a turn and answers with its event stream."""
    services = request.app[SERVICES]
    require_streaming(services)
    return await streamed(request, await read_order(request, services, caller_of(request), streamed=True))


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/coze/chat/stream", chat_stream)
