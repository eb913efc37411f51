"""The routes: answer the requests to each of Coze's paths."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from gateway.simulator import replies
from gateway.simulator.chats import Chats, Perform
from gateway.simulator.cues import End, cues
from gateway.simulator.faults import SHAPING, Fault, FaultPlan, UnknownFault, parse_plan
from gateway.simulator.files import Files
from gateway.simulator.ids import IdMint, new_log_id, second_of
from gateway.simulator.objects import Chat, Json
from gateway.simulator.opinions import Opinions
from gateway.simulator.player import Player, reset
from gateway.simulator.recording import Recording
from gateway.simulator.refusals import refusal
from gateway.simulator.requests import (
    AskedChat,
    CozeProblem,
    ToolOutputs,
    body_object,
    json_body,
    parse_chat,
    parse_tool_outputs,
)
from gateway.simulator.tally import Tally
from gateway.simulator.tokens import OAuthProblem, Tokens, read_bearer

_CONVERSATIONS_AT_MOST = 10_000
_LOG_ID = replies.LOG_ID


class Routes:
    """The handlers. `players` are the streams that run."""

    def __init__(
        self,
        *,
        chats: Chats,
        perform: Perform,
        tally: Tally,
        clock: Callable[[], float],
        first_ms: int,
        rate: float,
        recording: Recording | None,
        tokens: Tokens,
    ) -> None:
        self._tokens = tokens
        self.players: set[Player] = set()
        self._chats = chats
        self._perform = perform
        self.tally = tally
        self.clock = clock
        self._first_ms = first_ms
        self._rate = rate
        self._recording = recording
        self._mint = IdMint()
        self._conversations: dict[str, Json] = {}
        self.opinions = Opinions(chats, tally, authorize=self.authorize, log_id=lambda request: request[_LOG_ID])
        self.files = Files(mint=self._mint, tally=tally, clock=clock, authorize=self.authorize)

    @property
    def table(self) -> list[web.RouteDef]:
        return [
            web.post("/v3/chat", self._chat),
            web.get("/v3/chat/retrieve", self._retrieve),
            web.post("/v3/chat/retrieve", self._retrieve),
            web.get("/v3/chat/message/list", self._messages),
            web.post("/v3/chat/cancel", self._cancel),
            web.post("/v3/chat/submit_tool_outputs", self._submit),
            web.post("/v1/conversation/create", self._create_conversation),
            web.get("/v1/conversation/retrieve", self._retrieve_conversation),
            web.post("/api/permission/oauth2/token", self._token),
            *(self.opinions.table + self.files.table),
        ]

    @web.middleware
    async def answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Gives each request its log id, and each problem Coze's format."""
        request[_LOG_ID] = new_log_id(self.clock())
        try:
            return await handler(request)
        except CozeProblem as problem:
            return replies.problem(request[_LOG_ID], problem.code, problem.msg, status=problem.status)
        except web.HTTPRequestEntityTooLarge:
            return replies.problem(request[_LOG_ID], 4000, "The body is over 15 MB.", status=413)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return replies.problem(request[_LOG_ID], 4000, f"No such path: {request.method} {request.path}", status=404)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("chat")
        asked = parse_chat(await json_body(request), request.query.get("conversation_id", ""))
        return await self.answer(request, asked)

    async def answer(self, request: web.Request, asked: AskedChat) -> web.StreamResponse:
        """Starts a chat or a run, unless its fault plan refuses it."""
        self.tally.posted(asked.message)
        self.authorize(request, streaming=asked.stream and not asked.run, code=4100 if asked.run else 700012006)
        try:
            plan = parse_plan(asked.message)
        except UnknownFault as error:
            raise CozeProblem(4000, str(error)) from error
        if self.tally.refuses(asked.message, plan):
            return refusal(request, request[_LOG_ID], plan, self.tally.fire)
        if self._recording is None and self._chats.is_busy(asked.conversation_id):
            raise CozeProblem(4016, "The conversation already has a chat in progress. Wait for it, or use another.")
        chat = self._started(asked)
        for fault in SHAPING.intersection(plan.faults):
            self.tally.fire(fault)
        if asked.stream:
            return await self.play(request, chat, plan)
        return replies.success(request[_LOG_ID], self._perform(chat).state("in_progress"), ordered=False)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("submit_tool_outputs")
        submitted: ToolOutputs = parse_tool_outputs(await json_body(request))
        self.authorize(request, streaming=submitted.stream)
        chat = self._asked_for(request.query, unsaved=5000)
        outcome = self._perform(chat).outcome
        wanted = {call["id"] for call in outcome.tool_calls if call["type"] == "function"}
        if self._chats.status(chat) != "requires_action" or not wanted or self._recording is not None:
            raise CozeProblem(4000, "The chat does not wait for tool outputs.")
        missing = wanted - {identity for identity, _ in submitted.outputs}
        if missing:
            raise CozeProblem(4000, f"tool_outputs lacks an output for tool_call_id {min(missing)}.")
        chat = msgspec.structs.replace(chat, resumed_at=self.clock(), outputs=submitted.outputs)
        self._chats.keep(chat)
        if submitted.stream:
            return await self.play(request, chat, parse_plan(chat.message))
        return replies.success(request[_LOG_ID], self._perform(chat).state("in_progress"), ordered=False)

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("retrieve")
        self.authorize(request)
        chat = self._asked_for(request.query)
        plan = parse_plan(chat.message)
        if Fault.RETRIEVE_SLOW in plan:
            self.tally.fire(Fault.RETRIEVE_SLOW)
            await asyncio.sleep(plan.number(Fault.RETRIEVE_SLOW) / 1000)
        if self.tally.spends(chat.id, plan, Fault.RETRIEVE_500):
            return replies.page(500)
        if Fault.NEVER_COMPLETE in plan:
            self.tally.fire(Fault.NEVER_COMPLETE)
        return replies.success(request[_LOG_ID], self._chats.state(chat))

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("messages")
        self.authorize(request)
        chat = self._asked_for(request.query)
        plan = parse_plan(chat.message)
        if self.tally.spends(chat.id, plan, Fault.LIST_500):
            return replies.page(500)
        if self.tally.spends(chat.id, plan, Fault.LIST_EMPTY):
            return replies.success(request[_LOG_ID], [])
        if self._chats.status(chat) == "failed":
            return replies.success(request[_LOG_ID], None)  # the list of a failed chat has no `data`
        return replies.success(request[_LOG_ID], self._chats.messages(chat), halved=Fault.SURROGATE in plan)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        """Changes the status. The chat's stream goes on to its end, as in the real service."""
        self.tally.called("cancel")
        self.authorize(request)
        asked = body_object(await json_body(request))
        chat = self._asked_for({key: str(asked.get(key, "")) for key in ("conversation_id", "chat_id")})
        if self.tally.spends(chat.id, parse_plan(chat.message), Fault.CANCEL_500):
            return replies.page(500)
        status = self._chats.status(chat)
        if status not in ("in_progress", "canceled"):
            raise CozeProblem(4104, f"The chat cannot be canceled: its status is {status}.")
        if chat.canceled_at is None:
            chat = msgspec.structs.replace(chat, canceled_at=self.clock())
            self._chats.keep(chat)
        return replies.success(request[_LOG_ID], self._chats.state(chat))

    async def _create_conversation(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("conversation")
        self.authorize(request)
        asked = body_object(await json_body(request)) if request.can_read_body else {}
        made = self._conversation(self._mint.new(self.clock()), asked)
        if len(self._conversations) >= _CONVERSATIONS_AT_MOST:
            del self._conversations[next(iter(self._conversations))]
        self._conversations[made["id"]] = made
        return replies.success(request[_LOG_ID], made, ordered=False)

    async def _retrieve_conversation(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("conversation")
        self.authorize(request)
        identity = request.query.get("conversation_id", "")
        if not identity.isdecimal():
            raise CozeProblem(4002, "conversation_id is not the id of a conversation.")
        return replies.success(request[_LOG_ID], self._conversations.get(identity) or self._conversation(identity, {}))

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self.tally.called("token")
        signed = read_bearer(request.headers.get("Authorization", ""))
        try:
            token, expires = self._tokens.exchange(signed, body_object(await json_body(request)))
        except OAuthProblem as problem:
            said = {"error_code": problem.code, "error_message": str(problem), "error": problem.code}
            return web.json_response(said, status=problem.status, headers={"X-Tt-Logid": request[_LOG_ID]})
        answer = {"access_token": token, "expires_in": expires, "token_type": "Bearer"}
        return web.json_response(answer, headers={"X-Tt-Logid": request[_LOG_ID]})

    def authorize(self, request: web.Request, *, streaming: bool = False, code: int = 700012006) -> None:
        """Raises CozeProblem for a token that is not taken; `code` tells of it outside of chats."""
        if self._tokens.takes(read_bearer(request.headers.get("Authorization", ""))):
            return
        if streaming:
            raise CozeProblem(4101, "The token you entered is incorrect. Please check the token and try again.")
        raise CozeProblem(code, "access token invalid", status=401)

    def _asked_for(self, ids: Any, unsaved: int = 4001) -> Chat:
        chat = self._chats.get(ids.get("conversation_id", ""), ids.get("chat_id", ""))
        if chat is None or not chat.saved:
            raise CozeProblem(4001 if chat is None else unsaved, "No such chat in this conversation.")
        return chat

    def _started(self, asked: AskedChat) -> Chat:
        now, taped = self.clock(), None if asked.run else self._recording
        identity = (taped.chat_id if taped is not None else "") or self._mint.new(now)
        chat = Chat(
            id=identity,
            conversation_id=(taped.conversation_id if taped is not None else "")
            or asked.conversation_id
            or (identity if asked.run else self._mint.new(now)),
            bot_id=(taped.bot_id if taped is not None else "") or asked.bot_id,
            message=asked.message,
            started_at=now,
            first_ms=self._first_ms,
            rate=self._rate,
            meta_data=asked.meta_data,
            saved=asked.saved,
            workflow_id=asked.workflow_id,
            run=asked.run,
        )
        self._chats.keep(chat)
        self.tally.chats_started += 1
        return chat

    async def play(self, request: web.Request, chat: Chat, plan: FaultPlan) -> web.StreamResponse:
        """Streams the chat's current part. The chat itself needs no stream: it goes on by the clock."""
        transport = request.transport
        assert transport is not None
        if Fault.RESET_BEFORE_HEAD in plan:
            self.tally.fire(Fault.RESET_BEFORE_HEAD)
            reset(transport)
            return web.Response()
        if Fault.NO_HEAD in plan:
            self.tally.fire(Fault.NO_HEAD)
            await asyncio.Event().wait()
        if Fault.SLOW_HEAD in plan:
            self.tally.fire(Fault.SLOW_HEAD)
            await asyncio.sleep(plan.number(Fault.SLOW_HEAD) / 1000)
        response = web.StreamResponse(headers={"X-Tt-Logid": request[_LOG_ID], "Cache-Control": "no-cache"})
        response.content_type = "text/event-stream"
        if Fault.WRONG_TYPE in plan:
            self.tally.fire(Fault.WRONG_TYPE)
            response.content_type = "text/plain"
        if Fault.GZIP_BOMB in plan:
            response.headers["Content-Encoding"] = "gzip"
        chunked = request.version >= HttpVersion11
        await response.prepare(request)
        performance = self._perform(chat)
        player = Player(
            transport,
            cues(performance.frames(), plan, self.tally.fire, chat.dialect),
            begins=performance.begins,
            clock=self.clock,
            chunked=chunked,
            joined=Fault.BYTES not in plan,
        )
        self.players.add(player)
        try:
            if await player.done is End.EOF:
                await response.write_eof()
        finally:
            player.stop()
            self.players.discard(player)
        return response

    def _conversation(self, identity: str, asked: Json) -> Json:
        made_at = second_of(identity)
        return {
            "id": identity,
            "created_at": made_at,
            "meta_data": asked.get("meta_data") or {},
            "name": asked.get("name") or "",
            "creator_id": "7561209983316475000",
            "connector_id": asked.get("connector_id") or "1024",
            "updated_at": made_at,
            "last_section_id": identity,
        }
