"""The shared socket: one WebSocket for any number of topics, and for starting and cancelling turns."""

import asyncio
from collections import deque
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import structlog
from aiohttp import web

from adapters.edge.body import strict_json
from adapters.edge.callers import Caller
from adapters.edge.failures import COME_BACK, InvalidRequest, Mistake, refusal
from adapters.edge.fields import chat_from, run_from
from adapters.edge.query import checked_key
from adapters.native.commands import COMMANDS, RequestId, nothing_more, request_id_of, topic_asked
from adapters.native.starting import order_from, run_order_from, start
from adapters.native.turns import cancel
from adapters.services import SERVICES, Services
from adapters.transports import wire
from adapters.transports.lastmile import Closable, hand_over, released_unless_begun
from adapters.transports.listening import Topic, caller_of, subscribe
from adapters.transports.sockets import Socket, refuse, shake_hands
from gateway.errors import Code, GatewayError
from gateway.reading.frames import Frame
from gateway.reading.hub import Hub
from gateway.reading.outlet import Encode
from gateway.reading.subscription import Subscription
from gateway.telemetry.metrics import Connection
from gateway.telemetry.words import Closing
from gateway.turns.orders import Order

logger = structlog.get_logger()

MOST_TOPICS = 200
"""How many topics one socket may have, because each needs a cursor."""

_MANY_COMMANDS = 16  # while more commands wait, nothing is read from the socket
_ENVELOPE = 4096  # bytes that a command may have beside a chat's body

_encoders: WeakValueDictionary[str, Encode] = WeakValueDictionary()
"""The encoder of each topic that any socket has now. All sockets with that topic share it, and with it their frames."""


class TopicOutlet:
    """One topic on a shared socket: an outlet that writes through it."""

    __slots__ = ("_socket", "encode", "greeting", "spoke", "subscription", "topic")
    label = "websocket"

    def __init__(self, socket: "SharedSocket", topic: Topic, subscription: Subscription) -> None:
        self.topic = topic
        self.subscription = subscription
        self.encode = _encoders.setdefault(str(topic), wire.shared(str(topic)))
        self.greeting = b""
        self.spoke = False
        self._socket = socket

    @property
    def paused(self) -> bool:
        return self._socket.paused

    @property
    def transport(self) -> asyncio.Transport | None:
        self._socket.spoke = True
        return self._socket.transport

    def hand(self, frame: Frame) -> None:
        self._socket.hand(frame)

    def finish(self) -> None:
        self._socket.drop(self.topic)

    def beat(self, now: float) -> None:
        pass  # the socket has a heart of its own

    def farewell(self, code: Code) -> None:
        if code is Code.NOT_FOUND:
            self._socket.lose(self.topic)
        elif code is not Code.DRAINING:  # the socket's own heart is told of a drain
            self._socket.farewell(code)

    def busy(self) -> bool:
        return self.subscription.hears_running


class SharedSocket(Socket):
    """The server's side of `/api/coze/ws`. It carries out commands one by one, in the order in which they came."""

    __slots__ = ("_caller", "_commands", "_request", "_services", "_topics", "_worker")

    def __init__(
        self,
        hub: Hub,
        connection: Connection,
        seat: Closable,
        *,
        request: web.Request,
        services: Services,
        caller: Caller,
    ) -> None:
        settings = services.settings
        super().__init__(hub, None, connection, seat, send_timeout=settings.send_timeout)
        self._request = request
        self._services = services
        self._caller = caller
        self._topics: dict[Topic, TopicOutlet] = {}
        self._commands: deque[str] = deque()
        self._worker: asyncio.Task[None] | None = None

    # -- as a line ------------------------------------------------------------------------------------------------

    @property
    def most_message(self) -> int:
        return self._services.settings.max_body_bytes + _ENVELOPE

    def ready(self) -> None:
        for outlet in list(self._topics.values()):
            self.hub.serve(outlet)
        self._go_on()
        self.read_on()

    def busy(self) -> bool:
        return any(outlet.busy() for outlet in self._topics.values())

    def _leave(self, reason: Closing) -> bool:
        first = super()._leave(reason)
        self.hub.leave(self)
        for topic in list(self._topics):
            self.drop(topic)
        self._commands.clear()
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        return first

    def drop(self, topic: Topic) -> None:
        if (outlet := self._topics.pop(topic, None)) is not None:
            self.hub.detach(outlet)

    def lose(self, topic: Topic) -> None:
        """The turn or conversation that the topic names was deleted."""
        self.drop(topic)
        self._refuse(GatewayError(Code.NOT_FOUND), None, topic)

    # -- commands -------------------------------------------------------------------------------------------------

    def heard(self, text: str) -> None:
        self._commands.append(text)
        if len(self._commands) > _MANY_COMMANDS and self.transport is not None:
            self.transport.pause_reading()
        self._go_on()

    def read_on(self) -> None:
        if len(self._commands) <= _MANY_COMMANDS and not self.paused:
            super().read_on()

    def _go_on(self) -> None:
        """Carries out the commands that wait, unless the client first has to read the answers to earlier ones."""
        if self._worker is None and self._commands and not self.paused:
            self._worker = asyncio.get_running_loop().create_task(self._obey())

    async def _obey(self) -> None:
        with self._services.ledger.open("task", "shared.obey"):
            while self._commands and not self.paused:
                await self._do(self._commands.popleft())
                await asyncio.sleep(0)  # a command may fail without waiting: other connections must get their turn
            self._worker = None
            self.read_on()

    async def _do(self, text: str) -> None:
        request_id: RequestId = None
        try:
            command = strict_json(text.encode("utf-8", "surrogatepass"))
            if not isinstance(command, dict):
                raise InvalidRequest([Mistake("", "a command must be a JSON object")], status=400)
            request_id = request_id_of(command)
            await self._obey_one(command, request_id)
        except GatewayError as error:
            self._refuse(error, request_id)
        except Exception as error:  # a bug of ours: only this command fails
            logger.exception("shared.broken", error=type(error).__name__)
            self._refuse(GatewayError(Code.INTERNAL), request_id)

    def _refuse(self, error: GatewayError, request_id: RequestId, topic: Topic | None = None) -> None:
        body = refusal(error, self._request).body
        assert isinstance(body, bytes)
        fields = msgspec.json.decode(body)
        del fields["requestId"]  # the HTTP request's id: on a socket `requestId` is the command's
        if topic is not None:
            fields["topic"] = str(topic)
        self._say({**fields, "type": "problem"}, request_id)

    async def _obey_one(self, command: dict[str, Any], request_id: RequestId) -> None:
        match command.pop("type", None):
            case "ping":
                self._say({"type": "pong"}, request_id)
            case "subscribe":
                topic = topic_asked(command)
                asked = command.pop("after", None)
                if asked is not None and not isinstance(asked, str):
                    raise InvalidRequest([Mistake("after", "is a position: a string")])
                nothing_more(command)
                await self._open(topic, asked, {"type": "ack", "topic": str(topic)}, request_id)
            case "unsubscribe":
                topic = topic_asked(command)
                nothing_more(command)
                self.drop(topic)
                self._say({"type": "ack", "topic": str(topic)}, request_id)
            case "chat":
                await self._chat(command, request_id)
            case "run":
                await self._run(command, request_id)
            case "cancel":
                turn_id = command.pop("turnId", None)
                if not isinstance(turn_id, str):
                    raise InvalidRequest([Mistake("turnId", "is required: a turn's id")])
                nothing_more(command)
                await cancel(self._services, self._caller, turn_id)
                self._say({"type": "ack", "turnId": turn_id}, request_id)
            case other:
                asked = repr(other[:40]) if isinstance(other, str) else "this value"
                raise InvalidRequest([Mistake("type", f"{asked} is none of {', '.join(COMMANDS)}")])

    async def _chat(self, command: dict[str, Any], request_id: RequestId) -> None:
        key = _key_of(command)
        body = chat_from(command, self._services.settings, self._caller)
        await self._start(order_from(body, self._caller, key=key, request=self._request), request_id)

    async def _run(self, command: dict[str, Any], request_id: RequestId) -> None:
        key, workflow_id = _key_of(command), command.pop("workflowId", None)
        if not isinstance(workflow_id, str):
            raise InvalidRequest([Mistake("workflowId", "is required: a workflow's id")])
        body = run_from(command, workflow_id, self._services.settings, self._caller)
        await self._start(run_order_from(body, workflow_id, self._caller, key=key, request=self._request), request_id)

    async def _start(self, order: Order, request_id: RequestId) -> None:
        accepted = await start(
            self._services, self._caller, order, key_field="idempotencyKey", check_room=self._check_room
        )
        topic = Topic("turns", accepted.turn_id)
        ids = {"conversationId": accepted.conversation_id, "turnId": accepted.turn_id}
        await self._open(topic, None, {"type": "ack", "topic": str(topic), **ids}, request_id)

    async def _open(self, topic: Topic, asked: str | None, ack: dict[str, Any], request_id: RequestId) -> None:
        """Sends `ack`, and from then on the topic's events, beginning after the position `asked`."""
        self.drop(topic)
        self._check_room()
        subscription = await subscribe(self._services, self._caller, topic, asked, label="websocket")
        if self._reason is not None:
            subscription.close()
            return
        self._say(ack, request_id)
        outlet = self._topics[topic] = TopicOutlet(self, topic, subscription)
        self.hub.attach(outlet)

    def _check_room(self) -> None:
        if len(self._topics) >= MOST_TOPICS:
            raise GatewayError(Code.TOO_MANY_CONNECTIONS, f"a socket has {MOST_TOPICS} topics at most")

    def _say(self, answer: dict[str, Any], request_id: RequestId) -> None:
        if request_id is not None:
            answer["requestId"] = request_id
        self.write(wire.frame(wire.TEXT, msgspec.json.encode(answer)))


def _key_of(command: dict[str, Any]) -> str:
    given = command.pop("idempotencyKey", None)
    return checked_key(given) if given is not None else ""


async def shared_socket(request: web.Request) -> web.StreamResponse:
    """The route of the shared socket."""
    services = request.app[SERVICES]
    if not services.settings.use_sse_streaming:
        raise GatewayError(Code.STREAMING_DISABLED)
    caller = caller_of(request)
    try:
        if services.hub.draining:
            raise GatewayError(Code.DRAINING)
        seat = services.connections.acquire(caller.listener_account)
    except GatewayError as error:
        if error.code not in COME_BACK:
            raise
        return await refuse(request, error)
    connection = services.metrics.connection("websocket")
    line = SharedSocket(services.hub, connection, seat, request=request, services=services, caller=caller)
    with released_unless_begun(line):
        await shake_hands(request)
        line.expire_in(services.authenticator.seconds_left(caller))
        await hand_over(request, line)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/coze/ws", shared_socket, allow_head=False)
