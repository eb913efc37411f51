"""Opinions: what users think of messages, as Coze is told of it."""

from collections.abc import Callable

from aiohttp import web

from gateway.simulator import replies
from gateway.simulator.chats import Chats
from gateway.simulator.objects import Json
from gateway.simulator.requests import CozeProblem, body_object, json_body
from gateway.simulator.tally import Tally

_AT_MOST = 10_000


class Opinions:
    """The routes below `/v1/conversations/{id}/messages/{id}/feedback`, and in `given` what came by message id."""

    def __init__(
        self,
        chats: Chats,
        tally: Tally,
        *,
        authorize: Callable[[web.Request], None],
        log_id: Callable[[web.Request], str],
    ) -> None:
        self._chats = chats
        self._tally = tally
        self._authorize = authorize
        self._log_id = log_id
        self.given: dict[str, Json] = {}

    @property
    def table(self) -> list[web.RouteDef]:
        path = "/v1/conversations/{conversation}/messages/{message}/feedback"
        return [web.post(path, self._give), web.delete(path, self._take_back)]

    async def _give(self, request: web.Request) -> web.StreamResponse:
        message = self._message(request)
        body = body_object(await json_body(request))
        if body.get("feedback_type") not in ("like", "unlike"):
            raise CozeProblem(4000, "feedback_type is neither like nor unlike.")
        if len(self.given) >= _AT_MOST:
            del self.given[next(iter(self.given))]
        self.given[message] = body
        return replies.success(self._log_id(request), None)

    async def _take_back(self, request: web.Request) -> web.StreamResponse:
        self.given.pop(self._message(request), None)
        return replies.success(self._log_id(request), None)

    def _message(self, request: web.Request) -> str:
        """The id of the message that the path names."""
        self._tally.called("feedback")
        self._authorize(request)
        named = request.match_info
        if not self._chats.has_message(named["conversation"], named["message"]):
            raise CozeProblem(4005, "No such message in this conversation.")
        return named["message"]
